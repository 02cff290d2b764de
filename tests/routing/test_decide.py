import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.routing.complexity import Score
from hybrid.routing.decide import LabelForbids, NoRoute, decide
from hybrid.routing.decision import Decision
from hybrid.routing.features import Features
from hybrid.routing.labels import LabelReason, Labels, typed
from hybrid.routing.policy import Mode
from hybrid.routing.signals import Availability, Doubt, MemoryPressure, RouteState, Signals, Thermal
from hybrid.routing.wording import features
from hybrid.wire.types import Route
from tests.routing.cases import HARD, MAIL, OFFERS, SCORER, SIMPLE, SKY, Scripted, away, kept, one_turn, request, route

ROOT = Path(__file__).parents[2]


class Broken:
    """A scorer that fails in a chosen way."""

    name = version = "broken"
    calibrated = False

    def __init__(self, value: float | None) -> None:
        self.value = value

    def score(self, features: Features) -> Score:
        if self.value is None:
            raise RuntimeError(features.text)
        return Score(value=self.value)

    def rank(self, gain: float) -> float:
        return SCORER.rank(gain)

    def threshold(self, need: float) -> float:
        return SCORER.threshold(need)


def test_a_decision_has_exactly_the_six_keys_of_the_design() -> None:
    for decision in (route(), route(HARD), route(HARD, signals=away(Route.PRIVATE_CLOUD, "no_node"))):
        assert list(decision.to_dict()) == ["route", "score", "threshold", "reasons", "signals", "counterfactual"]


def test_the_design_names_of_signals_are_there() -> None:
    shown = route(HARD, MAIL).to_dict()["signals"]
    assert shown["privacy"].pop("cleared") == []
    assert shown["privacy"] == {"max_route": "on_device", "by": "source", "source": "doctor.eml", "types": []}
    assert shown["calibrated"] is False
    assert shown["p_ok"] == 0.6
    assert shown["gain"] == 0.43
    assert shown["model"] == "scripted-1:test"
    assert shown["versions"] == {
        "policy": "policy-1",
        "model": "scripted-1",
        "calibrator": "shipped",
        "table": "prices-1",
    }
    assert shown["propensity"] == 1.0
    assert shown["price"] == {"device": 0.0, "cloud": 0.02}
    assert shown["top"] == [["steps", 0.15], ["length", 0.02]]
    assert {"battery", "thermal", "evidence_age_s", "novelty"} <= set(shown)


def test_the_counterfactual_is_missing_only_where_one_route_is_configured() -> None:
    assert route(signals=away(Route.PRIVATE_CLOUD, "no_node")).counterfactual is None
    assert route(signals=away(Route.PRIVATE_CLOUD, "node_unreachable")).counterfactual is not None


def test_a_label_of_an_earlier_turn_does_not_keep_this_one() -> None:
    req = request(MAIL.text, "A fracture.", HARD)
    labels = Labels((kept(MAIL.text), kept("A fracture."), typed(HARD)))
    assert decide(req, labels, Signals(), Mode.AUTO, SCORER).route is Route.PRIVATE_CLOUD


def test_unlabelled_text_keeps_the_turn_on_the_device() -> None:
    decision = decide(request(HARD), Labels(), Signals(), Mode.AUTO, SCORER)
    assert (decision.route, decision.codes) == (Route.ON_DEVICE, ("label", "complex"))
    assert decision.signals["privacy"]["by"] == "unlabelled"


def test_what_a_detector_found_is_a_reason_of_its_own() -> None:
    req, _ = one_turn(HARD)
    labels = Labels((typed(HARD).restricted(LabelReason.RECOGNISED, ("PHONE_NUMBER",)),))
    decision = decide(req, labels, Signals(), Mode.AUTO, SCORER)
    assert (decision.route, decision.codes[0]) == (Route.ON_DEVICE, "recognised")
    assert decision.signals["privacy"]["types"] == ["PHONE_NUMBER"]


@pytest.mark.parametrize("why", [LabelReason.PRIVACY_ERROR, LabelReason.PRIVACY_TIMEOUT])
def test_a_detector_that_failed_keeps_the_text_and_says_so(why: LabelReason) -> None:
    req, _ = one_turn(HARD)
    decision = decide(req, Labels((typed(HARD).restricted(why),)), Signals(), Mode.AUTO, SCORER)
    assert (decision.route, decision.codes[0]) == (Route.ON_DEVICE, str(why))


