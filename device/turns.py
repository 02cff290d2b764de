"""Whose turn it is: the table of live requests, and what one turn of the engine does with them.

A turn is at most one chunk of one prompt, or some layers of one, then one decode step of every answer, in up to three
length bands: mlx-lm keeps one rectangle of caches per generator, in which every row pays for the longest. The table
kept here is the truth, not the generators'. A request that fails is taken out alone. When a step itself fails its
generator is thrown away and its requests are read again from their ids; each then runs apart until it is past the place
where the step failed, so that the one at fault fails alone. A step is never simply repeated: that would leave the
neighbours' text wrong without any error. Source: node design 3.4 and 3.7.
"""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from hybrid.wire.types import FinishReason

from . import fit, runtime
from .errors import DeviceError, EngineFailed, Overloaded, bare
from .lane import cut, lanes, plain
from .live import Live
from .loader import Loaded
from .options import EngineOptions
from .prefix import PrefixCache
from .reading import Reader, Reading, smooth
from .steps import Steps

WAITING_PER_ROW = 16  # beyond it a request is refused instead of queued
MAX_REBUILDS = 2  # of one request; then it is the one that fails
AHEAD = 2  # tokens past a failed step: mlx-lm computes one ahead


class Turns:
    """Requests from the moment they are submitted to their last chunk. The engine's thread alone changes it."""

    def __init__(self, loaded: Loaded, options: EngineOptions, prefix: PrefixCache, *, budget_bytes: int) -> None:
        self._loaded = loaded
        self._options = options
        self._prefix = prefix
        self._budget = budget_bytes
        self._reader = Reader(loaded, chunk_tokens=options.chunk_tokens, max_stall_s=options.max_stall_s)
        self._bands = [Steps(loaded, max_rows=options.max_rows) for _ in (*fit.BANDS, None)]
        self._apart = Steps(loaded, max_rows=1)  # one at a time of those whose step failed beside others
        self._waiting: deque[Live] = deque()
        self._readings: list[Reading] = []
        self.step_s = self._join_s = 0.0
        self.rebuilds = 0
        self.used_bytes = 0  # of cache, as the arrays are
        self._emptied = False

    # --- what other threads may read ---------------------------------------------------------------

    @property
    def running(self) -> list[Live]:
        """Requests that take memory: prompts being read and answers."""
        return [*(reading.live for reading in list(self._readings)), *self._answering()]

    @property
    def waiting(self) -> list[Live]:
        """Requests not begun."""
        return list(self._waiting)

    @property
    def rows(self) -> tuple[int, ...]:
        """How many answers run in each length band; one that runs apart is counted with the first."""
        first, *others = (len(steps) for steps in self._bands)
        return (first + len(self._apart), *others)

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens a second."""
        return self._reader.prefill_tps

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens still to be read."""
        return sum(len(live.ids) for live in self.waiting) + sum(reading.unread for reading in list(self._readings))

    @property
    def promised_bytes(self) -> int:
        """Bytes of cache the running requests may come to take."""
        return self._banded(self.running)

    # --- coming and going --------------------------------------------------------------------------

    def submit(self, live: Live) -> None:
        """Take a request in, or turn it away at once."""
        if len(self._waiting) >= WAITING_PER_ROW * self._options.max_rows:
            live.mailbox.put(Overloaded("too many requests are waiting"))
        else:
            self._waiting.append(live)

    def cancel(self, live: Live) -> None:
        """Its reader has gone: forget it wherever it is, before the next chunk or step."""
        if live in self._waiting:
            self._waiting.remove(live)
        for reading in [reading for reading in self._readings if reading.live is live]:
            # Keeping what is in the middle of a chunk computes the rest of it at once, which answers would wait for.
            self._readings.remove(reading)
            self._emptied = True
            if reading.done and self._keeps(live) and (reading.chunk is None or not self._answering()):
                self._keep(live, plain(reading.cache), reading.ids[: reading.done])
        for steps in self._generators:
            if live in steps:
                self._take_out(live, steps)
        self._free()

    def close(self) -> list[Live]:
        """Free the generators and return every request that had not ended."""
        left = [*self.running, *self._waiting]
        self._waiting.clear()
        self._readings.clear()
        for steps in reversed(self._generators):  # each puts back the wired limit it found
            steps.close()
        return left

    # --- one turn ----------------------------------------------------------------------------------

    def turn(self) -> None:
        """Begin what fits, read a chunk of one prompt or a part of one, and take one step with every answer."""
        self._prefix.forget_old()
        while self._waiting and self._has_room(self._waiting[0]):
            self._begin(self._waiting.popleft())
        begun = time.perf_counter()
        answering = len(self._answering())
        reading_s = 0.0 if self._read_whole() else self._read()  # who waits for a place has had its chunk
        joined = self._place(reading_s if answering else 0.0)
        for steps in self._generators:
            if len(steps):
                self._step(steps)
        if answering:
            self._account(time.perf_counter() - begun - reading_s, joined=joined)
        self._free()

    def _account(self, steps_s: float, *, joined: bool) -> None:
        """Note what the steps took: together with one that joined they took so much longer."""
        if joined:
            self._join_s = smooth(self._join_s, max(0.0, steps_s - self.step_s))
        else:
            self.step_s = smooth(self.step_s, steps_s)

    def _has_room(self, live: Live) -> bool:
        running = self.running
        if not running:
            return True
        return len(running) < self._options.max_rows and self._banded([*running, live]) <= self._budget

    def _banded(self, lives: Iterable[Live]) -> int:
        lengths = [(_held(live), live.length) for live in lives]
        return fit.banded_bytes(lengths, kv_token_bytes=self._loaded.plan.kv_token_bytes)

    def _begin(self, live: Live) -> None:
        """Start reading a request, from kept context if there is any."""
        live.admitted = live.admitted or time.perf_counter()
        ids = live.restart()
        try:
            shared, served = (0, None) if live.rebuilds else self._prefix.take(live.partition, ids)
            cache = lanes(self._loaded.model, served, most=_most(live))
        except Exception as error:  # noqa: BLE001 - this request fails alone
            self._fail(live, error)
            return
        live.cached = min(shared, len(live.ids))
        self._readings.append(Reading(live=live, ids=ids, cache=cache, done=shared))

    def _read(self) -> float:
        """Read a chunk of one prompt, or a part of one; returns the seconds it held the answers up."""
        unread = [reading for reading in self._readings if not reading.whole]
        if not unread:
            return 0.0
        try:
            self._reader.wait()
        except Exception as error:  # noqa: BLE001 - of a step in flight, nobody knows whose
            for steps in [steps for steps in self._generators if len(steps)]:
                self._rebuild(steps, error)
            return 0.0
        reading = self._reader.pick(unread)
        try:
            took = self._reader.read(reading)
        except Exception as error:  # noqa: BLE001 - its cache was its own: it fails alone
            self._readings.remove(reading)
            self._fail(reading.live, error)
            return 0.0
        if reading.chunk is None:
            reading.live.progress(reading.done)
        return took

    def _place(self, held_s: float) -> bool:
        """Let those whose prompt is read begin to answer; tells whether anybody did.

        held_s: what a chunk has held the answers up in this turn. Joining takes time as well, since caches are copied:
        where both together would be too long, whoever joins does so in the next turn, before any chunk.
        """
        whole = self._read_whole()
        if held_s and held_s + self._join_s > self._options.max_stall_s:
            return False
        for reading, steps in whole:
            self._readings.remove(reading)
            self._insert(reading.live, steps, reading.ids, reading.cache)
        return bool(whole)

    def _read_whole(self) -> list[tuple[Reading, Steps]]:
        """Return the prompts that are read and where each is to be answered; one at a time of those that run apart."""
        homes = [(reading, self._home(reading.live)) for reading in self._readings if reading.whole]
        apart = [pair for pair in homes if pair[1] is self._apart]
        others = [pair for pair in homes if pair[1] is not self._apart]
        return others if len(self._apart) else [*others, *apart[:1]]

    def _insert(self, live: Live, steps: Steps, ids: list[int], cache: list[Any]) -> None:
        try:
            steps.insert(live, ids, cache)
        except Exception as error:  # noqa: BLE001 - a refused insert leaves the generator as it was
            self._fail(live, error)

    def _home(self, live: Live) -> Steps:
        """Return where a request belongs by what it holds at its next step."""
        return self._apart if len(live.emitted) < live.apart_until else self._bands[fit.band_of(_held(live))]

    def _step(self, steps: Steps) -> None:
        try:
            for live, response in steps.next():
                self._take(live, steps, response)
        except Exception as error:  # noqa: BLE001 - anything a model or a kernel raises
            self._rebuild(steps, error)

    def _take(self, live: Live, steps: Steps, response: Any) -> None:
        """Hand one token on, and end or move the request where it is due."""
        try:
            values = live.read(response.logprobs, response.token)
            ended = _ended(live, response, values)
            if ended is not None:
                live.end(*ended)  # before its context is kept: that takes time its reader need not wait for
        except Exception as error:  # noqa: BLE001 - sampler, processor, detokeniser or model of this request
            self._fail(live, error)
            if response.finish_reason is None:
                self._take_out(live, steps, keep=False)
            return
        self._emptied |= ended is not None
        if response.finish_reason is not None:
            self._keep(live, response.prompt_cache, response.all_tokens)
        elif ended is not None:
            self._take_out(live, steps)
        elif (home := self._home(live)) is not steps:
            self._move(live, steps, home)

    def _move(self, live: Live, steps: Steps, home: Steps) -> None:
        """Go on in another generator: mlx-lm is one token ahead, so the last one is fed again."""
        removed = steps.remove(live, with_cache=True)
        try:
            cache = cut(removed[0], 1) if removed else None
        except Exception:  # noqa: BLE001 - as where it cannot be cut
            cache = None
        if cache is None:  # made anew
            self._begin(live)
            return
        live.chooser.restart(len(live.emitted))
        self._insert(live, home, live.ids + live.emitted, lanes(self._loaded.model, cache, most=_most(live)))

    def _take_out(self, live: Live, steps: Steps, *, keep: bool = True) -> None:
        """Take a request that has ended from its generator, before the next step."""
        self._emptied = True
        try:
            removed = steps.remove(live, with_cache=keep and self._keeps(live))
        except Exception as error:  # noqa: BLE001 - what cannot be taken out leaves nothing to be trusted behind
            steps.drop(live)
            self._rebuild(steps, error)
            return
        if removed:
            self._keep(live, *removed)

    def _keeps(self, live: Live) -> bool:
        return self._options.keeps and bool(live.partition)

    def _keep(self, live: Live, cache: list[Any], ids: list[int]) -> None:
        """Keep a context, computed: until then its arrays hold what they come from, which is everybody's beside it."""
        if not self._keeps(live):
            return
        try:
            runtime.mlx().eval([layer.state for layer in cache])
        except Exception:  # noqa: BLE001 - the device failed: whoever still runs will hear of it
            return
        self._prefix.put(live.partition, ids, cache)

    def _free(self) -> None:
        """Give the memory of ended requests back and see what is left; with kept context buffers are kept as well."""
        if self._emptied and self._options.stateless:
            for steps in self._generators:
                steps.forget()
            runtime.mlx().clear_cache()
        self._emptied = False
        reading = sum(layer.nbytes for reading in self._readings for layer in reading.cache)
        self.used_bytes = reading + sum(steps.cache_bytes for steps in self._generators)

    # --- what goes wrong ---------------------------------------------------------------------------

    def _rebuild(self, steps: Steps, error: Exception) -> None:
        """After a failed step: nothing of that generator is trusted. Its requests are read again, or fail."""
        self.rebuilds += 1
        for live in steps.renew():
            live.rebuilds += 1
            live.apart_until = len(live.emitted) + AHEAD
            if live.rebuilds > MAX_REBUILDS:
                self._fail(live, error)
            else:
                self._begin(live)

    def _fail(self, live: Live, error: Exception) -> None:
        """Tell one reader, without text: an exception's words could quote a prompt."""
        self._emptied = True
        known = isinstance(bare(error), DeviceError)
        live.mailbox.put(error if known else EngineFailed(f"the model failed ({type(error).__name__})"))

    @property
    def _generators(self) -> list[Steps]:
        return [*self._bands, self._apart]

    def _answering(self) -> list[Live]:
        return [live for steps in self._generators for live in steps.lives]


def _held(live: Live) -> int:
    """Tokens of context a request holds by its next step."""
    return min(len(live.ids) + len(live.emitted) + 1, live.length)


def _most(live: Live) -> int:
    """Tokens of context a request may come to hold in the length band where it is now."""
    return min(live.length, (*fit.BANDS, live.length)[fit.band_of(_held(live))])


def _ended(live: Live, response: Any, values: list[float]) -> tuple[FinishReason, str] | None:
    """Take the token of a response; returns how the answer ends and its last text, or None after saying it."""
    if response.finish_reason == "stop":  # the token that stops is not shown
        return FinishReason.STOP, live.text.finish()
    text = live.accept(response.token, values)
    if live.text.stopped:
        return FinishReason.STOP, text
    if response.finish_reason == "length":
        rest = live.text.finish()
        return FinishReason.STOP if live.text.stopped else FinishReason.LENGTH, text + rest
    live.say(text)
    return None
