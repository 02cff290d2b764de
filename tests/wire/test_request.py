"""Sealing and opening of requests: what opens, and that nothing changed ever does (SPEC 6, 7)."""

from dataclasses import replace

import pytest

from hybrid.wire.body import body_length, seal_body
from hybrid.wire.codec import decode_request, encode_request
from hybrid.wire.constants import BODY_BUCKETS, DEADLINES_MS, KEY_PACKAGE_BYTES
from hybrid.wire.envelope import RequestOpener
from hybrid.wire.errors import Malformed, Misuse, Oversized, Rejected, StaleKey
from hybrid.wire.header import NO_TOKEN, Header, body_context, key_package_info, request_digest, token_digest
from hybrid.wire.keys import EpochKey
from hybrid.wire.types import GenerateRequest, Message, Role
from tests.wire.support import EPOCH, EPOCH_S, REQUEST, opener, seal, sealer, worker


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_candidate_opens_what_was_sealed(count: int) -> None:
    sealed, _ = seal(count)
    for index in range(count):
        message, _ = opener(sealed, index).open(worker(index).epoch_key)
        assert decode_request(message) == REQUEST


def test_lengths_are_the_protocols() -> None:
    sealed, _ = sealer(3, model_id="m" * 13).seal(REQUEST)
    assert (len(sealed.header), len(sealed.body)) == (355, 56 + 1024 + 16)
    assert {len(package) for package in sealed.key_packages} == {KEY_PACKAGE_BYTES}


def test_flipping_any_byte_of_header_body_or_key_package_never_opens() -> None:
    sealed, _ = seal()
    parts = {"header": sealed.header, "body": sealed.body, "key_package": sealed.key_packages[0]}
    RequestOpener(**parts, index=0).open(worker(0).epoch_key)  # positive control
    for name, part in parts.items():
        for at in range(len(part)):
            changed = part[:at] + bytes((part[at] ^ 0x01,)) + part[at + 1 :]
            with pytest.raises((Rejected, Malformed, StaleKey)):
                RequestOpener(**{**parts, name: changed}, index=0).open(worker(0).epoch_key)


