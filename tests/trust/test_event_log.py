import hashlib
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.trust.event_log import MAX_LOG_BYTES, replay
from hybrid.wire.errors import Malformed, Oversized, WireError
from tests.trust.foreign import foreign

PCR_4 = {
    "arch-linux-workstation.bin": "925d453d",
    "cos-93-amd-sev.bin": "871e8343",
    "cos-101-amd-sev.bin": "6d9f1a1d",
    "eventlogwithsp800155.bin": "18314f0c",
    "glinux-alex.bin": "ddb124ca",
    "ubuntu-1804-amd-sev.bin": "b4b94e84",
    "ubuntu-2104-no-secure-boot.bin": "ebc7ae25",
}
NO_ACTION, SEPARATOR = 3, 4


def u16(number: int) -> bytes:
    return number.to_bytes(2, "little")


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def header(
    *, banks: Iterable[tuple[int, int]] = ((0x0B, 32),), spec: bytes = b"Spec ID Event03\0", tail: bytes = b"\0"
) -> bytes:
    codes = list(banks)
    body = spec + u32(0) + b"\0\x02\0\x02" + u32(len(codes)) + b"".join(u16(a) + u16(n) for a, n in codes) + tail
    return u32(0) + u32(NO_ACTION) + bytes(20) + u32(len(body)) + body


def event(
    pcr: int = 4, kind: int = SEPARATOR, digests: Iterable[tuple[int, bytes]] | None = None, data: bytes = b""
) -> bytes:
    pairs = [(0x0B, hashlib.sha256(data).digest())] if digests is None else list(digests)
    listed = b"".join(u16(code) + value for code, value in pairs)
    return u32(pcr) + u32(kind) + u32(len(pairs)) + listed + u32(len(data)) + data


@pytest.mark.parametrize("name", sorted(PCR_4))
def test_logs_of_real_machines_replay_to_the_known_value_of_pcr_4(name: str) -> None:
    log = foreign(f"tcg-event-log/{name}")
    assert replay(log).banks["sha256"][4].hex().startswith(PCR_4[name])
    with pytest.raises(Malformed):  # cut inside the last event
        replay(log[:-1])


def flipped_events(log: bytes) -> Iterator[bytes]:
    """The log with one bit changed in the digest of each event of PCR 4."""
    for moment in replay(log).events:
        if moment.pcr == 4 and moment.extended:
            whole = event(4, moment.kind, moment.digests.items(), moment.data)
            at = log.index(whole) + whole.index(moment.digests[0x0B])
            yield log[:at] + bytes([log[at] ^ 1]) + log[at + 1 :]


@pytest.mark.parametrize("name", sorted(PCR_4))
def test_one_changed_bit_in_any_digest_changes_the_value(name: str) -> None:
    changed = list(flipped_events(foreign(f"tcg-event-log/{name}")))
    assert changed
    for log in changed:
        assert not replay(log).banks["sha256"][4].hex().startswith(PCR_4[name])


def test_every_bank_is_replayed_and_pcrs_without_events_are_left_out() -> None:
    banks = replay(foreign("tcg-event-log/cos-101-amd-sev.bin")).banks
    assert {name: len(values[4]) for name, values in banks.items()} == {"sha1": 20, "sha256": 32, "sha384": 48}
    assert sorted(banks["sha256"]) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]


def test_events_that_only_inform_are_not_extended() -> None:
    quiet = event(0, NO_ACTION, [], b"SP800-155 Event3")
    assert replay(header() + quiet + event()).banks == replay(header() + event()).banks


def test_the_startup_locality_is_where_pcr_0_starts_and_no_other_pcr() -> None:
    said = event(0, NO_ACTION, [], b"StartupLocality\0\x03")
    at_zero, at_three = (replay(header() + extra + event(0) + event(4)).banks["sha256"] for extra in (b"", said))
    assert at_three[0] == hashlib.sha256(bytes(31) + b"\x03" + hashlib.sha256(b"").digest()).digest()
    assert at_three[0] != at_zero[0]
    assert at_three[4] == at_zero[4]


def test_a_log_names_the_quoted_pcrs_that_it_explains_otherwise() -> None:
    found = replay(header() + event(4) + event(7))
    values = {index: value.hex() for index, value in found.banks["sha256"].items()}
    assert found.differing(values) == ()
    assert found.differing({**values, 7: "00" * 32, 11: "11" * 32}) == (7,)


BAD = {
    "empty": b"",
    "SHA-1 alone": header(spec=b"Spec ID Event00\0") + event(),
    "SHA-1 alone, said in the agile format": header(banks=[(0x04, 20)]) + event(digests=[(0x04, bytes(20))]),
    "no specification": event(),
    "a bank twice": header(banks=[(0x0B, 32), (0x0B, 32)]) + event(),
    "no bank": header(banks=[]) + event(digests=[]),
    "too many banks": header(banks=[(n, 32) for n in range(0x20, 0x29)]),
    "a digest of a size it does not have": header(banks=[(0x0B, 20)]) + event(digests=[(0x0B, bytes(20))]),
    "bytes after the specification": header(tail=b"\0\0") + event(),
    "a digest of an unknown bank": header() + event(digests=[(0x0C, bytes(48))]),
    "a digest twice": header() + event(digests=[(0x0B, bytes(32))] * 2),
    "a bank left out": header() + event(digests=[]),
    "a PCR that no TPM has": header() + event(24),
    "a PCR of a late launch": header() + event(17),
    "a trailing byte": header() + event() + b"\0",
    "two localities": header() + event(0, NO_ACTION, [], b"StartupLocality\0\x03") * 2,
    "an unknown locality": header() + event(0, NO_ACTION, [], b"StartupLocality\0\x01"),
    "a locality with more": header() + event(0, NO_ACTION, [], b"StartupLocality\0\x03\x03"),
}


@pytest.mark.parametrize("why", BAD)
def test_other_logs_are_refused(why: str) -> None:
    assert replay(header() + event()).banks["sha256"][4]
    with pytest.raises(Malformed):
        replay(BAD[why])


def test_a_log_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(Oversized):
        replay(bytes(MAX_LOG_BYTES + 1))


@given(st.binary(max_size=200))
def test_random_bytes_raise_wire_errors_only(tail: bytes) -> None:
    for log in (tail, header() + tail, header() + event() + tail):
        try:
            replay(log)
        except WireError:
            continue
