"""Every decoder under bytes nobody meant: only ``WireError`` comes out, and valid bytes decode (SPEC 1, 14, 15)."""

import random
from collections.abc import Callable

import pytest

from hybrid.wire import codec, entries
from hybrid.wire.canonical import canonical_json, decode_canonical_json
from hybrid.wire.checkpoint import Checkpoint, open_checkpoint
from hybrid.wire.constants import KEY_PACKAGE_BYTES
from hybrid.wire.cosignature import CosignatureSigner, CosignatureVerifier
from hybrid.wire.directory import Directory, Leaf, ListedNode
from hybrid.wire.encoding import cat, u8, v1, v4
from hybrid.wire.entries import REASONS, RevokeEntry, open_entry
from hybrid.wire.envelope import Header
from hybrid.wire.errors import Malformed, NonCanonical, Oversized, WireError
from hybrid.wire.evidence import Bundle, Statement
from hybrid.wire.keys import Identity, KeyConfig
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.merkle import inclusion_proof, leaf_hash, root
from hybrid.wire.note import Note, NoteSigner, NoteVerifier, append_signatures
from hybrid.wire.receipt import Receipt
from hybrid.wire.tiles import entries_from_bundles, parse_path, root_from_tiles
from hybrid.wire.tlog_proof import TlogProof
from hybrid.wire.types import Chunk
from hybrid.wire.v1 import pcc_pb2
from tests.wire.support import REQUEST, USAGE, own_leaf, read, seal, worker, write

SIGNER = NoteSigner.generate("example.org/directory")
VERIFIER = NoteVerifier.parse(SIGNER.vkey)


def _samples() -> dict[str, tuple[Callable[[bytes], object], bytes]]:
    sealed, client = seal()
    listed = Directory(
        deployment="example.org", epoch=7, epoch_s=300, nodes=(ListedNode(weight=1, bundle=worker(0).bundle),)
    )
    leaf = own_leaf(listed, SIGNER).encode()
    return {
        "header": (Header.decode, sealed.header),
        "key config": (KeyConfig.decode, worker(0).epoch_key.config.encode()),
        "identity": (Identity.decode, worker(0).identity.public.encode()),
        "statement": (Statement.decode, worker(0).bundle.statement_bytes),
        "bundle": (Bundle.decode, worker(0).bundle.raw),
        "directory": (Directory.decode, listed.raw),
        "leaf": (Leaf.decode, leaf),
        "own leaf": (Leaf.decode_own, leaf),
        "entry": (lambda data: open_entry(data, VERIFIER), Leaf.decode(leaf).entry),
        "note": (Note.parse, Leaf.decode(leaf).entry),
        "receipt": (Receipt.decode, read(client, write(sealed)).encode()),
        "request": (codec.decode_request, codec.encode_request(REQUEST)),
        "chunk": (codec.decode_chunk, codec.encode_chunk(Chunk(text="text", tokens=1, progress=(3, 4)))),
        "usage": (codec.decode_usage, codec.encode_usage(USAGE)),
        "invoke request": (
            codec.decode_invoke_request,
            codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages, index=1, token=b"t"),
        ),
        "invoke reply": (codec.decode_invoke_reply, codec.encode_invoke_reply(head=b"h", frames=b"f", final=b"l")),
        "directory reply": (
            codec.decode_directory_reply,
            codec.encode_directory_reply(directory=listed.raw, leaf=leaf, checkpoint=b"c"),
        ),
        "parts": (lambda data: codec.join_parts([data]), codec.split_parts(b"data")[0]),
        "canonical JSON": (decode_canonical_json, canonical_json({"a": [1, "b", {"c": -5}]})),
        "note key": (lambda data: NoteVerifier.parse(data.decode("latin-1")), SIGNER.vkey.encode()),
    }


