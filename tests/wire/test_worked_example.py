"""The worked example of SPEC 16, number by number. Two independent programs computed these digests."""

import hashlib

from hybrid.wire.body import body_length, pad, seal_body
from hybrid.wire.encoding import cat
from hybrid.wire.frames import FrameSealer, FrameType
from hybrid.wire.header import CandidateRef, Header, body_context, header_digest, key_package_info, request_digest
from hybrid.wire.reply_secrets import reply_secrets

REF = CandidateRef(node_id=b"\xaa" * 32, ek_id=b"\xbb" * 16, bundle_id=b"\xcc" * 32)
HEADER = Header(
    rid=b"\x33" * 16,
    directory_id=b"\x44" * 32,
    model_id="m",
    deadline_ms=60_000,
    body_len=body_length(1024),
    candidates=(REF,),
).encode()
BODY = seal_body(pad(b"hi"), key=b"\x11" * 32, salt=b"\x22" * 24, context=body_context(HEADER))
Q = request_digest(HEADER, BODY)
SECRETS = reply_secrets(b"\x55" * 32, b"\x66" * 32, q=Q, index=0, ref=REF)


def test_cat() -> None:
    assert cat("ek", b"ab", b"c").hex() == "09687063632f3120656b020000000261620000000163"


def test_header_and_its_digest() -> None:
    assert len(HEADER) == 183
    assert header_digest(HEADER).hex() == "0f44de21ffe33de61da25c41d000cd9d905062a36417ce2bb8d4834db61b82df"


def test_body_and_its_commitment() -> None:
    assert len(BODY) == 1096
    assert BODY[24:56].hex().startswith("dc300fd4a89fda76eda5304c3e99c58a")
    assert BODY[24:56].hex().endswith("2ff0107")


def test_the_digest_that_names_the_request() -> None:
    assert Q.hex() == "e92a6f99f79a4dfacdf5b9ec20f8ef1f7afe81f4f02eff64739b453d037552fd"


def test_key_package_info() -> None:
    info = key_package_info(Q, 0, REF)
    digest = hashlib.sha256(info).hexdigest()
    assert len(info) == 144
    assert digest.startswith("03d3a2d6738ecc60ec0b1a0f828d1489")
    assert digest.endswith("bd9e994")


def test_reply_secrets() -> None:
    assert SECRETS.key.hex() == "b8788e0202f126f3edb341e92d559bc532338b5566f7e0566a3562e200c9e54b"
    assert SECRETS.base.hex() == "a1c094083b4c5ea9429c9ff7"
    assert SECRETS.commit.hex() == "48ff617125bd2ec58486e184866c9a4ace70909e0f765e8fa5916d01819ca0fb"
    assert SECRETS.tsalt.hex() == "8af98acce26e4ffb64509757d3ec7467284876935f015d0875cc3a6d3d8f79b7"


def test_frames_and_transcript() -> None:
    sealer = FrameSealer(SECRETS.key, SECRETS.base, SECRETS.tsalt)
    first = sealer.seal(FrameType.DATA, b"hello", keep_back=1)
    assert (first[:16].hex(), first[-16:].hex()) == (
        "441bfad9fb6d30f331b5b4366e92dedf",
        "35e49c599472ea02d4b88b7d1bf4beb9",
    )
    assert sealer.transcript.digest().hex() == "129e7acfa37651a378a0a810b20cf8d9ca4d4bc1bb8e80c2b14f889b1d354fdb"
    final = sealer.final(b"\0" + (1).to_bytes(4, "big") + bytes(32))
    assert (final[:16].hex(), final[-16:].hex()) == (
        "e42dbdf9fe09dcbe448316caa3c068c2",
        "9ff88e41e4d6ab6663828225fc7aeff5",
    )
