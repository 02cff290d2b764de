import ast
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.routing.complexity import Score
from hybrid.routing.decide import NoRoute, decide
from hybrid.routing.decision import Decision
from hybrid.routing.features import Features
from hybrid.routing.labels import LabelReason, Labels, typed
from hybrid.routing.policy import Mode
from hybrid.routing.signals import Availability, MemoryPressure, RouteState, Signals, Thermal
from hybrid.wire.types import Route
from tests.routing.cases import HARD, MAIL, SCORER, SIMPLE, away, kept, one_turn, request, route

ROOT = Path(__file__).parents[2]


class Broken:
    """A scorer that fails in a chosen way."""

    name = "broken"
    calibrated = False

    def __init__(self, value: float | None) -> None:
        self.value = value

    def score(self, features: Features) -> Score:
        if self.value is None:
            raise RuntimeError(features.text)
        return Score(value=self.value)

    def threshold(self, need: float) -> float:
        return SCORER.threshold(need)


def test_a_decision_has_exactly_the_six_keys_of_the_design() -> None:
    for decision in (route(), route(HARD), route(HARD, signals=away(Route.PRIVATE_CLOUD, "no_node"))):
        assert list(decision.to_dict()) == ["route", "score", "threshold", "reasons", "signals", "counterfactual"]


def test_the_design_names_of_signals_are_there() -> None:
    shown = route(HARD, MAIL).to_dict()["signals"]
    assert shown["privacy"] == {"max_route": "on_device", "by": "source", "source": "doctor.eml", "types": []}
    assert shown["calibrated"] is False
    assert shown["p_ok"] is None
    assert shown["model"] == "structural-0"
    assert shown["propensity"] == 1.0
    assert len(shown["top"]) == 3


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
    text = "What are the two offers, how do they differ, and by when?"
    by_side = {side: route(text, signals=Signals(current_route=side)) for side in (None, *Route)}
    assert by_side[None].threshold == 0.55
    assert by_side[Route.ON_DEVICE].threshold > 0.60
    assert by_side[Route.PRIVATE_CLOUD].threshold < 0.50
    assert by_side[Route.PRIVATE_CLOUD].route is Route.PRIVATE_CLOUD
    assert by_side[Route.PRIVATE_CLOUD].codes[0] == "conversation"


def test_a_threshold_given_by_the_caller_is_used_as_it_is() -> None:
    worst = Signals(battery=0.05, on_mains=False, metered=True, current_route=Route.ON_DEVICE)
    decision = route(HARD, threshold=0.9, signals=worst)
    assert (decision.threshold, decision.route) == (0.9, Route.ON_DEVICE)


@pytest.mark.parametrize("threshold", [-0.01, 1.02, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        route(threshold=threshold)


def test_a_threshold_no_score_reaches_keeps_everything_on_the_device() -> None:
    assert route(HARD * 50, threshold=1.01).route is Route.ON_DEVICE
    assert route(SIMPLE, threshold=0.0).route is Route.PRIVATE_CLOUD


def test_a_close_call_is_named() -> None:
    score = route().score
    assert "near_threshold" in route(threshold=score + 0.05).codes
    assert "near_threshold" not in route(threshold=score + 0.2).codes


def test_prices_that_turn_the_decision_round_are_named_first() -> None:
    text = "Explain why the sky is blue and how rain and snow form in detail"
    assert route(text).route is Route.ON_DEVICE
    tired = route(text, signals=Signals(battery=0.05, on_mains=False, low_power=True, thermal=Thermal.SERIOUS))
    assert (tired.route, tired.reasons[0].code, tired.reasons[0].layer) == (Route.PRIVATE_CLOUD, "battery", "device")


def test_the_question_is_scored_and_the_mail_it_is_about_is_not() -> None:
    long_mail = replace(MAIL, text="Derive, prove and compare step by step: " + "1 + 2 = 3, plan. " * 100)
    assert route(SIMPLE, long_mail).score < 0.2
    assert route(SIMPLE, replace(long_mail, kind="file")).score > 0.9


def test_an_open_circuit_or_a_declined_hand_off_is_an_availability_word_like_any_other() -> None:
    declined = route(HARD, signals=away(Route.PRIVATE_CLOUD, "declined"))
    assert declined.codes == ("declined", "degraded", "complex")


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
