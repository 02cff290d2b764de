"""Vectors made by others: C2SP chunked encryption for the body, chunked OHTTP for nonce and AAD of frames."""

import hashlib
import hmac
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hybrid.wire.body import open_body, seal_body
from hybrid.wire.errors import DecryptionError, Rejected
from hybrid.wire.frames import FrameCipher

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "vectors"
C2SP = FOLDER / "c2sp-chunked-encryption" / "c2sp_chunked_encryption_aes_256_gcm_test.json"
OHTTP = FOLDER / "ohttp" / "chunked-ohttp-08.json"
AES_128_KEY_BYTES, NONCE_BYTES = 16, 12


def _cases(path: Path) -> dict[str, Any]:
    if not path.exists():
        pytest.skip(f"the vectors of others are not beside this checkout: ../shared/vectors/{path.name}")
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return loaded


@pytest.fixture
def chunked() -> list[dict[str, Any]]:
    return [case for group in _cases(C2SP)["testGroups"] for case in group["tests"]]


@pytest.fixture
def ohttp() -> dict[str, Any]:
    vector: dict[str, Any] = _cases(OHTTP)["vectors"][0]
    return vector


def test_every_valid_c2sp_body_opens_and_seals_to_the_same_bytes(chunked: list[dict[str, Any]]) -> None:
    valid = [case for case in chunked if case["result"] == "valid"]
    assert len(valid) == 10
    for case in valid:
        key, context = bytes.fromhex(case["key"]), bytes.fromhex(case["ctx"])
        body = zlib.decompress(bytes.fromhex(case["ct"]))
        plaintext = open_body(body, key=key, context=context)
        assert hashlib.sha512(plaintext).hexdigest() == case["msgSha512"]
        assert seal_body(plaintext, key=key, salt=body[:24], context=context) == body


def test_every_invalid_c2sp_body_is_rejected(chunked: list[dict[str, Any]]) -> None:
    invalid = [case for case in chunked if case["result"] == "invalid"]
    assert len(invalid) == 25
    for case in invalid:
        body = zlib.decompress(bytes.fromhex(case["ct"]))
        with pytest.raises(Rejected):
            open_body(body, key=bytes.fromhex(case["key"]), context=bytes.fromhex(case["ctx"]))


def _response(vector: dict[str, Any]) -> list[tuple[bytes, bytes, bool]]:
    """Plaintext, ciphertext, final; the length byte before a chunk that is not final is OHTTP's own."""
    chunks = [
        (bytes.fromhex(chunk["plaintext"]), bytes.fromhex(chunk["ciphertext"]), bool(chunk.get("final")))
        for chunk in vector["responseChunks"]
    ]
    return [(plain, sealed if final else sealed[1:], final) for plain, sealed, final in chunks]


def test_chunked_ohttp_responses_seal_and_open_with_our_nonce_and_aad_rule(ohttp: dict[str, Any]) -> None:
    key, nonce = bytes.fromhex(ohttp["aeadKey"]), bytes.fromhex(ohttp["aeadNonce"])
    sealing, opening = FrameCipher(key, nonce), FrameCipher(key, nonce)
    for plain, sealed, final in _response(ohttp):
        assert sealing.seal(plain, final=final) == sealed
        assert opening.open(sealed, final=final) == plain


def test_a_chunked_ohttp_final_chunk_opens_as_nothing_else(ohttp: dict[str, Any]) -> None:
    cipher = FrameCipher(bytes.fromhex(ohttp["aeadKey"]), bytes.fromhex(ohttp["aeadNonce"]))
    for _, sealed, final in _response(ohttp):
        with pytest.raises(DecryptionError):
            cipher.open(sealed, final=not final)
        cipher.open(sealed, final=final)


def test_extract_and_expand_as_replies_use_them_give_the_ohttp_key_and_nonce(ohttp: dict[str, Any]) -> None:
    prk = hmac.digest(bytes.fromhex(ohttp["salt"]), bytes.fromhex(ohttp["secret"]), hashlib.sha256)
    assert prk.hex() == ohttp["prk"]

    def derive(info: bytes, length: int) -> str:
        return HKDFExpand(algorithm=SHA256(), length=length, info=info).derive(prk).hex()

    assert derive(b"key", AES_128_KEY_BYTES) == ohttp["aeadKey"]
    assert derive(b"nonce", NONCE_BYTES) == ohttp["aeadNonce"]
