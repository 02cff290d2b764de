"""What admission reckons with: memory of contexts, how long a request would wait, when to come back. Pure arithmetic.

Tokens and seconds come from the worker alone; the gateway hears verdicts and coarse gauges. Source: node design 3.5.
"""

import heapq
import itertools
import math
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from .engines import Load
from .errors import RETRY_CAP_MS

KV_STEP = 256  # tokens: engines' caches grow in such steps
BANDS = (2_048, 8_192)  # tokens: an engine steps contexts of like lengths together, so that nobody pays for the longest
BAND_NAMES = ("2k", "8k", "above")
FIRST_GUESS = 200  # tokens of an answer, until one was seen
NEWEST_SHARE = 0.2  # of a moving average
OVERDUE = 0.25  # of a usual answer: what one that has outlived it is taken to need still
RETRY_STEP_MS = 100
JITTER_PERMILLE = 200  # either way, so that those who were refused together do not come back together


class Work(NamedTuple):
    """What a request asks for, in tokens: its framed prompt, and the most it may answer."""

    prompt: int
    most: int

    @property
    def width(self) -> int:
        """The most context it can come to."""
        return self.prompt + self.most


class Running(NamedTuple):
    """A request that runs: how much of its prompt was read and how much of its answer was given, in tokens."""

    work: Work
    read: int = 0
    generated: int = 0


def kv_bytes(works: Iterable[Work], kv_token_bytes: int) -> int:
    """Bytes that the contexts of these requests can come to: rows x widest, in whole steps, band by band.

    A context that grows out of a band has first been as wide as that band for all its rows, and counts there too.
    """
    if not kv_token_bytes:
        return 0
    works = tuple(works)
    total = 0
    for low, high in itertools.pairwise((0, *BANDS, math.inf)):
        rows = sum(low < work.width <= high for work in works)
        widest = max((min(work.width, high) for work in works if work.prompt <= high and work.width > low), default=0)
        total += rows * math.ceil(widest / KV_STEP) * KV_STEP
    return total * kv_token_bytes


def band(work: Work) -> str:
    """Name the band a request can come to, as metrics show it."""
    return BAND_NAMES[sum(work.width > limit for limit in BANDS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What may run together. rows: requests.  kv_token_bytes: 0 where contexts are not ours to count."""

    rows: int
    kv_token_bytes: int = 0
    kv_budget_bytes: int = 0

    @classmethod
    def of(cls, load: Load, most_rows: int) -> Self:
        """Read it from what the engine says; most_rows: of the settings."""
        rows = min(most_rows, load.rows) if load.rows else most_rows
        return cls(rows=rows, kv_token_bytes=load.kv_token_bytes, kv_budget_bytes=load.kv_budget_bytes)

    def holds(self, works: Collection[Work], one_more: Work) -> bool:
        """Tell whether one more can run beside these, each as wide as it can become."""
        if len(works) >= self.rows:
            return False
        return not self.kv_token_bytes or kv_bytes((*works, one_more), self.kv_token_bytes) <= self.kv_budget_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """How fast answers are made. 0 stands for not known, and then costs nothing.

    prefill_tps: of the engine, one prompt after the other.  first_s: from start to first token, where that is unknown.
    step_s: seconds for each further token of one stream.  answer: tokens of a usual answer.
    """

    prefill_tps: float = 0.0
    first_s: float = 0.0
    step_s: float = 0.0
    answer: float = FIRST_GUESS

    def told(self, load: Load) -> Self:
        """Take over what the engine measures itself; its step only until answers have shown one."""
        step_s = self.step_s or (1 / load.decode_tps if load.decode_tps else 0.0)
        return replace(self, prefill_tps=load.prefill_tps, step_s=step_s)

    def learned(self, *, first_s: float, step_s: float, answer: int) -> Self:
        """Take in an answer that has ended."""
        if not self.step_s:
            return replace(self, first_s=first_s, step_s=step_s, answer=float(answer))
        return replace(
            self,
            first_s=_averaged(self.first_s, first_s),
            step_s=_averaged(self.step_s, step_s),
            answer=_averaged(self.answer, answer),
        )

    def reading_s(self, tokens: int) -> float:
        """Seconds the engine is busy with so many tokens of prompts."""
        return tokens / self.prefill_tps if self.prefill_tps else 0.0

    def left_s(self, running: Running) -> float:
        """Seconds until a request that runs has probably ended, others' prompts apart."""
        usual = min(self.answer, running.work.most)
        tokens = max(usual - running.generated, min(OVERDUE * usual, running.work.most - running.generated))
        first_s = 0.0 if self.prefill_tps or running.generated else max(0.0, self.first_s - self.step_s)
        return self.reading_s(running.work.prompt - running.read) + first_s + tokens * self.step_s

    def run_s(self, work: Work) -> float:
        """Seconds a request takes once it runs."""
        return self.left_s(Running(work))


def _averaged(old: float, new: float) -> float:
    return old + NEWEST_SHARE * (new - old)


def predicted_wait(
    running: Sequence[Running], ahead: Iterable[Work], own: Work, *, room: Room, speeds: Speeds
) -> float:
    """Seconds until a request could start: those ahead start first, as running ones end, and read one after the other.

    running: in any order.  ahead: in the order they will be served.
    """
    active = {number: one.work for number, one in enumerate(running)}
    ends = [(speeds.left_s(one), number) for number, one in enumerate(running)]
    heapq.heapify(ends)
    reading_until = speeds.reading_s(sum(one.work.prompt - one.read for one in running))
    at = begin = 0.0
    for number, work in enumerate((*ahead, own), start=len(running)):
        while ends and not room.holds(active.values(), work):
            end, ended = heapq.heappop(ends)
            at = max(at, end)
            del active[ended]
        begin = max(at, reading_until)
        reading_until = begin + speeds.reading_s(work.prompt)
        active[number] = work
        heapq.heappush(ends, (begin + speeds.run_s(work), number))
    return begin


def retry_ms(wait_s: float, pick: Callable[[int], int] = secrets.randbelow) -> int:
    """Return when to come back: the wait rounded up to 100 ms, give or take a fifth, at most 30 s.

    pick: a number below the one given.
    """
    whole = max(1, math.ceil(wait_s * 1000 / RETRY_STEP_MS)) * RETRY_STEP_MS
    jitter = pick(2 * JITTER_PERMILLE + 1) - JITTER_PERMILLE
    return min(RETRY_CAP_MS, whole + whole * jitter // 1000)
