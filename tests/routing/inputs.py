"""Random inputs for decide(), and a counterfactual applied to them by its public words alone."""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace

from hybrid.routing.decide import NoRoute, decide
from hybrid.routing.decision import Counterfactual, Decision
from hybrid.routing.features import Conversation
from hybrid.routing.labels import LabelReason, Labels, Source
from hybrid.routing.policy import Mode
from hybrid.routing.signals import Availability, Doubt, MemoryPressure, RouteState, Signals, Thermal
from hybrid.wire.types import GenerateRequest, Route
from tests.routing.cases import HARD, OFFERS, SCORER, SIMPLE, SKY, one_turn

TEXTS = (
    SIMPLE,
    HARD,
    SKY,
    OFFERS,
    "Explain why the sky is blue and how rain forms",
    "Write a Python function that merges overlapping intervals, without using sort, in at most 20 lines.",
    "def f(x):\n    return x * 2\n\nWhat does f(f(3)) return?",
)
STATES = (
    RouteState(),
    RouteState(available=False, reason="node_unreachable"),
    RouteState(available=False, reason="attestation_failed"),
    RouteState(available=False, reason="key_expired"),
)
NO_NODE = RouteState(available=False, reason="no_node")
DOUBTS = (Doubt(code="doubt"), Doubt(code="unparseable", score=0.9), Doubt(code="repeat", score=0.6))