def test_a_privacy_check_that_breaks_keeps_the_text_on_the_device() -> None:
    req, _ = one_turn(HARD)
    broken = Labels((None,))  # type: ignore[arg-type]
    decision = decide(req, broken, Signals(), Mode.AUTO, SCORER)
    assert (decision.route, decision.codes[0]) == (Route.ON_DEVICE, "privacy_error")


@pytest.mark.parametrize("value", [None, float("nan"), -0.1, 1.1])
def test_a_scorer_that_breaks_keeps_the_text_on_the_device(value: float | None) -> None:
    decision = route(HARD, model=Broken(value))
    assert (decision.route, decision.score) == (Route.ON_DEVICE, 0.0)
    assert decision.codes == ("simple", "score_error")


def test_requests_of_the_program_itself_stay_unless_only_the_cloud_may_answer() -> None:
    signals = Signals(background=True)
    modes = {mode: route(HARD, signals=signals, mode=mode).codes[0] for mode in Mode}
    assert modes.pop(Mode.ONLY_PRIVATE_CLOUD) == "mode"
    assert modes.pop(Mode.ONLY_ON_DEVICE) == "background"
    assert set(modes.values()) == {"background"}


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [("thermal", Thermal.CRITICAL, "thermal_critical"), ("memory", MemoryPressure.CRITICAL, "memory_critical")],
)
@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.PREFER_ON_DEVICE])
def test_a_critical_device_hands_over_even_a_simple_request(field: str, value: object, code: str, mode: Mode) -> None:
    decision = route(signals=replace(Signals(), **{field: value}), mode=mode)
    assert (decision.route, decision.codes[0]) == (Route.PRIVATE_CLOUD, code)


def test_a_critical_device_still_answers_what_may_not_leave() -> None:
    critical = Signals(thermal=Thermal.CRITICAL, memory=MemoryPressure.CRITICAL)
    assert route(HARD, MAIL, signals=critical).route is Route.ON_DEVICE
    assert route(HARD, signals=replace(critical, offline=True)).route is Route.ON_DEVICE


def test_what_does_not_fit_the_device_goes_to_the_cloud_also_when_the_device_is_preferred() -> None:
    signals = Signals(device_window=10, cloud_window=100, needed_tokens=50)
    for mode in (Mode.AUTO, Mode.PREFER_ON_DEVICE):
        decision = route(signals=signals, mode=mode)
        assert (decision.route, decision.codes[0]) == (Route.PRIVATE_CLOUD, "does_not_fit")


def test_a_window_that_is_filled_to_the_last_token_fits() -> None:
    assert route(signals=Signals(device_window=50, needed_tokens=50)).codes == ("simple",)
    assert route(signals=Signals(device_window=49, needed_tokens=50)).codes[0] == "does_not_fit"


def test_what_fits_nowhere_is_refused_with_the_need() -> None:
    with pytest.raises(NoRoute) as caught:
        route("word " * 400_000, signals=Signals(device_window=2048, cloud_window=8192))
    assert caught.value.per_route == {"on_device": "does_not_fit", "private_cloud": "does_not_fit"}
    assert caught.value.needed_tokens > 400_000


def test_the_side_a_conversation_is_on_gets_a_margin() -> None:
    by_side = {side: route(OFFERS, signals=Signals(current_route=side)) for side in (None, *Route)}
    assert by_side[None].threshold == 0.55
    assert by_side[Route.ON_DEVICE].threshold > 0.60
    assert by_side[Route.PRIVATE_CLOUD].threshold < 0.50
    assert by_side[Route.PRIVATE_CLOUD].route is Route.PRIVATE_CLOUD
    assert by_side[Route.PRIVATE_CLOUD].codes[0] == "conversation"


def test_a_threshold_given_by_the_caller_is_used_as_it_is() -> None:
    worst = Signals(battery=0.05, on_mains=False, metered=True, current_route=Route.ON_DEVICE)
    decision = route(HARD, threshold=0.95, signals=worst)
    assert (decision.threshold, decision.route) == (0.95, Route.ON_DEVICE)


