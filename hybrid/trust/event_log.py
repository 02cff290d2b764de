"""Replays a firmware event log, so that quoted PCR values can be explained event by event. SPEC section 13.

The format is TCG "PC Client Platform Firmware Profile", crypto agile, little-endian. A log is shown, never required:
it proves nothing but what the quote over the same PCR values proves.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid.wire.encoding import Reader
from hybrid.wire.errors import Malformed, Oversized
from hybrid.wire.tpm2 import ALG_SHA256, PCRS

BANKS = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}  # TPM_ALG_ID
EV_NO_ACTION = 0x0000_0003
MAX_LOG_BYTES = 1024 * 1024
MAX_EVENT_BYTES = 256 * 1024
_SPEC_ID = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_LOCALITIES = frozenset({0, 3, 4})
_SHA1_BYTES = 20
_SPEC_VERSION_BYTES = 4 + 4  # platform class; version, errata, size of an address
_MAX_BANKS = 8
_DYNAMIC = range(17, 23)  # a late launch's: they start at ones, and no log of the firmware extends them


class LittleReader(Reader):
    """A strict reader of little-endian numbers. Every method raises Malformed."""

    __slots__ = ()

    @property
    def at_end(self) -> bool:
        """Whether every byte was read."""
        return self._at == len(self._data)

    def u16(self) -> int:
        """Read two bytes, little-endian."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """Read four bytes, little-endian."""
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        """Read eight bytes, little-endian."""
        return int.from_bytes(self.take(8), "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareEvent:
    """One event. digests: by TPM_ALG_ID, what was extended in that bank.  data: what the firmware says about it."""

    pcr: int
    kind: int
    digests: Mapping[int, bytes]
    data: bytes = field(repr=False)

    @property
    def extended(self) -> bool:
        """Whether it was extended; events that only inform were not."""
        return self.kind != EV_NO_ACTION


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a log says the PCRs hold. banks: by hash name, PCR to value; PCRs without an event are left out."""

    banks: Mapping[str, Mapping[int, bytes]]
    events: tuple[FirmwareEvent, ...]

    def differing(self, pcrs: Mapping[int, str]) -> tuple[int, ...]:
        """Return the SHA-256 PCRs, of those quoted (hex), that this log explains otherwise."""
        replayed = self.banks["sha256"]
        return tuple(index for index in sorted(pcrs) if index in replayed and replayed[index].hex() != pcrs[index])


def replay(log: bytes) -> Replay:
    """Replay a firmware event log. Raises Malformed, Oversized; also for logs without SHA-256 digests (SPEC E8)."""
    sizes, events = read_log(log)
    return Replay(
        banks={name: _replayed(name, code, events) for code, name in BANKS.items() if code in sizes}, events=events
    )


def read_log(log: bytes) -> tuple[dict[int, int], tuple[FirmwareEvent, ...]]:
    """Decode a log into its banks (TPM_ALG_ID to digest size) and events. Raises Malformed, Oversized."""
    if len(log) > MAX_LOG_BYTES:
        raise Oversized(len(log), MAX_LOG_BYTES)
    reader = LittleReader(log)
    sizes = _header(reader)
    events = []
    while not reader.at_end:
        events.append(_event(reader, sizes))
    return sizes, tuple(events)


def _header(reader: LittleReader) -> dict[int, int]:
    """Read the first event, in the old format, that names the banks."""
    if (reader.u32(), reader.u32()) != (0, EV_NO_ACTION) or any(reader.take(_SHA1_BYTES)):
        raise Malformed("the event log does not start with its specification")
    spec = LittleReader(reader.v4(MAX_EVENT_BYTES))
    if spec.take(len(_SPEC_ID)) != _SPEC_ID:
        raise Malformed("the event log is not crypto agile: it knows SHA-1 alone")
    spec.take(_SPEC_VERSION_BYTES)
    count = spec.u32()
    if not 1 <= count <= _MAX_BANKS:
        raise Malformed("the event log names no bank, or too many")
    sizes = dict(_bank(spec) for _ in range(count))
    spec.v1()
    spec.end()
    if len(sizes) != count:
        raise Malformed("the event log names a bank twice")
    if ALG_SHA256 not in sizes:
        raise Malformed("the event log has no SHA-256 bank, and no other is quoted")
    return sizes


def _bank(spec: LittleReader) -> tuple[int, int]:
    code, size = spec.u16(), spec.u16()
    if code in BANKS and size != hashlib.new(BANKS[code], usedforsecurity=False).digest_size:
        raise Malformed("the event log gives a digest a size it does not have")
    return code, size


def _event(reader: LittleReader, sizes: Mapping[int, int]) -> FirmwareEvent:
    pcr, kind, count = reader.u32(), reader.u32(), reader.u32()
    if count > len(sizes):
        raise Malformed("an event with more digests than banks")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        code = reader.u16()
        if code not in sizes or code in digests:
            raise Malformed("an event with a digest of an unknown bank, or twice of one")
        digests[code] = reader.take(sizes[code])
    event = FirmwareEvent(pcr=pcr, kind=kind, digests=digests, data=reader.v4(MAX_EVENT_BYTES))
    if event.extended and (pcr >= PCRS or pcr in _DYNAMIC or len(digests) != len(sizes)):
        raise Malformed("an event that no firmware extends: another PCR, or a bank left out")
    return event


def _replayed(name: str, code: int, events: tuple[FirmwareEvent, ...]) -> dict[int, bytes]:
    zeros = bytes(hashlib.new(name, usedforsecurity=False).digest_size)
    started = zeros[:-1] + bytes([_locality(events)])
    values: dict[int, bytes] = {}
    for event in events:
        if event.extended:
            before = values.get(event.pcr, zeros if event.pcr else started)
            values[event.pcr] = hashlib.new(name, before + event.digests[code], usedforsecurity=False).digest()
    return values


def _locality(events: tuple[FirmwareEvent, ...]) -> int:
    """Return the last byte PCR 0 starts with: the locality that started the TPM, 0 where no event says so."""
    said = [event.data for event in events if not event.extended and event.data.startswith(_STARTUP_LOCALITY)]
    if not said:
        return 0
    tail = said[0][len(_STARTUP_LOCALITY) :]
    if len(said) > 1 or len(tail) != 1 or tail[0] not in _LOCALITIES:
        raise Malformed("the event log says twice, or wrongly, how the TPM was started")
    return tail[0]
