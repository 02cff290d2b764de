"""Checks 1 to 4 of SPEC section 12, per checkpoint, and inclusion in the log. Proofs come from tiles, unchecked."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TypeGuard

from hybrid.errors import AttestationError
from hybrid.wire.checkpoint import Checkpoint, checkpoint_digest
from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.cosignature import CosignatureVerifier
from hybrid.wire.directory import Leaf
from hybrid.wire.errors import ProofFailure, SignatureFailure, WireError
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.merkle import check_inclusion, leaf_hash
from hybrid.wire.note import Note
from hybrid.wire.tiles import earlier_root, needed_for_earlier_root

from .checks import Findings
from .clock import utc
from .log_view import LogContradiction, LogView, Seen

NO_LOG = "the trust policy names no log"
NO_WITNESS = "the log policy asks for no witness: its operator could keep a log for this client alone"
LOG_CHECKS = ("log.note", "log.quorum", "log.clock", "log.rollback", "log.consistency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A checkpoint whose log and quorum were checked. t0: Unix seconds, None under ``quorum none``."""

    note: bytes = field(repr=False)
    checkpoint: Checkpoint
    t0: int | None

    @property
    def digest(self) -> bytes:
        """What a Statement calls it: 32 bytes."""
        return checkpoint_digest(self.note)

    def seen(self) -> Seen:
        """Return what the client stores of it."""
        point = self.checkpoint
        return Seen(origin=point.origin, size=point.size, root=point.root, t0=self.t0, note=self.note)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """The log as this verification sees it. older: the directory's checkpoints, in its order, prefixes of newest.

    key: what signed them.  witnesses: how many of the policy's cosigned the newest.  quorum: whether any are needed.
    """

    newest: Judged
    older: tuple[Judged, ...]
    key: str
    witnesses: int
    quorum: bool

    def includes(self, leaf: Leaf, under: Judged) -> bool:
        """Whether a leaf's proof leads to this checkpoint's root."""
        point = under.checkpoint
        try:
            check_inclusion(
                leaf=leaf_hash(leaf.entry), index=leaf.index, size=point.size, proof=leaf.hashes, root=point.root
            )
        except ProofFailure:
            return False
        return True


def check_log(
    policy: LogPolicy | None, newest: bytes, older: Sequence[bytes], *, view: LogView, findings: Findings, now: float
) -> LogState | None:
    """Run checks 1 to 4 over the reply's checkpoint and those inside its directory; None without a log.

    Raises AttestationError, or LogContradiction when two signed checkpoints cannot both be true.
    """
    if policy is None:
        findings.skipped(NO_LOG, *LOG_CHECKS)
        return None
    points = _opened(policy, (newest, *older), findings)
    times = [_quorum(policy, note, findings) for note in (newest, *older)]
    _quorum_met(policy, times, findings)
    _clock(times, findings, now)
    judged = [
        Judged(note=note, checkpoint=point, t0=t0)
        for note, point, t0 in zip((newest, *older), points, times, strict=True)
    ]
    _rollback(judged[0], view.stored, findings)
    _consistency(judged[0], judged[1:], view, findings)
    return LogState(
        newest=judged[0],
        older=tuple(judged[1:]),
        key=policy.open(newest)[1].vkey,
        witnesses=_witnesses(policy, newest),
        quorum=policy.has_quorum,
    )


def wanted_tiles(policy: LogPolicy, newest: bytes, older: Sequence[bytes], stored: Seen | None) -> tuple[str, ...]:
    """Name the tiles that ``log.consistency`` needs; none where notes don't open, as ``check_log`` will say why."""
    try:
        points = [policy.open(note)[0] for note in (newest, *older)]
    except WireError:
        return ()
    sizes = {point.size for point in points[1:]} | ({stored.size} if _same_log(stored, points[0]) else set())
    smaller = sorted(size for size in sizes if size < points[0].size)
    return tuple(dict.fromkeys(path for size in smaller for path in needed_for_earlier_root(size, points[0].size)))


def check_newest(policy: LogPolicy, note: bytes, findings: Findings) -> Checkpoint:
    """Run ``log.note`` and ``log.quorum`` over one checkpoint alone."""
    (point,) = _opened(policy, (note,), findings)
    _quorum_met(policy, [_quorum(policy, note, findings)], findings)
    return point


def older_tiles(log: LogState | None, view: LogView) -> Mapping[str, bytes]:
    """Return, of the tiles at hand, those that lead from the directory's checkpoints to the newest."""
    if log is None:
        return {}
    size = log.newest.checkpoint.size
    older = {judged.checkpoint.size for judged in log.older if judged.checkpoint.size < size}
    wanted = {path for old in older for path in needed_for_earlier_root(old, size)}
    return {path: data for path, data in view.tiles.items() if _serves(path, wanted)}


def _serves(path: str, wanted: set[str]) -> bool:
    """Whether a tile is wanted; a full one stands in for the partial ones it has replaced."""
    return path in wanted or any(other.startswith(f"{path}.p/") for other in wanted)


