"""Random inputs: labels only narrow, prices are monotone, counterfactuals are true."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.routing.decide import NoRoute, decide
from hybrid.routing.decision import Counterfactual, Decision
from hybrid.routing.labels import LabelReason, Labels, Source, from_source, typed
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
        battery=often(None, round(rng.random(), 3), rng.random()),  # type: ignore[arg-type]
        on_mains=rng.random() < 0.3,
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


def some_input(rng: random.Random) -> tuple[GenerateRequest, Labels, Signals, Mode, float | None]:
    kinds = rng.sample(("mail", "calendar", "file"), rng.choice((0, 0, 0, 1, 2)))
    sources = [Source(label=f"{k}.x", text=f"Some {k} text, number {rng.randrange(99)}.", kind=k) for k in kinds]
    req, labels = one_turn(rng.choice(TEXTS), *sources)
    threshold = rng.choice((None, None, None, round(rng.random(), 2)))
    return req, labels, some_signals(rng), rng.choice(list(Mode)), threshold


def applied(
    change: Counterfactual,
    req: GenerateRequest,
    labels: Labels,
    signals: Signals,
    mode: Mode,
    threshold: float | None,
) -> Decision:
    """Apply a counterfactual, read from its public words alone, to the inputs and decide again."""
    fields: dict[str, object] = {}
    parts = zip(change.change.split("+"), change.after.split("+"), strict=True)
    for what, after in parts:
        if what == "label":
            labels = Labels(tuple(replace(s, max_route=Route(after)) for s in labels.segments))
        elif what == "mode":
            mode = Mode(after)
        elif what == "threshold":
            threshold = float(after)
        elif what == "availability":
            state = replace(signals.availability, **{str(change.route): RouteState()})
            fields["availability"] = state
        else:
            fields.update(_field(what, after))
    return decide(req, labels, replace(signals, **fields), mode, SCORER, threshold=threshold)  # type: ignore[arg-type]


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


def decided(
    count: int, seed: int
) -> Iterator[tuple[Decision, tuple[GenerateRequest, Labels, Signals, Mode, float | None]]]:
    rng = random.Random(seed)  # noqa: S311 - a test's own dice
    made = 0
    while made < count:
        drawn = some_input(rng)
        req, labels, signals, mode, threshold = drawn
        try:
            decision = decide(req, labels, signals, mode, SCORER, threshold=threshold)
        except NoRoute:
            continue
        made += 1
        yield decision, drawn


def test_every_counterfactual_is_true_and_every_first_reason_binds() -> None:
    seen: set[str] = set()
    for decision, (req, labels, signals, mode, threshold) in decided(2500, seed=8):
        assert decision.reasons
        other = Route.ON_DEVICE if decision.route is Route.PRIVATE_CLOUD else Route.PRIVATE_CLOUD
        change = decision.counterfactual
        if change is None:
            assert signals.availability.of(other).reason in NOT_CONFIGURED
            continue
        assert change.route is other
        assert applied(change, req, labels, signals, mode, threshold).route is other, change
        seen.update(change.change.split("+"))
    everything = "label background availability offline quota tokens heat memory mode battery low_power device_wait link cost cloud_wait threshold"
    assert seen == set(everything.split())  # the generator reached every kind of change


def test_an_untrue_counterfactual_would_be_noticed() -> None:
    req, labels = one_turn(HARD)
    decision = decide(req, labels, Signals(), Mode.AUTO, SCORER)
    assert decision.counterfactual is not None
    untrue = replace(decision.counterfactual, after="0.10")
    assert applied(untrue, req, labels, Signals(), Mode.AUTO, None).route is decision.route


def test_no_part_of_a_counterfactual_can_be_left_out() -> None:
    for decision, (req, labels, signals, mode, threshold) in decided(600, seed=9):
        change = decision.counterfactual
        if change is None or "+" not in change.change:
            continue
        parts = list(zip(change.change.split("+"), change.before.split("+"), change.after.split("+"), strict=True))
        for i in range(len(parts)):
            rest = parts[:i] + parts[i + 1 :]
            fewer = replace(
                change,
                change="+".join(p[0] for p in rest),
                before="+".join(p[1] for p in rest),
                after="+".join(p[2] for p in rest),
            )
            try:
                assert applied(fewer, req, labels, signals, mode, threshold).route is decision.route, change
            except NoRoute:
                continue


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


WORSE_DEVICE = [
    ("battery", (None, 0.9, 0.5, 0.34, 0.2, 0.1, 0.05, 0.0)),
    ("low_power", (False, True)),
    ("thermal", tuple(Thermal)),
    ("memory", tuple(MemoryPressure)),
    ("device_wait_s", (0.0, 0.5, 3.0, 29.0, 31.0, 500.0)),
]
WORSE_CLOUD = [
    ("metered", (False, True)),
    ("offline", (False, True)),
    ("quota_left", (None, 0.5, 0.2, 0.1, 0.01, 0.0)),
    ("cost", (0.0, 0.05, 0.4, 9.0)),
    ("cloud_wait_s", (0.0, 0.5, 3.0, 29.0, 31.0, 500.0)),
]


@pytest.mark.parametrize(("field", "values", "towards"), [(*w, Route.PRIVATE_CLOUD) for w in WORSE_DEVICE])
@settings(max_examples=40, deadline=None)
@given(signals=SIGNALS, mode=MODES, text=st.sampled_from(TEXTS))
def test_a_worse_device_never_moves_a_decision_towards_the_device(
    field: str, values: tuple[object, ...], towards: Route, signals: Signals, mode: Mode, text: str
) -> None:
    _monotone(field, values, towards, signals, mode, text)


@pytest.mark.parametrize(("field", "values", "towards"), [(*w, Route.ON_DEVICE) for w in WORSE_CLOUD])
@settings(max_examples=40, deadline=None)
@given(signals=SIGNALS, mode=MODES, text=st.sampled_from(TEXTS))
def test_a_worse_link_or_price_never_moves_a_decision_towards_the_cloud(
    field: str, values: tuple[object, ...], towards: Route, signals: Signals, mode: Mode, text: str
) -> None:
    _monotone(field, values, towards, signals, mode, text)


def _monotone(field: str, values: tuple[object, ...], towards: Route, signals: Signals, mode: Mode, text: str) -> None:
    """Once a decision has moved, worse readings must not move it back."""
    req, labels = one_turn(text)
    moved = False
    for value in values:
        routes = outcome(req, labels, replace(signals, **{field: value}), mode)  # type: ignore[arg-type]
        if moved:
            assert routes <= {towards}
        moved = moved or routes == {towards}


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
