"""Random inputs: labels only narrow, prices are monotone, counterfactuals are true, and randomness only ever keeps."""

import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.routing.decide import NoRoute, decide
from hybrid.routing.features import Conversation
from hybrid.routing.labels import LabelReason, Labels, Source, from_source
from hybrid.routing.layers import Facts
from hybrid.routing.policy import Allowed, Mode, Widened
from hybrid.routing.signals import (
    NOT_CONFIGURED,
    Doubt,
    MemoryPressure,
    RouteState,
    Signals,
    Thermal,
    prices,
)
from hybrid.wire.types import GenerateRequest, Route
from tests.routing.cases import HARD, OFFERS, SCORER, one_turn, request
from tests.routing.inputs import (
    FIELDS,
    KINDS_OF_CHANGE,
    STATES,
    TEXTS,
    Drawn,
    applied,
    decided,
    some_input,
    some_signals,
    without_part,
)

ROOT = Path(__file__).parents[2]

# --- R8: reasons and counterfactuals ---------------------------------------------------------------------------------


def check_counterfactuals(count: int, seed: int) -> set[str]:
    """Apply every counterfactual and decide again; return the kinds of change that were met."""
    seen: set[str] = set()
    for decision, drawn in decided(count, seed):
        other = Route.ON_DEVICE if decision.route is Route.PRIVATE_CLOUD else Route.PRIVATE_CLOUD
        change = decision.counterfactual
        if change is None:
            assert drawn.signals.availability.of(other).reason in NOT_CONFIGURED
            continue
        assert change.route is other
        assert applied(change, drawn).route is other, change
        seen.update(change.change.split("+"))
    return seen


def test_every_counterfactual_is_true() -> None:
    check_counterfactuals(500, seed=8)


@pytest.mark.soak
def test_every_counterfactual_is_true_over_many_inputs_and_every_kind_of_change() -> None:
    assert check_counterfactuals(5000, seed=9) == KINDS_OF_CHANGE  # the generator reached every kind


def test_an_untrue_counterfactual_would_be_noticed() -> None:
    req, labels = one_turn(HARD)
    drawn = Drawn(request=req, labels=labels, signals=Signals(), mode=Mode.AUTO)
    decision = drawn.decide()
    assert decision.counterfactual is not None
    assert applied(replace(decision.counterfactual, after="0.10"), drawn).route is decision.route


def test_no_part_of_a_counterfactual_can_be_left_out() -> None:
    for decision, drawn in decided(500, seed=10):
        change = decision.counterfactual
        if change is None or "+" not in change.change:
            continue
        # chance might keep it on the device with less
        by_rule = drawn if change.route is Route.PRIVATE_CLOUD else replace(drawn, explore=0.0)
        for i in range(len(change.change.split("+"))):
            with suppress(NoRoute):
                assert applied(without_part(change, i), by_rule).route is decision.route, change


def test_the_first_reason_names_the_layer_that_bound() -> None:
    for decision, drawn in decided(500, seed=11):
        first, limited = decision.reasons[0], drawn.labels.binding() is not None
        assert first.code
        assert first.text
        if limited and decision.route is Route.ON_DEVICE:
            assert first.code in {"label", "recognised"}
        if first.code in {"simple", "complex"}:
            assert drawn.mode is Mode.AUTO
            assert (decision.route is Route.PRIVATE_CLOUD) == (decision.score >= decision.threshold)


def test_contributions_are_signed_and_a_reason_names_those_of_its_own_side() -> None:
    for decision, _ in decided(300, seed=12):
        reason = next(r for r in decision.reasons if r.code in {"simple", "complex"})
        parts = [part for _, part in decision.signals["top"]]
        assert parts == sorted(parts, key=lambda part: -abs(part))
        speaking = [name for name, part in decision.signals["top"] if (part > 0) == (reason.code == "complex")]
        named = {"steps": "steps", "length": "length"}
        assert {n for n in named if f" {named[n]}" in reason.text.split(";")[0]} == set(speaking)


