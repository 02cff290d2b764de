"""Interactive freshness: asks nodes for evidence over a nonce of this client's own. SPEC section 3. Judges nothing."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable

from .errors import RemoteError
from .exchange import Transport
from .trust.log_view import NonceProof
from .trust.policy import Policy
from .wire.attest import NONCE_BYTES
from .wire.directory import Directory
from .wire.errors import WireError
from .wire.evidence import SOFTWARE, Bundle

AT_ONCE = 4  # what a node lets one address wait for
RENEWED_S = 6  # a router asks its nodes more often than that
STALE = frozenset({"evidence.fresh", "directory.intact"})  # the latter where many nodes fail the former


def needs_nonces(policy: Policy) -> bool:
    """Whether nothing but a nonce can show under this policy that evidence is young."""
    witnessed = policy.log_policy is not None and policy.log_policy.has_quorum
    return policy.freshness == "nonce" or (policy.freshness == "either" and not witnessed)


async def nonce_proofs(
    transport: Transport,
    directory: bytes,
    *,
    now: Callable[[], float] = time.time,
    rng: Callable[[int], bytes] = secrets.token_bytes,
) -> tuple[NonceProof, ...]:
    """Ask every node of a directory that shows more than software evidence; returns their proofs.

    A node that can't be asked has none, and ``evidence.fresh`` will say so.
    """
    slots, proofs = asyncio.Semaphore(AT_ONCE), list[NonceProof]()

    async def ask(bundle: Bundle) -> None:
        async with slots:
            nonce, made_at = rng(NONCE_BYTES), now()
            with contextlib.suppress(RemoteError):
                reply = await transport.attest(bundle.statement.identity.node_id, nonce)
                proofs.append(NonceProof(bundle_id=bundle.id, nonce=nonce, made_at=made_at, reply=reply))

    await asyncio.gather(*(ask(bundle) for bundle in _provable(directory)))
    return tuple(proofs)


async def listed_anew(transport: Transport, shown: bytes) -> bytes | None:
    """Wait for a directory after this one; None when there is none soon.

    A node that has just made new keys gives evidence about these, for a few seconds before its router lists them.
    """
    for _ in range(RENEWED_S):
        await asyncio.sleep(1.0)
        if (newer := await transport.directory()) != shown:
            return newer
    return None


def _provable(directory: bytes) -> list[Bundle]:
    try:
        listed = Directory.decode(directory).nodes
    except WireError:
        return []  # the verifier will name it
    return [node.bundle for node in listed if node.bundle.statement.formats != (SOFTWARE,)]
