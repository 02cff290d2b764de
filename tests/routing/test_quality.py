"""Holds the router's quality: on fixed rows no figure falls by more than 0.01 APGR, and there is no new false alarm.

Two reduced forms of ``bench/router.py``, on every eighth row. *Recipe*: all heads are fitted to three of the four sets
and rank the fourth by their sum, so a change of features, heads or training shows; novelty, tables and the cascade are
not in it. *Shipped*: the weights as installed rank rows that they were fitted to, so it shows a change of
scoring or of the file, and says nothing of quality. After a change for the better, put the new figures in:
``python -m pytest tests/routing/test_quality.py`` names them.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from hybrid.routing import evaluation
from hybrid.routing.features import extract
from hybrid.routing.recognisers.recognise import private, recognise
from hybrid.weights import load_scorer

ROOT = Path(__file__).parents[2]
EVERY, SLACK = 8, 0.01
RECIPE = {"mmlu": 0.6452, "mmlu_pro": 0.5355, "crux": 0.4353, "llmrouter": 0.6365, "mixed": 0.8109}
SHIPPED = {"mmlu": 0.7882, "mmlu_pro": 0.6145, "crux": 0.722, "llmrouter": 0.7363, "mixed": 0.8628}
ARENA_FLAGGED = 6
"""Of 750 prompts of arena_hard, some of which hold what looks personal."""


@pytest.fixture(scope="module")
def sets() -> Iterator[ModuleType]:
    """The loader of the bench, which the training shares."""
    sys.path.insert(0, str(ROOT / "bench"))
    import _sets

    if not _sets.DATA.is_dir():
        pytest.fail("the developers' data are not beside this checkout: ../shared/data")
    yield _sets
    sys.path.remove(str(ROOT / "bench"))


def compare(found: Mapping[str, float], pinned: Mapping[str, float]) -> None:
    """Fail when a figure fell; name all of them, so that they can be put in."""
    fallen = {name for name, figure in found.items() if figure < pinned[name] - SLACK}
    assert not fallen, (
        f"fell by more than {SLACK}: {sorted(fallen)}; now { {n: round(f, 4) for n, f in found.items()} }"
    )


def figures(
    scores: Mapping[str, Sequence[float]], rows: Mapping[str, Sequence], easy: Sequence[float]
) -> dict[str, float]:
    hard = {n: (scores[n], [r.weak for r in each], [r.strong for r in each]) for n, each in rows.items()}
    return {name: evaluation.apgr(*each) for name, each in hard.items()} | {"mixed": evaluation.mixed_apgr(hard, easy)}


def test_the_recipe_ranks_sets_that_it_never_saw_as_well_as_before(sets: ModuleType) -> None:
    import _train_prompt as train

    hard = {name: rows[::EVERY] for name, rows in sets.pairs().items()}
    easy = sets.assistant()[:: 2 * EVERY]
    scores, calm = {}, []
    for k, name in enumerate(sorted(hard)):
        seen = {other: rows for other, rows in hard.items() if other != name}
        kept, held = [r for n, r in enumerate(easy) if n % 4 != k], easy[k::4]
        named = train._named(seen, kept)
        heads = train.fit_heads(train.rows_of(named, train.targets(seen)))
        judged = heads.z(train.rows_of([(0, row, 1.0) for row in (*hard[name], *held)]))
        scores[name] = judged[: len(hard[name])].tolist()
        calm += judged[len(hard[name]) :].tolist()
    compare(figures(scores, hard, calm), RECIPE)


def test_the_shipped_weights_score_known_rows_as_before(sets: ModuleType) -> None:
    scorer = load_scorer(None)
    hard = {name: rows[::EVERY] for name, rows in sets.pairs().items()}
    scores = {name: [scorer.score(extract(r.prompt)).value for r in rows] for name, rows in hard.items()}
    easy = [scorer.score(extract(r.prompt)).value for r in sets.assistant()[:: 2 * EVERY]]
    compare(figures(scores, hard, easy), SHIPPED)


def test_no_assistant_utterance_raises_an_alarm(sets: ModuleType) -> None:
    texts = [
        r["text"] for name in ("clinc150", "banking77", "hwu64_train") for r in sets.read(f"assistant/{name}.jsonl")
    ]
    assert len(texts) == 38_050
    assert sum(bool(recognise(text)) for text in texts) == 0
    assert private(recognise("my card is 4111 1111 1111 1111"))  # what an alarm looks like


def test_no_more_prompts_of_people_raise_an_alarm_than_before(sets: ModuleType) -> None:
    flagged = sum(private(recognise(r["prompt"])) for r in sets.read("complex/arena_hard_v2.0.jsonl"))
    assert flagged <= ARENA_FLAGGED


def test_a_fallen_figure_is_noticed() -> None:
    compare({"mmlu": 0.591}, {"mmlu": 0.60})
    with pytest.raises(AssertionError, match="mmlu"):
        compare({"mmlu": 0.589}, {"mmlu": 0.60})
