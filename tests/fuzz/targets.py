"""One target for every parser of bytes from outside: hostile bytes may raise the typed errors and nothing else.

A target is a function of bytes and some valid inputs to start from; both engines and the test read this table.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from hybrid.conformance.cases import Case, Values, from_hex, own_cases
from hybrid.conformance.foreign import foreign_cases
from hybrid.conformance.outcomes import KINDS
from hybrid.errors import AttestationError, ConfigurationError
from hybrid.trust import event_log
from hybrid.trust.certificates import Certificate
from hybrid.trust.checks import Findings
from hybrid.trust.paravisor import paravisor_key
from hybrid.wire import body, codec, entries, envelope, frames, reply, tiles
from hybrid.wire.attest import AttestReply
from hybrid.wire.canonical import decode_canonical_json
from hybrid.wire.constants import FRAME_BYTES, FRAME_PLAIN_BYTES, HEAD_BYTES, KEY_PACKAGE_BYTES
from hybrid.wire.directory import Directory, Leaf
from hybrid.wire.errors import WireError
from hybrid.wire.evidence import Bundle, Statement
from hybrid.wire.header import CandidateRef, Header
from hybrid.wire.keys import EpochKey, Identity, KeyConfig
from hybrid.wire.note import Note, NoteSigner, NoteVerifier
from hybrid.wire.receipt import Receipt, SealedError, UsageReport
from hybrid.wire.snp import Report, SnpItem
from hybrid.wire.tpm2 import Tpm2Item, TpmsAttest, TpmtPublic, TpmtSignature, name_of
from hybrid.wire.types import Chunk, FinishReason, GenerateRequest, Message, Role, Usage

TYPED = (WireError, AttestationError, ConfigurationError)

Parser = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Target:
    """A parser and valid inputs of it."""

    parse: Parser
    seeds: tuple[bytes, ...] = field(repr=False)

    def attempt(self, data: bytes) -> bool:
        """Parse; returns whether the bytes were accepted. Anything but a typed error comes through."""
        try:
            self.parse(data)
        except TYPED:
            return False
        return True


@cache
def vectors() -> tuple[Case, ...]:
    """Return all vectors that must be accepted, ours and others': the corpus."""
    return tuple(case for case in (*own_cases(), *foreign_cases()) if case.accepts)


def given(kind: str) -> list[Values]:
    """Return the inputs of all positive vectors of one kind, as bytes."""
    return [from_hex(case.given) for case in vectors() if case.kind == kind]


def seeds(kind: str, name: str) -> tuple[bytes, ...]:
    """Return one field of all positive vectors of a kind."""
    return tuple(one[name] for one in given(kind))


def _text(parse: Callable[[str], object]) -> Parser:
    return lambda data: parse(data.decode("utf-8", "replace"))


def whole_case(kind: str, name: str) -> Target:
    """Put the bytes in the place of one field of a vector, and judge as the vector is judged."""
    known = given(kind)
    return Target(lambda data: KINDS[kind]({**known[0], name: data}), tuple(one[name] for one in known[:1]))


def text_case(kind: str, name: str) -> Target:
    """The same for a field that is text."""
    known = given(kind)
    parse = _text(lambda text: KINDS[kind]({**known[0], name: text}))
    return Target(parse, tuple(one[name].encode("utf-8") for one in known))


# --- sealed: what a node opens ----------------------------------------------------------------------


def _open_body(data: bytes) -> object:
    known = given("body_open")[0]
    return body.unpad(body.open_body(data, key=known["key"], context=known["context"]))


def _envelope(data: bytes) -> object:
    """Header of a request, key package, body: cut from one string at the lengths of a genuine one."""
    known = given("request")[0]
    at = len(known["header"])
    parts = {
        "header": data[:at],
        "key_package": data[at : at + KEY_PACKAGE_BYTES],
        "body": data[at + KEY_PACKAGE_BYTES :],
    }
    opener = envelope.RequestOpener(**parts, index=0)
    return opener.open(EpochKey.from_seed(known["seed"], known["epoch"], known["epoch_s"]))


def _envelope_seeds() -> Iterable[bytes]:
    known = given("request")[0]
    yield known["header"] + known["key_package"] + known["body"]


# --- sealed: what a client opens --------------------------------------------------------------------


def _frames(data: bytes) -> object:
    """Frames under a key the peer knows: it chooses every plaintext, with its type, length and fill."""
    opener = frames.FrameOpener(bytes(32), bytes(12), bytes(32))
    cipher = frames.FrameCipher(bytes(32), bytes(12))
    plain = [data[at : at + FRAME_PLAIN_BYTES] for at in range(0, len(data), FRAME_PLAIN_BYTES)]
    read: list[bytes] = []
    sealed = b"".join(cipher.seal(text.ljust(FRAME_PLAIN_BYTES, b"\0")) for text in plain)
    failure = opener.open(sealed, lambda _, payload: read.append(payload))
    if failure:
        raise failure
    return read


