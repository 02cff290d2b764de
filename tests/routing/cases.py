"""Small builders for routing tests: requests with their labels, a scorer of known numbers, and one line to decide."""

from collections.abc import Callable
from dataclasses import dataclass

from hybrid.routing.complexity import Score, Scorer
from hybrid.routing.decide import decide
from hybrid.routing.decision import Decision
from hybrid.routing.features import Features
from hybrid.routing.labels import Labels, Segment, Source, from_source, typed
from hybrid.routing.policy import Mode
from hybrid.routing.signals import Availability, RouteState, Signals, curve
from hybrid.wire.types import GenerateRequest, Message, Role, Route

SIMPLE = "What is the capital of France?"
HARD = "Make a step-by-step plan to organise a birthday party for ten children: invitations, food, games and budget."
OFFERS = "What are the two offers, how do they differ, and by when?"
SKY = "Explain why the sky is blue and how rain and snow form in detail"
SCORES = {SIMPLE: 0.10, HARD: 0.93, OFFERS: 0.54, SKY: 0.50}
RANKS = ((-0.60, 0.30), (0.02, 0.55), (0.30, 0.85), (0.60, 1.0))
STEPS = frozenset({"derive", "prove", "compare", "plan", "explain", "write", "sort"})


@dataclass(frozen=True, slots=True)
class Scripted:
    """A scorer of round numbers: a known score for the texts above, a plain formula for all others.

    At neutral prices its threshold is 0.55. A full context adds 0.2.
    """

    name: str = "scripted-1:test"
    version: str = "scripted-1"
    calibrated: bool = False
    novelty: float | None = None

    def score(self, features: Features) -> Score:
        words = [word.strip(",.:;?") for word in features.text.lower().split()]
        parts = {"steps": 0.15 * sum(word in STEPS for word in words), "length": 0.01 * len(words) - 0.15}
        known = SCORES.get(features.text, 0.2 + sum(parts.values()))
        value = min(1.0, max(0.0, known + 0.2 * features.values["context"]))
        top = sorted(((n, round(v, 2)) for n, v in parts.items() if v), key=lambda part: -abs(part[1]))
        gain = round(value - 0.5, 4)
        return Score(value=round(value, 4), top=tuple(top), p_ok=0.6, gain=gain, novelty=self.novelty)

    def rank(self, gain: float) -> float:
        return curve(RANKS, gain)

    def threshold(self, need: float) -> float:
        return round(self.rank(need), 4)


SCORER = Scripted()

MAIL = Source(label="doctor.eml", text="The X-ray shows a fracture.", kind="mail")
OPEN_FILE = Source(label="notes.txt", text="Notes for everyone.", kind="file")


def request(*texts: str) -> GenerateRequest:
    """Build a conversation: user and assistant in turn, the user last."""
    roles = (Role.USER, Role.ASSISTANT)
    return GenerateRequest(messages=tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(texts)))


def one_turn(text: str, *sources: Source) -> tuple[GenerateRequest, Labels]:
    """Build a single turn as the SDK composes it: the sources' texts, then the question."""
    content = "\n\n".join((*(s.text for s in sources), text))
    return request(content), Labels((*(from_source(s) for s in sources), typed(text)))


def route(
    text: str = SIMPLE,
    *sources: Source,
    signals: Signals = Signals(),  # noqa: B008 - frozen
    mode: Mode = Mode.AUTO,
    model: Scorer = SCORER,
    threshold: float | None = None,
    budget: float | None = None,
    explore: float = 0.0,
    rng: Callable[[], float] | None = None,
) -> Decision:
    """Decide a single turn."""
    request, labels = one_turn(text, *sources)
    numbers = {"threshold": threshold, "budget": budget}
    return decide(request, labels, signals, mode, model, **numbers, explore=explore, rng=rng)


def away(route: Route, reason: str, **signals: object) -> Signals:
    """Signals with one route unavailable for a reason."""
    state = Availability(**{str(route): RouteState(available=False, reason=reason)})
    return Signals(availability=state, **signals)  # type: ignore[arg-type]


def kept(text: str, source: str = "doctor.eml") -> Segment:
    """A segment that must stay on the device."""
    return from_source(Source(label=source, text=text, kind="mail"))
