"""Many sealed requests at once, from one event loop: what each one saw, and when. For benchmarks and load tests."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio

from hybrid.wire import codec
from hybrid.wire.directory import Directory
from hybrid.wire.envelope import Candidate, ReplyOpener, RequestSealer
from hybrid.wire.receipt import SealedError
from hybrid.wire.types import Chunk, GenerateRequest, Message, Role, Sampling

STREAMS_PER_CHANNEL = 100  # what a node allows on one connection
RETRY_KEY = "retry-after-ms"
DETAILS_KEY = "grpc-status-details-bin"
FAKE_BASE = 16  # words of the fake engine's answer to nothing; each character of the request adds one


@dataclass(slots=True)
class Outcome:
    """One request. Times are seconds on the monotonic clock; 0 for what never came.

    code: of the refusal, else empty.  told: the error inside the seal, else empty.  tokens_at: one for each token.
    """

    sent: float
    head: float = 0.0
    first_frame: float = 0.0
    ended: float = 0.0
    text: str = ""
    tokens_at: list[float] = field(default_factory=list)
    code: str = ""
    retry_ms: int = 0
    has_details: bool = False
    told: str = ""
    receipt: bool = False
    broken: str = ""  # the class of what our side would not accept: lost, reordered, changed

    @property
    def served(self) -> bool:
        """Whether the whole answer came."""
        return self.receipt and not self.told and not self.broken

    @property
    def waited_s(self) -> float:
        """From being taken in until the engine began."""
        return self.first_frame - self.head


@dataclass(frozen=True, slots=True)
class Ready:
    """A sealed request: its bytes for the wire, and who opens the reply."""

    data: bytes
    opener: ReplyOpener


def words(tokens: int) -> str:
    """Return the whole text of a fake answer of so many tokens."""
    return "fake engine: " + "".join(f"token {number} " for number in range(1, tokens + 1))


class Crowd:
    """Clients of one node. channels: connections, which share the streams."""

    def __init__(self, address: str, *, streams: int = STREAMS_PER_CHANNEL, token: bytes = b"") -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        channels = max(1, -(-streams // STREAMS_PER_CHANNEL))
        self._channels = [aio.insecure_channel(address, options=options) for _ in range(channels)]
        self._token = token
        self._next = 0
        self._directory: Directory | None = None

    async def __aenter__(self) -> Self:
        get: Any = self._channels[0].unary_stream(codec.METHODS["Directory.Get"])
        parts = [part async for part in get(b"")]
        self._directory = Directory.decode(codec.decode_directory_reply(codec.join_parts(parts)).directory)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def seal(self, *, tokens: int, text: str = "", deadline_ms: int = 600_000) -> Ready:
        """Seal a request: so many tokens at most about a text, or exactly as many of the fake engine."""
        assert self._directory is not None
        bundle = self._directory.nodes[0].bundle
        statement = bundle.statement
        candidate = Candidate(
            identity=statement.identity,
            key=statement.keys[0],
            bundle_id=bundle.id,
            manifest=statement.models[0].manifest,
        )
        message = Message(role=Role.USER, content=text or "x" * max(1, tokens - FAKE_BASE))
        sealed, opener = RequestSealer(
            candidates=[candidate],
            model_id=statement.models[0].model_id,
            directory_id=self._directory.id,
            deadline_ms=deadline_ms,
            token=self._token,
        ).seal(GenerateRequest(messages=(message,), sampling=Sampling(max_tokens=tokens)))
        data = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages, token=self._token)
        return Ready(data, opener)

    async def ask(self, ready: Ready, *, timeout_s: float = 600.0) -> Outcome:
        """Send a sealed request and open what comes."""
        self._next += 1
        channel = self._channels[self._next % len(self._channels)]
        outcome = Outcome(sent=time.monotonic())
        invoke: Any = channel.stream_stream(codec.METHODS["Inference.Invoke"])
        call = invoke(iter([ready.data]), timeout=timeout_s)
        try:
            async for message in call:
                _take(codec.decode_invoke_reply(message), ready.opener, outcome)
        except aio.AioRpcError as error:
            _refused(error, outcome)
        except Exception as error:  # noqa: BLE001 - which one is the finding
            outcome.broken = type(error).__name__
        outcome.ended = time.monotonic()
        return outcome


def _take(reply: Any, opener: ReplyOpener, outcome: Outcome) -> None:
    now = time.monotonic()
    if reply.head:
        opener.start(reply.head)
        outcome.head = now
    if reply.frames:
        outcome.first_frame = outcome.first_frame or now
        for event in opener.push(reply.frames):
            if isinstance(event, Chunk):
                outcome.text += event.text
                outcome.tokens_at += [now] * event.tokens
            elif isinstance(event, SealedError):
                outcome.told = event.code.name
    if reply.final:
        opener.finish(reply.final)
        outcome.receipt = True


def _refused(error: aio.AioRpcError, outcome: Outcome) -> None:
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
    outcome.code = error.details() or grpc.StatusCode(error.code()).name
    outcome.retry_ms = int(trailers.get(RETRY_KEY, 0))
    outcome.has_details = DETAILS_KEY in trailers


def share(values: Iterable[float], quantile: float) -> float:
    """Return a quantile, by rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
