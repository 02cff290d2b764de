"""Drives the engine's turns by hand, one at a time, so that tests can count in turns and tokens instead of seconds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device import loader, runtime
from device.decode import TextStream
from device.lane import cut
from device.live import Live
from device.options import EngineOptions
from device.prefix import PrefixCache
from device.sampling import Chooser, processors
from device.turns import Turns
from hybrid.wire.types import Chunk

from .support import request

ROOM = 10**12


@dataclass
class Sink:
    """What a reader would have got."""

    items: list[Any] = field(default_factory=list)

    def put(self, item: Any) -> None:
        self.items.append(item)

    @property
    def ended(self) -> bool:
        last = self.items[-1] if self.items else None
        return isinstance(last, Exception) or (isinstance(last, Chunk) and last.finish_reason is not None)

    @property
    def failure(self) -> Exception | None:
        return next((item for item in self.items if isinstance(item, Exception)), None)


class Driver:
    """A model and the turns over it, on the caller's thread."""

    def __init__(self, folder: Path, *, budget_bytes: int = ROOM, **options: Any) -> None:
        runtime.mlx(threads=1)  # as in a node; where no test came before, since only the first call decides
        plan = loader.plan(folder, context_tokens=None, cpu=True, force=False)
        self.loaded = loader.load(folder, plan, check_contents=False)
        self.loaded.tokenizer.eos_token_ids = []  # lengths are what a test asks for
        wanted = EngineOptions(**{"max_rows": 8, "stateless": True, **options})
        self.turns = Turns(self.loaded, wanted, PrefixCache(ROOM, cut=cut), budget_bytes=budget_bytes)
        self.calls: list[tuple[int, int]] = []

    def submit(self, ids: list[int], *, max_tokens: int = 24, partition: str = "", **sampling: Any) -> Live:
        """Submit a prompt given as ids; greedy unless said otherwise, and no token ends it early."""
        wanted = request("x", max_tokens=max_tokens, **sampling)
        seed = wanted.sampling.seed or 0
        live = Live(
            request=wanted,
            partition=partition,
            ids=list(ids),
            max_tokens=max_tokens,
            mailbox=Sink(),  # type: ignore[arg-type]
            chooser=Chooser(wanted.sampling, seed=seed, with_signals=False),
            processors=processors(wanted.sampling),
            text=TextStream(self.loaded.tokenizer.detokenizer, wanted.sampling.stop),
            seed=seed,
            log=None,
        )
        self.turns.submit(live)
        return live

    def run(self, *, until: Callable[[], bool] | None = None, each: Callable[[], None] | None = None) -> int:
        """Turn until a condition holds, or nothing is left to do; returns the turns it took."""
        count = 0
        while (self.turns.running or self.turns.waiting) and not (until and until()):
            self.turns.turn()
            count += 1
            assert count < 20_000, "it never ends"
            if each:
                each()
        return count

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches as the arrays are."""
        running = sum(steps.cache_bytes for steps in self.turns._generators)
        return running + sum(layer.nbytes for reading in self.turns._readings for layer in reading.cache)

    @contextmanager
    def watched(self) -> Iterator[list[tuple[int, int]]]:
        """Note rows and tokens of every call of the model."""
        kind, calls = type(self.loaded.model), self.calls
        real = kind.__call__

        def call(model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
            calls.append(tuple(inputs.shape))
            return real(model, inputs, *arguments, **named)

        kind.__call__ = call
        try:
            yield calls
        finally:
            kind.__call__ = real

    def close(self) -> None:
        self.turns.close()
        runtime.mlx().clear_cache()


def sink(live: Live) -> Sink:
    """Return where a request's chunks went."""
    mailbox: Any = live.mailbox
    assert isinstance(mailbox, Sink)
    return mailbox


def prompt(length: int, start: int = 3) -> list[int]:
    """Return ids that differ from place to place and from prompt to prompt."""
    return [(start * 31 + at * at % 97 + at * 7) % 250 for at in range(length)]
