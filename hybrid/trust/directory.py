"""Checks 5 to 9 of SPEC section 12: the directory is the deployment's, logged, current, the only one, and sound."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hybrid.errors import AttestationError
from hybrid.wire.codec import DirectoryReply
from hybrid.wire.directory import Directory, Leaf, ListedNode, UnreadableNode
from hybrid.wire.encoding import digest
from hybrid.wire.entries import DirectoryEntry, open_entry
from hybrid.wire.errors import SignatureFailure, WireError
from hybrid.wire.note import NoteVerifier

from .checks import Findings
from .clock import outside, utc
from .log_checks import NO_LOG, LogState
from .log_view import LogContradiction, LogView
from .tail import STALLED_S

SIGNED, LOGGED, CURRENT, UNIQUE, INTACT = (
    "directory.signature",
    "directory.logged",
    "directory.current",
    "directory.unique",
    "directory.intact",
)
STUFFING = ("bundle.", "keys.", "evidence.", "tpm2.", "snp.")  # checks 10 to 19; later ones are the client's own floor


class InUse(NamedTuple):
    """The directory a client uses already. key: its epoch and seq.  entry: as it was signed."""

    key: tuple[int, int]
    directory_id: bytes
    entry: bytes


Failure = tuple[ListedNode | UnreadableNode, AttestationError]


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedNode:
    """A listed node that is not used, and the check that says why. node_id: empty when the bundle didn't decode."""

    node_id: bytes
    weight: int
    check: str
    expected: str
    got: str


def decode_directory(data: bytes) -> Directory | None:
    """Decode a directory; None for malformed bytes, which ``check_signature`` names in its turn."""
    try:
        return Directory.decode(data)
    except WireError:
        return None


def open_own_leaf(leaf: bytes, signers: Sequence[NoteVerifier], findings: Findings) -> tuple[Leaf, DirectoryEntry]:
    """Open a directory's own entry under one of the trusted signers. Raises AttestationError."""
    for signer in signers:
        try:
            own = Leaf.decode_own(leaf)
            entry = open_entry(own.entry, signer)
        except SignatureFailure:
            continue
        except WireError:
            break
        if isinstance(entry, DirectoryEntry):
            return own, entry
        break
    else:
        trusted = " or ".join("+".join(signer.vkey.split("+")[:2]) for signer in signers)
        raise findings.failed(SIGNED, expected=f"an entry signed by {trusted}", got="one that key did not sign")
    raise findings.failed(SIGNED, expected="a signed directory entry", got="malformed bytes")


def check_signature(
    reply: DirectoryReply,
    directory: Directory | None,
    signers: Sequence[NoteVerifier],
    wanted: str | None,
    findings: Findings,
) -> tuple[Directory, Leaf]:
    """Run check 5: a trusted signer stands behind this very directory. wanted: the deployment, any when None."""
    own, entry = open_own_leaf(reply.leaf, signers, findings)
    if not hmac.compare_digest(digest("directory", reply.directory), entry.directory_id):
        raise findings.failed(SIGNED, expected="the directory that was signed", got="another one")
    if directory is None:
        raise findings.failed(SIGNED, expected="a well-formed directory", got="malformed bytes")
    listed = len(directory.nodes) + len(directory.unreadable)
    said = (entry.deployment, entry.epoch, entry.seq, entry.nodes)
    if said != (directory.deployment, directory.epoch, directory.seq, listed):
        raise findings.failed(SIGNED, expected="entry and directory to agree", got="two that differ")
    if wanted is not None and directory.deployment != wanted:
        raise findings.failed(SIGNED, expected=f"the deployment {wanted}", got=directory.deployment)
    findings.passed(SIGNED, f"signed for {directory.deployment}, epoch {directory.epoch}, seq {directory.seq}")
    return directory, own


def check_logged(own: Leaf, log: LogState | None, findings: Findings) -> None:
    """Run check 6: the directory's entry is in the log, under the checkpoint that came with it."""
    if log is None:
        findings.skipped(NO_LOG, LOGGED)
    elif not log.includes(own, log.newest):
        raise findings.failed(LOGGED, expected="an entry of the log", got="one its proof does not lead to")
    else:
        findings.passed(LOGGED, f"entry {own.index}")


