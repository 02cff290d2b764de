"""The cases behind ``protos/vectors``: inputs written out here, outputs by the library, negatives declared.

A positive case carries what came out; a negative one only the outcome's name.
"""

from collections.abc import Callable, Iterable
from typing import Any

import vector_evidence
import vector_log
import vector_replies
import vector_scene
import vector_trust
from vector_scene import Make, Scene, filled

from hybrid.conformance.cases import to_hex
from hybrid.conformance.outcomes import outcome_of
from hybrid.wire import body, encoding
from hybrid.wire.canonical import canonical_json
from hybrid.wire.header import body_context

Case = dict[str, Any]


def good(name: str, section: str, kind: str, given: dict[str, Any]) -> Case:
    """Build a positive case; a generator that cannot pass its own case stops here."""
    given = to_hex(given)
    result, output = outcome_of(kind, given)
    if result != "success":
        raise SystemExit(f"positive vector {name!r} came out as {result}")
    return {"name": name, "section": section, "kind": kind, "expect": result, "input": given, "output": output}


def bad(name: str, section: str, kind: str, expect: str, given: dict[str, Any]) -> Case:
    """Build a negative case."""
    return {"name": name, "section": section, "kind": kind, "expect": expect, "input": to_hex(given)}


def made(section: str, cases: Iterable[tuple[str, str, str, dict[str, Any]]]) -> Iterable[Case]:
    """Build cases out of name, kind, outcome and input."""
    for name, kind, expect, given in cases:
        if expect == "success":
            yield good(name, section, kind, given)
        else:
            yield bad(name, section, kind, expect, given)