def _log_samples() -> dict[str, tuple[Callable[[bytes], object], bytes]]:
    words = entries.sign(RevokeEntry(target=bytes(32), reason=REASONS[0], issued=1), SIGNER).split(b"\n\n")[0]
    leaves = [leaf_hash(b"one"), leaf_hash(b"two"), leaf_hash(b"three")]
    text = Checkpoint(origin=SIGNER.name, size=3, root=root(leaves)).encode_text()
    witness = CosignatureSigner.generate("w1")
    note = append_signatures(SIGNER.sign(text), [witness.cosign(text)])
    policy = LogPolicy.parse(f"log {SIGNER.vkey}\nwitness w {witness.vkey}\ngroup g any w\nquorum g")
    proof = TlogProof(index=1, hashes=inclusion_proof(leaves, 1), checkpoint=note)
    bundle, tile = "tile/entries/000.p/3", "tile/0/000.p/3"
    return {
        "signed words": (lambda data: open_entry(SIGNER.sign(data.decode("latin-1") + "\n"), VERIFIER), words),
        "checkpoint text": (lambda data: Checkpoint.parse_text(data.decode("latin-1")), text.encode()),
        "checkpoint": (lambda data: open_checkpoint(data, VERIFIER), note),
        "cosigned note": (policy.quorum_time, note),
        "witness key": (lambda data: CosignatureVerifier.parse(data.decode("latin-1")), witness.vkey.encode()),
        "log policy": (lambda data: LogPolicy.parse(data.decode("latin-1")), policy.encode().strip().encode()),
        "tlog-proof": (lambda data: TlogProof.parse(data).check(b"two", VERIFIER), proof.encode()),
        "log path": (lambda data: parse_path(data.decode("latin-1")), b"tile/0/x001/x234/067.p/9"),
        "tile": (lambda data: root_from_tiles(3, {tile: data}), b"".join(leaves)),
        "entry bundle": (lambda data: entries_from_bundles(0, 3, {bundle: data}), b"\x00\x01a\x00\x01b\x00\x01c"),
    }


SAMPLES = {**_samples(), **_log_samples()}


@pytest.mark.parametrize("name", SAMPLES)
def test_random_bytes_raise_nothing_but_wire_errors(name: str) -> None:
    decode, valid = SAMPLES[name]
    rng = random.Random(name)  # noqa: S311 - reproducible noise, not a secret
    decode(valid)  # positive control
    for _ in range(300):
        for data in (rng.randbytes(rng.randrange(64)), valid[: rng.randrange(len(valid))] + rng.randbytes(4)):
            _only_wire_errors(decode, data)


@pytest.mark.parametrize("name", SAMPLES)
def test_mutated_valid_bytes_raise_nothing_but_wire_errors(name: str) -> None:
    decode, valid = SAMPLES[name]
    rng = random.Random(name)  # noqa: S311 - the same
    for _ in range(200):
        changed = bytearray(valid)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(min(len(changed), 4096))] = rng.randrange(256)
        _only_wire_errors(decode, bytes(changed))


def _only_wire_errors(decode: Callable[[bytes], object], data: bytes) -> None:
    try:
        decode(data)
    except WireError:
        return


@pytest.mark.parametrize("name", SAMPLES)
def test_a_record_that_is_cut_or_goes_on_is_refused(name: str) -> None:
    decode, valid = SAMPLES[name]
    with pytest.raises(WireError):
        decode(valid + b"\x00")
    if name not in {"parts", "invoke reply", "chunk", "usage", "directory reply"}:  # their last field may be absent
        with pytest.raises(WireError):
            decode(valid[:-1])


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("chunk", pcc_pb2.Usage(decode_ms=3).SerializeToString()),  # field 8: unknown to a chunk
        ("request", b"\x7a\x00"),  # field 15, empty
        ("request", b"\x10\x05"),  # max_tokens a second time
        ("usage", b"\x08\x01"),  # input a second time, out of order
        ("invoke request", b"\x32\x01x"),  # field 6
        ("invoke reply", b"\x0a\x01x"),  # a second head
        ("parts", b"\x0a\x01x"),  # data a second time
    ],
)
def test_unknown_doubled_and_reordered_fields_are_refused(name: str, suffix: bytes) -> None:
    decode, valid = SAMPLES[name]
    with pytest.raises(Malformed):
        decode(valid + suffix)


@pytest.mark.parametrize(
    "data",
    [
        pcc_pb2.GenerateRequest(max_tokens=1).SerializeToString(),  # no message
        pcc_pb2.GenerateRequest(messages=[pcc_pb2.Message(role="user", content=" ")]).SerializeToString(),
        pcc_pb2.GenerateRequest(messages=[pcc_pb2.Message(role="root", content="x")]).SerializeToString(),
        codec.encode_request(REQUEST)[:-4] + b"\x08\x80\x00",  # a varint longer than it need be
        codec.encode_request(REQUEST) + b"\x42\x00",  # an empty salt, which is absent
        *(codec.encode_request(REQUEST) + b"\x42" + bytes((size,)) + bytes(size) for size in (1, 15, 33)),
    ],
)
def test_a_request_without_sense_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        codec.decode_request(data)


