"""One request while it runs: its ids, its text, its numbers, and the mailbox its reader waits at."""

import asyncio
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hybrid.wire.types import Chunk, EngineTiming, FinishReason, GenerateRequest, Usage

from .decode import TextStream
from .sampling import Chooser, Guarded, Recorder, is_greedy
from .signals import SignalLog

SIGNALS_AT = frozenset({1, 2, 4, 8, 16, 32})  # tokens: the cascade looks after 32, or earlier where they come slowly

Item = Chunk | Exception


class Mailbox:
    """Hands items from the engine's thread to one asyncio reader; the reader is woken once, however many wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready = asyncio.Event()
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()
        self._woken = False

    def put(self, item: Item) -> None:
        """Add an item, from any thread. Nobody is told when the reader's loop is gone."""
        with self._lock:
            self._items.append(item)
            wake, self._woken = not self._woken, True
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._ready.set)
            except RuntimeError:  # the reader's loop was closed: its cancel, if any, has been posted
                self._items.clear()

    async def receive(self) -> list[Item]:
        """Wait for items and return them all, neighbouring chunks joined."""
        await self._ready.wait()
        with self._lock:
            self._ready.clear()
            self._woken = False
            items = list(self._items)
            self._items.clear()
        return joined(items)


def joined(items: list[Item]) -> list[Item]:
    """Join neighbouring chunks: a slow reader gets more at a time, never later."""
    result: list[Item] = []
    for item in items:
        last = result[-1] if result else None
        if isinstance(item, Chunk) and isinstance(last, Chunk) and not (last.progress and item.tokens):
            result[-1] = _join(last, item)
        else:
            result.append(item)
    return result


def _join(first: Chunk, second: Chunk) -> Chunk:
    return Chunk(
        text=first.text + second.text,
        tokens=first.tokens + second.tokens,
        progress=second.progress or first.progress,
        signals=second.signals or first.signals,
        finish_reason=second.finish_reason,
        usage=second.usage,
        timing=second.timing,
        params=second.params,
    )


@dataclass(slots=True, kw_only=True, eq=False)
class Live:
    """The engine's own record of one request: the truth, whatever a generator knows.

    ids: framed prompt.  max_tokens: as applied.  cached: leading ids served from kept context.  emitted: answer ids.
    rebuilds: how often a step failed under it.  apart_until: so many tokens it answers apart from others, to be sure.
    """

    request: GenerateRequest = field(repr=False)
    partition: str = field(repr=False)
    ids: list[int] = field(repr=False)
    max_tokens: int
    mailbox: Mailbox = field(repr=False)
    chooser: Chooser = field(repr=False)
    processors: list[Recorder | Guarded] = field(repr=False)
    text: TextStream = field(repr=False)
    seed: int = field(repr=False)
    log: SignalLog | None = field(default_factory=SignalLog, repr=False)
    emitted: list[int] = field(default_factory=list, repr=False)
    cached: int = 0
    rebuilds: int = 0
    apart_until: int = 0
    unsaid: int = 0
    submitted: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    first: float = 0.0

    @property
    def length(self) -> int:
        """Tokens of context it may come to take."""
        return len(self.ids) + self.max_tokens

    def read(self, scores: Any, token: int) -> list[float]:
        """Return the signals of the token that has just come; raises what its sampler or a processor had caught."""
        caught = self.chooser.error or next((processor.error for processor in self.processors if processor.error), None)
        if caught is not None:
            raise caught
        return self.chooser.read(scores, token)

    def restart(self) -> list[int]:
        """Prepare for a new generator and return the ids it must start from."""
        self.chooser.restart(len(self.emitted))
        self.cached = 0
        return self.ids + self.emitted

    def accept(self, token: int, values: list[float]) -> str:
        """Take one token of the answer and return the text that is now sure."""
        if not self.emitted:
            self.first = time.perf_counter()
        self.emitted.append(token)
        self.unsaid += 1
        if self.log is not None and values:
            self.log.add(values)
        return self.text.push(token)

    def progress(self, done: int) -> None:
        """Tell the reader how much of the prompt is read. done: ids, of what was answered already too."""
        self.mailbox.put(Chunk(progress=(min(done, len(self.ids)), len(self.ids))))

    def say(self, text: str) -> None:
        """Send text with the count of all tokens not yet accounted for; nothing while there is nothing to show."""
        early = self.log is not None and len(self.emitted) in SIGNALS_AT
        if text or early:
            signals = self.log.summary() if early and self.log else None
            self.mailbox.put(Chunk(text=text, tokens=self._count(), signals=signals))

    def end(self, reason: FinishReason, text: str) -> None:
        """Send the last chunk, with everything a reply accounts for."""
        usage = Usage(input=len(self.ids), cached_input=self.cached, output=len(self.emitted))
        signals = self.log.summary() if self.log is not None else None
        last = Chunk(
            text=text,
            tokens=self._count(),
            signals=signals,
            finish_reason=reason,
            usage=usage,
            timing=self._timing(),
            params=self.params(),
        )
        self.mailbox.put(last)

    def _count(self) -> int:
        count, self.unsaid = self.unsaid, 0
        return count

    def _timing(self) -> EngineTiming:
        now = time.perf_counter()
        first = self.first or now
        prefill_s, decode_s = first - self.admitted, now - first
        return EngineTiming(
            queue_s=self.admitted - self.submitted,
            prefill_s=prefill_s,
            decode_s=decode_s,
            prefill_tps=(len(self.ids) - self.cached) / prefill_s if prefill_s > 0 else 0.0,
            decode_tps=max(0, len(self.emitted) - 1) / decode_s if decode_s > 0 else 0.0,
        )

    def params(self) -> dict[str, str | int]:
        """Return the sampling parameters as applied, decimals as strings (SPEC 9)."""
        sampling = self.request.sampling
        applied: dict[str, str | int] = {
            "max_tokens": self.max_tokens,
            "temperature": repr(float(sampling.temperature)),
            "top_p": repr(float(sampling.top_p)),
            "repetition_penalty": repr(float(sampling.repetition_penalty)),
        }
        if not is_greedy(sampling):
            applied["seed"] = self.seed
        if sampling.stop:
            applied["stop"] = json.dumps(sampling.stop)
        return applied
