import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.routing.complexity import NEED_CURVE, WEIGHTS, StructuralScorer
from hybrid.routing.features import HEAD_CHARS, TAIL_CHARS, excerpt, extract
from tests.routing.cases import HARD, SCORER, SIMPLE

ROOT = Path(__file__).parents[2]
STAY = (
    SIMPLE,
    "Am I free for dinner on Friday?",
    "Question: Am I free for dinner on Friday? Answer yes or no and name the event.",
    "hi",
    "set an alarm for seven tomorrow morning",
    "what's the weather like in Oslo",
    "transfer 20 euros from my savings to my checking account",
    "Summarise this e-mail.",
    "",
)
GO_UP = (
    HARD,
    "What are the two offers, how do they differ, and by when do I have to decide?",
    "Question: What are the two offers, how do they differ, and by when do I have to decide?",
    "Derive the quadratic formula step by step and compare it with completing the square.",
    (
        "A farm collects 16 eggs per day. The family eats three for breakfast every morning and bakes with four. The "
        "rest is sold at the market for $2 per egg. How much money in dollars does the farm make every day?"
    ),
    "def f(x):\n    y = [i for i in x if i > 2]\n    return sum(y)\n\nWhat does f([1, 2, 3]) return? Explain why.",
)


def score(text: str) -> float:
    return SCORER.score(extract(text)).value


@pytest.mark.parametrize("text", STAY)
def test_everyday_requests_stay_below_the_threshold(text: str) -> None:
    assert score(text) < SCORER.threshold(0.02)


@pytest.mark.parametrize("text", GO_UP)
def test_requests_in_several_steps_reach_the_threshold(text: str) -> None:
    assert score(text) >= SCORER.threshold(0.02)


def test_the_formula_is_the_documented_one_for_a_text_worked_out_by_hand() -> None:
    # 6 words: 0.90 * log2(1 + 6/8) = 0.7266; nothing else counts; 1 / (1 + exp(3 - 0.7266)) = 0.0934
    result = SCORER.score(extract(SIMPLE))
    assert (result.value, result.top) == (0.0934, (("length", 0.73),))


def test_every_weight_has_a_feature_and_every_feature_a_weight() -> None:
    assert set(extract(HARD).values) == set(WEIGHTS)


def test_the_document_shows_the_weights_that_are_used() -> None:
    table = re.findall(
        r"^\| `(\w+)` \| .* \| ([\d.]+) \| (\d) \|$", (ROOT / "docs/routing.md").read_text(), re.MULTILINE
    )
    assert {name: (float(weight), float(most)) for name, weight, most in table} == WEIGHTS


def test_the_scorer_does_not_call_itself_calibrated() -> None:
    result = SCORER.score(extract(HARD))
    assert StructuralScorer().calibrated is False
    assert (result.p_ok, result.gain, result.novelty) == (None, None, None)


def test_no_more_of_one_thing_can_lower_the_score() -> None:
    base = "Tell me about rivers"
    for more in (
        " and plan, compare, derive",
        " 1 2 3",
        "?\nWhy? How?",
        "\nA. x\nB. y\nC. z",
        " in 500 words",
        " `x = f(y)`",
    ):
        assert score(base + more) > score(base)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_scores_between_0_and_1(text: str) -> None:
    assert 0.0 <= score(text) <= 1.0


def test_the_threshold_never_falls_as_the_need_grows() -> None:
    thresholds = [SCORER.threshold(n / 100) for n in range(-150, 150)]
    assert all(a <= b for a, b in itertools.pairwise(thresholds))
    assert (thresholds[0], thresholds[-1]) == (NEED_CURVE[0][1], NEED_CURVE[-1][1])
    assert SCORER.threshold(0.02) == 0.55


@pytest.mark.parametrize(
    "size", [HEAD_CHARS + TAIL_CHARS - 1, HEAD_CHARS + TAIL_CHARS, HEAD_CHARS + TAIL_CHARS + 1, 99_999]
)
def test_at_most_4000_characters_are_looked_at(size: int) -> None:
    shown = excerpt("h" * HEAD_CHARS + "m" * (size - HEAD_CHARS - 500) + "t" * 500)
    assert len(shown) == min(size, HEAD_CHARS + TAIL_CHARS)
    assert shown.startswith("h" * HEAD_CHARS)
    assert shown.endswith("t" * 500)


def test_the_question_counts_at_either_end_of_a_long_text_and_not_in_its_middle() -> None:
    filler = "rain falls. " * 400
    ask = " plan compare derive prove"
    assert score(ask + filler) > score(filler)
    assert score(filler + ask) > score(filler)
    assert extract(filler + ask + filler).values["steps"] == 0.0


def test_more_of_the_window_in_use_raises_the_score_a_little() -> None:
    shares = [SCORER.score(extract(SIMPLE, context_tokens=n, window=1000)).value for n in (0, 500, 1000, 9000)]
    assert shares[0] < shares[1] < shares[2] == shares[3]


@pytest.mark.parametrize("worst", ["1 1 ", "a(a(", "{\n\n", "\n\n  ", "$a$", "A. ", "= ", "a-a'", "3 words "])
def test_no_pattern_is_slow_on_its_worst_text(worst: str) -> None:
    text = worst * (4000 // len(worst))
    plain = "plain words here " * 235
    assert _seconds(text) < 40 * _seconds(plain)  # a quadratic pattern would be hundreds of times slower


def _seconds(text: str) -> float:
    def once() -> float:
        start = time.perf_counter()
        extract(text)
        return time.perf_counter() - start

    return min(once() for _ in range(3))


CHILD = """
import json, random
from tests.routing.test_properties import TEXTS, some_input
from hybrid.routing.decide import NoRoute
rng = random.Random(7)
for _ in range(500):
    drawn = some_input(rng)
    try:
        print(json.dumps(drawn.decide().to_dict()))
    except NoRoute as error:
        print(error)
"""


def _decisions(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return child.stdout


def test_the_same_inputs_give_the_same_decisions_in_every_process() -> None:
    first = _decisions("1")
    assert first.count("\n") == 500
    assert first == _decisions("2")