def test_a_salt_of_16_to_32_bytes_is_taken_and_never_shown() -> None:
    for size in (16, 32):
        salt = bytes(range(65, 65 + size))
        request = codec.decode_request(codec.encode_request(REQUEST) + b"\x42" + bytes((size,)) + salt)
        assert request.cache_salt == salt
        assert "ABCDEF" not in repr(request)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", float("nan")),
        ("temperature", -1.0),
        ("top_p", 1.5),
        ("repetition_penalty", 0.0),
    ],
)
def test_sampling_no_engine_could_honour_is_refused(field: str, value: float) -> None:
    message = pcc_pb2.GenerateRequest.FromString(codec.encode_request(REQUEST))
    setattr(message, field, value)
    with pytest.raises(Malformed):
        codec.decode_request(message.SerializeToString())


@pytest.mark.parametrize("params", ["", "[]", '{"a":{}}', '{"a":0.5}', '{"a": 1}', '{"b":1,"a":1}'])
def test_usage_with_parameters_out_of_form_is_refused(params: str) -> None:
    with pytest.raises(Malformed):
        codec.decode_usage(pcc_pb2.Usage(finish=1, params=params).SerializeToString())


def test_usage_without_a_known_finish_reason_is_refused() -> None:
    for finish in (0, 6):
        with pytest.raises(Malformed):
            codec.decode_usage(pcc_pb2.Usage(finish=finish, params="{}").SerializeToString())


def test_progress_beyond_its_total_is_refused() -> None:
    with pytest.raises(Malformed):
        codec.decode_chunk(pcc_pb2.Chunk(progress_done=2, progress_total=1).SerializeToString())


def test_an_outer_request_keeps_the_limits() -> None:
    sealed, _ = seal()
    package = bytes(KEY_PACKAGE_BYTES)
    good = codec.encode_invoke_request(sealed.header, sealed.body, [package] * 4, index=3)
    assert codec.decode_invoke_request(good).index == 3
    for data in (
        codec.encode_invoke_request(b"", sealed.body, [package]),
        codec.encode_invoke_request(bytes(1025), sealed.body, [package]),
        codec.encode_invoke_request(sealed.header, b"", [package]),
        codec.encode_invoke_request(sealed.header, sealed.body, []),
        codec.encode_invoke_request(sealed.header, sealed.body, [package] * 5),
        codec.encode_invoke_request(sealed.header, sealed.body, [package[:-1]]),
        codec.encode_invoke_request(sealed.header, sealed.body, [package], index=4),
        codec.encode_invoke_request(sealed.header, sealed.body, [package], token=bytes(1025)),
    ):
        with pytest.raises(Malformed):
            codec.decode_invoke_request(data)
    with pytest.raises(Oversized):
        codec.decode_invoke_request(bytes(1_310_721))


def test_parts_are_64_kib_but_for_the_last() -> None:
    data = bytes(range(256)) * 600
    parts = codec.split_parts(data)
    assert len(parts) == 3
    assert codec.join_parts(parts) == data
    for broken in (parts[::-1], [*parts, parts[2]], [b""], [parts[2], parts[2]]):
        with pytest.raises(Malformed):
            codec.join_parts(broken)


def test_an_empty_part_and_too_many_parts_are_refused() -> None:
    whole = codec.split_parts(bytes(64 * 1024))[0]
    with pytest.raises(Oversized):
        codec.join_parts([whole] * 70)


def test_cat_keeps_what_concatenation_would_lose() -> None:
    assert len({cat("a", b"bc"), cat("a", b"b", b"c"), cat("a", b"", b"bc"), cat("a", b"bc", b"")}) == 4
    assert cat("ab", b"c") != cat("a", b"bc")


@pytest.mark.parametrize("too_large", [lambda: u8(256), lambda: u8(-1), lambda: v1(bytes(256)), lambda: cat("x" * 250)])
def test_what_does_not_fit_its_prefix_is_malformed(too_large: Callable[[], bytes]) -> None:
    with pytest.raises(Malformed):
        too_large()


def test_a_length_beyond_its_limit_is_refused_before_it_is_read() -> None:
    raw = worker(0).bundle.raw
    with pytest.raises(Oversized):
        Bundle.decode(raw[:4] + (0x7FFFFFFF).to_bytes(4, "big") + raw[8:])
    with pytest.raises(Malformed):
        Bundle.decode(v4(raw))


@pytest.mark.parametrize(
    "value", [0.5, True, None, b"bytes", 2**53, -(2**53), {"a": None}, {1: "a"}, "\ud800", [[0.1]]]
)
def test_values_without_canonical_json_are_refused(value: object) -> None:
    with pytest.raises(Malformed):
        canonical_json(value)  # type: ignore[arg-type]


def test_json_nested_beyond_reason_is_refused() -> None:
    with pytest.raises(Malformed):
        decode_canonical_json(b"[" * 8000 + b"]" * 8000)
    with pytest.raises(NonCanonical):
        decode_canonical_json(b" {}")
