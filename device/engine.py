"""MLXEngine: answers requests with a model on this machine. One thread owns MLX; this file is its asyncio side.

It opens no connection, runs no tool and decides no route. Source: device design 4.
"""

import asyncio
import contextlib
import os
import time
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Self

from hybrid.wire.types import Chunk, GenerateRequest, Sampling

from . import loader, runtime
from .core import Core
from .decode import TextStream
from .errors import ContextOverflow, EngineClosed, ModelDamaged
from .live import Live, Mailbox
from .load import EngineLoad
from .messages import Cancel, Release, Submit
from .options import DEFAULTS, EngineOptions
from .prompt import Counted, Framer
from .sampling import Chooser, processors, recorded, seed_of
from .signals import SignalLog


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What an engine is doing. Never holds text.

    state: ``ready``, ``busy``, ``closed`` or ``failed``.  cached_bytes: context kept between turns.
    prefill_tps, decode_tps: moving averages, all requests together.
    """

    path: runtime.Path
    weights: loader.Weights
    state: str
    running: int
    waiting: int
    cached_bytes: int
    prefill_tps: float
    decode_tps: float
    note: str


class MLXEngine:
    """A model in memory. Thread-safe at its edge; implements ``hybrid.wire.types.Engine``.

    Open it with :meth:`open`. An engine does not survive ``fork``: in the child every call raises EngineClosed.
    """

    def __init__(self, core: Core, loaded: loader.Loaded, *, model_id: str, options: EngineOptions) -> None:
        self._core = core
        self._model_id = model_id
        self._options = options
        self._plan = loaded.plan
        self._tokenizer = loaded.tokenizer
        if options.stateless:
            loader.keep_no_words(loaded.tokenizer)
        self._pid = os.getpid()
        self._defaults = _sampling(loaded.manifest.sampling)
        self._framer = Framer(
            tokenizer=loaded.tokenizer,
            vocabulary=loader.vocabulary(loaded),
            today=date.today(),  # noqa: DTZ011 - the date on the person's own wall
            default_system=loaded.manifest.default_system,
        )
        self._counted = Counted()
        # Also runs at interpreter exit: the thread must not be inside MLX when the process is torn down.
        self._end = weakref.finalize(self, _stop, core, self._pid)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        model_id: str,
        options: EngineOptions = DEFAULTS,
        told: Callable[[str, int], None] = lambda _phase, _pct: None,
    ) -> Self:
        """Check, fit and load the model folder; returns when it can answer.

        told: verify, weights, tokenizer, warmup as they begin, and percents of them; on the threads that load.
        Raises ModelDamaged naming a file, DoesNotFit with the arithmetic, EngineFailed for anything else.
        """
        core = Core(folder, options, told)
        try:
            return cls(core, core.start(), model_id=model_id, options=options)
        except BaseException:
            core.stop()
            raise

    @property
    def model_id(self) -> str:
        """The catalogue id of the model that answers."""
        return self._model_id

    @property
    def context_size(self) -> int:
        """Largest framed prompt plus answer, in tokens: the least of model, manifest, memory and options."""
        return self._plan.context_tokens

    @property
    def default_sampling(self) -> Sampling:
        """What the model's manifest recommends where a person asks for nothing else."""
        return self._defaults

    async def generate(self, request: GenerateRequest, *, partition: str = "default") -> AsyncIterator[Chunk]:
        """Stream the answer; closing the iterator cancels. Kept context is shared within ``partition`` only.

        Raises BadRequest, ContextOverflow and Overloaded before any token; EngineFailed when the model fails;
        EngineClosed when the engine is, or was closed meanwhile.
        """
        self._check_open()
        live = self._live(request, await self._framed(request), partition)
        self._core.post(Submit(live))
        ended = False
        try:
            while not ended:
                for item in await live.mailbox.receive():
                    ended = isinstance(item, Exception) or item.finish_reason is not None
                    if isinstance(item, Exception):
                        try:
                            raise item
                        finally:
                            del item  # an error holds this frame: it must not hold the error in turn
                    yield item
        finally:
            if not ended:
                with contextlib.suppress(EngineClosed):  # then nothing runs that could be cancelled
                    self._core.post(Cancel(live))

    def _live(self, request: GenerateRequest, ids: list[int], partition: str) -> Live:
        if len(ids) + 1 > self.context_size:
            raise ContextOverflow(limit=self.context_size, needed=len(ids) + 1)
        sampling, seed = request.sampling, seed_of(request.sampling)
        signals = self._options.signals and not self._options.stateless
        steps, recorder = recorded(processors(sampling)) if signals else (processors(sampling), None)
        return Live(
            request=request,
            partition=partition,
            ids=ids,
            max_tokens=min(sampling.max_tokens, self.context_size - len(ids)),
            mailbox=Mailbox(asyncio.get_running_loop()),
            chooser=Chooser(sampling, seed=seed, with_signals=signals, recorder=recorder),
            processors=steps,
            text=TextStream(self._tokenizer.detokenizer, sampling.stop),
            seed=seed,
            log=SignalLog() if signals else None,
        )

    async def count_tokens(self, request: GenerateRequest) -> int:
        """Tokens of the framed prompt, template and default system text included."""
        self._check_open()
        ids = await self._framed(request)
        self._counted.keep(request, ids)
        return len(ids)

    async def _framed(self, request: GenerateRequest) -> list[int]:
        known = self._counted.take(request)
        return await asyncio.to_thread(self._framer.ids, request) if known is None else known

    def release(self, partition: str) -> None:
        """Forget the context kept for one partition."""
        self._check_open()
        self._core.post(Release(partition))

    def status(self) -> EngineStatus:
        """Say what the engine is doing now."""
        prefill_tps, decode_tps = self._core.speeds
        return EngineStatus(
            path=runtime.describe().path,
            weights=self._plan.weights,
            state=self._core.phase,
            running=self._core.running,
            waiting=self._core.waiting,
            cached_bytes=self._core.cached_bytes,
            prefill_tps=prefill_tps,
            decode_tps=decode_tps,
            note=self._plan.note,
        )

    def load(self) -> EngineLoad:
        """Return what admission reckons with: bytes, speeds, rows. Raises EngineClosed."""
        return self._core.load()

    def stalled_s(self) -> float:
        """Seconds since the engine's thread last finished a turn while work is pending; 0 when idle."""
        return self._core.stalled_s(time.monotonic())

    async def close(self) -> None:
        """Cancel what runs, free the model and end the thread. Safe to call twice."""
        await asyncio.to_thread(self._end)

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise EngineClosed("the process forked after the engine was opened; open another one in the child")
        if self._core.closed:
            raise EngineClosed("the engine is closed")


def _stop(core: Core, pid: int) -> None:
    if os.getpid() == pid:  # a forked child has no such thread to wait for
        core.stop()


def _sampling(named: object) -> Sampling:
    known = {field.name for field in fields(Sampling)} - {"seed", "stop"}
    values = dict(named) if isinstance(named, dict) else {}
    unknown = set(values) - known
    if unknown:
        raise ModelDamaged("manifest.json", f"recommends an unknown sampling parameter: {min(unknown)}")
    if "max_tokens" in values:
        values["max_tokens"] = int(values["max_tokens"])
    return Sampling(**values)
