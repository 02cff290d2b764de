"""The engine's thread: it alone loads, generates, trims and frees. Everybody else posts messages.

Requests run side by side in mlx-lm's BatchGenerator, but the table of live requests kept here is the truth: a request
that fails is taken out alone, and when a step itself fails the generator is thrown away and the others start again
from their ids. A step is never simply repeated: that would leave the neighbours' text wrong without any error.
Source: device design 4.2 and 4.6.
"""

import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from hybrid.wire.types import FinishReason

from . import fit, loader, runtime
from .errors import DeviceError, EngineClosed, EngineFailed, Overloaded
from .lane import cut
from .live import Live
from .messages import Cancel, Close, Message, Release, Submit
from .prefix import PrefixCache
from .steps import Steps

WAITING_PER_ROW = 16  # beyond it a request is refused instead of queued
CACHE_LIMIT_BYTES, CACHE_SHARE = 1_000_000_000, 0.05  # what MLX may keep of freed memory, and of the room


class Core:
    """State of the engine's thread. Other threads call ``start``, ``post``, ``join`` and read plain numbers."""

    def __init__(
        self, folder: Path, *, context_tokens: int | None, max_rows: int, stateless: bool, force: bool
    ) -> None:
        self._folder = folder
        self._wanted_context = context_tokens
        self._max_rows = max_rows
        self._stateless = stateless
        self._force = force
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="hybrid-mlx", daemon=True)
        self._running: dict[int, Live] = {}
        self._waiting: deque[Live] = deque()
        self._prefix = PrefixCache(0, cut=cut)
        self.opened: Future[loader.Loaded] = Future()
        self.closed = False
        self.phase = "loading"
        self._steps: Steps | None = None

    def start(self) -> loader.Loaded:
        """Start the thread and wait until the model is loaded. Raises what loading raised."""
        self._thread.start()
        return self.opened.result()

    def post(self, message: Message) -> None:
        """Leave a message. Raises EngineClosed when nobody will read it."""
        with self._door:
            if self.closed:
                raise EngineClosed("the engine is closed")
            self._inbox.put(message)

    def stop(self) -> None:
        """Ask the thread to end and wait for it; safe to call twice and from any thread."""
        with self._door:
            if not self.closed:
                self._inbox.put(Close())
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def running(self) -> int:
        """Requests in the generator."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def cached_bytes(self) -> int:
        """Bytes kept from finished conversations."""
        return self._prefix.nbytes

    @property
    def speeds(self) -> tuple[float, float]:
        """Moving averages of prompt and answer tokens per second."""
        steps = self._steps
        return (steps.prefill_tps, steps.decode_tps) if steps else (0.0, 0.0)

    def _run(self) -> None:
        self._guard = runtime.ThreadGuard()
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - carried to the caller of start()
            self._shut("failed")
            self.opened.set_exception(error if isinstance(error, DeviceError) else _loading(error))
            return
        self.phase = "ready"
        self.opened.set_result(self._loaded)
        try:
            while self._drain():
                self._admit()
                self._step()
        finally:
            self._shut("closed")

    def _open(self) -> None:
        self._core = runtime.mlx(threads=1 if self._stateless else None)
        cpu = runtime.describe().path.startswith("cpu")
        plan = loader.plan(self._folder, context_tokens=self._wanted_context, cpu=cpu, force=self._force)
        self._loaded = runtime.apart(lambda: self._load(plan), core=self._core, name="hybrid-load")
        self._report("warmup")
        self._budget = plan.kv_budget_bytes
        if not self._stateless:
            self._prefix = PrefixCache(plan.prefix_bytes, cut=cut)
        spare = 0 if self._stateless else min(CACHE_LIMIT_BYTES, int(CACHE_SHARE * self._budget))
        self._core.set_cache_limit(spare)
        self._steps = Steps(self._loaded, max_rows=self._max_rows)

    def _load(self, plan: loader.Plan) -> loader.Loaded:
        """Load apart from the engine's thread: unpacking leaves that arena full of holes, and every step would pay."""
        return loader.load(self._folder, plan, check_contents=self._stateless, report=self._report)

    def _report(self, phase: str) -> None:
        self.phase = f"loading {phase}"

    def _drain(self) -> bool:
        """Read all messages; block only while there is nothing to do. False ends the loop."""
        idle = not self._running and not self._waiting
        self.phase = "ready" if idle else "busy"
        while True:
            try:
                message = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            idle = False
            if isinstance(message, Close):
                return False
            self._read(message)
            idle = not self._running and not self._waiting

    def _read(self, message: Submit | Cancel | Release) -> None:
        match message:
            case Submit(live):
                if len(self._waiting) >= WAITING_PER_ROW * self._max_rows:
                    live.mailbox.put(Overloaded("too many requests are waiting"))
                else:
                    self._waiting.append(live)
            case Cancel(live):
                self._cancel(live)
            case Release(partition):
                self._prefix.release(partition)

    def _cancel(self, live: Live) -> None:
        if live in self._waiting:
            self._waiting.remove(live)
        for uid, running in list(self._running.items()):
            if running is live:
                self._keep(live, self._take_out(uid))

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0]):
            live = self._waiting.popleft()
            try:
                self._insert(live)
            except Exception as error:  # noqa: BLE001 - this request fails alone
                self._fail(live, error)

    def _has_room(self, live: Live) -> bool:
        running = list(self._running.values())
        if not running:
            return True
        if live.suspect or any(other.suspect for other in running) or len(running) >= self._max_rows:
            return False
        longest = max(live.length, *(other.length for other in running))
        token = self._loaded.plan.kv_token_bytes
        return fit.kv_bytes(rows=len(running) + 1, tokens=longest, kv_token_bytes=token) <= self._budget

    def _insert(self, live: Live) -> None:
        self._guard.check()
        live.admitted = live.admitted or time.perf_counter()
        ids = live.restart()
        shared, served = (0, None) if live.suspect else self._prefix.take(live.partition, ids)
        live.cached = min(shared, len(live.ids))
        self._running[self._machine.insert(live, ids, shared, served)] = live

    def _step(self) -> None:
        if not self._running:
            return
        self._guard.check()
        try:
            prompts, tokens = self._machine.next()
        except Exception as error:  # noqa: BLE001 - anything a model or a kernel raises
            self._start_again(error)
            return
        for response in prompts:
            if response.uid in self._running and not response.end_of_prompt:
                self._running[response.uid].progress(response.progress[0])
        for response in tokens:
            if response.uid in self._running:
                self._take(response)

    @property
    def _machine(self) -> Steps:
        if self._steps is None:
            raise RuntimeError("the engine's thread has freed the model")
        return self._steps

    def _take(self, response: Any) -> None:
        """Hand one token on, and end the request where it ends. Whatever raises here concerns this request alone."""
        live = self._running[response.uid]
        try:
            values = live.read(response.logprobs, response.token)
            ended = self._ended(live, response, values)
        except Exception as error:  # noqa: BLE001 - sampler, processor, detokeniser or model of this request
            self._take_out(response.uid, known=response.finish_reason is None)
            self._fail(live, error)
            return
        if ended is not None:
            live.end(*ended)  # first: keeping the context takes time its reader need not wait for
            if response.finish_reason is None:
                self._keep(live, self._take_out(response.uid))
            else:
                self._running.pop(response.uid)
                self._keep(live, (response.prompt_cache, response.all_tokens))

    def _ended(self, live: Live, response: Any, values: list[float]) -> tuple[FinishReason, str] | None:
        if response.finish_reason == "stop":
            return FinishReason.STOP, live.text.finish()
        text = live.accept(response.token, values)
        if live.text.stopped:
            return FinishReason.STOP, text
        if response.finish_reason == "length":
            rest = live.text.finish()
            return FinishReason.STOP if live.text.stopped else FinishReason.LENGTH, text + rest
        live.say(text)
        return None

    def _take_out(self, uid: int, *, known: bool = True) -> tuple[Any, list[int]] | None:
        """Forget a running request; return its cache and the ids in it. known: whether the generator still has it."""
        self._running.pop(uid, None)
        if not known:
            return None
        return self._machine.remove(uid, with_cache=not self._stateless)

    def _keep(self, live: Live, cache: tuple[Any, list[int]] | None) -> None:
        if self._stateless:
            self._core.clear_cache()
        elif cache is not None and cache[0] is not None:
            self._prefix.put(live.partition, cache[1], cache[0])

    def _fail(self, live: Live, error: Exception) -> None:
        """Tell one reader, without text: an exception's words could quote a prompt."""
        known = isinstance(error, DeviceError)
        live.mailbox.put(error if known else EngineFailed(f"the model failed ({type(error).__name__})"))

    def _start_again(self, error: Exception) -> None:
        """After a failed step: nothing of that generator is trusted.

        Alone in it, a request is the cause and fails. Otherwise each starts again from its ids, one at a time, so that
        the one at fault fails alone.
        """
        survivors = list(self._running.values())
        self._running.clear()
        self._machine.renew()
        if len(survivors) == 1:
            self._fail(survivors[0], error)
            return
        for live in reversed(survivors):
            live.suspect = True
            self._waiting.appendleft(live)

    def _shut(self, phase: str) -> None:
        """Free everything on this thread and turn every reader away."""
        with self._door:
            self.closed = True
            self.phase = phase
        left = [*self._running.values(), *self._waiting]
        while not self._inbox.empty():
            message = self._inbox.get()
            left += [message.live] if isinstance(message, Submit) else []
        for live in left:
            live.mailbox.put(EngineClosed("the engine was closed while this request ran"))
        self._running.clear()
        self._waiting.clear()
        self._prefix.clear()
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        self.__dict__.pop("_loaded", None)
        if "_core" in self.__dict__:
            self._core.clear_cache()
            # MLX would free this thread's streams after Python has forgotten the thread, and then wants the
            # interpreter's lock: at exit that aborts the process (seen in one of three).
            self._core.clear_streams()


def _loading(error: Exception) -> EngineFailed:
    return EngineFailed(f"the model could not be loaded: {type(error).__name__}: {error}")
