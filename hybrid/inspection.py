"""A full look at one deployment, for people: every check, the log's tail, fresh evidence. Sends no request."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .errors import AttestationError, RemoteError
from .exchange import Transport
from .freshness import STALE, listed_anew, nonce_proofs
from .log_client import LogClient
from .remote_errors import broken
from .seen import LogMemory
from .trust.checks import Check, CheckStatus
from .trust.event_log import replay
from .trust.verify import VerifiedDirectory, VerifiedNode, Verifier
from .wire.codec import DirectoryReply, decode_directory_reply
from .wire.encoding import digest
from .wire.errors import WireError
from .wire.evidence import Bundle
from .wire.snp import SnpItem
from .wire.tpm2 import Tpm2Item

__all__ = ["Inspection", "inspect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found. directory: None where a required check failed; error: which one.

    directory_id: 32 bytes, of what was shown, also when it failed.  checks: every result, up to the failed one.
    firmware: by node_id, whether its event log explains the PCR values it quoted; shown, never required.
    """

    directory_id: bytes
    directory: VerifiedDirectory | None = None
    checks: tuple[Check, ...]
    firmware: Mapping[bytes, Check] = field(default_factory=dict)
    error: AttestationError | None = None


async def inspect(
    transport: Transport, verifier: Verifier, memory: LogMemory, *, now: Callable[[], float] = time.time
) -> Inspection:
    """Fetch the directory, read the log's tail, ask every node for fresh evidence, and run every check.

    A node that has just made new keys shows evidence about these: then the directory that lists them is awaited.
    Raises RemoteError when the node can't be reached or speaks another protocol.
    """
    shown = await transport.directory()
    found = await _look(_read(shown), transport, verifier, memory, now)
    if not STALE & _failed(found) or (newer := await listed_anew(transport, shown)) is None:
        return found
    return await _look(_read(newer), transport, verifier, memory, now)


def _read(shown: bytes) -> DirectoryReply:
    try:
        return decode_directory_reply(shown)
    except WireError as error:
        raise broken(error, left_device_yes=False) from None


def _failed(found: Inspection) -> set[str]:
    """Return the checks that kept anything from being used."""
    dropped = found.directory.dropped if found.directory else ()
    return {each.check for each in dropped} | ({found.error.check} if found.error else set())


async def _look(
    reply: DirectoryReply, transport: Transport, verifier: Verifier, memory: LogMemory, now: Callable[[], float]
) -> Inspection:
    log = LogClient(transport, verifier, memory, now=now)
    shown = digest("directory", reply.directory)
    failure = log.contradicted(reply) or await _tail_failure(log, reply)
    try:
        view = await log.view(reply)
        nonces = await nonce_proofs(transport, reply.directory, now=now)
        here = transport.peer_is_loopback
        directory = verifier.verify(reply, peer_is_loopback=here, now=now(), log=view, nonces=nonces)
    except AttestationError as error:
        log.record(error, reply)
        return Inspection(directory_id=shown, checks=error.checks, error=error)
    if failure is not None:
        failed = {check.name: check for check in failure.checks}
        checks = tuple(
            failed.get(check.name, check) if check.name == failure.check else check for check in directory.checks
        )
        return Inspection(directory_id=shown, checks=checks, error=failure)
    log.accept(directory.seen)
    nodes = {node.node_id: node for node in directory.nodes}
    firmware = {name: await _firmware(transport, node) for name, node in nodes.items()}
    return Inspection(directory_id=shown, directory=directory, checks=directory.checks, firmware=firmware)


async def _firmware(transport: Transport, node: VerifiedNode) -> Check:
    """Fetch a node's event log and hold it against the PCR values of its quote."""
    quoted, log = _quoted(node.proof.bundle), b""
    if quoted:
        with contextlib.suppress(RemoteError):
            log = await transport.event_log(node.node_id)
    if not log:
        status, detail = CheckStatus.SKIP, "no firmware event log is shown" if quoted else "the node quotes no TPM"
    else:
        status, detail = _explained(log, quoted)
    return Check(name="firmware.log", status=status, detail=detail)


def _explained(log: bytes, quoted: Mapping[int, bytes]) -> tuple[CheckStatus, str]:
    """Say whether an event log leads to the quoted values; it proves nothing beyond the quote."""
    try:
        replayed = replay(log)
    except WireError as error:
        return CheckStatus.WARN, f"the firmware event log can't be read: {error}"
    differing = replayed.differing({pcr: value.hex() for pcr, value in quoted.items()})
    explained = [pcr for pcr in sorted(quoted) if pcr in replayed.banks["sha256"]]
    if differing:
        return CheckStatus.WARN, f"it does not lead to the quoted PCR {_listed(differing)}"
    if not explained:
        return CheckStatus.SKIP, "the firmware event log says nothing about the quoted PCRs"
    return CheckStatus.PASS, f"it leads to the quoted PCR {_listed(explained)}"


def _listed(pcrs: Iterable[int]) -> str:
    return ", ".join(map(str, pcrs))


def _quoted(bundle: bytes) -> Mapping[int, bytes]:
    """Return the PCR values of a bundle that has been verified, empty where there is no quote in it."""
    for item in Bundle.decode(bundle).items:
        if item.format == "tpm2":
            return Tpm2Item.decode(item.item).pcrs
        if item.format == "sev-snp":
            vtpm = SnpItem.decode(item.item).vtpm
            return vtpm.pcrs if vtpm else {}
    return {}


async def _tail_failure(log: LogClient, reply: DirectoryReply) -> AttestationError | None:
    """Read the newest entries; a failure is kept for later, since the other checks may say more."""
    try:
        await log.read_tail(reply)
    except AttestationError as error:
        log.record(error, reply)
        return error
    return None
