"""Three nodes, a directory, requests and replies with every secret written out: what vectors are made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hybrid.wire.body import body_length, pad, seal_body
from hybrid.wire.canonical import canonical_json
from hybrid.wire.directory import Directory, ListedNode
from hybrid.wire.envelope import Candidate, ReplySealer, RequestSealer, SealedRequest
from hybrid.wire.evidence import Bundle, EvidenceItem, ModelEntry, Statement, make_bundle
from hybrid.wire.header import CandidateRef, Header, body_context, key_package_info, request_digest
from hybrid.wire.keys import EpochKey, IdentityKey, KeyConfig
from hybrid.wire.note import NoteSigner
from hybrid.wire.types import GenerateRequest, Message, Role, Sampling

MODEL = "models/tiny@1"
MANIFEST = b"\x1d" * 32
MESSAGE = GenerateRequest(
    messages=(Message(role=Role.USER, content="Is the bridge open on Friday?"),),
    sampling=Sampling(max_tokens=64, temperature=0.5, seed=7, stop=("\n\n",)),
)
EPOCH, EPOCH_S = 7, 300

Make = Callable[..., bytes]


def filled(byte: int, count: int) -> bytes:
    """Return count times one byte."""
    return bytes((byte,)) * count


def signer(seed: int) -> NoteSigner:
    """Return a directory signer of this deployment."""
    return NoteSigner.from_seed("example.org/directory", filled(seed, 32))


class KeptIdentity(IdentityKey):
    """An identity whose randomised signatures are kept."""

    __slots__ = ("keep",)

    keep: Make

    def sign(self, label: str, message: bytes) -> bytes:
        """Sign, or return what was signed before."""
        make = super().sign
        return self.keep(lambda: make(label, message), b"sign", self.public.encode(), label.encode(), message)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptKey(KeyConfig):
    """A public epoch key whose randomised encryptions are kept."""

    keep: Make

    def encrypt(self, plaintext: bytes, info: bytes) -> bytes:
        """Encrypt, or return what was encrypted before."""
        config = KeyConfig.decode(self.encode())
        return self.keep(lambda: config.encrypt(plaintext, info), b"hpke", self.encode(), plaintext, info)


class Node:
    """One worker of the scene, number 0 to 2."""

    def __init__(self, number: int, keep: Make) -> None:
        self.seed = filled(0x10 + number, 32)
        self.epoch_key = EpochKey.from_seed(self.seed, EPOCH, EPOCH_S)
        self.identity = KeptIdentity.from_seeds(filled(0x20 + number, 32), filled(0x30 + number, 32))
        self.identity.keep = keep
        public = self.epoch_key.config
        self.key = KeptKey(
            epoch=EPOCH, epoch_s=EPOCH_S, mlkem_pk=public.mlkem_pk, x25519_pk=public.x25519_pk, keep=keep
        )
        statement = Statement(
            deployment="example.org",
            identity=self.identity.public,
            not_before=EPOCH * EPOCH_S,
            not_after=(EPOCH + 2) * EPOCH_S,
            keys=(self.epoch_key.config,),
            models=(ModelEntry(model_id=MODEL, manifest=MANIFEST, context_tokens=2048, max_output_tokens=512),),
            config_digest=filled(0x40, 32),
        )
        self.bundle = Bundle.decode(make_bundle(statement, [EvidenceItem(format="software")], self.identity))

    @property
    def candidate(self) -> Candidate:
        """What a client relies on."""
        return Candidate(identity=self.identity.public, key=self.key, bundle_id=self.bundle.id, manifest=MANIFEST)


@dataclass(frozen=True, kw_only=True)
class SceneRequest:
    """A sealed request with the secrets that made it."""

    nodes: list[Node]
    sealed: SealedRequest
    secrets: list[bytes]

    def opening(self, index: int) -> dict[str, Any]:
        """Return what candidate ``index`` needs to open it."""
        return {
            "seed": self.nodes[index].seed,
            "epoch": EPOCH,
            "epoch_s": EPOCH_S,
            "header": self.sealed.header,
            "body": self.sealed.body,
            "key_package": self.sealed.key_packages[index],
            "index": index,
            "resp_salt": filled(0x66, 32),
        }

    def sealer(self, index: int, salt: int = 0x66) -> ReplySealer:
        """Return the reply sealer that candidate ``index`` gets by opening it."""
        ref = self.nodes[index].candidate.ref
        return ReplySealer(self.secrets[index], filled(salt, 32), q=self.sealed.q, index=index, ref=ref)

    def expecting(self) -> dict[str, Any]:
        """Return what the client's reply opener knows."""
        candidates = [
            {"identity": node.identity.public.encode(), "manifest": MANIFEST, **ref_fields(node.candidate.ref)}
            for node in self.nodes
        ]
        return {"secrets": self.secrets, "candidates": candidates, "q": self.sealed.q, "model_id": MODEL}