def flip(data: bytes, at: int, bit: int = 0x01) -> bytes:
    """Return data with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= bit
    return bytes(changed)


def encoding_cases(_: Scene) -> Iterable[Case]:
    """Section 1."""
    yield good("cat of two items", "1", "cat", {"label": "ek", "items": [b"ab", b"c"]})
    yield good("cat keeps the border between items", "1", "cat", {"label": "ek", "items": [b"a", b"bc"]})
    yield good("expand", "1", "expand", {"prk": filled(0x0B, 32), "label": "resp", "items": [b"q"], "length": 108})
    sample = canonical_json({"temperature": "0.7", "stop": ["\u00e9", "\n"], "seed": 2**53 - 1, "a": {}})
    yield good("canonical JSON", "1", "canonical_json", {"json": sample})
    for name, text, expect in (
        ("with a space", b'{"a": 1}', "non_canonical"),
        ("with unsorted keys", b'{"b":1,"a":2}', "non_canonical"),
        ("with a key twice", b'{"a":1,"a":1}', "non_canonical"),
        ("with an escape that is not needed", b'{"\\u0061":1}', "non_canonical"),
        ("with minus zero", b'{"a":-0}', "non_canonical"),
        ("with bytes after its end", b"{}{}", "malformed"),
        ("with a fraction", b'{"a":0.5}', "malformed"),
        ("with a boolean", b'{"a":true}', "malformed"),
        ("with null", b'{"a":null}', "malformed"),
        ("with an integer of 2^53", b'{"a":9007199254740992}', "malformed"),
        ("with a lone surrogate", b'{"a":"\\ud800"}', "malformed"),
        ("that is not ASCII", '{"a":"\u00e9"}'.encode(), "malformed"),
        ("that never ends", b"[" * 2_000, "malformed"),
    ):
        yield bad(f"JSON {name}", "1", "canonical_json", expect, {"json": text})


def key_cases(scene: Scene) -> Iterable[Case]:
    """Section 2."""
    record = scene.nodes[0].epoch_key.config.encode()
    yield good(
        "epoch key from its X-Wing seed", "2", "epoch_key", {"seed": filled(0x10, 32), "epoch": 7, "epoch_s": 300}
    )
    yield good("key configuration", "2", "key_config", {"record": record})
    for name, data, expect in (
        ("of version 2", b"HKC2" + record[4:], "bad_version"),
        ("of another suite", flip(record, 4), "bad_version"),
        ("one byte short", record[:-1], "malformed"),
        ("one byte long", record + b"\0", "malformed"),
        ("with a low-order X25519 key", record[:-32] + bytes(32), "malformed"),
        ("with an ML-KEM key that is not reduced", record[:24] + filled(0xFF, 1152) + record[24 + 1152 :], "malformed"),
    ):
        yield bad(f"key configuration {name}", "2", "key_config", expect, {"record": data})
    identity = scene.nodes[0].identity
    given = {"identity": identity.public.encode(), "label": "bundle", "message": b"words"}
    signature = identity.sign("bundle", b"words")
    yield good("double signature", "2", "signature", {**given, "signature": signature})
    other = scene.nodes[1].identity.sign("bundle", b"words")
    for name, changed in (
        ("Ed25519 half flipped", {"signature": flip(signature, 5)}),
        ("ML-DSA half flipped", {"signature": flip(signature, 64 + 1000)}),
        ("ML-DSA half of another key", {"signature": signature[:64] + other[64:]}),
        ("Ed25519 half of another key", {"signature": other[:64] + signature[64:]}),
        ("cut after Ed25519", {"signature": signature[:64]}),
        ("made under another label", {"signature": signature, "label": "receipt"}),
    ):
        yield bad(f"double signature, {name}", "2", "signature", "signature_failure", {**given, **changed})


def evidence_cases(scene: Scene) -> Iterable[Case]:
    """Section 3."""
    node = scene.nodes[0]
    raw, statement = node.bundle.raw, node.bundle.statement_bytes
    yield good("software bundle", "3", "bundle", {"bundle": raw})
    gpu = {"format": "nvidia-cc", "item": b"gpu evidence"}
    given = {"statement": statement, "before": [gpu], "format": "sev-snp"}
    yield good("binding of the first item", "3", "binding", {**given, "before": []})
    yield good("binding of the second item", "3", "binding", given)
    for name, at, expect in (
        ("not_after changed", 8 + 16 + 1988 + 15, "signature_failure"),
        ("epoch key changed", 8 + 16 + 1988 + 17 + 40, "signature_failure"),
        ("number of keys changed", 8 + 16 + 1988 + 16, "malformed"),
        ("magic changed", 3, "bad_version"),
        ("deployment in capitals", 13, "malformed"),
    ):
        bit = 0x20 if "capitals" in name else 0x01
        yield bad(f"bundle, {name}", "3", "bundle", expect, {"bundle": flip(raw, at, bit)})
    yield bad("bundle with bytes after its end", "3", "bundle", "malformed", {"bundle": raw + b"\0"})


def directory_cases(scene: Scene) -> Iterable[Case]:
    """Section 4."""
    raw = scene.directory.raw
    yield good("directory of one node", "4", "directory", {"directory": raw})
    end = 4 + 10 + 8 + 4 + 2 + 1 + 1
    yield bad("directory of no node", "4", "directory", "malformed", {"directory": raw[:end] + b"\0"})
    weightless = raw[: end + 1] + b"\0\0" + raw[end + 3 :]
    yield bad("directory with weight 0", "4", "directory", "malformed", {"directory": weightless})
    yield bad("directory with bytes after its end", "4", "directory", "malformed", {"directory": raw + b"\0"})


def body_cases(_: Scene) -> Iterable[Case]:
    """Section 6, the body."""
    given = {"key": filled(0x11, 32), "salt": filled(0x22, 24), "context": b"context"}
    opened = {"key": given["key"], "context": given["context"]}

    def sealed(plaintext: bytes) -> bytes:
        return body.seal_body(plaintext, key=filled(0x11, 32), salt=filled(0x22, 24), context=b"context")

    padded = body.pad(b"hello")
    small = sealed(padded)
    yield good("body of one chunk", "6", "body_seal", {**given, "plaintext": padded})
    yield good("body opened", "6", "body_open", {**opened, "body": small})
    whole = sealed(body.pad(bytes(16_380)))
    for name, data in (
        ("commitment flipped", flip(small, 30)),
        ("salt flipped", flip(small, 3)),
        ("chunk flipped", flip(small, 100)),
        ("tag cut", small[:-1]),
        ("header alone", small[:56]),
        ("empty last chunk missing", whole[:-16]),
        ("bytes after the end", small + bytes(16)),
        ("padding not zero", sealed(padded[:-1] + b"\x01")),
        ("inner length beyond the bucket", sealed(b"\x00\x00\x04\x00" + padded[4:])),
    ):
        yield bad(f"body, {name}", "6", "body_open", "rejected", {**opened, "body": data})


def request_cases(scene: Scene) -> Iterable[Case]:
    """Sections 6 and 7: headers, then requests as a node opens them."""
    one, three = scene.request(1), scene.request(3)
    header = one.sealed.header
    yield good("header with one candidate", "6", "header", {"header": header})
    yield good("header with three candidates", "6", "header", {"header": three.sealed.header})
    for name, data, expect in vector_scene.bad_headers(header, three.sealed.header):
        yield bad(f"header {name}", "6", "header", expect, {"header": data})
    given = [three.opening(index) for index in range(3)]
    yield good("request to one candidate", "7", "request", one.opening(0))
    yield good("request opened by the third of three", "7", "request", given[2])
    crafted = scene.crafted(one)
    for name, changed, expect in (
        ("key package of another candidate", {"key_package": given[1]["key_package"]}, "rejected"),
        ("moved to another position", {"index": 1}, "stale_key"),
        ("seed of another node", {"seed": given[1]["seed"]}, "stale_key"),
        ("key of another epoch", {"epoch": 8}, "stale_key"),
        ("index beyond the candidates", {"index": 3}, "malformed"),
        ("key package flipped in its encapsulation", {"key_package": flip(given[0]["key_package"], 3)}, "rejected"),
        ("key package flipped in its tag", {"key_package": flip(given[0]["key_package"], 1200)}, "rejected"),
        ("key package one byte short", {"key_package": given[0]["key_package"][:-1]}, "malformed"),
        ("body flipped", {"body": flip(given[0]["body"], 500)}, "rejected"),
        ("body one byte short", {"body": given[0]["body"][:-1]}, "malformed"),
        ("header with another rid", {"header": flip(given[0]["header"], 12)}, "rejected"),
        ("header with a token digest", {"header": flip(given[0]["header"], 70)}, "rejected"),
        ("header with another bundle of this node", {"header": flip(given[0]["header"], 195)}, "rejected"),
    ):
        yield bad(f"request, {name}", "7", "request", expect, {**given[0], **changed})
    for name, changed in crafted:
        yield bad(f"request, {name}", "7", "request", "rejected", {**one.opening(0), **changed})


def reply_cases(scene: Scene) -> Iterable[Case]:
    """Sections 8 and 9."""
    secret = {"secret": filled(0x55, 32), "resp_salt": filled(0x66, 32), "q": filled(0x77, 32), "index": 2}
    ref = {"node_id": filled(0xAA, 32), "ek_id": filled(0xBB, 16), "bundle_id": filled(0xCC, 32)}
    yield good("reply secrets", "8", "reply_secrets", {**secret, **ref})
    for name, section, given in vector_replies.good_replies(scene):
        yield good(f"reply, {name}", section, "reply", given)
    for name, section, expect, given in vector_replies.bad_replies(scene):
        yield bad(f"reply, {name}", section, "reply", expect, given)


def log_cases(scene: Scene) -> Iterable[Case]:
    """Section 5."""
    yield from made("5", vector_log.cases(scene, scene.keep))


def attestation_cases(scene: Scene) -> Iterable[Case]:
    """Section 13."""
    yield from made("13", vector_evidence.cases(scene))


def trust_cases(scene: Scene) -> Iterable[Case]:
    """Sections 11 and 12."""
    yield from made("12", vector_trust.cases(scene))


def worked_example(_: Scene) -> Iterable[Case]:
    """Section 16."""
    ref = {"node_id": filled(0xAA, 32), "ek_id": filled(0xBB, 16), "bundle_id": filled(0xCC, 32)}
    header = vector_scene.worked_header()
    plain = {"key": filled(0x11, 32), "salt": filled(0x22, 24), "context": body_context(header)}
    sealed = body.seal_body(body.pad(b"hi"), key=plain["key"], salt=plain["salt"], context=plain["context"])
    q = encoding.digest("request", encoding.digest("hdr", header), encoding.digest("body", sealed))
    yield good("cat", "16", "cat", {"label": "ek", "items": [b"ab", b"c"]})
    yield good("header", "16", "header", {"header": header})
    yield good("body", "16", "body_seal", {**plain, "plaintext": body.pad(b"hi")})
    yield good("key package info", "16", "key_package_info", {"q": q, "index": 0, **ref})
    secret = {"secret": filled(0x55, 32), "resp_salt": filled(0x66, 32), "q": q, "index": 0, **ref}
    secrets = good("reply secrets", "16", "reply_secrets", secret)
    yield secrets
    keys = {name: bytes.fromhex(secrets["output"][name]) for name in ("key", "base", "tsalt")}
    final = b"\0" + encoding.u32(1) + bytes(32)
    yield good("frames", "16", "frames", {**keys, "messages": [[1, b"hello"]], "final": final})


FILES: dict[str, Callable[[Scene], Iterable[Case]]] = {
    "encoding": encoding_cases,
    "keys": key_cases,
    "evidence": evidence_cases,
    "directory": directory_cases,
    "log": log_cases,
    "attestation": attestation_cases,
    "trust": trust_cases,
    "body": body_cases,
    "request": request_cases,
    "reply": reply_cases,
    "worked_example": worked_example,
}


def all_cases(keep: Make) -> dict[str, list[Case]]:
    """Build every vector file's cases."""
    scene = Scene(keep)
    return {name: list(cases(scene)) for name, cases in FILES.items()}
