"""The weights file: read or refused, numbers alone, and the same bytes whenever it is trained."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hybrid.routing.complexity import LearnedScorer
from hybrid.routing.features import STRUCTURAL, extract
from hybrid.routing.heads import MOST_BYTES, WeightsError
from hybrid.routing.lexicon import LISTS
from hybrid.routing.ranks import Table
from hybrid.weights import shipped

ROOT = Path(__file__).parents[2]
BODY: dict[str, Any] = json.loads(shipped())
DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\x00\xff",
    "cut": shipped()[:-40_000],
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "too many bytes": b" " * (MOST_BYTES + 1),
    "infinite": shipped().replace(b'"start": ', b'"start": 1e999, "x": ', 1),
    "not a number": shipped().replace(b'"start": ', b'"start": NaN, "x": ', 1),
}


def changed(*path: Any, to: Any) -> bytes:
    body = json.loads(shipped())
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return json.dumps(body).encode()


CHANGED: dict[str, bytes] = {
    "another list of features": changed("trees", "names", to=list(STRUCTURAL[1:])),
    "a tree too short": changed("trees", "ok", "values", to=BODY["trees"]["ok"]["values"][1:]),
    "a feature that is none": changed("trees", "gain", 0, "columns", 0, to=len(STRUCTURAL)),
    "buckets missing": changed("linear", "weights", to=BODY["linear"]["weights"][:-4]),
    "packed numbers that are none": changed("linear", "weights", to="%" * 16),
    "known words missing": changed("linear", "seen", to=""),
    "a table that falls": changed("rank", "rank", to=[[0, 1], [1, 0]]),
    "a table without points": changed("p_ok", to=[[], []]),
    "a conversation that lowers": changed("conversation", "reask", to=-0.1),
    "a part missing": changed("task", to=None),
}


@pytest.mark.parametrize("how", sorted(DAMAGED))
def test_damaged_weights_are_refused_with_what_to_do(how: str) -> None:
    with pytest.raises(WeightsError):
        LearnedScorer.from_bytes(DAMAGED[how])


@pytest.mark.parametrize("how", sorted(CHANGED))
def test_weights_that_do_not_fit_together_are_refused(how: str) -> None:
    with pytest.raises(WeightsError):
        LearnedScorer.from_bytes(CHANGED[how])


def test_a_change_that_fits_is_read_and_has_another_version() -> None:
    other = LearnedScorer.from_bytes(changed("linear", "bias", to=BODY["linear"]["bias"] + 1.0))
    ours = LearnedScorer.from_bytes(shipped())
    assert other.version != ours.version
    assert other.score(extract("hi")).value > ours.score(extract("hi")).value


def test_the_file_is_small() -> None:
    assert len(shipped()) <= 1_000_000


def strings(value: Any) -> list[str]:
    """Every string in a body, keys included."""
    if isinstance(value, dict):
        return [*value, *(s for inner in value.values() for s in strings(inner))]
    if isinstance(value, list):
        return [s for inner in value for s in strings(inner)]
    return [value] if isinstance(value, str) else []


def test_it_holds_numbers_names_and_sources_and_no_word_of_any_row() -> None:
    packed = {BODY["linear"]["weights"], BODY["linear"]["seen"], BODY["task"]["linear"]["weights"]}
    assert all(base64.b64decode(text, validate=True) for text in packed)
    readable = {s for s in strings(BODY) if s not in packed} - set(STRUCTURAL) - set(BODY["sources"])
    assert all(re.fullmatch(r"[a-z_0-9]{1,16}(-\d+)?", text) for text in readable)
    assert len(readable) < 80
    vocabulary = {word for words in LISTS.values() for word in words}
    assert len(readable & vocabulary) < 10  # names of keys such as "rank" and "linear", no list of words


def test_a_word_in_clear_would_be_noticed() -> None:
    body = json.loads(changed("task", "words", to=["photosynthesis of plants"]))
    assert not all(re.fullmatch(r"[a-z_0-9]{1,16}(-\d+)?", text) for text in strings(body["task"]["words"]))


def test_the_model_card_names_every_source_and_the_duties_that_come_with_it() -> None:
    card = (ROOT / "hybrid/routing/weights/MODEL_CARD.md").read_text(encoding="utf-8")
    assert [source for source in BODY["sources"] if source not in card] == []
    for duty in (
        "CC BY 3.0",
        "CC BY 4.0",
        "Larson et al. 2019",
        "Casanueva et al. 2020",
        "Liu et al. 2019",
        "without llmrouter",
    ):
        assert duty in card


@pytest.mark.parametrize(
    ("xs", "ys"),
    [((0, 0), (0, 1)), ((1, 0), (0, 1)), ((0, 1), (1, 0)), ((0,), (0,)), ((0, 1), (0,)), ((0, 1), (0, float("nan")))],
)
def test_a_table_that_does_not_increase_is_refused(xs: tuple[float, ...], ys: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="table"):
        Table.of(xs, ys)


def test_a_table_is_straight_between_its_points_and_level_outside() -> None:
    table = Table.of((0, 1, 3), (0, 10, 20))
    assert [table(x) for x in (-1, 0, 0.5, 1, 2, 3, 9)] == [0, 0, 5, 10, 15, 20, 20]


SMALL = """
import hashlib, sys
sys.path.insert(0, "bench")
import _sets
from _train_prompt import fit
from train_router import encode
sets = {name: rows[:: max(1, len(rows) // 150)] for name, rows in _sets.pairs().items()}
body = {"version": "small-1", "sources": []} | fit(sets, _sets.assistant()[::60])
sys.stdout.buffer.write(encode(body))
"""


def trained(program: list[str], hash_seed: str) -> bytes:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *program], cwd=ROOT, env=environment, capture_output=True, check=True).stdout


def test_the_same_rows_give_the_same_bytes_in_every_process() -> None:
    first = trained(["-c", SMALL], "1")
    assert LearnedScorer.from_bytes(first).version.startswith("small-1:")
    assert first == trained(["-c", SMALL], "2")


@pytest.mark.soak
def test_training_anew_gives_the_installed_weights_to_the_byte() -> None:
    trained(["bench/train_router.py", "--check"], "3")