def test_every_code_is_in_the_document() -> None:
    document = (ROOT / "docs" / "routing.md").read_text()
    codes = {code for decision, _ in decided(800, seed=13) for code in decision.codes}
    assert {"label", "degraded", "does_not_fit", "budget", "explore", "user_cleared", "pinned"} < codes
    assert {code for code in codes if f"`{code}`" not in document} == set()


# --- R2: nothing widens ----------------------------------------------------------------------------------------------


def outcome(req: GenerateRequest, labels: Labels, signals: Signals, mode: Mode, **how: float) -> set[Route]:
    try:
        return {decide(req, labels, signals, mode, SCORER, **how).route}  # type: ignore[arg-type]
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


@pytest.mark.parametrize("layer", ["privacy", "availability", "device_state"])
def test_a_layer_that_returns_a_wider_set_is_refused(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid.routing import layers

    def widening(facts: Facts, allowed: Allowed) -> Allowed:
        return Allowed(allowed.removed[1:])

    labels = Labels((from_source(Source(label="x", text=HARD, kind="mail")),))
    assert decide(request(HARD), labels, Signals(), Mode.AUTO, SCORER).route is Route.ON_DEVICE
    monkeypatch.setattr(layers, "availability" if layer == "privacy" else layer, widening)
    with pytest.raises(Widened):
        decide(request(HARD), labels, Signals(), Mode.AUTO, SCORER)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.0199))
def test_exploring_never_sends_what_would_have_stayed(seed: int, roll: float) -> None:
    drawn = replace(some_input(random.Random(seed)), explore=0.0)  # noqa: S311
    with suppress(NoRoute):
        plain, explored = drawn.decide(), replace(drawn, explore=0.02, roll=roll).decide()
        if plain.route is not explored.route:
            assert (plain.route, explored.route) == (Route.PRIVATE_CLOUD, Route.ON_DEVICE)
            assert explored.codes[0] == "explore"
            assert abs(plain.score - plain.threshold) <= 0.08
            assert explored.signals["propensity"] == 0.02
        assert (explored.codes[0] == "explore") == (plain.route is not explored.route)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1.01))
def test_a_budget_never_sends_what_would_have_stayed(seed: int, budget: float) -> None:
    drawn = replace(some_input(random.Random(seed)), explore=0.0, budget=None)  # noqa: S311
    with suppress(NoRoute):
        plain, bounded = drawn.decide(), replace(drawn, budget=budget).decide()
        assert bounded.threshold >= plain.threshold
        if plain.route is not bounded.route:
            assert (plain.route, bounded.codes[0]) == (Route.PRIVATE_CLOUD, "budget")
        assert ("budget" in bounded.codes) == (plain.route is not bounded.route)


# --- R6: monotone in every field -------------------------------------------------------------------------------------

Worse = tuple[str, tuple[object, ...]]
WORSE_DEVICE: list[Worse] = [
    ("battery", (None, 0.9, 0.5, 0.34, 0.2, 0.1, 0.05, 0.0)),
    ("on_mains", (True, False)),
    ("low_power", (False, True)),
    ("thermal", tuple(Thermal)),
    ("memory", tuple(MemoryPressure)),
    ("device_wait_s", (0.0, 0.5, 3.0, 29.0, 31.0, 500.0)),
    ("device_window", (None, 512, 64, 16)),
    ("doubt", (None, Doubt(code="doubt"))),
    ("doubt", tuple(Doubt(code="repeat", score=n / 10) for n in range(11))),
]
WORSE_CLOUD: list[Worse] = [
    ("metered", (False, True)),
    ("offline", (False, True)),
    ("quota_left", (None, 0.5, 0.2, 0.1, 0.01, 0.0)),
    ("cost", (0.0, 0.05, 0.4, 9.0)),
    ("cloud_wait_s", (0.0, 0.5, 3.0, 29.0, 31.0, 500.0)),
    ("cloud_window", (None, 512, 64, 16)),
    ("evidence_age_s", (None, 0.0, 3600.0, 90_000.0)),
    ("evidence_limit_s", (None, 90_000.0, 100.0, 1.0)),
    ("background", (False, True)),
]
AVAILABILITY: list[tuple[str, Route]] = [("on_device", Route.PRIVATE_CLOUD), ("private_cloud", Route.ON_DEVICE)]
SHOWN_ONLY: dict[str, tuple[object, ...]] = {
    "tokens_counted": (False, True),
    "person": ("", "pinned", "overridden"),
    "budget_share": (None, 0.0, 0.5, 1.0),
    "budget_used": (None, 0.0, 0.5, 1.0),
}
NO_ORDER = {"needed_tokens", "current_route", "conversation"}