@pytest.mark.parametrize(("name", "most"), [("threshold", 1.01), ("budget", 1.01), ("explore", 0.02)])
@pytest.mark.parametrize("past", [-0.01, 0.01, float("nan")])
def test_a_number_out_of_range_is_refused(name: str, most: float, past: float) -> None:
    with pytest.raises(ValueError, match=name):
        route(**{name: past if past < 0 else most + past})
    route(**{name: most})


def test_a_threshold_no_score_reaches_keeps_everything_on_the_device() -> None:
    assert route(HARD * 50, threshold=1.01).route is Route.ON_DEVICE
    assert route(SIMPLE, threshold=0.0).route is Route.PRIVATE_CLOUD


def test_a_close_call_is_named() -> None:
    score = route().score
    assert "near_threshold" in route(threshold=score + 0.05).codes
    assert "near_threshold" not in route(threshold=score + 0.2).codes


def test_prices_that_turn_the_decision_round_are_named_first() -> None:
    assert route(SKY).route is Route.ON_DEVICE
    tired = route(SKY, signals=Signals(battery=0.05, on_mains=False, low_power=True, thermal=Thermal.SERIOUS))
    assert (tired.route, tired.reasons[0].code, tired.reasons[0].layer) == (Route.PRIVATE_CLOUD, "battery", "device")


def test_a_budget_that_binds_is_named_first_with_the_share_used() -> None:
    signals = Signals(budget_share=0.2, budget_used=0.213)
    decision = route(HARD, budget=0.95, signals=signals)
    assert (decision.route, decision.codes, decision.threshold) == (
        Route.ON_DEVICE,
        ("budget", "simple", "near_threshold"),
        0.95,
    )
    assert decision.reasons[0].text == (
        "the budget of 20 % binds (21 % went to the private cloud): it asks for a score of 0.95"
    )
    assert decision.signals["budget"] == {"threshold": 0.95, "share": 0.2, "used": 0.213}
    assert decision.signals["floor"] == 0.55
    other = decision.counterfactual
    assert other is not None
    assert (other.change, other.before, other.after) == ("budget", "0.95", "0.93")


@pytest.mark.parametrize(
    ("budget", "threshold", "expected"),
    [(None, None, 0.55), (0.3, None, 0.55), (0.7, None, 0.7), (0.7, 0.8, 0.8), (0.8, 0.7, 0.8), (1.01, None, 1.01)],
)
def test_the_threshold_is_the_higher_of_price_and_budget(
    budget: float | None, threshold: float | None, expected: float
) -> None:
    assert route(budget=budget, threshold=threshold).threshold == expected


def test_the_side_of_a_conversation_moves_a_budget_as_it_moves_a_price() -> None:
    sides = {side: route(budget=0.8, signals=Signals(current_route=side)).threshold for side in (None, *Route)}
    assert sides == {None: 0.8, Route.ON_DEVICE: 0.85, Route.PRIVATE_CLOUD: 0.75}


def test_a_close_call_for_the_node_may_be_explored_on_the_device() -> None:
    def close(roll: float) -> Decision:
        return route(HARD, threshold=0.9, explore=0.02, rng=lambda: roll)

    drawn, not_drawn = close(0.019), close(0.02)
    assert (drawn.route, drawn.codes[0], drawn.signals["propensity"]) == (Route.ON_DEVICE, "explore", 0.02)
    assert (not_drawn.route, not_drawn.signals["propensity"]) == (Route.PRIVATE_CLOUD, 0.98)
    assert "explore" not in not_drawn.codes
    other = drawn.counterfactual
    assert other is not None
    assert (other.change, other.text) == (
        "explore",
        "would go to the private cloud had it not been drawn to learn from",
    )