def _opened(policy: LogPolicy, notes: Sequence[bytes], findings: Findings) -> list[Checkpoint]:
    name, names = "log.note", " or ".join(dict.fromkeys(log.name for log in policy.logs))
    try:
        points = [policy.open(note)[0] for note in notes]
    except WireError:
        got = "one that key did not sign" if all(notes) else "none"
        raise findings.failed(name, expected=f"a checkpoint of the log {names}", got=got) from None
    if len({point.origin for point in points}) > 1:
        raise findings.failed(name, expected="checkpoints of one log", got="several logs")
    findings.passed(name, f"{_checkpoints(len(points))} of {points[0].origin}, newest size {points[0].size}")
    return points


def _same_log(stored: Seen | None, newest: Checkpoint) -> TypeGuard[Seen]:
    return stored is not None and stored.origin == newest.origin


def _quorum(policy: LogPolicy, note: bytes, findings: Findings) -> int | None:
    try:
        return policy.quorum_time(note)
    except WireError:
        expected, got = "a checkpoint cosigned by the quorum of witnesses", "one without it"
        raise findings.failed("log.quorum", expected=expected, got=got) from None


def _quorum_met(policy: LogPolicy, times: Sequence[int | None], findings: Findings) -> None:
    if policy.has_quorum:
        findings.passed("log.quorum", f"witnessed at {utc(times[0] or 0)}")
    else:
        findings.warned("log.quorum", NO_WITNESS)


def _clock(times: Sequence[int | None], findings: Findings, now: float) -> None:
    newest = max((t0 for t0 in times if t0 is not None), default=None)
    if newest is None:
        findings.skipped("without witnesses nobody says when a checkpoint was made", "log.clock")
    elif newest > now + CLOCK_TOLERANCE_S:
        slow = f"this device's clock is at least {ceil(newest - now)} s slow"
        raise findings.failed("log.clock", expected="a checkpoint of the past", got=slow)
    else:
        findings.passed("log.clock", f"witnessed {max(0, int(now - newest))} s ago")


def _rollback(newest: Judged, stored: Seen | None, findings: Findings) -> None:
    name = "log.rollback"
    if not _same_log(stored, newest.checkpoint):
        findings.passed(name, "the first checkpoint this client sees of the log")
        return
    if newest.checkpoint.size < stored.size:
        got = f"one of size {newest.checkpoint.size}"
        raise findings.failed(name, expected=f"a checkpoint of size {stored.size} or more", got=got)
    if newest.t0 is not None and stored.t0 is not None and newest.t0 < stored.t0:
        raise findings.failed(name, expected=f"a checkpoint witnessed at {utc(stored.t0)} or later", got=utc(newest.t0))
    findings.passed(name, f"size {stored.size} to {newest.checkpoint.size}")


def _consistency(newest: Judged, older: Sequence[Judged], view: LogView, findings: Findings) -> None:
    seen = {(old.checkpoint.size, old.checkpoint.root): old.note for old in older}
    if _same_log(view.stored, newest.checkpoint):
        seen[view.stored.size, view.stored.root] = view.stored.note
    for (size, root), note in seen.items():
        if not _prefix(size, root, newest.checkpoint, view.tiles, findings):
            raise _contradiction(note, newest.note, findings)
    findings.passed("log.consistency", f"{_checkpoints(len(seen))} lead to the newest" if seen else "nothing older")


def _prefix(size: int, root: bytes, newest: Checkpoint, tiles: Mapping[str, bytes], findings: Findings) -> bool:
    """Whether a tree is the newest one's beginning. Raises AttestationError when the tiles don't tell.

    Tiles are nobody's word: only once they lead to the newest root do they say what it began with.
    """
    name = "log.consistency"
    if size > newest.size:
        raise findings.failed(name, expected=f"nothing larger than the newest, {newest.size}", got=f"size {size}")
    if size == newest.size:
        return hmac.compare_digest(root, newest.root)
    try:
        begun = earlier_root(size, newest_size=newest.size, newest_root=newest.root, tiles=tiles)
    except WireError as error:
        expected, got = (
            "the log's tiles, to compare its checkpoints",
            f"tiles that do not belong to this checkpoint: {error}",
        )
        raise findings.failed(name, expected=expected, got=got) from None
    return hmac.compare_digest(root, begun)


def _contradiction(old: bytes, new: bytes, findings: Findings) -> AttestationError:
    error = findings.failed(
        "log.consistency", expected="a log that only grows", got="two signed checkpoints that contradict each other"
    )
    return LogContradiction.of(error, (old, new))


def _witnesses(policy: LogPolicy, note: bytes) -> int:
    """Count the policy's witnesses that cosigned."""
    parsed = Note.parse(note)
    return sum(_cosigned(witness, parsed) for witness in policy.witnesses.values())


def _cosigned(witness: CosignatureVerifier, note: Note) -> bool:
    try:
        witness.time(note)
    except SignatureFailure:
        return False
    return True


def _checkpoints(number: int) -> str:
    return "1 checkpoint" if number == 1 else f"{number} checkpoints"
