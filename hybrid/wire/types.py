"""Values both routes share: one request type, one stream item, one engine protocol.

Frozen, slotted, keyword-only. They carry content, so their ``repr`` never shows text.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

MAX_STOP_STRINGS = 8
MAX_STOP_CHARS = 256
MIN_SALT_BYTES = 16
MAX_SALT_BYTES = 32


class Route(StrEnum):
    """Where an answer is made. ``ON_DEVICE`` is the stricter of the two."""

    ON_DEVICE = "on_device"
    PRIVATE_CLOUD = "private_cloud"


class Role(StrEnum):
    """Who speaks in a message, in the words of the OpenAI and Hugging Face chat formats."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """Why a reply ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen. ``temperature`` 0 is greedy; a penalty of 1.0 is none."""

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Refuse values no engine could honour.

        Raises ValueError naming the field and the range it accepts.
        """
        _within("max_tokens", self.max_tokens, 1, 1_000_000)
        _within("temperature", self.temperature, 0.0, 5.0)
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.5, 2.0)
        if self.seed is not None:
            _within("seed", self.seed, 0, 2**63 - 1)
        if len(self.stop) > MAX_STOP_STRINGS or any(not 0 < len(s) <= MAX_STOP_CHARS for s in self.stop):
            msg = f"stop takes at most {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_CHARS} characters"
            raise ValueError(msg)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        msg = f"{name} must lie between {low} and {high}, got {value}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class GenerateRequest:
    """One request, the same on both routes. Labels stay outside it: they are never sent.

    It can be referred to weakly, so that an engine may remember what it made of it for no longer than it lives.

    cache_salt: names the conversation to the node's prefix cache, 16 to 32 random bytes; empty: share with nobody.
    """

    messages: tuple[Message, ...] = field(repr=False)
    sampling: Sampling = Sampling()
    cache_salt: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        """Refuse a request without any words, and a salt that could be guessed.

        Raises ValueError when there is no message or the last one is blank, and for a salt of another length.
        """
        if not self.messages or not self.messages[-1].content.strip():
            msg = "the prompt is empty"
            raise ValueError(msg)
        if self.cache_salt and not MIN_SALT_BYTES <= len(self.cache_salt) <= MAX_SALT_BYTES:
            msg = f"a cache salt has {MIN_SALT_BYTES} to {MAX_SALT_BYTES} bytes"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one reply: framed prompt, the part of it served from cache, and answer."""

    input: int = 0
    cached_input: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSignals:
    """What the model's own numbers say about an answer, in nats, before temperature.

    Quantiles are over the answer's tokens so far; ``None`` where too few tokens exist.
    Source: routing design C5.
    """

    lp_first: float | None = None
    margin_first: float | None = None
    entropy_first: float | None = None
    lp_q10: float | None = None
    lp_q50: float | None = None
    lp_min: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTiming:
    """Seconds and rates as the engine saw them, loading and queueing apart."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A stream item. The last one of a reply carries ``finish_reason`` and ``usage``.

    text: new text, possibly empty.  tokens: how many tokens it stands for.
    progress: prompt tokens done and total, while the prompt is read.
    params: sampling parameters as applied, decimals as strings; on the last chunk (SPEC 9).
    """

    text: str = field(default="", repr=False)
    tokens: int = 0
    progress: tuple[int, int] | None = None
    signals: TokenSignals | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timing: EngineTiming | None = None
    params: Mapping[str, str | int] | None = field(default=None, repr=False)


class Engine(Protocol):
    """Something that answers requests. Closing the iterator cancels the request."""

    @property
    def model_id(self) -> str:
        """The catalogue id of the model that answers."""

    @property
    def context_size(self) -> int:
        """Largest framed prompt plus answer, in tokens."""

    def generate(self, request: GenerateRequest, *, partition: str = "default") -> AsyncIterator[Chunk]:
        """Stream the answer. Requests share cached context only within one ``partition``."""

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Tokens of the framed prompt, template included."""

    async def close(self) -> None:
        """Cancel what runs and free the model."""
