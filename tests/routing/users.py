"""Simulated users whose needs differ from the shipped mix, as outcomes with and without features. Texts are made up."""

import random
from collections.abc import Callable

from hybrid.routing.complexity import LearnedScorer
from hybrid.routing.evidence import Evidence, Lesson, Lessons
from hybrid.routing.features import extract
from hybrid.routing.log import score_step
from hybrid.routing.reservoir import FeatureRow
from hybrid.weights import load_scorer

SCORER: LearnedScorer = load_scorer(None)
NOISE = 0.08
HOUR_MIN = 60
START_MIN = 29_900_000

GARDEN = tuple(
    "roses tomatoes hedge lawn orchid compost seedlings ivy tulips herbs pruning mildew aphids greenhouse".split()  # noqa: SIM905
)
HOUSE = [
    "lights",
    "heating",
    "alarm",
    "timer",
    "volume",
    "playlist",
    "calendar",
    "reminder",
    "shopping",
    "oven",
    "blinds",
    "camera",
    "doorbell",
    "radio",
]
ASKS = (
    "what about the {a} and the {b}",
    "my {a} need something, is it the {b}",
    "can you help me with the {a} today",
    "tell me when the {a} and {b} are due",
    "how do i deal with {a} near the {b}",
    "set up the {a} for tomorrow morning",
)
CODE = (
    "def f(x):\n    return [i * {n} for i in x if i % {m}]\n\nWhat does f([{n}, {m}, 7]) return? Explain why.",
    "A train leaves at {n} km/h, another at {m} km/h. How many hours until they meet, 400 km apart?",
    "Derive the integral of x^{n} + {m} x and compare it with the derivative.",
)

Needs = Callable[[str, random.Random], float]
"""The chance that the local answer to a kind of request (garden, house, code) is wrong."""


def gardener(kind: str, _: random.Random) -> float:
    """Whose local model knows nothing of gardens, and code well: the opposite of the mix in one corner of it."""
    return 1 - NOISE if kind == "garden" else NOISE


def asked(kind: str, rng: random.Random) -> str:
    """One request of a kind."""
    if kind == "code":
        return rng.choice(CODE).format(n=rng.randint(2, 60), m=rng.randint(2, 60))
    words = GARDEN if kind == "garden" else HOUSE
    return rng.choice(ASKS).format(a=rng.choice(words), b=rng.choice(words))


def lived(
    needs: Needs, count: int, seed: int, *, kept: bool = True, flip: bool = False, days: int = 20
) -> tuple[Lesson, ...]:
    """Return what so many requests of a user came to, spread over some days.

    kept: whether features were kept.  flip: whether somebody turned every outcome around.
    """
    rng = random.Random(seed)  # noqa: S311 - a simulation
    step = days * 24 * HOUR_MIN // count
    return tuple(_one(needs, n, START_MIN + n * step, rng, kept=kept, flip=flip) for n in range(count))


def _one(needs: Needs, n: int, minute: int, rng: random.Random, *, kept: bool, flip: bool) -> Lesson:
    kind = rng.choice(("garden", "house", "house", "code"))
    row = FeatureRow.of(extract(asked(kind, rng)))
    wrong = rng.random() < needs(kind, rng)
    return Lesson(
        id=f"{n:04}",
        minute=minute,
        score=(score_step(value(SCORER, row)) + 0.5) / 16,
        wrong=float(wrong is not flip),
        weight=1.0,
        evidence=Evidence.VERDICT,
        row=row if kept else None,
    )


def value(scorer: LearnedScorer, row: FeatureRow) -> float:
    """The score of a row."""
    return scorer.score_hashed(row.values, row.words, row.pairs).value


def told(outcomes: tuple[Lesson, ...]) -> Lessons:
    """Outcomes as training takes them."""
    return Lessons(outcomes)