def test_flipping_bytes_of_a_request_of_1_mib_never_opens() -> None:
    sealed, _ = seal(request=_asking("x" * 1_000_000))
    opener(sealed).open(worker(0).epoch_key)  # positive control
    for at in range(0, len(sealed.body), len(sealed.body) // 100):
        body = bytearray(sealed.body)
        body[at] ^= 0x01
        changed = RequestOpener(header=sealed.header, body=bytes(body), key_package=sealed.key_packages[0], index=0)
        with pytest.raises(Rejected):
            changed.open(worker(0).epoch_key)


@pytest.mark.parametrize("name", ["header", "body", "key_package"])
@pytest.mark.parametrize("length", [-1, 1])
def test_a_part_that_is_too_short_or_too_long_is_malformed(name: str, length: int) -> None:
    sealed, _ = seal()
    parts = {"header": sealed.header, "body": sealed.body, "key_package": sealed.key_packages[0]}
    parts[name] = parts[name][:-1] if length < 0 else parts[name] + b"\0"
    with pytest.raises(Malformed):
        RequestOpener(**parts, index=0)


def test_a_key_package_moved_to_another_position_is_refused() -> None:
    sealed, _ = seal(3)
    with pytest.raises(Rejected):
        RequestOpener(header=sealed.header, body=sealed.body, key_package=sealed.key_packages[1], index=0).open(
            worker(0).epoch_key
        )
    with pytest.raises(StaleKey):
        RequestOpener(header=sealed.header, body=sealed.body, key_package=sealed.key_packages[0], index=1).open(
            worker(0).epoch_key
        )


def test_another_body_under_the_same_secret_does_not_open_with_the_clients_key_package() -> None:
    secret, fixed = b"\x11" * 32, iter([b"\x33" * 16, b"\x11" * 32, b"\x22" * 24, b"\x55" * 32])
    sealed, _ = sealer(rng=lambda _: next(fixed)).seal(REQUEST)
    message = encode_request(replace(REQUEST, messages=(Message(role=Role.USER, content="other"),)))
    plaintext = len(message).to_bytes(4, "big") + message
    forged = seal_body(plaintext.ljust(1024, b"\0"), key=secret, salt=bytes(24), context=body_context(sealed.header))
    with pytest.raises(Rejected):
        RequestOpener(header=sealed.header, body=forged, key_package=sealed.key_packages[0], index=0).open(
            worker(0).epoch_key
        )
    ref = worker(0).candidate.ref  # positive control: with a package of its own the forged body is a good one
    info = key_package_info(request_digest(sealed.header, forged), 0, ref)
    package = worker(0).epoch_key.config.encrypt(b"\x01" + secret + bytes(32), info)
    opened = RequestOpener(header=sealed.header, body=forged, key_package=package, index=0)
    assert opened.open(worker(0).epoch_key)[0] == message


def test_a_request_does_not_open_under_another_epoch_of_the_same_key() -> None:
    seed = b"\x09" * 32
    candidate = replace(worker(0).candidate, key=EpochKey.from_seed(seed, EPOCH, EPOCH_S).config)
    sealed, _ = sealer(candidates=[candidate]).seal(REQUEST)
    opener(sealed).open(EpochKey.from_seed(seed, EPOCH, EPOCH_S))  # positive control
    with pytest.raises(StaleKey):
        opener(sealed).open(EpochKey.from_seed(seed, EPOCH + 1, EPOCH_S))


def test_two_seals_of_one_request_share_nothing() -> None:
    first, second = seal()[0], seal()[0]
    assert first.request_id != second.request_id
    assert first.q != second.q
    assert first.body[:24] != second.body[:24]
    assert first.body[56:200] != second.body[56:200]


def test_a_sealer_seals_once_and_an_opener_opens_once() -> None:
    client = sealer()
    sealed, _ = client.seal(REQUEST)
    with pytest.raises(Misuse):
        client.seal(REQUEST)
    node = opener(sealed)
    node.open(worker(0).epoch_key)
    with pytest.raises(Misuse):
        node.open(worker(0).epoch_key)


@pytest.mark.parametrize("numbers", [[], [0, 0], [0, 1, 2, 3, 4]])
def test_no_candidate_a_double_one_or_five_are_refused(numbers: list[int]) -> None:
    with pytest.raises(Malformed):
        sealer(candidates=[worker(number).candidate for number in numbers]).seal(REQUEST)


@pytest.mark.parametrize("changes", [{"deadline_ms": 61_000}, {"model_id": "a b"}, {"directory_id": b"short"}])
def test_a_header_that_would_not_decode_is_not_sealed(changes: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        sealer(**changes).seal(REQUEST)


def test_every_deadline_of_the_protocol_seals() -> None:
    assert [Header.decode(sealer(deadline_ms=ms).seal(REQUEST)[0].header).deadline_ms for ms in DEADLINES_MS] == list(
        DEADLINES_MS
    )


def test_a_token_is_in_the_header_only_as_a_digest_that_changes() -> None:
    sealed = [sealer(token=b"shared secret").seal(REQUEST)[0] for _ in range(2)]
    digests = [Header.decode(one.header).token_digest for one in sealed]
    assert digests[0] == token_digest(sealed[0].request_id, b"shared secret")
    assert digests[0] != digests[1]
    assert Header.decode(seal()[0].header).token_digest == NO_TOKEN


@pytest.mark.parametrize("bucket", BODY_BUCKETS)
def test_a_body_has_its_buckets_length(bucket: int) -> None:
    words = bucket - 4 - len(encode_request(_asking("x" * 200))) + 200 - 8
    sealed, _ = seal(request=_asking("x" * words))
    assert len(sealed.body) == body_length(bucket)
    assert decode_request(opener(sealed).open(worker(0).epoch_key)[0]) == _asking("x" * words)


def test_a_request_beyond_the_largest_bucket_names_both_sizes() -> None:
    with pytest.raises(Oversized) as caught:
        seal(request=_asking("x" * (1024 * 1024)))
    assert caught.value.size > caught.value.limit == 1024 * 1024


def test_text_that_is_not_unicode_is_refused_before_sealing() -> None:
    with pytest.raises(Malformed):
        seal(request=_asking("lone \ud800 surrogate"))


def _asking(text: str) -> GenerateRequest:
    return GenerateRequest(messages=(Message(role=Role.USER, content=text),))