def test_every_field_of_the_signals_is_in_one_of_the_tables() -> None:
    ordered = {name for name, _ in (*WORSE_DEVICE, *WORSE_CLOUD)} | {"availability"}
    assert ordered | set(SHOWN_ONLY) | NO_ORDER == FIELDS


@pytest.mark.parametrize("worse", WORSE_DEVICE, ids=lambda w: f"{w[0]}-{len(w[1])}")
@settings(max_examples=40, deadline=None)
@given(signals=SIGNALS, mode=MODES, text=st.sampled_from(TEXTS), budget=st.sampled_from([None, 0.3, 0.7]))
def test_a_worse_device_never_moves_a_decision_towards_the_device(
    worse: Worse, signals: Signals, mode: Mode, text: str, budget: float | None
) -> None:
    assert never_moves_back(Route.PRIVATE_CLOUD, outcomes(worse, signals, mode, text, budget))


@pytest.mark.parametrize("worse", WORSE_CLOUD, ids=lambda w: w[0])
@settings(max_examples=40, deadline=None)
@given(signals=SIGNALS, mode=MODES, text=st.sampled_from(TEXTS), budget=st.sampled_from([None, 0.3, 0.7]))
def test_a_worse_link_or_price_never_moves_a_decision_towards_the_cloud(
    worse: Worse, signals: Signals, mode: Mode, text: str, budget: float | None
) -> None:
    assert never_moves_back(Route.ON_DEVICE, outcomes(worse, signals, mode, text, budget))


@pytest.mark.parametrize(("side", "towards"), AVAILABILITY, ids=str)
@settings(max_examples=40, deadline=None)
@given(signals=SIGNALS, mode=MODES, away=st.sampled_from(STATES[1:]))
def test_a_route_that_goes_away_is_never_taken(
    side: str, towards: Route, signals: Signals, mode: Mode, away: RouteState
) -> None:
    text = HARD
    states = tuple(replace(signals.availability, **{side: state}) for state in (RouteState(), away))
    assert never_moves_back(towards, outcomes(("availability", states), signals, mode, text, None))
    gone = outcomes(("availability", states), signals, mode, text, None)[1]
    assert gone <= {towards}


@settings(max_examples=60, deadline=None)
@given(signals=SIGNALS, mode=MODES, text=st.sampled_from(TEXTS), lower=st.floats(0, 1.01), higher=st.floats(0, 1.01))
def test_a_tighter_budget_never_moves_a_decision_towards_the_cloud(
    signals: Signals, mode: Mode, text: str, lower: float, higher: float
) -> None:
    ordered = sorted((lower, higher))
    req, labels = one_turn(text)
    assert never_moves_back(Route.ON_DEVICE, [outcome(req, labels, signals, mode, budget=b) for b in ordered])


