"""Requests of every kind that all carry one canary, and the needles by which a scan would find what stays of them."""

import contextlib
import random
import secrets
import string
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import grpc
from tokenizers import Tokenizer

from hybrid.wire import codec
from hybrid.wire.constants import SECRET_BYTES
from hybrid.wire.envelope import Candidate, CandidateRef, ReplyOpener, RequestSealer, SealedRequest
from hybrid.wire.reply_secrets import reply_secrets
from hybrid.wire.types import GenerateRequest, Message, Role, Sampling
from pcc_server.residue.needles import needles_of
from tests.pcc_server.faulty import FAULTS
from tests.pcc_server.node_client import Client, collect

CANARY_CHARS = 18
TOO_OFTEN = 1_800  # that often the canary exceeds the context of the starter
PIECE_CHARS = 24  # of an answer: long enough to lie in no vocabulary
MARK_BYTES = 12
KEPT = 4  # answers and reply keys that are looked for one by one


def canary() -> str:
    """Random letters: no library holds them, they take more than 6 tokens, and tokenizers take them as one word."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(CANARY_CHARS))


@cache
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def inner_ids(folder: Path, text: str) -> list[int]:
    """Ids of a text as they are wherever it stands after a space; its ends may join their neighbours."""
    return list(tokenizer(folder).encode(f" {text}", add_special_tokens=False).ids)[1:-1]


def user(text: str, **sampling: Any) -> GenerateRequest:
    asked = {"max_tokens": 6, **sampling}
    return GenerateRequest(messages=(Message(role=Role.USER, content=text),), sampling=Sampling(**asked))


def tools(text: str) -> GenerateRequest:
    system = f'You may call {{"name": "find_{text}", "parameters": {{"type": "object", "required": [" {text} "]}}}}.'
    messages = (Message(role=Role.SYSTEM, content=system), Message(role=Role.USER, content=f"Use find_{text} now."))
    return GenerateRequest(messages=messages, sampling=Sampling(max_tokens=6))


def turns(text: str) -> GenerateRequest:
    said = ((Role.USER, f"Remember {text} ."), (Role.ASSISTANT, f"I know {text} ."), (Role.USER, f"Which? {text} ?"))
    messages = tuple(Message(role=role, content=content) for role, content in said)
    return GenerateRequest(messages=messages, sampling=Sampling(max_tokens=6))


def long(text: str, repeats: int = 12) -> str:
    return f"A quiet harbour, an old lamp, and the word {text} on every wall of the town. " * repeats


@dataclass
class Mix:
    """Sends requests and remembers by what they would be found.

    mark: how every secret begins that this end draws, S and R_i.  keys: of replies, as the node derives them.
    """

    client: Client
    canary: str = field(default_factory=canary)
    answers: list[str] = field(default_factory=list)
    mark: bytes = field(default_factory=partial(secrets.token_bytes, MARK_BYTES))
    keys: list[bytes] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def candidate(self) -> Candidate:
        """Whom to seal to; the directory is fetched anew when its epoch is over."""
        key = self.client.candidate.key
        if (key.epoch + 1) * key.epoch_s < time.time():
            self.client.directory, self.client.model_id, self.client.candidate = self.client._fetch()
        return self.client.candidate

    def seal(self, request: GenerateRequest, to: Candidate) -> tuple[SealedRequest, ReplyOpener, bytes]:
        """Seal; returns R_i as well."""
        drawn: list[bytes] = []

        def draw(count: int) -> bytes:
            mark = self.mark if count == SECRET_BYTES else b""  # what is shorter is public
            drawn.append(mark + secrets.token_bytes(count - len(mark)))
            return drawn[-1]

        sealer = RequestSealer(
            candidates=[to],
            model_id=self.client.model_id,
            directory_id=self.client.directory.id,
            deadline_ms=60_000,
            rng=draw,
        )
        sealed, opener = sealer.seal(request)
        return sealed, opener, drawn[-1]

    def send(self, request: GenerateRequest, *, timeout: float = 120) -> tuple[Any, ReplyOpener]:
        """Send; returns the call and what opens its reply. Its head is read here, for its salt."""
        to = self.candidate()
        sealed, opener, secret = self.seal(request, to)
        call = self.client.send(Client.encode(sealed), timeout=timeout)
        return self._with_key(call, secret, sealed.q, to.ref), opener

    def _with_key(self, call: Any, secret: bytes, q: bytes, ref: CandidateRef) -> Any:
        mix = self

        class Call:
            def __iter__(self) -> Iterator[bytes]:
                for message in call:
                    if head := codec.decode_invoke_reply(message).head:
                        mix.keys.append(reply_secrets(secret, head[1:33], q=q, index=0, ref=ref).key)
                    yield message

            def cancel(self) -> None:
                call.cancel()

        return Call()

    # --- ways to end -------------------------------------------------------------------------------

    def whole(self, request: GenerateRequest) -> None:
        call, opener = self.send(request)
        try:
            answer = collect(iter(call), opener)
        except grpc.RpcError:  # on a machine as slow as this one may be right now
            self.ended.append("late")
            return
        self.answers.append(answer.text)
        self.ended.append("failed" if answer.failed else "finished")

    def cut(self, request: GenerateRequest, messages: int) -> None:
        """Cancel after so many messages: in the queue, in prefill, in decode."""
        call, _ = self.send(request)
        with contextlib.suppress(grpc.RpcError):  # see above
            for number, _message in enumerate(call if messages else (), start=1):
                if number >= messages:
                    break
        call.cancel()
        self.ended.append("cancelled")

    def late(self, request: GenerateRequest) -> None:
        call, _ = self.send(request, timeout=0.4)
        try:
            list(call)
        except grpc.RpcError:
            self.ended.append("late")

    def refused(self, request: GenerateRequest) -> None:
        """Send it with one bit changed: it opens to nothing."""
        sealed, _, _ = self.seal(request, self.candidate())
        body = sealed.body[:80] + bytes((sealed.body[80] ^ 1,)) + sealed.body[81:]
        data = codec.encode_invoke_request(sealed.header, body, sealed.key_packages)
        self.client.refused(data)
        self.ended.append("refused")

    # --- the mix -----------------------------------------------------------------------------------

    def works(self, *, faults: bool) -> list[Callable[[], None]]:
        """One request of every kind. faults: the node is a build whose processors and sampler raise when told to."""
        text = self.canary
        works = [
            lambda: self.whole(user(f"Say {text} again.")),
            lambda: self.whole(user(long(text))),
            lambda: self.whole(user(f"🦊 {text} 🐙 {text} 👩‍👩‍👧")),
            lambda: self.whole(user(f"اكتب {text} مرة أخرى من فضلك {text}", temperature=0.9, top_p=0.9, seed=7)),
            lambda: self.whole(tools(text)),
            lambda: self.whole(turns(text)),
            lambda: self.whole(user(f"Repeat {text} .", stop=(f" {text} ", text), repetition_penalty=1.3)),
            lambda: self.whole(user(f"Write much about {text} .", max_tokens=24, temperature=1.2)),
            lambda: self.whole(user(f"{text} " * TOO_OFTEN)),
            lambda: self.refused(user(f"Say {text} again.")),
            lambda: self.cut(user(long(text)), 0),
            lambda: self.cut(user(long(text, 30)), 1),
            lambda: self.cut(user(f"Tell me of {text} .", max_tokens=200), 6),
            lambda: self.late(user(long(text, 20), max_tokens=200)),
        ]
        raising = [partial(self.whole, user(f"Go on {text} .", max_tokens=told)) for told in FAULTS.values()]
        return works + (raising if faults else [])

    def run(self, count: int, *, faults: bool = False) -> None:
        """Send so many requests, each kind in turn."""
        self.send_all(self.works(faults=faults), count)

    @staticmethod
    def send_all(works: Sequence[Callable[[], None]], count: int, *, shuffle: int = 1, at_once: int = 8) -> None:
        wanted = [works[number % len(works)] for number in range(count)]
        random.Random(shuffle).shuffle(wanted)  # noqa: S311 - the same order in every run
        with futures.ThreadPoolExecutor(at_once) as pool:
            for done in [pool.submit(work) for work in wanted]:
                done.result()

    def needles(self, folder: Path | None) -> dict[str, bytes]:
        """What to look for: the canary in all forms, pieces of answers, the newest keys.

        folder: the model's, for token ids; None where there are none.
        """
        ids = inner_ids(folder, self.canary) if folder else []
        pieces = {text[:PIECE_CHARS].encode(): None for text in self.answers if len(text) >= PIECE_CHARS}
        answers = {f"answer {number}": piece for number, piece in enumerate([*pieces][-KEPT:])}
        keys = _numbered("reply key", self.keys[-KEPT:]) | {"secrets": self.mark}
        return needles_of(self.canary, ids) | answers | keys

    def early_keys(self) -> dict[str, bytes]:
        """Reply keys of the first request and of some in between."""
        return _numbered("early key", self.keys[:: max(1, len(self.keys) // KEPT)])


def _numbered(name: str, keys: Sequence[bytes]) -> dict[str, bytes]:
    return {f"{name} {number}": key for number, key in enumerate(keys)}


def settle(seconds: float = 2.0) -> None:
    """What S1 gives a node after its last request."""
    time.sleep(seconds)