def _reply(data: bytes) -> Receipt:
    """A whole reply: head, frames, final."""
    known = given("reply")[0]
    expected = [
        reply.Expected(
            Identity.decode(one["identity"]),
            CandidateRef(node_id=one["node_id"], ek_id=one["ek_id"], bundle_id=one["bundle_id"]),
            one["manifest"],
        )
        for one in known["candidates"]
    ]
    opener = reply.ReplyOpener(known["secrets"], expected, q=known["q"], model_id=known["model_id"])
    opener.start(data[:HEAD_BYTES])
    opener.push(data[HEAD_BYTES:-FRAME_BYTES])
    said = opener.finish(data[-FRAME_BYTES:])
    opener.close()
    return said


def _reply_seeds() -> Iterable[bytes]:
    known = given("reply")
    for one in (one for one in known if one["secrets"] == known[0]["secrets"]):
        yield b"".join(data for step in one["messages"] for data in step.values())


def _codec_seeds() -> dict[str, bytes]:
    request = GenerateRequest(messages=(Message(role=Role.USER, content="hi"),))
    usage = UsageReport(usage=Usage(input=1, output=2), finish=FinishReason.STOP, params={"seed": 7})
    sealed, listed = given("request")[0], given("leaf")[0]
    return {
        "request": codec.encode_request(request),
        "chunk": codec.encode_chunk(Chunk(text="text", tokens=1, progress=(3, 4))),
        "usage": codec.encode_usage(usage),
        "invoke_request": codec.encode_invoke_request(sealed["header"], sealed["body"], [sealed["key_package"]]),
        "invoke_reply": codec.encode_invoke_reply(head=b"h", frames=b"f", final=b"l"),
        "directory_reply": codec.encode_directory_reply(directory=b"d", leaf=listed["leaf"], checkpoint=b"c"),
        "part": codec.split_parts(b"data")[0],
        "log_path": codec.encode_log_path("tile/0/000"),
        "attest_request": codec.encode_attest_request(bytes(32), bytes(32)),
        "node_ref": codec.encode_node_ref(bytes(32)),
    }


def _codec_targets() -> dict[str, Target]:
    parsers: dict[str, Parser] = {
        "request": codec.decode_request,
        "chunk": codec.decode_chunk,
        "usage": codec.decode_usage,
        "invoke_request": codec.decode_invoke_request,
        "invoke_reply": codec.decode_invoke_reply,
        "directory_reply": codec.decode_directory_reply,
        "part": lambda data: codec.join_parts([data]),
        "log_path": codec.decode_log_path,
        "attest_request": codec.decode_attest_request,
        "node_ref": codec.decode_node_ref,
    }
    known = _codec_seeds()
    return {f"codec_{name}": Target(parse, (known[name],)) for name, parse in parsers.items()}


def _sealed_targets() -> dict[str, Target]:
    return {
        "header": Target(Header.decode, seeds("header", "header")),
        "body": Target(_open_body, seeds("body_open", "body")),
        "envelope": Target(_envelope, tuple(_envelope_seeds())),
        "frames": Target(_frames, (frames.pack(1, b"text"), frames.pack(0x81, b"x" * 493) + frames.pack(1, b"y"))),
        "reply": Target(_reply, tuple(_reply_seeds())),
        "receipt": Target(Receipt.decode, (_reply(next(iter(_reply_seeds()))).encode(),)),
        "sealed_error": Target(SealedError.decode, (b"\x01" + bytes(8),)),
    }


def _record_targets() -> dict[str, Target]:
    bundle = given("bundle")[0]["bundle"]
    leaf = given("leaf")[0]["leaf"]
    return {
        "key_config": Target(KeyConfig.decode, seeds("key_config", "record")),
        "identity": Target(Identity.decode, seeds("signature", "identity")),
        "statement": Target(Statement.decode, (Bundle.decode(bundle).statement_bytes,)),
        "bundle": Target(Bundle.decode, (bundle,)),
        "directory": Target(Directory.decode, seeds("directory", "directory")),
        "leaf": Target(Leaf.decode, (leaf,)),
        "canonical_json": Target(decode_canonical_json, seeds("canonical_json", "json")),
        "note": Target(Note.parse, (Leaf.decode(leaf).entry,)),
        "note_key": Target(_text(NoteVerifier.parse), (given("entry")[0]["vkey"].encode(),)),
    }


# --- the log, evidence, policy ----------------------------------------------------------------------