@pytest.mark.parametrize(
    ("text", "how"),
    [
        (HARD, {"threshold": 0.8}),  # no close call
        (SIMPLE, {"threshold": 0.12}),  # a close call for the device
        (HARD, {"threshold": 0.9, "mode": Mode.PREFER_PRIVATE_CLOUD}),
        (HARD, {"threshold": 0.9, "signals": away(Route.ON_DEVICE, "model_not_downloaded")}),
        (HARD, {"threshold": 0.9, "signals": Signals(thermal=Thermal.CRITICAL)}),
    ],
    ids=["far", "for-the-device", "mode", "no-model", "hot"],
)
def test_nothing_else_is_explored(text: str, how: dict[str, Any]) -> None:
    decision, plain = route(text, explore=0.02, rng=lambda: 0.0, **how), route(text, **how)
    assert (decision.route, decision.reasons, decision.signals) == (plain.route, plain.reasons, plain.signals)
    assert decision.signals["propensity"] == 1.0
    if decision.route is Route.PRIVATE_CLOUD:
        assert decision.counterfactual == plain.counterfactual


@pytest.mark.parametrize("person", ["pinned", "overridden"])
def test_a_route_that_a_person_chose_is_named_as_such(person: str) -> None:
    for mode, where in ((Mode.ONLY_ON_DEVICE, "the device"), (Mode.ONLY_PRIVATE_CLOUD, "the private cloud")):
        first = route(HARD, mode=mode, signals=Signals(person=person)).reasons[0]  # type: ignore[arg-type]
        assert (first.code, first.layer, where in first.text) == (person, "person", True)
    assert route(HARD, signals=Signals(person=person)).codes == ("complex",)  # type: ignore[arg-type]


def test_a_pin_to_the_cloud_lifts_no_label() -> None:
    with pytest.raises(LabelForbids) as caught:
        route(HARD, MAIL, mode=Mode.ONLY_PRIVATE_CLOUD, signals=Signals(person="pinned"))
    assert caught.value.per_route == {"on_device": "pinned", "private_cloud": "label"}


def test_what_a_person_cleared_may_leave_and_the_decision_says_so() -> None:
    found = typed(HARD).restricted(LabelReason.RECOGNISED, ("EMAIL_ADDRESS", "PHONE_NUMBER"))
    decision = decide(request(HARD), Labels((found.cleared(),)), Signals(), Mode.AUTO, SCORER)
    assert (decision.route, decision.codes) == (Route.PRIVATE_CLOUD, ("complex", "user_cleared"))
    assert decision.reasons[-1].text == "a person let go what was found in it (EMAIL_ADDRESS and PHONE_NUMBER)"
    assert decision.signals["privacy"]["cleared"] == ["EMAIL_ADDRESS", "PHONE_NUMBER"]
    kept_back = decide(request(HARD), Labels((found,)), Signals(), Mode.AUTO, SCORER)
    assert kept_back.counterfactual is not None
    assert "if a person let go what was found in it" in kept_back.counterfactual.text


def test_a_request_unlike_those_of_the_training_says_so_with_the_number() -> None:
    reasons = route(HARD, model=Scripted(novelty=0.62)).reasons
    assert [r.code for r in reasons] == ["complex", "novel"]
    assert "0.62" in reasons[1].text
    assert "novel" not in route(HARD, model=Scripted(novelty=0.1)).codes


def test_a_doubt_of_the_last_turn_takes_the_side_of_the_device_no_longer() -> None:
    here = Signals(current_route=Route.ON_DEVICE)
    plain, doubted = route(OFFERS, signals=here), route(OFFERS, signals=replace(here, doubt=Doubt(code="doubt")))
    assert plain.threshold - doubted.threshold == pytest.approx(0.05)
    assert doubted.codes[-1] == "doubt"
    assert doubted.reasons[-1].layer == "cascade"
    there = Signals(current_route=Route.PRIVATE_CLOUD)
    assert route(threshold=None, signals=replace(there, doubt=Doubt(code="doubt"))).threshold < 0.55


@pytest.mark.parametrize("code", ["doubt", "refusal_local", "unparseable", "repeat"])
def test_a_doubt_about_the_answer_under_way_decides_again_and_is_named_first(code: str) -> None:
    decision = route(SIMPLE, signals=Signals(doubt=Doubt(code=code, score=0.9)))
    assert (decision.route, decision.score, decision.codes) == (Route.PRIVATE_CLOUD, 0.9, (code, "complex"))
    assert decision.reasons[0].layer == "cascade"