@pytest.mark.parametrize("name", sorted(SHOWN_ONLY))
@settings(max_examples=30, deadline=None)
@given(signals=SIGNALS, mode=MODES, text=st.sampled_from(TEXTS))
def test_what_is_only_shown_moves_nothing(name: str, signals: Signals, mode: Mode, text: str) -> None:
    found = outcomes((name, SHOWN_ONLY[name]), signals, mode, text, 0.6)
    assert len({frozenset(routes) for routes in found}) == 1


@settings(max_examples=60, deadline=None)
@given(signals=SIGNALS, mode=MODES, text=st.sampled_from(TEXTS), tokens=st.integers(1, 700), threshold=st.floats(0, 1))
def test_more_to_read_is_never_sent_for_less(
    signals: Signals, mode: Mode, text: str, tokens: int, threshold: float
) -> None:
    """More tokens may end a route, and then the other one answers; what fits both only scores higher."""
    signals = replace(signals, device_window=700, cloud_window=None)
    req, labels = one_turn(text)
    sizes = [replace(signals, needed_tokens=n) for n in sorted((tokens, 700))]
    found = [outcome(req, labels, size, mode, threshold=threshold) for size in sizes]
    assert never_moves_back(Route.PRIVATE_CLOUD, found)


def outcomes(worse: Worse, signals: Signals, mode: Mode, text: str, budget: float | None = None) -> list[set[Route]]:
    """Decide once for each reading, the best first."""
    field, readings = worse
    req, labels = one_turn(text)
    each = [replace(signals, **{field: reading}) for reading in readings]  # type: ignore[arg-type]
    return [outcome(req, labels, s, mode, budget=budget) for s in each]  # type: ignore[arg-type]


def never_moves_back(towards: Route, routes: list[set[Route]]) -> bool:
    """Say whether, once a decision has moved, worse readings leave it there or end it."""
    first = next((i for i, found in enumerate(routes) if found == {towards}), len(routes))
    return all(found <= {towards} for found in routes[first:])


def test_a_move_back_would_be_noticed() -> None:
    there, back = {Route.PRIVATE_CLOUD}, {Route.ON_DEVICE}
    assert not never_moves_back(Route.PRIVATE_CLOUD, [back, there, back])
    assert never_moves_back(Route.PRIVATE_CLOUD, [back, there, set()])


def test_readings_that_matter_do_move_a_decision() -> None:
    barring, costing = (
        Signals(needed_tokens=17, evidence_age_s=60.0, evidence_limit_s=100.0),
        Signals(device_wait_s=25.0),
    )
    by_text = [(HARD, barring, w) for w in WORSE_CLOUD] + [(OFFERS, costing, w) for w in WORSE_CLOUD]
    moved = {w[0] for text, s, w in by_text if len({frozenset(o) for o in outcomes(w, s, Mode.AUTO, text)}) > 1}
    assert moved == {name for name, _ in WORSE_CLOUD} - {"metered"}
    tired = [(OFFERS, Signals(on_mains=False, battery=0.9, needed_tokens=17), w) for w in WORSE_DEVICE]
    moved = {w[0] for text, s, w in tired if len({frozenset(o) for o in outcomes(w, s, Mode.AUTO, text)}) > 1}
    assert moved == {name for name, _ in WORSE_DEVICE} - {"on_mains"}


# --- R7: same inputs, same decision ----------------------------------------------------------------------------------

CHILD = """
import json, random
from tests.routing.cases import one_turn
from tests.routing.inputs import TEXTS, some_input
from hybrid.routing.decide import NoRoute, decide
from hybrid.routing.policy import Mode
from hybrid.routing.signals import Signals
from hybrid.weights import load_scorer
rng = random.Random(7)
for _ in range(500):
    drawn = some_input(rng)
    try:
        print(json.dumps(drawn.decide().to_dict()))
    except NoRoute as error:
        print(error)
for text in TEXTS:
    print(json.dumps(decide(*one_turn(text), Signals(), Mode.AUTO, load_scorer(None)).to_dict()))
"""


