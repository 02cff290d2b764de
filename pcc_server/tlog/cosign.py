"""The log's side of C2SP tlog-witness: submit a checkpoint to witnesses, keep the cosignatures that verify."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from hybrid.wire.cosignature import CosignatureVerifier
from hybrid.wire.encoding import to_base64
from hybrid.wire.errors import WireError
from hybrid.wire.log_policy import LogPolicy
from hybrid.wire.note import Note, append_signatures

from .errors import LogError, WitnessError
from .web import WebError, call

TIMEOUT_S = 10.0  # for a whole answer
_OK = 200
_MAX_ANSWER_BYTES = 64 * 1024
_CONFLICT = 409
_SCHEMES = ("http://", "https://")
_PARTS = 2

Proof = Callable[[int, int], tuple[bytes, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """One witness: its key, and the submission prefix of its address."""

    verifier: CosignatureVerifier
    url: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``VKEY URL``, as a witness line of a log policy has them. Raises LogError."""
        parts = text.split()
        if len(parts) != _PARTS or not parts[1].startswith(_SCHEMES):
            raise LogError("a witness is named by its key and its address: 'name+hash+base64 https://host/prefix'")
        try:
            return cls(verifier=CosignatureVerifier.parse(parts[0]), url=parts[1].rstrip("/"))
        except WireError as error:
            raise LogError(f"the witness's key is none: {error}") from None

    def cosign(self, note: bytes, size: int, old: int, proof: Proof) -> str:
        """Submit a checkpoint of ``size``; returns the witness's signature line. old: what it probably has.

        Raises WitnessError, its ``size`` set when the witness has seen a longer tree.
        """
        try:
            answer = self._submit(note, old, proof(old, size))
        except WitnessError as error:
            if error.size is None or error.size > size:
                raise
            answer = self._submit(note, error.size, proof(error.size, size))
        return self._verified(note, answer)

    def _submit(self, note: bytes, old: int, proof: Sequence[bytes]) -> bytes:
        lines = [f"old {old}", *map(to_base64, proof), "", ""]
        body = "\n".join(lines).encode("ascii") + note
        url = f"{self.url}/add-checkpoint"
        try:
            status, answer = call("POST", url, body, limit=_MAX_ANSWER_BYTES, patience_s=TIMEOUT_S)
        except WebError:
            raise WitnessError(f"the witness {self.verifier.name} at {self.url} cannot be reached") from None
        if status != _OK:
            raise self._refused(status, answer)
        return answer

    def _refused(self, status: int, body: bytes) -> WitnessError:
        text = body.decode("ascii", "replace").removesuffix("\n")
        if status == _CONFLICT and text.isascii() and text.isdigit() and len(text) < 20:  # noqa: PLR2004 - digits of a u64
            return WitnessError(f"the witness {self.verifier.name} cosigned {text} entries last", int(text))
        return WitnessError(f"the witness {self.verifier.name} refused with status {status}")

    def _verified(self, note: bytes, answer: bytes) -> str:
        """Keep the witness's own line, if it verifies; others' are dropped."""
        try:
            lines = answer.decode("utf-8").splitlines()
            for line in lines:
                whole = append_signatures(note, [line])
                added = Note.parse(whole).signatures[-1]
                if (added.name, added.key_id) == (self.verifier.name, self.verifier.public.id):
                    self.verifier.time(Note.parse(whole))
                    return line
        except (WireError, UnicodeDecodeError):
            raise WitnessError(f"the witness {self.verifier.name} answered with no valid cosignature") from None
        raise WitnessError(f"the witness {self.verifier.name} did not answer with its cosignature")


def witnesses_of(policy: LogPolicy) -> list[Witness]:
    """Return the witnesses of a log policy that have an address. Raises LogError for an address that is none."""
    known = [verifier for verifier in policy.witnesses.values() if verifier.vkey in policy.urls]
    return [Witness.parse(f"{verifier.vkey} {policy.urls[verifier.vkey]}") for verifier in known]


def collect(
    witnesses: Sequence[Witness], note: bytes, size: int, old: int, proof: Proof
) -> Iterator[str | WitnessError]:
    """Ask all witnesses at once; yields a signature line or the reason there is none, in the order given."""

    def ask(witness: Witness) -> str | WitnessError:
        try:
            return witness.cosign(note, size, old, proof)
        except WitnessError as error:
            return error

    if witnesses:
        with ThreadPoolExecutor(len(witnesses)) as pool:
            yield from pool.map(ask, witnesses)
