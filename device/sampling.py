"""Choosing the next token for one request: same seed, same tokens, alone or in a batch, before or after a rebuild.

Keys are derived from (seed, position), never taken from MLX's process-wide generator.
"""

import hashlib
import math
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

from hybrid.wire.types import Sampling

from . import runtime, signals
from .errors import bare

PENALTY_WINDOW = 20  # tokens the repetition penalty looks back, mlx-lm's default
GREEDY_BELOW = 1e-6  # a temperature below this leaves only the likeliest, and its inverse overflows
DRAWN_SEED_BITS = 53  # a seed drawn here survives JSON readers that know only doubles


class Chooser:
    """The sampler of one request, as BatchGenerator calls it. It never raises: see ``error``.

    recorder: what keeps the model's own scores where others change them before the choice; its signals are then of
    those, since a penalty or a grammar would make every token look certain.
    error: what went wrong, for the loop to act on after the step; the choice is then the likeliest token.
    """

    def __init__(
        self, sampling: Sampling, *, seed: int, with_signals: bool, recorder: "Recorder | None" = None
    ) -> None:
        self._core = runtime.mlx()
        self._sampling = sampling
        self._seed = seed
        self._with_signals = with_signals
        self._recorder = recorder if with_signals else None
        self._rows: deque[Any] = deque()
        self._position = 0
        self.error: Exception | None = None

    def restart(self, position: int) -> None:
        """Continue at a position of the answer: what was chosen ahead of it is forgotten."""
        self._position = position
        self._rows.clear()

    def __call__(self, scores: Any) -> Any:
        """Choose from log-probabilities (1, vocabulary); returns ids (1,)."""
        try:
            token = self._choose(scores)
            self._note(scores, token)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the neighbours' step
            self.error = bare(error)
            token = self._core.argmax(scores, axis=-1)
        self._position += 1
        return token

    def read(self, scores: Any, token: int) -> list[float]:
        """Return the signals of the token that has just come, empty where none are wanted.

        scores: the log-probabilities it was chosen from, evaluated; f32 is read in place, which costs no operation
        behind the step in flight.  Raises ArithmeticError when the model's numbers are not numbers: MLX itself would
        go on with token 0.
        """
        if self._rows:
            values: list[float] = self._rows.popleft().tolist()
        elif self._with_signals and self._recorder is None:
            values = [memoryview(scores)[token]]
        else:
            values = []
        if values and math.isnan(values[0]):
            raise ArithmeticError("the model's scores are not numbers")
        return values

    def _choose(self, scores: Any) -> Any:
        sampling, core = self._sampling, self._core
        if is_greedy(sampling):
            return core.argmax(scores, axis=-1)
        if sampling.top_p < 1.0:
            scores = runtime.mlx_lm("sample_utils").apply_top_p(scores, sampling.top_p)
        return core.random.categorical(scores * (1.0 / sampling.temperature), key=self._key())

    def _key(self) -> Any:
        return self._core.random.key(position_seed(self._seed, self._position))

    def _note(self, scores: Any, token: Any) -> None:
        """Make a row where one cannot be read in place later: always for the first token, and for 16-bit scores."""
        first = self._position == 0
        wanted = self._with_signals and (self._recorder is not None or scores.dtype != self._core.float32)
        if self._recorder is not None:
            if self._position >= signals.RECORDED or self._recorder.scores is None:
                return
            scores = self._recorder.scores
        if first or wanted:
            row = signals.row(self._core, scores, token, full=first and self._with_signals)
            self._core.async_eval(row)
            self._rows.append(row)


class Recorder:
    """The first logits processor of a request: keeps what the model said before anything changes it.

    scores: log-probabilities (1, vocabulary) of the token to come, for the first `signals.RECORDED` tokens.
    """

    def __init__(self) -> None:
        self.scores: Any = None
        self.error: Exception | None = None
        self._core = runtime.mlx()
        self._left = signals.RECORDED + 1  # one step is ahead

    def __call__(self, tokens: Any, scores: Any) -> Any:
        """Keep scores (1, vocabulary), not normalised, and pass them on.

        Normalised here, since a processor may write into the array that it is given.
        """
        del tokens
        self._left -= 1
        self.scores = signals.normalised(self._core, scores) if self._left >= 0 else None
        return scores


class Guarded:
    """A logits processor that may raise: the failure is kept and the scores pass unchanged."""

    def __init__(self, process: Callable[[Any, Any], Any]) -> None:
        self._process = process
        self.error: Exception | None = None

    def __call__(self, tokens: Any, scores: Any) -> Any:
        """Process scores (1, vocabulary) given the ids so far."""
        if self.error is not None:
            return scores
        try:
            return self._process(tokens, scores)
        except Exception as error:  # noqa: BLE001 - as in Chooser
            self.error = bare(error)
            return scores


def processors(sampling: Sampling) -> "Steps":
    """Build what changes scores before the choice: the repetition penalty, where one is asked for."""
    if sampling.repetition_penalty == 1.0:
        return []
    make = runtime.mlx_lm("sample_utils").make_repetition_penalty
    return [Guarded(make(sampling.repetition_penalty, PENALTY_WINDOW))]


def recorded(steps: "Steps") -> "tuple[Steps, Recorder | None]":
    """Put a recorder before what changes scores; none where nothing does."""
    if not steps:
        return steps, None
    recorder = Recorder()
    return [recorder, *steps], recorder


Steps = list[Recorder | Guarded]


def is_greedy(sampling: Sampling) -> bool:
    """Tell whether the likeliest token is always taken: hardly any temperature, or a top-p that leaves only one."""
    return sampling.temperature < GREEDY_BELOW or sampling.top_p == 0.0


def seed_of(sampling: Sampling) -> int:
    """Return the request's seed, or draw one."""
    return sampling.seed if sampling.seed is not None else secrets.randbits(DRAWN_SEED_BITS)


def position_seed(seed: int, position: int) -> int:
    """Derive the 64-bit key number of one position of one answer."""
    mixed = hashlib.blake2b(f"{seed}/{position}".encode("ascii"), digest_size=8).digest()
    return int.from_bytes(mixed, "big")
