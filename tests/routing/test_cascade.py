"""What an answer shows, what that is worth, and when it asks for a new decision."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.routing.cascade import After, AfterModel, Keep, Offer, after_model_of, check, prior
from hybrid.routing.checkable import question
from hybrid.routing.complexity import Score
from hybrid.routing.decide import decide
from hybrid.routing.labels import Labels, typed
from hybrid.routing.policy import Mode
from hybrid.routing.signals import Doubt, Signals
from hybrid.routing.symptoms import hedges, refuses, repeated, validity
from hybrid.weights import load_scorer, shipped
from hybrid.wire.types import GenerateRequest, Message, Role, Route, TokenSignals

MODEL = after_model_of(shipped())
SCORER = load_scorer(None)
SURE = After(lp_first=-0.01, margin_first=6.0, lp_q10=-0.05, lp_q50=-0.01, lp_min=-0.1)
LOST = After(lp_first=-3.0, margin_first=0.1, lp_q10=-4.0, lp_q50=-2.0, lp_min=-6.0)
gains = st.floats(-1, 1)
small = st.floats(-20, 0)


def of(gain: float, after: After) -> float:
    return MODEL.gain(Score(value=0.5, gain=gain), after)


# --- the model --------------------------------------------------------------------------------------------------------


@given(gains)
def test_knowing_nothing_changes_nothing(gain: float) -> None:
    assert of(gain, After()) == gain
    assert of(gain, After.from_dict({"unknown": 1, "lp_min": "text", "agree": math.nan, "chars": None})) == gain


@given(gains, gains, st.dictionaries(st.sampled_from(["lp_first", "lp_q10", "lp_q50", "lp_min"]), small))
def test_a_prompt_that_needs_more_still_needs_more_after_the_same_answer(
    one: float, other: float, known: dict[str, float]
) -> None:
    low, high = sorted((one, other))
    assert of(low, After(chars=1.0, **known)) <= of(high, After(chars=1.0, **known))


@pytest.mark.parametrize("name", ["lp_first", "lp_q10", "lp_q50", "lp_min", "agree", "margin_first"])
@given(a=st.floats(-20, 20), b=st.floats(-20, 20), gain=gains)
def test_the_surer_the_model_was_the_less_is_gained(name: str, a: float, b: float, gain: float) -> None:
    low, high = sorted((a, b))
    assert of(gain, After(**{name: high})) <= of(gain, After(**{name: low})) + 1e-12


@pytest.mark.parametrize("name", ["parse_ok", "schema_ok", "tool_ok"])
def test_an_answer_of_the_wrong_form_gains_more(name: str) -> None:
    assert of(0.1, After(**{name: 0.0})) > of(0.1, After(**{name: 1.0}))


@pytest.mark.parametrize("name", ["refusal", "hedge", "repeat", "hit_limit"])
def test_a_refusal_and_the_like_gain_more(name: str) -> None:
    assert of(0.1, After(**{name: 1.0})) > of(0.1, After(**{name: 0.0}))


@pytest.mark.parametrize("gain", [0.0, 0.05, 0.2, 0.4])
def test_length_alone_is_no_evidence(gain: float) -> None:
    assert of(gain, After(chars=10.0, n_tokens=3.0)) == pytest.approx(math.tanh(prior(gain) / 2))
    assert of(gain, After(chars=10.0)) == of(gain, After(chars=10_000.0))


@given(st.floats(-1, 1), st.dictionaries(st.sampled_from(list(After().__slots__)), st.floats(allow_nan=True)))
def test_any_recording_gives_a_gain(gain: float, values: dict[str, float]) -> None:
    assert -1 <= of(gain, After.from_dict(values)) <= 1


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"terms": {}, "bias": 0.0},
        {"terms": {"agree": [1.0, 0.0, 0.0, 0.0]}, "bias": 0.0, "prompt": 1.0},
        {"terms": {"agree": [math.inf, 0.0, 1.0, 0.0]}, "bias": 0.0, "prompt": 1.0},
        {"terms": {"agree": [1.0, 2.0]}, "bias": 0.0, "prompt": 1.0},
        {"terms": [], "bias": 0.0, "prompt": 1.0},
    ],
    ids=range(6),
)
def test_weights_that_mean_nothing_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="install"):
        AfterModel.from_weights(damage)


def test_a_person_s_additions_move_the_weight_of_the_same_name() -> None:
    body = json.loads(shipped())["after"]
    moved = AfterModel.from_weights(body, {"agree": -1.0, "bias": 0.5, "none of these": 9.0})
    assert moved.terms["agree"].weight == MODEL.terms["agree"].weight - 1.0
    assert moved.bias == MODEL.bias + 0.5


def test_what_is_not_known_counts_as_the_weights_say() -> None:
    body = {"bias": 0.0, "prompt": 1.0, "terms": {"agree": [1.0, 0.0, 1.0, 0.7], "repeat": [1.0, 0.0, 1.0, 0.0]}}
    model = AfterModel.from_weights(body)
    score = Score(value=0.5, gain=0.0)
    assert model.gain(score, After(repeat=0.0)) == pytest.approx(math.tanh(0.7 / 2))
    assert model.gain(score, After(repeat=0.0, agree=0.0)) == pytest.approx(0.0)


# --- the check --------------------------------------------------------------------------------------------------------


def decided(threshold: float, signals: Signals = Signals()) -> Any:  # noqa: B008 - frozen
    prompt = "what does the mail say about the offer"
    request = GenerateRequest(messages=(Message(role=Role.USER, content=prompt),))
    return decide(request, Labels((typed(prompt),)), signals, Mode.AUTO, SCORER, threshold=threshold)


def test_a_doubt_is_offered_where_the_score_now_reaches_the_threshold_and_kept_below() -> None:
    threshold = decided(1.0).score + 0.05
    decision = decided(threshold)
    before = Score(value=decision.score, gain=decision.signals["gain"])
    assert isinstance(check(decision, before, SURE, MODEL, SCORER), Keep)
    offer = check(decision, before, LOST, MODEL, SCORER)
    assert isinstance(offer, Offer)
    assert offer.score >= decision.threshold > decision.score
    again = decided(threshold, Signals(doubt=Doubt(code=offer.reason, score=offer.score)))
    assert (again.route, offer.reason in again.codes) == (Route.PRIVATE_CLOUD, True)


def test_a_scorer_that_knows_no_gain_keeps_every_answer() -> None:
    assert check(decided(0.5), Score(value=0.4), LOST, MODEL, SCORER) == Keep(score=0.4)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ({"refusal": 1.0, "parse_ok": 0.0}, "refusal_local"),
        ({"parse_ok": 0.0}, "unparseable"),
        ({"schema_ok": 0.0}, "unparseable"),
        ({"repeat": 0.9}, "repeat"),
        ({}, "doubt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_reason_is_the_plainest_symptom(after: dict[str, float], reason: str) -> None:
    known = After.from_dict({**LOST.to_dict(), **after})
    found = check(decided(0.5), Score(value=0.4, gain=0.1), known, MODEL, SCORER)
    assert isinstance(found, Offer)
    assert found.reason == reason


# --- symptoms ---------------------------------------------------------------------------------------------------------

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "Sorry, I cannot assist with this request.",
    "I\u2019m sorry, but as an AI language model I have no opinion.",
    "As an AI, I do not have feelings.",
    "Unfortunately, I am unable to access the internet.",
    "I don't have access to your calendar.",
]
ANSWERS = [
    "I'm sorry to hear that. Here is what you can do:",
    "I can't wait to see it! The recipe needs flour.",
    "Sorry about the delay: the train leaves at 9.",
    "You can help with that by calling them.",
    "AI is a field of computer science.",
    "Paris is the capital of France.",
    "He said: I cannot assist.",
    "I will explain it step by step.",
    "",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_known_by_its_opening(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_refusal_and_no_hedge(text: str) -> None:
    assert not refuses(text)
    assert not hedges(text)


@pytest.mark.parametrize(
    "text",
    ["I'm not sure, but it may be Lyon.", "I don't know.", "Could you please clarify the question?"],
)
def test_a_hedge_is_known_by_its_opening(text: str) -> None:
    assert hedges(text)


def test_going_round_in_circles_is_a_share() -> None:
    assert repeated("one two three") is None
    assert repeated("a b c d e f g h i j") == 0
    assert repeated("it is so and " * 20) == pytest.approx(73 / 77)


OPTIONS = "Which?\nA. one\nB. two\nC. three\nD. four"


@pytest.mark.parametrize(
    ("asked", "answer", "ok"),
    [
        (OPTIONS, "The answer is (B).", True),
        (OPTIONS, "B", True),
        (OPTIONS, "C. three", True),
        (OPTIONS, "Answer: D", True),
        (OPTIONS, "It depends on many things.", False),
        (OPTIONS, "The answer is H.", False),
        ("Return the list as valid JSON.", '```json\n{"a": 1}\n```', True),
        ("Return the list as valid JSON.", "Here it is: a, b", False),
    ],
)
def test_a_form_that_was_asked_for_is_checked(asked: str, answer: str, ok: bool) -> None:
    assert validity(asked, answer) == {"parse_ok": ok}


@pytest.mark.parametrize("asked", ["What is JSON?", "A. one\nB. two", "hello"])
def test_a_question_without_a_form_has_none(asked: str) -> None:
    assert validity(asked, "whatever") == {}


def test_what_an_engine_says_and_what_the_words_show_come_together() -> None:
    after = After.of(TokenSignals(lp_first=-0.5, lp_min=-2.0), "I don't know.", n_tokens=4)
    assert after.to_dict() == {"lp_first": -0.5, "lp_min": -2.0, "n_tokens": 4, "chars": 13, "refusal": 0, "hedge": 1}


# --- questions that can be checked ------------------------------------------------------------------------------------

CALLS = {
    "question": [[{"role": "user", "content": "Add 2 and 3"}]],
    "function": [{"name": "add", "description": "adds", "parameters": {}}],
    "ground_truth": [{"add": {"a": [2], "b": [3], "unit": ["", "m"]}}],
}


@pytest.mark.parametrize(
    ("row", "answer", "right"),
    [
        ({"prompt": "p", "answer": "72"}, "48 + 24 = 72", True),
        ({"prompt": "p", "answer": "1,000"}, "It is 1000.", True),
        ({"prompt": "p", "answer": "72"}, "72 or 73", False),
        ({"prompt": "p", "answer": "72"}, "many", False),
        ({"question": "q", "context": "c", "answer": "The Saxon  Garden"}, "It is the saxon garden.", True),
        ({"question": "q", "answer": "art"}, "a partial answer", False),
        ({"prompt": "p", "options": ["x", "y", "z"], "answer": "B"}, "The answer is B.", True),
        ({"prompt": "p", "options": ["x", "y", "z"], "answer": "B"}, "The answer is C.", False),
        (CALLS, '[{"name": "add", "arguments": {"a": 2, "b": 3}}]', True),
        (CALLS, '{"name": "add", "arguments": {"b": 3, "a": 2, "unit": "m"}}', True),
        (CALLS, '[{"name": "add", "arguments": {"a": 2, "b": 4}}]', False),
        (CALLS, '[{"name": "add", "arguments": {"a": 2, "b": 3}}, {"name": "add", "arguments": {}}]', False),
        (CALLS, "add(2, 3)", False),
        ({**CALLS, "ground_truth": None}, "[]", True),
        ({**CALLS, "ground_truth": None}, '[{"name": "add", "arguments": {}}]', False),
    ],
)
def test_answers_are_marked(row: dict[str, Any], answer: str, right: bool) -> None:
    assert question({"id": 1, **row}).mark(answer)["right"] is right


@pytest.mark.parametrize(
    "row",
    [{}, {"prompt": "p"}, {"prompt": 3, "answer": "x"}, {"prompt": "p", "answer": ""}, {"prompt": " ", "answer": "x"},
     {"prompt": "p", "answer": "x", "strong": 2}, {"prompt": "p", "answer": "A", "options": "x"},
     {**CALLS, "ground_truth": "x"}, {**CALLS, "question": [["x"]]}],
    ids=range(9),
)  # fmt: skip
def test_a_row_that_cannot_be_checked_says_so(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        question({"id": 1, **row})


def test_a_score_at_the_threshold_asks_for_a_new_decision_as_it_does_in_the_first() -> None:
    score = Score(value=0.5, gain=0.1)
    now = check(decided(1.01), score, LOST, MODEL, SCORER).score
    assert isinstance(check(decided(now), score, LOST, MODEL, SCORER), Offer)
    assert isinstance(check(decided(now + 1e-6), score, LOST, MODEL, SCORER), Keep)