def test_a_doubt_lifts_neither_label_nor_mode_nor_budget() -> None:
    doubted = Signals(doubt=Doubt(code="repeat", score=0.9))
    assert route(SIMPLE, MAIL, signals=doubted).codes[0] == "label"
    assert route(SIMPLE, signals=doubted, mode=Mode.PREFER_ON_DEVICE).codes[0] == "mode"
    assert route(SIMPLE, signals=doubted, budget=0.95).codes[0] == "budget"
    assert route(SIMPLE, signals=doubted, budget=0.95).route is Route.ON_DEVICE


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.1])
def test_a_doubt_without_a_score_in_range_sends_nothing(score: float) -> None:
    decision = route(HARD, signals=Signals(doubt=Doubt(code="doubt", score=score)))
    assert (decision.route, decision.codes[-1]) == (Route.ON_DEVICE, "score_error")


@pytest.mark.parametrize(
    ("age", "limit", "stale"),
    [(100.0, 100.0, False), (100.1, 100.0, True), (None, 100.0, False), (1e9, None, False), (float("nan"), 1.0, True)],
)
def test_evidence_that_is_too_old_is_never_a_reason_to_try_anyway(
    age: float | None, limit: float | None, stale: bool
) -> None:
    for mode in (Mode.AUTO, Mode.PREFER_PRIVATE_CLOUD):
        decision = route(HARD, signals=Signals(evidence_age_s=age, evidence_limit_s=limit), mode=mode)
        assert (decision.route is Route.ON_DEVICE, "attestation_stale" in decision.codes) == (stale, stale)
    if stale:
        with pytest.raises(NoRoute):
            route(HARD, mode=Mode.ONLY_PRIVATE_CLOUD, signals=Signals(evidence_age_s=age, evidence_limit_s=limit))


def test_an_estimate_is_called_one_and_a_count_is_not() -> None:
    def said(*, counted: bool) -> str:
        return route(signals=Signals(device_window=1000, needed_tokens=1234, tokens_counted=counted)).reasons[0].text

    assert said(counted=True) == "1,234 tokens do not fit the device's 1,000"
    assert said(counted=False) == "about 1,234 tokens do not fit the device's 1,000"


def test_reasons_name_the_strongest_features_and_the_numbers() -> None:
    assert route(HARD).reasons[-1].text == "a demanding request, judged by steps and length; score 0.93 ≥ 0.55"
    assert route(SIMPLE).reasons[-1].text == "a simple request, judged by length; score 0.10 < 0.55"


def test_no_word_of_the_prompt_is_in_a_decision() -> None:
    canary = "xylophone-canary"
    for text in (canary, f"{HARD} {canary}", f"Derive {canary}"):
        for signals in (Signals(), Signals(doubt=Doubt(code="doubt", score=0.9))):
            assert canary not in str(route(text, signals=signals, budget=0.9).to_dict())


def test_a_decision_about_weights_of_another_name_is_worded_all_the_same() -> None:
    assert features(["schema_depth", "words", "word_length", "never_heard_of"]) == (
        ", judged by wanted form, wording and never heard of"
    )


def test_the_question_is_scored_and_the_mail_it_is_about_is_not() -> None:
    long_mail = replace(MAIL, text="Derive, prove and compare step by step: " + "1 + 2 = 3, plan. " * 100)
    assert route(SIMPLE, long_mail).score < 0.2
    assert route(SIMPLE, replace(long_mail, kind="file")).score > 0.9


def test_an_open_circuit_or_a_declined_hand_off_is_an_availability_word_like_any_other() -> None:
    declined = route(HARD, signals=away(Route.PRIVATE_CLOUD, "declined"))
    assert declined.codes == ("declined", "degraded", "complex")
    assert declined.reasons[0].layer == "person"


def test_a_state_without_a_word_is_still_unavailable() -> None:
    signals = Signals(availability=Availability(private_cloud=RouteState(available=False)))
    assert route(HARD, signals=signals).codes[0] == "unavailable"


def test_decisions_are_made_in_one_place() -> None:
    makers = [
        path.relative_to(ROOT).as_posix()
        for package in ("hybrid", "device", "pcc_server")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] == Decision.__name__
    ]
    assert makers == ["hybrid/routing/decide.py"]
