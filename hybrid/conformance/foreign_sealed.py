"""C2SP chunked encryption for the body, chunked OHTTP for nonce, AAD and key derivation (SPEC 6, 8)."""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .cases import SUCCESS, Case, Values

C2SP = "c2sp-chunked-encryption"
OHTTP = "ohttp"
_AES_128_KEY_BYTES, _NONCE_BYTES = 16, 12


def c2sp_cases(folder: Path) -> Iterator[Case]:
    """Yield the cases of the Wycheproof file for AES-256-GCM; ``ct`` is zlib data in hexadecimal."""
    document = json.loads((folder / "c2sp_chunked_encryption_aes_256_gcm_test.json").read_text("utf-8"))
    for group in document["testGroups"]:
        for case in group["tests"]:
            yield _c2sp_case(case)


def _c2sp_case(case: Mapping[str, Any]) -> Case:
    body = zlib.decompress(bytes.fromhex(case["ct"]))
    valid = case["result"] == "valid"
    output = {"sha512": case.get("msgSha512", ""), "sealed_sha256": hashlib.sha256(body).hexdigest()}
    return Case(
        suite=C2SP,
        name=f"{case['tcId']} {case['comment']}",
        section="6",
        kind="body_chunks",
        given={"key": case["key"], "context": case["ctx"], "body": body.hex()},
        expect=SUCCESS if valid else "rejected",
        output=output if valid else {},
    )


def ohttp_cases(folder: Path) -> Iterator[Case]:
    """Yield the response of the chunked draft: as it stands, and with every chunk's final flag turned over."""
    vector = json.loads((folder / "chunked-ohttp-08.json").read_text("utf-8"))["vectors"][0]
    frames = [_frame(chunk) for chunk in vector["responseChunks"]]
    yield _frames("response chunks", vector, frames, SUCCESS, vector["responseChunks"])
    for number, frame in enumerate(frames):
        turned = [*frames[:number], {**frame, "final": not frame["final"]}]
        yield _frames(f"chunk {number} with its final flag turned over", vector, turned, "decrypt_failure")
    for number in range(len(frames)):
        flipped = {**frames[number], "sealed": _flip(frames[number]["sealed"])}
        yield _frames(f"chunk {number} flipped", vector, [*frames[:number], flipped], "decrypt_failure")
    for info, name, length in (("key", "aeadKey", _AES_128_KEY_BYTES), ("nonce", "aeadNonce", _NONCE_BYTES)):
        given = {"salt": vector["salt"], "secret": vector["secret"], "info": info.encode().hex(), "length": length}
        output = {"prk": vector["prk"], "out": vector[name]}
        yield _case(f"extract and expand: {info}", "hkdf", given, SUCCESS, output)


def _frame(chunk: Mapping[str, Any]) -> Values:
    """Return one chunk; the length byte before a chunk that is not final is OHTTP's own."""
    final = bool(chunk.get("final"))
    return {"sealed": chunk["ciphertext"] if final else chunk["ciphertext"][2:], "final": final}


def _flip(text: str) -> str:
    return f"{int(text[:2], 16) ^ 0x01:02x}{text[2:]}"


def _frames(name: str, vector: Values, frames: list[Values], expect: str, chunks: list[Values] | None = None) -> Case:
    given = {"key": vector["aeadKey"], "base": vector["aeadNonce"], "frames": frames}
    plain = [chunk["plaintext"] for chunk in chunks or ()]
    output = {"plain": plain, "sealed": [frame["sealed"] for frame in frames]} if chunks else {}
    return _case(name, "frame_cipher", given, expect, output)


def _case(name: str, kind: str, given: Values, expect: str, output: Values) -> Case:
    return Case(suite=OHTTP, name=name, section="8", kind=kind, given=given, expect=expect, output=output)


SUITES: Mapping[str, Callable[[Path], Iterator[Case]]] = {C2SP: c2sp_cases, OHTTP: ohttp_cases}
