"""The learned scorer as it is installed: what stays, what goes up, and that it is one and the same everywhere."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.routing.complexity import MOST_THRESHOLD, LearnedScorer
from hybrid.routing.features import CONVERSATION, STRUCTURAL, Conversation, extract
from hybrid.routing.personal import Personal, digest
from hybrid.routing.signals import LEAVING
from hybrid.weights import load_scorer, shipped
from tests.routing.cases import HARD, SIMPLE

ROOT = Path(__file__).parents[2]
LEARNED = load_scorer(None)
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
HOSTILE = {
    "one character": "a" * 100_000,
    "one digit": "7" * 100_000,
    "spaces": " " * 100_000,
    "lines": "\n" * 100_000,
    "null bytes": "\0" * 10_000 + "why\0not",
    "emoji": "\U0001f980\u200d" * 5_000,
    "half a surrogate pair": "\ud83d why \udc00",
    "options": "A. \n" * 20_000,
    "no word at all": "?!" * 3,
    "right to left": "\u202eabc \u05d0\u05d1",
}


def score(text: str) -> float:
    return LEARNED.score(extract(text)).value


@pytest.mark.parametrize("text", STAY)
def test_everyday_requests_stay_below_the_neutral_threshold(text: str) -> None:
    assert score(text) < LEARNED.threshold(LEAVING)


@pytest.mark.parametrize("text", GO_UP)
def test_requests_in_several_steps_reach_the_neutral_threshold(text: str) -> None:
    assert score(text) >= LEARNED.threshold(LEAVING)


def test_the_neutral_threshold_lies_near_three_quarters_of_the_reference_mix() -> None:
    assert 0.70 <= LEARNED.threshold(LEAVING) <= 0.80


def test_the_threshold_is_the_rank_of_the_need_and_never_falls() -> None:
    needs = [n / 200 for n in range(-300, 300)]
    thresholds = [LEARNED.threshold(need) for need in needs]
    assert all(a <= b for a, b in itertools.pairwise(thresholds))
    assert all(t == round(LEARNED.rank(n), 6) for n, t in zip(needs, thresholds, strict=True) if n < 1)
    assert (thresholds[0], thresholds[-1]) == (0.0, MOST_THRESHOLD)


def test_ranks_rise_strictly_with_the_gain_so_that_no_two_requests_tie() -> None:
    ranks = [LEARNED.rank(n / 5000) for n in range(-500, 2500)]
    assert all(a < b for a, b in itertools.pairwise(ranks))


def test_the_score_is_the_rank_of_the_gain() -> None:
    result = LEARNED.score(extract(HARD))
    assert result.gain is not None
    assert result.value == pytest.approx(LEARNED.rank(result.gain), abs=1e-4)


def test_shipped_weights_do_not_call_themselves_calibrated_for_a_local_model() -> None:
    assert LEARNED.calibrated is False
    calibrated = Personal(base=digest(shipped()), version=1, day=0, p_ok=(0.0, 1.0))
    assert LearnedScorer.from_bytes(shipped(), calibrated).calibrated is True


def test_what_is_harder_is_less_likely_to_be_answered_well_here() -> None:
    easy, hard = (LEARNED.score(extract(text)).p_ok for text in ("set an alarm for seven", GO_UP[-1]))
    assert easy is not None
    assert hard is not None
    assert easy > 0.9
    assert hard < 0.6


def test_three_strongest_differences_are_named_and_none_is_a_word_of_the_prompt() -> None:
    top = LEARNED.score(extract("zanzibar 9c41e7 " + GO_UP[-1])).top
    assert len(top) == 3
    assert {name for name, _ in top} <= {*STRUCTURAL, *CONVERSATION, "words", "task", "novelty"}
    assert [abs(v) for _, v in top] == sorted((abs(v) for _, v in top), reverse=True)


def test_the_parts_add_up_to_what_becomes_the_gain() -> None:
    features = extract(GO_UP[-2])
    row = [features.values[name] for name in STRUCTURAL]
    from hybrid.routing.linear import buckets

    hashed = buckets(features.words)
    for trees in LEARNED.model.trees:
        paths = [0.0] * len(row)
        trees.add_parts(row, paths)
        assert sum(paths) == pytest.approx(trees.value(row) - trees.start, abs=1e-9)
    total = sum(LEARNED.model.parts(row, *hashed).values())
    assert LEARNED.standard(features.values, *hashed) == pytest.approx(
        total, abs=0.2
    )  # the rest is doubt about new words


def test_words_that_training_never_saw_are_novel_and_length_takes_over() -> None:
    known, new = (LEARNED.score(extract(t)) for t in ("what is the name of this", "qxzv wvvkj zzqpt bbxcq jjvvw kqqzx"))
    assert known.novelty == 0.0
    assert new.novelty is not None
    assert new.novelty > 0.3
    assert "novelty" in dict(new.top)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (Conversation(), Conversation(reask=0.9)),
        (Conversation(), Conversation(rejected=True)),
        (Conversation(tools=1), Conversation(tools=9)),
        (Conversation(schema_depth=1), Conversation(schema_depth=4)),
        (Conversation(turn=1), Conversation(turn=30)),
    ],
    ids=["reask", "rejected", "tools", "schema_depth", "turn"],
)
def test_nothing_of_the_conversation_lowers_the_score(less: Conversation, more: Conversation) -> None:
    for text in (SIMPLE, HARD):
        low, high = (LEARNED.score(extract(text, conversation=c)).value for c in (less, more))
        assert low <= high
        assert low < high or less.turn != more.turn


def test_more_of_the_window_in_use_raises_the_score() -> None:
    shares = [LEARNED.score(extract(SIMPLE, context_tokens=n, window=1000)).value for n in (0, 500, 1000, 9000)]
    assert shares[0] < shares[1] < shares[2] == shares[3]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_scores_between_0_and_1(text: str) -> None:
    result = LEARNED.score(extract(text))
    assert 0.0 <= result.value <= 1.0
    assert result.p_ok is not None
    assert 0.0 <= result.p_ok <= 1.0


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_text_scores_like_any_other(kind: str) -> None:
    result = LEARNED.score(extract(HOSTILE[kind]))
    assert 0.0 <= result.value <= 1.0
    assert result == LEARNED.score(extract(HOSTILE[kind]))


def test_a_personal_correction_moves_scores_and_names_itself() -> None:
    from hybrid.routing.linear import buckets

    words, _ = buckets(extract(SIMPLE).words)
    own = Personal(base=digest(shipped()), version=3, day=0, linear=dict.fromkeys(words, 2.0))
    corrected = LearnedScorer.from_bytes(shipped(), own)
    assert corrected.score(extract(SIMPLE)).value > score(SIMPLE)
    assert corrected.version == LEARNED.version + "+3"


CHILD = """
import json, sys
from hybrid.routing.features import extract
from hybrid.weights import load_scorer
scorer = load_scorer(None)
print(json.dumps([repr(scorer.score(extract(text))) for text in json.load(sys.stdin)]))
"""


def _in_a_process(hash_seed: str, texts: tuple[str, ...]) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, env=environment, input=json.dumps(texts), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    scores: list[str] = json.loads(child.stdout)
    return scores


def test_every_process_gives_the_same_score_for_the_same_text() -> None:
    texts = (*STAY, *GO_UP, *(f"{a} and then {b}" for a in GO_UP for b in GO_UP))
    first = _in_a_process("1", texts)
    assert first == _in_a_process("2", texts)
    assert first == [repr(LEARNED.score(extract(text))) for text in texts]


def test_the_order_in_which_texts_are_scored_changes_nothing() -> None:
    scorer: Mapping[str, float] = {text: score(text) for text in reversed((*STAY, *GO_UP))}
    assert {text: score(text) for text in (*STAY, *GO_UP)} == scorer
