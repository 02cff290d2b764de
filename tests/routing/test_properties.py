"""Random inputs: labels only narrow, prices are monotone, counterfactuals are true."""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.routing.decide import NoRoute, decide
from hybrid.routing.decision import Counterfactual, Decision
from hybrid.routing.labels import LabelReason, Labels, Source, from_source
from hybrid.routing.policy import Mode
from hybrid.routing.signals import (
    NOT_CONFIGURED,
    Availability,
    MemoryPressure,
    RouteState,
    Signals,
    Thermal,
    prices,
)
from hybrid.wire.types import GenerateRequest, Route
from tests.routing.cases import HARD, SCORER, SIMPLE, one_turn, request

TEXTS = (
    SIMPLE,
    HARD,
    "Explain why the sky is blue and how rain forms",
    "What are the two offers, how do they differ, and by when do I have to decide?",
    "What are the two offers, how do they differ, and by when?",
    "Write a Python function that merges overlapping intervals, without using sort, in at most 20 lines.",
    "def f(x):\n    return x * 2\n\nWhat does f(f(3)) return?",
)
STATES = (
    RouteState(),
    RouteState(available=False, reason="node_unreachable"),
    RouteState(available=False, reason="attestation_failed"),
)


def some_signals(rng: random.Random) -> Signals:
    """Draw readings; each is neutral more often than not, so that soft changes decide often enough."""

    def often(neutral: object, *others: object) -> object:
        return neutral if rng.random() < 0.7 else rng.choice(others)

    no_node = RouteState(available=False, reason="no_node")
    return Signals(
        availability=Availability(on_device=often(*STATES), private_cloud=often(*STATES, no_node)),  # type: ignore[arg-type]
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
        current_route=often(None, *Route),  # type: ignore[arg-type]
        background=rng.random() < 0.05,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Everything decide() takes."""

    request: GenerateRequest
    labels: Labels
    signals: Signals
    mode: Mode
    threshold: float | None

    def decide(self) -> Decision:
        return decide(self.request, self.labels, self.signals, self.mode, SCORER, threshold=self.threshold)


def some_input(rng: random.Random) -> Drawn:
    kinds = rng.sample(("mail", "calendar", "file"), rng.choice((0, 0, 0, 1, 2)))
    sources = [Source(label=f"{k}.x", text=f"Some {k} text, number {rng.randrange(99)}.", kind=k) for k in kinds]
    req, labels = one_turn(rng.choice(TEXTS), *sources)
    threshold = rng.choice((None, None, None, round(rng.random(), 2)))
    return Drawn(
        request=req, labels=labels, signals=some_signals(rng), mode=rng.choice(list(Mode)), threshold=threshold
    )


def applied(change: Counterfactual, drawn: Drawn) -> Decision:
    """Apply a counterfactual, read from its public words alone, to the inputs and decide again."""
    for what, after in zip(change.change.split("+"), change.after.split("+"), strict=True):
        if what == "label":
            free = Labels(tuple(replace(s, max_route=Route(after)) for s in drawn.labels.segments))
            drawn = replace(drawn, labels=free)
        elif what == "mode":
            drawn = replace(drawn, mode=Mode(after))
        elif what == "threshold":
            drawn = replace(drawn, threshold=float(after))
        elif what == "availability":
            state = replace(drawn.signals.availability, **{str(change.route): RouteState()})
            drawn = replace(drawn, signals=replace(drawn.signals, availability=state))
        else:
            drawn = replace(drawn, signals=replace(drawn.signals, **_field(what, after)))  # type: ignore[arg-type]
    return drawn.decide()


def _field(what: str, after: str) -> dict[str, object]:
    return {
        "background": lambda: {"background": after == "true"},
        "offline": lambda: {"offline": after == "true"},
        "quota": lambda: {"quota_left": float(after)},
        "tokens": lambda: {"needed_tokens": int(after)},
        "heat": lambda: {"thermal": Thermal(after)},
        "memory": lambda: {"memory": MemoryPressure(after)},
        "battery": lambda: {"battery": float(after)},
        "low_power": lambda: {"low_power": after == "true"},
        "device_wait": lambda: {"device_wait_s": float(after)},
        "cloud_wait": lambda: {"cloud_wait_s": float(after)},
        "link": lambda: {"metered": after == "true"},
        "cost": lambda: {"cost": float(after)},
    }[what]()


def decided(count: int, seed: int) -> Iterator[tuple[Decision, Drawn]]:
    """Draw inputs until so many of them have led to a decision."""
    rng = random.Random(seed)  # noqa: S311 - a test's own dice
    made = 0
    while made < count:
        drawn = some_input(rng)
        with suppress(NoRoute):
            yield drawn.decide(), drawn
            made += 1


BARS = {"label", "background", "availability", "offline", "quota", "tokens", "heat", "memory"}
READINGS = {"battery", "low_power", "device_wait", "link", "cost", "cloud_wait"}
KINDS_OF_CHANGE = BARS | READINGS | {"mode", "threshold"}


def test_every_counterfactual_is_true() -> None:
    seen: set[str] = set()
    for decision, drawn in decided(5000, seed=8):
        other = Route.ON_DEVICE if decision.route is Route.PRIVATE_CLOUD else Route.PRIVATE_CLOUD
        change = decision.counterfactual
        if change is None:
            assert drawn.signals.availability.of(other).reason in NOT_CONFIGURED
            continue
        assert change.route is other
        assert applied(change, drawn).route is other, change
        seen.update(change.change.split("+"))
    assert seen == KINDS_OF_CHANGE  # the generator reached every kind of change


def test_an_untrue_counterfactual_would_be_noticed() -> None:
    req, labels = one_turn(HARD)
    drawn = Drawn(request=req, labels=labels, signals=Signals(), mode=Mode.AUTO, threshold=None)
    decision = drawn.decide()
    assert decision.counterfactual is not None
    assert applied(replace(decision.counterfactual, after="0.10"), drawn).route is decision.route


def test_no_part_of_a_counterfactual_can_be_left_out() -> None:
    for decision, drawn in decided(800, seed=9):
        change = decision.counterfactual
        if change is None or "+" not in change.change:
            continue
        whats, afters = change.change.split("+"), change.after.split("+")
        for i in range(len(whats)):
            fewer = replace(
                change, change="+".join(whats[:i] + whats[i + 1 :]), after="+".join(afters[:i] + afters[i + 1 :])
            )
            with suppress(NoRoute):
                assert applied(fewer, drawn).route is decision.route, change


def test_every_code_is_in_the_document() -> None:
    document = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
    codes = {code for decision, _ in decided(800, seed=11) for code in decision.codes}
    assert {"label", "degraded", "does_not_fit"} < codes
    assert {code for code in codes if f"`{code}`" not in document} == set()


def test_the_first_reason_names_the_layer_that_bound() -> None:
    for decision, drawn in decided(800, seed=10):
        first, limited = decision.reasons[0], drawn.labels.binding() is not None
        assert first.code
        assert first.text
        if limited and decision.route is Route.ON_DEVICE:
            assert first.code == "label"
        if first.layer == "complexity":
            assert drawn.mode is Mode.AUTO
            assert (decision.route is Route.PRIVATE_CLOUD) == (decision.score >= decision.threshold)


def outcome(req: GenerateRequest, labels: Labels, signals: Signals, mode: Mode) -> set[Route]:
    try:
        return {decide(req, labels, signals, mode, SCORER).route}
    except NoRoute:
        return set()


SIGNALS = st.builds(lambda seed: some_signals(random.Random(seed)), st.integers(0, 2**32))  # noqa: S311
MODES = st.sampled_from(list(Mode))


@settings(max_examples=150, deadline=None)
@given(SIGNALS, MODES, st.sampled_from(TEXTS), st.sampled_from(["mail", "calendar", "contacts", "index", "unheard of"]))
def test_a_limited_source_never_leads_to_the_cloud(signals: Signals, mode: Mode, text: str, kind: str) -> None:
    free_req, free = one_turn(text)
    source = Source(label="x", text="What the source says.", kind=kind)
    bound_req, bound = one_turn(text, source)
    assert Route.PRIVATE_CLOUD not in outcome(bound_req, bound, signals, mode)
    assert outcome(free_req, free, signals, mode) <= {Route.ON_DEVICE, Route.PRIVATE_CLOUD}


@settings(max_examples=100, deadline=None)
@given(SIGNALS, MODES, st.sampled_from(TEXTS), st.sampled_from(list(LabelReason)))
def test_a_detector_hit_never_adds_a_route(signals: Signals, mode: Mode, text: str, why: LabelReason) -> None:
    req, labels = one_turn(text)
    hit = Labels(tuple(s.restricted(why, ("X",)) for s in labels.segments))
    assert Route.PRIVATE_CLOUD not in outcome(req, hit, signals, mode)


@settings(max_examples=100, deadline=None)
@given(SIGNALS, MODES, st.lists(st.booleans(), min_size=2, max_size=6))
def test_a_longer_history_never_lets_a_limited_turn_leave(signals: Signals, mode: Mode, limits: list[bool]) -> None:
    texts = [f"turn {i}" for i in range(2 * len(limits) - 1)]
    kinds = ["mail" if limited else "file" for limited in limits]
    labels = Labels(tuple(from_source(Source(label="s", text=t, kind=kinds[i // 2])) for i, t in enumerate(texts)))
    routes = outcome(request(*texts), labels, signals, mode)
    if limits[-1]:
        assert Route.PRIVATE_CLOUD not in routes


Worse = tuple[str, tuple[object, ...]]
WORSE_DEVICE: list[Worse] = [
    ("battery", (None, 0.9, 0.5, 0.34, 0.2, 0.1, 0.05, 0.0)),
    ("low_power", (False, True)),
    ("thermal", tuple(Thermal)),
    ("memory", tuple(MemoryPressure)),
    ("device_wait_s", (0.0, 0.5, 3.0, 29.0, 31.0, 500.0)),
]
WORSE_CLOUD: list[Worse] = [
    ("metered", (False, True)),
    ("offline", (False, True)),
    ("quota_left", (None, 0.5, 0.2, 0.1, 0.01, 0.0)),
    ("cost", (0.0, 0.05, 0.4, 9.0)),
    ("cloud_wait_s", (0.0, 0.5, 3.0, 29.0, 31.0, 500.0)),
]


@pytest.mark.parametrize("worse", WORSE_DEVICE, ids=lambda w: w[0])
@settings(max_examples=40, deadline=None)
@given(signals=SIGNALS, mode=MODES, text=st.sampled_from(TEXTS))
def test_a_worse_device_never_moves_a_decision_towards_the_device(
    worse: Worse, signals: Signals, mode: Mode, text: str
) -> None:
    assert never_moves_back(worse, Route.PRIVATE_CLOUD, outcomes(worse, signals, mode, text))


@pytest.mark.parametrize("worse", WORSE_CLOUD, ids=lambda w: w[0])
@settings(max_examples=40, deadline=None)
@given(signals=SIGNALS, mode=MODES, text=st.sampled_from(TEXTS))
def test_a_worse_link_or_price_never_moves_a_decision_towards_the_cloud(
    worse: Worse, signals: Signals, mode: Mode, text: str
) -> None:
    assert never_moves_back(worse, Route.ON_DEVICE, outcomes(worse, signals, mode, text))


def outcomes(worse: Worse, signals: Signals, mode: Mode, text: str) -> list[set[Route]]:
    """Decide once for each reading, the best first."""
    field, readings = worse
    req, labels = one_turn(text)
    return [outcome(req, labels, replace(signals, **{field: r}), mode) for r in readings]  # type: ignore[arg-type]


def never_moves_back(worse: Worse, towards: Route, routes: list[set[Route]]) -> bool:
    """Say whether, once a decision has moved, worse readings leave it there or end it."""
    assert len(routes) == len(worse[1])
    first = next((i for i, found in enumerate(routes) if found == {towards}), len(routes))
    return all(found <= {towards} for found in routes[first:])


def test_readings_that_matter_do_move_a_decision() -> None:
    text, signals = TEXTS[3], Signals(on_mains=False)
    moved = [w[0] for w in WORSE_CLOUD if len({frozenset(o) for o in outcomes(w, signals, Mode.AUTO, text)}) > 1]
    assert moved == [w[0] for w in WORSE_CLOUD if w[0] != "metered"]


def test_every_price_is_zero_at_its_neutral_reading_but_that_of_leaving() -> None:
    neutral = prices(Signals(), size_bytes=5000, context_tokens=900)
    assert neutral.device_total == 0.0
    assert neutral.cloud_total == 0.02


@pytest.mark.parametrize(("battery", "price"), [(1.0, 0.0), (0.5, 0.0), (0.2, 0.10), (0.05, 0.25), (0.0, 0.25)])
def test_the_battery_curve_has_the_corners_of_the_table(battery: float, price: float) -> None:
    signals = Signals(battery=battery, on_mains=False)
    assert prices(signals, size_bytes=0, context_tokens=0).device_total == pytest.approx(price)


def test_a_battery_on_mains_costs_nothing() -> None:
    assert prices(Signals(battery=0.05, on_mains=True), size_bytes=0, context_tokens=0).device_total == 0.0