def decisions(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return child.stdout


def test_the_same_inputs_give_the_same_decisions_in_every_process() -> None:
    first = decisions("1")
    assert first.count("\n") == 500 + len(TEXTS)
    assert first == decisions("2")


def test_nothing_is_drawn_without_randomness_or_without_exploring() -> None:
    def never() -> float:
        raise AssertionError("drawn")

    req, labels = one_turn(OFFERS)
    close = Signals(current_route=Route.PRIVATE_CLOUD)
    assert decide(req, labels, close, Mode.AUTO, SCORER, rng=never).signals["propensity"] == 1.0
    assert decide(req, labels, close, Mode.AUTO, SCORER, explore=0.02).signals["propensity"] == 1.0
    asked: list[float] = []
    decide(req, labels, close, Mode.AUTO, SCORER, explore=0.02, rng=lambda: asked.append(0.5) or 0.5)  # type: ignore[func-returns-value]
    assert len(asked) == 1


def test_the_decision_is_plain_values() -> None:
    for decision, _ in decided(100, seed=14):
        assert json.loads(json.dumps(decision.to_dict())) == decision.to_dict()


# --- prices ----------------------------------------------------------------------------------------------------------


def test_every_price_is_zero_at_its_neutral_reading_but_that_of_leaving() -> None:
    neutral = prices(Signals(), size_bytes=5000, context_tokens=900)
    assert neutral.device_total == 0.0
    assert neutral.cloud_total == 0.02


@pytest.mark.parametrize(("battery", "price"), [(1.0, 0.0), (0.5, 0.0), (0.2, 0.10), (0.05, 0.25), (0.0, 0.25)])
def test_the_battery_curve_has_the_corners_of_the_table(battery: float, price: float) -> None:
    signals = Signals(battery=battery, on_mains=False)
    assert prices(signals, size_bytes=0, context_tokens=0).device_total == pytest.approx(price)


@pytest.mark.parametrize("worse", WORSE_DEVICE, ids=lambda w: f"{w[0]}-{len(w[1])}")
@settings(max_examples=20, deadline=None)
@given(signals=SIGNALS)
def test_a_worse_device_never_asks_for_more_gain(worse: Worse, signals: Signals) -> None:
    needs = needs_of(worse, signals)
    assert needs == sorted(needs, reverse=True)


@pytest.mark.parametrize("worse", WORSE_CLOUD, ids=lambda w: w[0])
@settings(max_examples=20, deadline=None)
@given(signals=SIGNALS)
def test_a_worse_link_never_asks_for_less_gain(worse: Worse, signals: Signals) -> None:
    needs = needs_of(worse, signals)
    assert needs == sorted(needs)


def needs_of(worse: Worse, signals: Signals) -> list[float]:
    """Return the gain at which the node pays for each reading, the best first."""
    field, readings = worse
    each = (replace(signals, **{field: reading}) for reading in readings)  # type: ignore[arg-type]
    return [round(prices(s, size_bytes=20_000, context_tokens=500).need, 9) for s in each]


def test_a_battery_on_mains_costs_nothing() -> None:
    assert prices(Signals(battery=0.05, on_mains=True), size_bytes=0, context_tokens=0).device_total == 0.0


def test_the_conversation_reaches_the_scorer() -> None:
    seen: list[float] = []

    class Listening:
        name = version = "listening"
        calibrated = False

        def score(self, features: object) -> object:
            seen.append(features.values["rejected"])  # type: ignore[attr-defined]
            return SCORER.score(features)  # type: ignore[arg-type]

        def rank(self, gain: float) -> float:
            return SCORER.rank(gain)

        def threshold(self, need: float) -> float:
            return SCORER.threshold(need)

    req, labels = one_turn(OFFERS)
    for rejected in (False, True):
        signals = Signals(conversation=Conversation(rejected=rejected))
        decide(req, labels, signals, Mode.AUTO, Listening())  # type: ignore[arg-type]
    assert seen == [0.0, 1.0]