def ref_fields(ref: CandidateRef) -> dict[str, bytes]:
    """Return a candidate's names as vectors carry them."""
    return {"node_id": ref.node_id, "ek_id": ref.ek_id, "bundle_id": ref.bundle_id}


class Scene:
    """Everything vectors need, made from the same few bytes every time."""

    def __init__(self, keep: Make) -> None:
        self.keep = keep
        self.nodes = [Node(number, keep) for number in range(3)]
        listed = (ListedNode(weight=1, bundle=self.nodes[0].bundle),)
        self.directory = Directory(deployment="example.org", epoch=EPOCH, epoch_s=EPOCH_S, nodes=listed)
        self.signer = signer(0x5A)

    @property
    def unsorted_entry(self) -> str:
        """The entry's words with its fields in another order."""
        words = {"seq": 0, "nodes": 1, "epoch": EPOCH, "directory_id": self.directory.id.hex()}
        fields = ",".join(f'"{name}":{canonical_json(value).decode()}' for name, value in words.items())
        return f'hpcc/1 directory\n{{{fields},"deployment":"example.org"}}\n'

    def request(self, count: int) -> SceneRequest:
        """Seal to the first ``count`` nodes with written-out randomness."""
        values = [filled(0x33, 16), filled(0x11, 32), filled(0x22, 24), *(filled(0x50 + n, 32) for n in range(count))]
        feed = iter(values)
        sealer = RequestSealer(
            candidates=[node.candidate for node in self.nodes[:count]],
            model_id=MODEL,
            directory_id=self.directory.id,
            deadline_ms=60_000,
            rng=lambda _: next(feed),
        )
        sealed, _ = sealer.seal(MESSAGE)
        return SceneRequest(nodes=self.nodes[:count], sealed=sealed, secrets=values[3:])

    def crafted(self, request: SceneRequest) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield requests a holder of S could make that still must not open."""
        header, secrets = request.sealed.header, filled(0x11, 32) + request.secrets[0]
        other_body = seal_body(
            pad(b"other words"), key=filled(0x11, 32), salt=filled(0x22, 24), context=body_context(header)
        )
        yield "other body under the same S, client's key package", {"body": other_body}
        padded = pad(b"hi")[:-1] + b"\x01"
        bad_padding = seal_body(padded, key=filled(0x11, 32), salt=filled(0x22, 24), context=body_context(header))
        for name, body, plain in (
            ("padding that is not zero", bad_padding, b"\x01" + secrets),
            ("key package of version 2", request.sealed.body, b"\x02" + secrets),
            ("key package with another S", request.sealed.body, b"\x01" + filled(0x12, 32) + request.secrets[0]),
        ):
            candidate = request.nodes[0].candidate
            info = key_package_info(request_digest(header, body), 0, candidate.ref)
            yield name, {"body": body, "key_package": candidate.key.encrypt(plain, info)}


def worked_header() -> bytes:
    """Return the header of the worked example."""
    ref = CandidateRef(node_id=filled(0xAA, 32), ek_id=filled(0xBB, 16), bundle_id=filled(0xCC, 32))
    return Header(
        rid=filled(0x33, 16),
        directory_id=filled(0x44, 32),
        model_id="m",
        deadline_ms=60_000,
        body_len=body_length(1024),
        candidates=(ref,),
    ).encode()


def bad_headers(one: bytes, three: bytes) -> Iterator[tuple[str, bytes, str]]:
    """Headers that must not decode; ``three`` ends with three entries of 80 bytes."""
    fixed = 4 + 8 + 16 + 32 + 32
    after_model = fixed + 1 + len(MODEL)
    yield "of version 2", b"HRQ2" + one[4:], "bad_version"
    yield "of another suite", one[:11] + b"\x02" + one[12:], "bad_version"
    yield "with a space in the model's name", one[: fixed + 2] + b" " + one[fixed + 3 :], "malformed"
    yield (
        "with a deadline of 61 s",
        one[:after_model] + (61_000).to_bytes(4, "big") + one[after_model + 4 :],
        "malformed",
    )
    yield "with a body length of no bucket", one[: after_model + 7] + b"\x01" + one[after_model + 8 :], "malformed"
    yield "with no candidate", one[: after_model + 8] + b"\0", "malformed"
    yield "with five candidates", one[: after_model + 8] + b"\x05" + 5 * one[-80:], "malformed"
    yield "with a node twice", three[:-80] + three[-160:-80], "malformed"
    yield "with bytes after its end", one + b"\0", "malformed"
    yield "of more than 1 KiB", one + bytes(1024), "malformed"


def spare_bits(note: bytes) -> bytes:
    """Return a note whose signature line spells the same bytes with spare base64 bits set."""
    body, last, tail = note.rstrip(b"=\n"), note.rstrip(b"=\n")[-1:], note[len(note.rstrip(b"=\n")) :]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return body[:-1] + alphabet[alphabet.index(last) + 1 :][:1] + tail
