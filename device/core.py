"""The engine's thread: it alone loads, generates, trims and frees. Everybody else posts messages.

What it does with requests is ``turns.py``; this file is its life: the inbox, loading, idling, the heartbeat, the end.
Source: device design 4.2.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from . import loader, runtime
from .errors import DeviceError, EngineClosed, EngineFailed
from .lane import cut
from .load import EngineLoad
from .memory import resident_bytes
from .messages import Cancel, Close, Message, Release, Submit
from .options import EngineOptions
from .prefix import PrefixCache
from .turns import Turns

CACHE_LIMIT_BYTES, CACHE_SHARE = 1_000_000_000, 0.05  # what MLX may keep of freed memory, and of the room
DEAD_S = 1e6  # what a thread that ended unasked reports as its stall: more than any patience


class Core:
    """State of the engine's thread. Other threads call ``start``, ``post``, ``stop`` and read plain numbers."""

    def __init__(self, folder: Path, options: EngineOptions, told: Callable[[str, int], None]) -> None:
        """told: each phase of loading, and percents of it; called on the threads that load."""
        self._folder = folder
        self._told = told
        self._options = options
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="hybrid-mlx", daemon=True)
        self._prefix = PrefixCache(0, cut=cut)
        self._turns: Turns | None = None
        self._turned = 0.0
        self._pending = False
        self._active_bytes = 0
        self._asked_to_stop = False
        self.opened: Future[loader.Loaded] = Future()
        self.closed = False
        self.phase = "loading"

    # --- other threads -----------------------------------------------------------------------------

    def start(self) -> loader.Loaded:
        """Start the thread and wait until the model is loaded. Raises what loading raised."""
        self._thread.start()
        return self.opened.result()

    def post(self, message: Message) -> None:
        """Leave a message. Raises EngineClosed when nobody will read it."""
        with self._door:
            if self.closed:
                raise EngineClosed("the engine is closed")
            if not self._pending:
                self._turned, self._pending = time.monotonic(), True
            self._inbox.put(message)

    def stop(self) -> None:
        """Ask the thread to end and wait for it; safe to call twice and from any thread."""
        with self._door:
            self._asked_to_stop = True
            if not self.closed:
                self._inbox.put(Close())
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def running(self) -> int:
        """Requests whose prompt is read or that answer."""
        turns = self._turns
        return len(turns.running) if turns else 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        turns = self._turns
        return len(turns.waiting) if turns else 0

    @property
    def cached_bytes(self) -> int:
        """Bytes kept from finished conversations."""
        return self._prefix.nbytes

    @property
    def speeds(self) -> tuple[float, float]:
        """Moving averages of prompt and answer tokens per second, all requests together."""
        turns = self._turns
        if turns is None:
            return 0.0, 0.0
        return turns.prefill_tps, sum(turns.rows) / turns.step_s if turns.step_s else 0.0

    def stalled_s(self, now: float) -> float:
        """Seconds since the thread last finished a turn while there is work; 0 when idle, huge when it has died.

        now: ``time.monotonic()``.
        """
        if self.closed:
            return 0.0 if self._asked_to_stop else DEAD_S
        return max(0.0, now - self._turned) if self._pending else 0.0

    def load(self) -> EngineLoad:
        """Return the numbers admission reckons with. Raises EngineClosed."""
        turns = self._turns
        if turns is None:
            raise EngineClosed("the engine is closed")
        return EngineLoad(
            kv_token_bytes=self._plan.kv_token_bytes,
            kv_budget_bytes=self._budget,
            kv_used_bytes=turns.used_bytes,
            kv_promised_bytes=turns.promised_bytes,
            memory_bytes=max(self._active_bytes, resident_bytes()),
            room_bytes=self._plan.room_bytes,
            prefill_tps=turns.prefill_tps,
            decode_tps=1 / turns.step_s if turns.step_s else 0.0,
            max_rows=self._options.max_rows,
            rows=turns.rows,
            reading=len(turns.running) - sum(turns.rows),
            waiting=len(turns.waiting),
            queued_tokens=turns.queued_tokens,
            rebuilds=turns.rebuilds,
        )

    # --- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        self._guard = runtime.ThreadGuard()
        try:
            turns = self._open()
        except Exception as error:  # noqa: BLE001 - carried to the caller of start()
            self._shut("failed")
            self.opened.set_exception(error if isinstance(error, DeviceError) else _loading(error))
            return
        self.phase = "ready"
        self.opened.set_result(self._loaded)
        try:
            while self._drain(turns):
                self._guard.check()
                turns.turn()
                self._beat()
        finally:
            self._shut("closed")

    def _open(self) -> Turns:
        self._core = runtime.mlx(threads=1 if self._options.stateless else None)
        cpu = runtime.describe().path.startswith("cpu")
        wanted = self._options.context_tokens
        plan = loader.plan(self._folder, context_tokens=wanted, cpu=cpu, force=self._options.force)
        self._loaded = runtime.apart(lambda: self._load(plan), core=self._core, name="hybrid-load")
        self._report("warmup", 0)
        self._plan = plan
        self._budget = plan.kv_budget_bytes + (0 if self._options.keeps else plan.prefix_bytes)
        if self._options.keeps:
            self._prefix = PrefixCache(plan.prefix_bytes, cut=cut, age_s=self._options.prefix_age_s)
        spare = 0 if self._options.stateless else min(CACHE_LIMIT_BYTES, int(CACHE_SHARE * self._budget))
        self._core.set_cache_limit(spare)
        self._turns = Turns(self._loaded, self._options, self._prefix, budget_bytes=self._budget)
        self._beat()
        return self._turns

    def _load(self, plan: loader.Plan) -> loader.Loaded:
        """Load apart from the engine's thread: unpacking leaves that arena full of holes, and every step would pay."""
        return loader.load(self._folder, plan, check_contents=self._options.stateless, report=self._report)

    def _report(self, phase: str, pct: int) -> None:
        self.phase = f"loading {phase}"
        self._told(phase, pct)

    def _beat(self) -> None:
        self._active_bytes = self._core.get_active_memory() + self._core.get_cache_memory()
        self._turned = time.monotonic()

    def _drain(self, turns: Turns) -> bool:
        """Read all messages; block only while there is nothing to do. False ends the loop."""
        while True:
            busy = self._mark(turns)
            try:
                message = self._inbox.get(block=not busy, timeout=None if busy else self._prefix.forget_old())
            except queue.Empty:
                if busy:
                    return True
                continue  # kept context has grown old
            if isinstance(message, Close):
                return False
            self._read(turns, message)
            del message  # this may block for hours, and must not keep what was cancelled last

    def _mark(self, turns: Turns) -> bool:
        """Note whether there is work: a watchdog asks. Whoever posts just now has noted it, too."""
        busy = bool(turns.running or turns.waiting)
        self.phase = "busy" if busy else "ready"
        with self._door:
            self._pending = busy or not self._inbox.empty()
        return busy

    def _read(self, turns: Turns, message: Submit | Cancel | Release) -> None:
        match message:
            case Submit(live):
                turns.submit(live)
            case Cancel(live):
                turns.cancel(live)
            case Release(partition):
                self._prefix.release(partition)

    def _shut(self, phase: str) -> None:
        """Free everything on this thread and turn every reader away."""
        with self._door:
            self.closed = True
            self.phase = phase
        turns, self._turns = self._turns, None
        left = turns.close() if turns else []
        while not self._inbox.empty():
            message = self._inbox.get()
            left += [message.live] if isinstance(message, Submit) else []
        for live in left:
            live.mailbox.put(EngineClosed("the engine was closed while this request ran"))
        self._prefix.clear()
        self.__dict__.pop("_loaded", None)
        if "_core" in self.__dict__:
            self._core.clear_cache()
            # MLX would free this thread's streams after Python has forgotten the thread, and then wants the
            # interpreter's lock: at exit that aborts the process (seen in one of three).
            self._core.clear_streams()


def _loading(error: Exception) -> EngineFailed:
    return EngineFailed(f"the model could not be loaded: {type(error).__name__}: {error}")