def _tile(data: bytes) -> object:
    """Any bytes as the one tile of a log of 1 to 255 leaves."""
    size = max(1, min(255, len(data) // 32))
    return tiles.consistency_from_tiles(size - 1, size, {tiles.tile_path(0, 0, size): data})


def _entry_bundle(data: bytes) -> object:
    return tiles.entries_from_bundles(0, 3, {"tile/entries/000.p/3": data})


def _log_targets() -> dict[str, Target]:
    bundle = given("entry_bundle")[0]["bundles"]["tile/entries/000.p/3"]
    return {
        "checkpoint": whole_case("checkpoint", "note"),
        "cosigned_checkpoint": whole_case("quorum", "note"),
        "cosignature": whole_case("cosignature", "note"),
        "entry": Target(_entry, seeds("entry", "entry")),
        "entry_bundle": Target(_entry_bundle, (bundle,)),
        "tile": Target(_tile, (bytes(32), bytes(64))),
        "tile_path": text_case("tile_path", "path"),
        "tlog_proof": whole_case("tlog_proof", "proof"),
        "log_policy": text_case("log_policy", "policy"),
    }


def _entry(data: bytes) -> object:
    """What an unsigned entry says, then whether it is signed."""
    known = given("entry")[0]
    entries.kind_of(data)
    entries.entry_digest(data)
    return entries.open_entry(data, NoteVerifier.parse(known["vkey"]))


def _signed_entry(data: bytes) -> object:
    """The words of an entry whose signer is hostile: any text, signed."""
    signer = NoteSigner.from_seed("example.org/fuzz", bytes(32))
    text = data.decode("utf-8", "replace")
    return entries.open_entry(
        signer.sign(text if text.endswith("\n") else text + "\n"), NoteVerifier.parse(signer.vkey)
    )


def _signed_entry_seeds() -> tuple[bytes, ...]:
    return tuple(one["entry"].rpartition(b"\n\n")[0] + b"\n" for one in given("entry"))


def _evidence_targets() -> dict[str, Target]:
    quote, azure = given("tpm2_signature")[0], given("vtpm_quote")[0]
    report = given("snp_report")[0]
    return {
        "signed_entry": Target(_signed_entry, _signed_entry_seeds()),
        "tpm2_item": Target(Tpm2Item.decode, seeds("tpm2_item", "item")),
        "tpm2_judged": whole_case("tpm2", "item"),
        "tpm_attest": Target(TpmsAttest.parse, (quote["attest"], azure["attest"])),
        "tpm_public": Target(_tpm_public, (Tpm2Item.decode(given("tpm2")[0]["item"]).public,)),
        "tpm_signature": Target(TpmtSignature.parse, (quote["signature"], azure["signature"])),
        "snp_item": Target(SnpItem.decode, seeds("snp_item", "item")),
        "snp_judged": whole_case("sev_snp", "item"),
        "snp_report": Target(Report.parse, (report["report"],)),
        "certificate": Target(_certificate, (report["vcek"], report["ask"], report["ark"])),
        "certificate_chain": Target(_self_signed, (report["ark"],)),
        "paravisor": Target(lambda data: paravisor_key(data, Findings()), (azure["runtime"],)),
        "event_log": Target(event_log.replay, seeds("event_log", "log")),
        "attest_reply": Target(AttestReply.decode, seeds("attest_reply", "reply")),
    }


def _tpm_public(data: bytes) -> object:
    """A hostile node's attestation key, up to the point where it verifies a signature."""
    known = given("tpm2")[0]
    item = Tpm2Item.decode(known["item"])
    TpmtPublic.parse(data)
    return KINDS["tpm2"]({**known, "item": replace(item, public=data).encode(), "ak_names": [name_of(data)]})


def _certificate(data: bytes) -> object:
    certificate = Certificate.parse(data)
    return certificate.common_name, certificate.public_key


def _self_signed(data: bytes) -> None:
    """A certificate whose signature is checked under a key of the same bytes."""
    certificate = Certificate.parse(data)
    certificate.verify_issued_by(certificate)


def _policy_targets() -> dict[str, Target]:
    return {
        "trust_file": text_case("trust_file", "trust"),
        "receipt_file": whole_case("receipt_file", "file"),
        "verify_directory": whole_case("verify", "directory"),
        "verify_leaf": whole_case("verify", "leaf"),
        "verify_checkpoint": whole_case("verify", "checkpoint"),
    }


@cache
def targets() -> Mapping[str, Target]:
    """Return every target by name."""
    groups = (_record_targets, _sealed_targets, _codec_targets, _log_targets, _evidence_targets, _policy_targets)
    return {name: target for group in groups for name, target in group().items()}