def some_signals(rng: random.Random) -> Signals:
    """Draw readings; each is neutral more often than not, so that soft changes decide often enough."""

    def often(neutral: object, *others: object) -> object:
        return neutral if rng.random() < 0.7 else rng.choice(others)

    return Signals(
        availability=Availability(on_device=often(*STATES), private_cloud=often(*STATES, NO_NODE)),  # type: ignore[arg-type]
        battery=rng.choice((None, rng.random(), rng.random() / 4)),
        on_mains=rng.random() < 0.5,
        low_power=rng.random() < 0.2,
        thermal=often(*Thermal),  # type: ignore[arg-type]
        memory=often(*MemoryPressure),  # type: ignore[arg-type]
        offline=rng.random() < 0.1,
        metered=rng.random() < 0.3,
        quota_left=often(None, rng.random() / 3, 0.0),  # type: ignore[arg-type]
        cost=often(0.0, rng.random() / 2),  # type: ignore[arg-type]
        device_wait_s=often(None, rng.random() * 60),  # type: ignore[arg-type]
        cloud_wait_s=often(None, rng.random() * 60),  # type: ignore[arg-type]
        device_window=often(None, 16, 64, 512),  # type: ignore[arg-type]
        cloud_window=often(None, 16, 64, 512),  # type: ignore[arg-type]
        needed_tokens=often(None, rng.randrange(1, 600)),  # type: ignore[arg-type]
        tokens_counted=rng.random() < 0.5,
        current_route=often(None, *Route),  # type: ignore[arg-type]
        conversation=Conversation(turn=rng.randrange(1, 9), reask=rng.random(), rejected=rng.random() < 0.2),
        doubt=often(None, *DOUBTS),  # type: ignore[arg-type]
        person=often("", "pinned", "overridden"),  # type: ignore[arg-type]
        background=rng.random() < 0.05,
        evidence_age_s=often(None, 60.0, 90_000.0),  # type: ignore[arg-type]
        evidence_limit_s=often(86_400.0, None),  # type: ignore[arg-type]
        budget_share=often(None, 0.2),  # type: ignore[arg-type]
        budget_used=often(None, 0.21),  # type: ignore[arg-type]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Everything decide() takes. roll: what its randomness gives."""

    request: GenerateRequest
    labels: Labels
    signals: Signals
    mode: Mode
    threshold: float | None = None
    budget: float | None = None
    explore: float = 0.0
    roll: float = 1.0

    def decide(self) -> Decision:
        numbers = {"threshold": self.threshold, "budget": self.budget}
        how = {"explore": self.explore, "rng": lambda: self.roll}
        return decide(self.request, self.labels, self.signals, self.mode, SCORER, **numbers, **how)  # type: ignore[arg-type]


def some_input(rng: random.Random) -> Drawn:
    kinds = rng.sample(("mail", "calendar", "file"), rng.choice((0, 0, 0, 1, 2)))
    sources = [Source(label=f"{k}.x", text=f"Some {k} text, number {rng.randrange(99)}.", kind=k) for k in kinds]
    request, labels = one_turn(rng.choice(TEXTS), *sources)
    if rng.random() < 0.1:
        found = labels.segments[-1].restricted(LabelReason.RECOGNISED, ("PHONE_NUMBER", "EMAIL_ADDRESS", "IBAN_CODE"))
        labels = Labels((*labels.segments[:-1], found.cleared() if rng.random() < 0.5 else found))
    return Drawn(
        request=request,
        labels=labels,
        signals=some_signals(rng),
        mode=rng.choice((Mode.AUTO, *Mode)),
        threshold=rng.choice((None, None, None, round(rng.random(), 2))),
        budget=rng.choice((None, None, rng.random(), 1.01)),
        explore=rng.choice((0.0, 0.02)),
        roll=rng.choice((0.001, 0.5)),
    )


def decided(count: int, seed: int) -> Iterator[tuple[Decision, Drawn]]:
    """Draw inputs until so many of them have led to a decision."""
    rng = random.Random(seed)  # noqa: S311 - a test's own dice
    made = 0
    while made < count:
        drawn = some_input(rng)
        with suppress(NoRoute):
            yield drawn.decide(), drawn
            made += 1


def applied(change: Counterfactual, drawn: Drawn) -> Decision:
    """Apply a counterfactual, read from its public words alone, to the inputs and decide again."""
    for what, after in zip(change.change.split("+"), change.after.split("+"), strict=True):
        drawn = _changed(drawn, what, after, change.route)
    return drawn.decide()


def without_part(change: Counterfactual, index: int) -> Counterfactual:
    """Leave one part of a counterfactual out."""
    whats, afters = change.change.split("+"), change.after.split("+")
    return replace(
        change,
        change="+".join(whats[:index] + whats[index + 1 :]),
        after="+".join(afters[:index] + afters[index + 1 :]),
    )


def _changed(drawn: Drawn, what: str, after: str, route: Route) -> Drawn:
    if what == "label":
        return replace(drawn, labels=Labels(tuple(replace(s, max_route=Route(after)) for s in drawn.labels.segments)))
    if what == "mode":
        return replace(drawn, mode=Mode(after))
    if what in {"threshold", "budget"}:
        return replace(drawn, **{what: float(after)})  # type: ignore[arg-type]
    if what == "explore":
        return replace(drawn, explore=0.0)
    if what == "availability":
        state = replace(drawn.signals.availability, **{str(route): RouteState()})
        return replace(drawn, signals=replace(drawn.signals, availability=state))
    return replace(drawn, signals=replace(drawn.signals, **READ[what](after)))  # type: ignore[operator]


READ = {
    "background": lambda word: {"background": word == "true"},
    "offline": lambda word: {"offline": word == "true"},
    "evidence": lambda word: {"evidence_age_s": {"fresh": 0.0}[word]},
    "quota": lambda word: {"quota_left": float(word)},
    "tokens": lambda word: {"needed_tokens": int(word)},
    "heat": lambda word: {"thermal": Thermal(word)},
    "memory": lambda word: {"memory": MemoryPressure(word)},
    "battery": lambda word: {"battery": float(word)},
    "low_power": lambda word: {"low_power": word == "true"},
    "device_wait": lambda word: {"device_wait_s": float(word)},
    "cloud_wait": lambda word: {"cloud_wait_s": float(word)},
    "link": lambda word: {"metered": word == "true"},
    "cost": lambda word: {"cost": float(word)},
}
KINDS_OF_CHANGE = {"label", "mode", "threshold", "budget", "explore", "availability", *READ}
FIELDS = {f.name for f in fields(Signals)}