def ends(directory: Directory) -> int:
    """Return when a directory stops serving, Unix seconds: two epochs after its start (SPEC 4)."""
    return (directory.epoch + 2) * directory.epoch_s


def check_current(
    directory: Directory, held: InUse | None, log: LogState | None, findings: Findings, now: float
) -> None:
    """Run check 7. held: the directory in use."""
    off = outside(now, directory.epoch * directory.epoch_s, ends(directory))
    if off:
        raise findings.failed(CURRENT, expected="a directory of this time", got=_ahead(directory, log, now) or off)
    if held is not None and (directory.epoch, directory.seq) < held.key:
        raise findings.failed(CURRENT, expected="nothing older than the one in use", got="an older directory")
    findings.passed(CURRENT, f"until {utc(ends(directory))}")


def _ahead(directory: Directory, log: LogState | None, now: float) -> str:
    """Say by how much a clock may be fast when witnesses are there to say it (SPEC 9)."""
    t0 = log.newest.t0 if log else None
    if t0 is None or now <= ends(directory):
        return ""
    return f"this clock is {now - t0:.0f} s ahead of the log's newest witnessed time, or nobody publishes any more"


def check_unique(
    directory: Directory,
    own: Leaf,
    held: InUse | None,
    known_log: tuple[LogState | None, LogView],
    findings: Findings,
) -> None:
    """Run check 8: nobody is shown another directory. held: the one in use."""
    key, (log, view) = (directory.epoch, directory.seq), known_log
    if held is not None and held.key == key and not hmac.compare_digest(directory.id, held.directory_id):
        raise _second(held.entry, own.entry, findings)
    if log is None:
        findings.skipped(NO_LOG, UNIQUE)
        return
    known = view.tail.directories.get(key) if view.tail else None
    if known is not None and not hmac.compare_digest(directory.id, known):
        raise _second(b"", own.entry, findings)
    if view.tail is None or view.tail.size < log.newest.checkpoint.size:
        findings.skipped("the log's newest entries have not been read yet", UNIQUE)
    elif known is None:
        findings.skipped("the directory's own entry is not among the log's newest that were read", UNIQUE)
    else:
        findings.passed(UNIQUE, f"log read up to {view.tail.size}")


def stalled(log: LogState | None, view: LogView, now: float) -> bool:
    """Whether the log's entries stayed out of reach for ten minutes of use although its checkpoint moved (SPEC 5)."""
    behind = log is not None and (view.tail is None or view.tail.size < log.newest.checkpoint.size)
    return behind and view.behind_since is not None and now - view.behind_since > STALLED_S


def _second(first: bytes, second: bytes, findings: Findings) -> AttestationError:
    error = findings.failed(UNIQUE, expected="one directory per epoch and number", got="a second one")
    return LogContradiction.of(error, (first, second))


def unreadable(listed: UnreadableNode, findings: Findings) -> AttestationError:
    """Return the failure of a node whose bundle does not decode."""
    return Findings(findings.all()).failed("bundle.format", expected="a bundle of this version", got=listed.reason)


def check_intact(directory: Directory, errors: Sequence[Failure], findings: Findings) -> None:
    """Run check 9: less than half the weight fails what no honest node fails."""
    total = sum(node.weight for node in directory.nodes) + sum(node.weight for node in directory.unreadable)
    stuffed = [(listed.weight, error.check) for listed, error in errors if error.check.startswith(STUFFING)]
    broken = sum(weight for weight, _ in stuffed)
    if 2 * broken >= total:
        got = f"{broken} of {total} failing ({', '.join(sorted({check for _, check in stuffed}))})"
        raise findings.failed(INTACT, expected="less than half the weight to fail", got=got)
    findings.passed(INTACT, f"{total - broken} of {total} by weight")


def dropped_node(listed: ListedNode | UnreadableNode, error: AttestationError) -> DroppedNode:
    """Say why a listed node is not used."""
    return DroppedNode(
        node_id=listed.bundle.statement.identity.node_id if isinstance(listed, ListedNode) else b"",
        weight=listed.weight,
        check=error.check,
        expected=error.expected,
        got=error.got,
    )
