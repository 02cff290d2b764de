"""``hybrid eval router``: scores from the prompt and its own signals alone, honest figures, wrong lines by number."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import main
from hybrid.cli.eval import COMMANDS
from hybrid.cli.eval_router import Asked, Scored, figures

EASY = ["set an alarm for seven", "what is the weather in paris", "play some jazz", "call mum", "turn off the lights"]
HARD = [
    "Prove that the sum of the first n odd numbers is n squared, then generalise it to cubes.",
    "Derive the gradient of softmax cross entropy step by step and explain why it is numerically stable.",
    "Which of the following statements about entropy holds?\nA. It falls\nB. It rises\nC. Neither\nD. Both\nAnswer:",
    "Refactor this function to run in O(n log n):\n```python\ndef f(x):\n    return [a for a in x if a in x]\n```",
    "Compare three strategies for hedging currency risk under a budget of 4,000 euros; give formulas.",
]


def rows() -> list[dict[str, Any]]:
    easy = [{"id": f"e{n}", "prompt": p, "weak": 1, "strong": 1} for n, p in enumerate(EASY)]
    hard = [{"id": f"h{n}", "prompt": p, "weak": n % 2, "strong": 1} for n, p in enumerate(HARD)]
    hard[0]["after"] = {"parse_ok": False, "chars": 900, "agree": 0.0}
    hard[1]["after"] = {"parse_ok": True, "chars": 200, "agree": 1.0}
    return easy + hard


def run(folder: Path, given: list[dict[str, Any]], *more: str) -> tuple[Result, list[dict[str, Any]]]:
    data, out = folder / "rows.jsonl", folder / "out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    words = ["eval", "router", "--data", str(data), "--scores", str(out), "--shipped", *more]
    result = CliRunner().invoke(main, words)
    return result, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def scores(folder: Path, given: list[dict[str, Any]]) -> dict[str, float]:
    """Return the scores by prompt."""
    result, out = run(folder, given, "--json")
    assert result.exit_code == 0, result.stderr
    return {row["prompt"]: said["score"] for row, said in zip(given, out, strict=True)}


def test_every_row_has_one_line_in_order_with_a_score_and_a_probability(tmp_path: Path) -> None:
    result, out = run(tmp_path, rows(), "--json")
    assert result.exit_code == 0
    assert [line["id"] for line in out] == [row["id"] for row in rows()]
    assert all(set(line) == {"id", "score", "p_ok"} for line in out)
    assert all(0 <= line[key] <= 1 for line in out for key in ("score", "p_ok"))


def test_the_figures_are_one_json_object(tmp_path: Path) -> None:
    result, _ = run(tmp_path, rows(), "--json")
    found = json.loads(result.stdout)
    assert found["n"] == found["labelled"] == 10
    assert found["with_after"] == 2
    assert found["model"].startswith("router-1:")
    assert found["calibrated"] is False
    assert 0 <= found["cpt50"] <= found["cpt80"] <= 100
    assert set(found["intervals"]) == {"apgr", "cpt50", "cpt80"}
    assert found["baselines"]["random"] == 0.5
    assert found["apgr"] <= found["oracle"]
    assert 0 <= found["ece"] <= 1
    assert found["ms_per_row"] > 0


def test_hard_questions_score_above_assistant_requests(tmp_path: Path) -> None:
    found = scores(tmp_path, [{**row, "after": None} for row in rows()])
    assert max(found[p] for p in EASY) < min(found[p] for p in HARD)


def test_labels_shuffled_ids_changed_rows_reordered_or_removed_change_no_score(tmp_path: Path) -> None:
    plain, given = scores(tmp_path, rows()), rows()
    rng = random.Random(3)  # noqa: S311 - an order of rows
    labels = [(row["weak"], row["strong"]) for row in given]
    rng.shuffle(labels)
    changed = [{**r, "id": n, "weak": w, "strong": s} for n, (r, (w, s)) in enumerate(zip(given, labels, strict=True))]
    rng.shuffle(changed)
    assert scores(tmp_path, changed) == plain
    assert scores(tmp_path, changed[:4]) == {row["prompt"]: plain[row["prompt"]] for row in changed[:4]}
    bare = [{"id": row["id"], "prompt": row["prompt"], "after": row.get("after")} for row in given]
    assert scores(tmp_path, bare) == plain
    flipped = [{**row, "weak": 1 - row["weak"], "strong": 0} for row in given]
    assert scores(tmp_path, flipped) == plain


def test_signals_of_the_answer_move_the_score_of_their_own_row_alone(tmp_path: Path) -> None:
    with_after, without = scores(tmp_path, rows()), scores(tmp_path, [{**row, "after": None} for row in rows()])
    assert with_after[HARD[0]] > without[HARD[0]]  # unreadable, and nobody agrees
    assert with_after[HARD[1]] < without[HARD[1]]  # readable, and all agree
    assert [with_after[p] for p in EASY + HARD[2:]] == [without[p] for p in EASY + HARD[2:]]


@pytest.mark.parametrize("after", [{}, {"agree": None}, {"invented": 3}])
def test_signals_that_say_nothing_leave_the_score_of_the_prompt(tmp_path: Path, after: dict[str, Any]) -> None:
    row = {"id": 1, "prompt": HARD[0]}
    assert scores(tmp_path, [{**row, "after": after}]) == scores(tmp_path, [row])


def test_without_labels_only_scores_are_written(tmp_path: Path) -> None:
    result, out = run(tmp_path, [{"id": 1, "prompt": "call mum"}, {"id": 2, "prompt": HARD[0]}], "--json")
    found = json.loads(result.stdout)
    assert len(out) == found["n"] == 2
    assert found["labelled"] == 0
    assert found["apgr"] is found["intervals"] is found["ece"] is None


def test_rows_of_which_one_label_is_missing_are_scored_and_left_out_of_the_figures(tmp_path: Path) -> None:
    given = rows()
    del given[0]["strong"]
    given[1]["weak"] = None
    result, out = run(tmp_path, given, "--json")
    assert len(out) == 10
    assert json.loads(result.stdout)["labelled"] == 8


def test_no_file_no_rows_no_gap(tmp_path: Path) -> None:
    result, out = run(tmp_path, [], "--json")
    assert (result.exit_code, out, json.loads(result.stdout)["n"]) == (0, [], 0)
    same = [{"id": n, "prompt": p, "weak": 1, "strong": 1} for n, p in enumerate(EASY)]
    result, _ = run(tmp_path, same, "--json")
    assert json.loads(result.stdout)["apgr"] is None
    assert json.loads(result.stdout)["ece"] is not None
    words = ["eval", "router", "--data", str(tmp_path / "none"), "--scores", str(tmp_path / "o")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "none cannot be read: No such file or directory" in result.stderr


WRONG = {
    "no JSON": "{",
    "a list": "[1]",
    "no prompt": '{"id": 1}',
    "a prompt of another type": '{"id": 1, "prompt": 3}',
    "no id": '{"prompt": "p"}',
    "an id that is an object": '{"id": {}, "prompt": "p"}',
    "a label above one": '{"id": 1, "prompt": "p", "weak": 2, "strong": 1}',
    "a label that is no number": '{"id": 1, "prompt": "p", "weak": "1", "strong": 1}',
    "a label that is not finite": '{"id": 1, "prompt": "p", "weak": NaN, "strong": 1}',
    "signals that are no object": '{"id": 1, "prompt": "p", "after": [1]}',
    "bytes that are no text": '{"id": 1, "prompt": "\udcff"}',
    "nested too deep": "[" * 100_000,
}


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG.keys())
def test_a_malformed_row_ends_with_2_names_its_line_and_writes_nothing(tmp_path: Path, line: str) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    first = json.dumps({"id": 0, "prompt": "canary-5ae1"})
    data.write_bytes(f"{first}\n\n{line}\n".encode("utf-8", "surrogateescape"))
    result = CliRunner().invoke(main, ["eval", "router", "--data", str(data), "--scores", str(out), "--json"])
    assert result.exit_code == 2
    assert "line 3" in result.stderr
    assert "canary" not in result.output
    assert not out.exists()


@pytest.mark.parametrize(
    "prompt", ["", " ", "\x00", "\ud800", "\u2028\n\r", "é" * 9000, "🙂" * 500, "\uff11\uff12\uff13", "x" * 200_000],
    ids=["empty", "space", "nul", "surrogate", "breaks", "accents", "emoji", "wide", "long"],
)  # fmt: skip
def test_any_text_is_scored(tmp_path: Path, prompt: str) -> None:
    result, out = run(tmp_path, [{"id": "x", "prompt": prompt, "weak": 0, "strong": 1}], "--json")
    assert result.exit_code == 0, result.stderr
    assert 0 <= out[0]["score"] <= 1


def test_a_person_gets_a_table_and_no_word_of_a_prompt(tmp_path: Path) -> None:
    result, _ = run(tmp_path, rows())
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["router", "rows", "APGR", "compare", "CPT50", "CPT80", "ECE"]
    assert "not calibrated for your local model" in lines[-1]
    assert not any(prompt[:12] in result.output for prompt in EASY + HARD)
    result, _ = run(tmp_path, [{"id": 1, "prompt": "call mum"}])
    assert "none: they need weak and strong" in result.stdout


def test_the_figures_are_those_of_the_written_scores_and_labels() -> None:
    # The hand-worked case of tests/routing/test_evaluation.py.
    asked = [
        Asked(id=n, prompt="x" * (n + 1), weak=w, strong=s, after={})
        for n, (w, s) in enumerate(zip([0, 1, 0, 0], [1, 1, 1, 0], strict=True))
    ]
    said = [Scored(score=s, p_ok=p) for s, p in zip([0.9, 0.8, 0.7, 0.6], [0.0, 1.0, 0.5, 0.5], strict=True)]
    found = figures(asked, said)
    assert (found["apgr"], found["cpt50"], found["oracle"]) == (0.625, 25.0, 0.75)
    assert found["baselines"]["length"] == pytest.approx(1 - 0.625)
    assert found["gap_closed"] == pytest.approx(0.5)
    assert found["ece"] == pytest.approx(0.25)


def test_scoring_needs_no_home_no_network_and_no_heavy_library(tmp_path: Path) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    code = f"""
import sys
def closed(event, args):
    assert not event.startswith("socket."), event
sys.addaudithook(closed)
from hybrid.cli import main
try:
    main(["eval", "router", "--data", {str(data)!r}, "--scores", {str(out)!r}, "--json"])
except SystemExit as end:
    assert not end.code, end.code
print(sorted({{"mlx", "mlx_lm", "grpc", "transformers", "huggingface_hub", "tokenizers"}} & set(sys.modules)))
"""
    empty = tmp_path / "home"
    empty.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(empty), "HYBRID_OFFLINE": "1"}
    words = [sys.executable, "-P", "-c", code]
    done = subprocess.run(words, env=env, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert json.loads(done.stdout.splitlines()[0])["n"] == 10
    assert list(empty.iterdir()) == []  # nothing was left behind


def test_the_table_of_eval_names_what_is_there() -> None:
    for name, (module, sentence) in COMMANDS.items():
        command = __import__(module, fromlist=["command"]).command
        assert command.name == name
        assert command.get_short_help_str(200) == sentence, name
    help_text = CliRunner().invoke(main, ["eval", "--help"]).output
    assert all(name in help_text for name in COMMANDS)
    assert CliRunner().invoke(main, ["eval", "nothing"]).exit_code == 2
