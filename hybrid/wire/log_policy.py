"""Which logs and witnesses a client trusts (C2SP tlog-policy), and the quorum time of a checkpoint (SPEC 5).

One definition per line: ``log VKEY [URL]``, ``witness NAME VKEY [URL]``, ``group NAME all|any|K MEMBER…``,
``quorum NAME|none``. Names are local to the text.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

from .checkpoint import Checkpoint, open_checkpoint
from .constants import MAX_POLICY_CHARS, MAX_POLICY_NAMES
from .cosignature import CosignatureVerifier
from .errors import Malformed, Oversized, ProofFailure, SignatureFailure
from .note import Note, NoteVerifier

_NONE = "none"
_BLANK = re.compile(r"[ \t]+")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class Group:
    """Witnesses, or groups of them, of which at least ``threshold`` must have cosigned."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPolicy:
    """A parsed policy. witnesses, groups: by name.  quorum: a name of either, or None.  urls: vkey to address."""

    logs: tuple[NoteVerifier, ...]
    witnesses: Mapping[str, CosignatureVerifier]
    groups: Mapping[str, Group]
    quorum: str | None
    urls: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a policy. Raises Malformed naming the line."""
        if len(text) > MAX_POLICY_CHARS:
            raise Oversized(len(text), MAX_POLICY_CHARS)
        draft = _Draft()
        for number, line in enumerate(text.split("\n"), 1):
            try:
                draft.read(line)
            except Malformed as error:
                raise Malformed(f"line {number} of the log policy: {error}") from None
        if draft.quorum is None:
            raise Malformed("the log policy has no quorum line; 'quorum none' asks for no witness")
        quorum = None if draft.quorum == _NONE else draft.quorum
        return cls(
            logs=tuple(draft.logs), witnesses=draft.witnesses, groups=draft.groups, quorum=quorum, urls=draft.urls
        )

    def encode(self) -> str:
        """Write the policy without comments, in the one order ``parse`` accepts."""
        lines = [f"log {self._addressed(log.vkey)}" for log in self.logs]
        lines += [f"witness {name} {self._addressed(key.vkey)}" for name, key in self.witnesses.items()]
        lines += [f"group {name} {g.threshold} {' '.join(g.members)}" for name, g in self.groups.items()]
        return "".join(f"{line}\n" for line in [*lines, f"quorum {self.quorum or _NONE}"])

    def _addressed(self, vkey: str) -> str:
        return f"{vkey} {self.urls[vkey]}" if vkey in self.urls else vkey

    @property
    def has_quorum(self) -> bool:
        """Say whether any witness is asked for."""
        return self.quorum is not None

    def open(self, note: bytes) -> tuple[Checkpoint, NoteVerifier]:
        """Open a checkpoint of one of the logs. Raises Malformed, SignatureFailure when it is none of theirs."""
        origin = Checkpoint.parse_text(Note.parse(note).text).origin
        failure = SignatureFailure("the checkpoint is of a log the policy does not name")
        for key in self.logs:  # a log that changes its key is listed with both
            if key.name == origin:
                try:
                    return open_checkpoint(note, key), key
                except SignatureFailure as error:
                    failure = error
        raise failure

    def quorum_time(self, note: bytes) -> int | None:
        """Return t0 in Unix seconds: the largest t such that the cosignatures not older than t meet the quorum.

        None under ``quorum none``. Lines of unknown witnesses do not count, and a witness counts once.
        Raises ProofFailure when the quorum is not met, SignatureFailure when a known witness's line does not verify.
        """
        times = self._times(Note.parse(note))
        if self.quorum is None:
            return None
        for t0 in sorted(set(times.values()), reverse=True):
            if self._met(self.quorum, {name for name, at in times.items() if at >= t0}):
                return t0
        raise ProofFailure(f"the witnesses that cosigned do not meet the quorum: {', '.join(sorted(times)) or 'none'}")

    def _times(self, note: Note) -> dict[str, int]:
        present = {(line.name, line.key_id) for line in note.signatures}
        return {
            name: witness.time(note)
            for name, witness in self.witnesses.items()
            if (witness.public.name, witness.public.id) in present
        }

    def _met(self, name: str, cosigned: Collection[str]) -> bool:
        if name in self.witnesses:
            return name in cosigned
        group = self.groups[name]
        return sum(self._met(member, cosigned) for member in group.members) >= group.threshold


class _Draft:
    """A policy while its lines are read. Every method raises Malformed."""

    def __init__(self) -> None:
        self.logs: list[NoteVerifier] = []
        self.witnesses: dict[str, CosignatureVerifier] = {}
        self.groups: dict[str, Group] = {}
        self.quorum: str | None = None
        self.urls: dict[str, str] = {}
        self._members: set[str] = set()
        self._keys: set[tuple[str, bytes]] = set()

    def read(self, line: str) -> None:
        if _FORBIDDEN.search(line):
            raise Malformed("control characters have no place here")
        words = _BLANK.split(line.strip(" \t"))
        if not words[0] or words[0].startswith("#"):
            return
        match words:
            case ["log", vkey, *url]:
                self._log(vkey, url)
            case ["witness", name, vkey, *url]:
                self._witness(name, vkey, url)
            case ["group", name, threshold, _, *_]:
                self._group(name, threshold, words[3:])
            case ["quorum", name]:
                self._quorum(name)
            case _:
                raise Malformed(
                    "expected 'log VKEY', 'witness NAME VKEY', 'group NAME all|any|K MEMBER…' or 'quorum NAME'"
                )

    def _log(self, vkey: str, url: list[str]) -> None:
        log = NoteVerifier.parse(vkey)
        self._enter("log", log.public.raw, vkey, url)
        self.logs.append(log)

    def _witness(self, name: str, vkey: str, url: list[str]) -> None:
        witness = CosignatureVerifier.parse(vkey)
        self._new_name(name)
        self._enter("witness", witness.public.raw, vkey, url)
        self.witnesses[name] = witness

    def _enter(self, role: str, raw: bytes, vkey: str, url: list[str]) -> None:
        if (role, raw) in self._keys:
            raise Malformed(f"the same key stands in two {role} lines")
        if len(url) > 1:
            raise Malformed("a line ends after the address")
        self._keys.add((role, raw))
        if url:
            self.urls[vkey] = url[0]
        self._within()

    def _group(self, name: str, threshold: str, members: list[str]) -> None:
        for member in members:
            self._known(member)
            if member in self._members:
                raise Malformed(f"{member} is a member of a group already")
            self._members.add(member)
        self._new_name(name)
        self.groups[name] = Group(_threshold(threshold, len(members)), tuple(members))
        self._within()

    def _quorum(self, name: str) -> None:
        if self.quorum is not None:
            raise Malformed("there is exactly one quorum line")
        if name != _NONE:
            self._known(name)
        self.quorum = name

    def _known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise Malformed(f"{name} is not defined on a line before")

    def _new_name(self, name: str) -> None:
        if name == _NONE or name in self.witnesses or name in self.groups:
            raise Malformed(f"{name} is taken")

    def _within(self) -> None:
        if len(self.logs) + len(self.witnesses) + len(self.groups) >= MAX_POLICY_NAMES:
            raise Malformed(f"a policy defines at most {MAX_POLICY_NAMES} logs, witnesses and groups")


def _threshold(word: str, members: int) -> int:
    if word in {"any", "all"}:
        return 1 if word == "any" else members
    if not _THRESHOLD.fullmatch(word) or int(word) > members:
        raise Malformed(f"a group's threshold is 'any', 'all' or a number from 1 to {members}")
    return int(word)
