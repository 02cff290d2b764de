"""``hybrid eval record`` with the starter model, and what it refuses."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybrid.cli.eval_record import command
from hybrid.cli.failures import guarded
from hybrid.errors import UnavailableError
from hybrid.local import DeviceModel
from hybrid.routing.cascade import After

STORE = Path(os.environ.get("HYBRID_MODELS", Path.home() / ".cache/hybrid-pcc/models"))
ROWS = [
    {"id": "a", "context": "Anna lives in Oslo.", "question": "Where does Anna live?", "answer": "Oslo"},
    {"id": "b", "prompt": "What is 41 * 73?", "answer": "2993", "strong": 0.5},
]


@pytest.fixture(autouse=True)
def starter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_MODELS", str(STORE))
    try:
        DeviceModel.find("starter", STORE)
    except UnavailableError:
        pytest.skip("the starter is not in the store: hybrid pull starter")


@pytest.mark.model
def test_a_recording_holds_marks_and_what_the_cascade_would_see(tmp_path: Path) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = ["--data", str(data), "--out", str(out), "-m", "starter", "--max-tokens", "12"]
    result = CliRunner().invoke(command, options, catch_exceptions=False)
    assert result.exit_code == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["id"], line["strong"]) for line in lines] == [("a", 1.0), ("b", 0.5)]
    for line in lines:
        assert line["weak"] in (0.0, 1.0)
        assert {"lp_first", "margin_first", "entropy_first", "lp_q50", "lp_min", "n_tokens"} <= set(line["after"])
        assert After.from_dict(line["after"]).to_dict() == line["after"]
        assert line["after"]["lp_min"] <= line["after"]["lp_q50"] <= 0


@pytest.mark.model
def test_a_row_without_an_answer_is_named_by_its_line(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('\n{"id": 1, "prompt": "canary-prompt"}\n')
    arguments = ["--data", str(data), "--out", str(tmp_path / "out.jsonl"), "-m", "starter"]
    result = CliRunner().invoke(command, arguments)
    assert "line 2" in str(result.exception)
    assert "canary" not in str(result.exception)
    assert guarded(lambda: command.main(arguments, standalone_mode=False)) == 2
