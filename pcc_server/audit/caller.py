"""A caller of a node on this machine: its directory, sealed requests, and all that is seen outside the seal.

It calls, gateway and router serve: no other file of the node imports grpc.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc

from hybrid.wire import codec
from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.directory import Directory
from hybrid.wire.envelope import Candidate, RequestSealer, SealedRequest
from hybrid.wire.errors import WireError
from hybrid.wire.evidence import Bundle
from hybrid.wire.reply_secrets import reply_secrets
from hybrid.wire.types import GenerateRequest, Message, Role, Sampling

from .report import Unseen

_OPTIONS = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
_GET_S, _INVOKE_S, _DEADLINE_MS = 10.0, 120.0, 120_000
_SALT = slice(1, 33)  # of a reply's head


class Call:
    """One request under way. Iterating it gives whole messages; ``seen`` is what anybody on the way sees."""

    def __init__(self, caller: "Caller", data: bytes, keep: Callable[[bytes], None]) -> None:
        self._call = caller.invoke(iter([data]), timeout=_INVOKE_S)
        self._keep = keep
        self._error: grpc.RpcError | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for message in self._call:
                if head := codec.decode_invoke_reply(message).head:
                    self._keep(head)
                yield message
        except grpc.RpcError as error:
            self._error = error

    @property
    def failed(self) -> bool:
        """Whether it ended with a status other than OK."""
        return self._error is not None

    def cancel(self) -> None:
        """Leave."""
        self._call.cancel()

    def seen(self) -> list[str]:
        """Return code, details, metadata and error as text. Waits for the end."""
        call = self._call
        parts = (call.code(), call.details(), call.initial_metadata(), call.trailing_metadata(), self._error)
        return [repr(part) for part in parts]


class Caller:
    """Talks to a port without TLS. keys, secrets: of every reply so far, and what they were made of (R_i)."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._get: Any = self._channel.unary_stream(codec.METHODS["Directory.Get"])
        self.invoke: Any = self._channel.stream_stream(codec.METHODS["Inference.Invoke"])
        self.keys: list[bytes] = []
        self.secrets: list[bytes] = []

    def directory(self) -> Directory:
        """Return the node's directory. Raises Unseen."""
        try:
            reply = codec.decode_directory_reply(codec.join_parts(list(self._get(b"", timeout=_GET_S))))
            return Directory.decode(reply.directory)
        except grpc.RpcError as error:
            raise Unseen(f"the node does not show its directory: {error.code().name}") from None
        except WireError as error:
            raise Unseen(f"the node's directory cannot be read: {type(error).__name__}") from None

    def bundle(self) -> Bundle:
        """Return what the node publishes about itself, its signature checked. Raises Unseen."""
        bundle = self.directory().nodes[0].bundle
        try:
            bundle.verify_signature()
        except WireError:
            raise Unseen("the node's bundle has no valid signature") from None
        return bundle

    # --- requests ----------------------------------------------------------------------------------

    def seal(self, text: str, max_tokens: int) -> tuple[SealedRequest, Callable[[bytes], None]]:
        """Seal a text; the second takes a reply's head and keeps that reply's key, to look for it later."""
        drawn: list[bytes] = []

        def draw(count: int) -> bytes:
            drawn.append(secrets.token_bytes(count))
            return drawn[-1]

        directory = self.directory()
        candidate = _candidate(directory)
        sealer = RequestSealer(
            candidates=[candidate],
            model_id=directory.nodes[0].bundle.statement.models[0].model_id,
            directory_id=directory.id,
            deadline_ms=_DEADLINE_MS,
            rng=draw,
        )
        asked = Message(role=Role.USER, content=text)
        sealed, _ = sealer.seal(GenerateRequest(messages=(asked,), sampling=Sampling(max_tokens=max_tokens)))
        secret = drawn[-1]
        self.secrets.append(secret)

        def keep(head: bytes) -> None:
            self.keys.append(reply_secrets(secret, head[_SALT], q=sealed.q, index=0, ref=candidate.ref).key)

        return sealed, keep

    def send(self, text: str, *, max_tokens: int, spoil: int | None = None) -> Call:
        """Seal a text and send it. spoil: flip a bit of the body at this byte, so that it opens to nothing."""
        sealed, keep = self.seal(text, max_tokens)
        body = sealed.body
        if spoil is not None:
            body = body[:spoil] + bytes((body[spoil] ^ 1,)) + body[spoil + 1 :]
        return Call(self, codec.encode_invoke_request(sealed.header, body, sealed.key_packages), keep)

    def replayed(self, text: str, max_tokens: int) -> Call:
        """Send a sealed text, wait for its answer, and send the same bytes again."""
        sealed, keep = self.seal(text, max_tokens)
        data = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages)
        for _ in Call(self, data, keep):
            pass
        return Call(self, data, keep)

    def send_raw(self, data: bytes) -> Call:
        """Send bytes that are no request."""
        return Call(self, data, lambda _head: None)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _candidate(directory: Directory) -> Candidate:
    """Return the key that lives longest among those a client may use now."""
    bundle, now = directory.nodes[0].bundle, time.time()
    statement = bundle.statement
    key = next(key for key in statement.keys if (key.epoch + 1) * key.epoch_s + CLOCK_TOLERANCE_S > now)
    return Candidate(identity=statement.identity, key=key, bundle_id=bundle.id, manifest=statement.models[0].manifest)
