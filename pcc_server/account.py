"""What one request took, for the tally: seconds and numbers of tokens, nothing of what they said."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hybrid.wire.types import FinishReason, Usage

from .meters import OUTCOMES
from .tally import Tally

OK, ERROR, CANCELLED = OUTCOMES


@dataclass(slots=True)
class Account:
    """The times of one answer. now: seconds on the loop's clock; opened: when the request was."""

    tally: Tally
    now: Callable[[], float]
    opened: float
    started: float = 0.0
    tokens_at: list[float] = field(default_factory=list)
    tokens: int = 0
    left: float = 0.0

    def start(self) -> None:
        """Say that the engine begins with it."""
        self.started = self.now()

    def token(self, count: int) -> None:
        """Say that so many tokens have come together."""
        if count:
            self.tokens += count
            self.tokens_at.append(self.now())

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Note when a cancel arrives: before the engine's stream is closed and the place is free."""
        try:
            yield
        except asyncio.CancelledError:
            self.left = self.now()
            raise

    @property
    def where(self) -> str:
        """How far it has come, in the words of the metrics."""
        if not self.started:
            return "queue"
        return "decode" if self.tokens_at else "prefill"

    def close(self, outcome: str, finish: FinishReason | None, usage: Usage, *, cached: bool) -> None:
        """Tell the tally, once everything the request held is free. cached: whether a kept prefix was looked for."""
        self.tally.request(outcome, finish, usage.input, self.tokens)
        if outcome == CANCELLED:
            self.tally.cancelled(self.where, self.now() - (self.left or self.now()))
        elif self.tokens_at:
            self._tell_times()
        if cached and self.started:
            self.tally.prefix(usage.input, usage.cached_input)

    def _tell_times(self) -> None:
        first, last = self.tokens_at[0], self.tokens_at[-1]
        self.tally.times(
            queue_s=self.started - self.opened,
            prefill_s=first - self.started,
            first_s=first - self.opened,
            decode_s=last - first,
            e2e_s=self.now() - self.opened,
            gaps=[after - before for before, after in zip(self.tokens_at, self.tokens_at[1:], strict=False)],
        )
