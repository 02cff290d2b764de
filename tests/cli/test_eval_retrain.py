"""``hybrid eval retrain`` and ``rollback``: what held is said by name, and going back is one command."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import main
from hybrid.decision_log import DecisionLog
from hybrid.routing.log import DecisionRecord, Outcome, score_step
from hybrid.weights import load_scorer
from hybrid.wire.types import Route
from tests.routing.users import SCORER, gardener, lived


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HYBRID_OFFLINE", "1")
    monkeypatch.setenv("HYBRID_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["eval", *words])


def fill(folder: Path, count: int) -> None:
    """A decision log of a user over the last weeks."""
    import time

    given = lived(gardener, count, 3, kept=False)
    late = int(time.time() // 60) - given[-1].minute - 60
    with closing(DecisionLog(folder)) as log:
        for lesson in given:
            outcome = Outcome(route=Route.ON_DEVICE, verdict="bad" if lesson.wrong else "good")
            log.add(
                DecisionRecord(
                    id=lesson.id, minute=lesson.minute + late, route=Route.ON_DEVICE, mode="auto", reasons=("simple",),
                    open=True, eligible=True, length=5, score=score_step(lesson.score), threshold=12, outcome=outcome,
                    model=SCORER.version,
                )
            )  # fmt: skip


def test_with_nothing_logged_it_says_what_is_missing_and_changes_nothing(state: Path) -> None:
    found = run("retrain", "--json")
    report = json.loads(found.stdout)
    assert (found.exit_code, report["reason"], report["promoted"], report["version"]) == (0, "too_few", False, 0)
    assert "50 are needed" in report["text"]
    assert "correction" not in run("rollback").stdout
    assert json.loads(run("rollback", "--json").stdout) == {"rolled_back": False, "from": 0, "version": 0, "kept": 0}


def test_a_dry_run_judges_a_run_promotes_and_rollback_goes_back(state: Path) -> None:
    fill(state, 100)
    dry = run("retrain", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "dry_run" in dry.stdout
    assert dry.stdout.count("holds ") == 11
    assert "order of scores cannot change" in dry.stderr
    assert load_scorer(state).personal is None
    done = json.loads(run("retrain", "--json").stdout)
    assert (done["promoted"], done["version"], all(rail["ok"] for rail in done["rails"])) == (True, 1, True)
    assert load_scorer(state).personal is not None
    assert json.loads(run("retrain", "--json").stdout)["reason"] == "too_soon"
    assert json.loads(run("rollback", "--json").stdout) == {"rolled_back": True, "from": 1, "version": 0, "kept": 0}
    assert load_scorer(state).personal is None


def test_help_says_how_often_and_from_how_much(state: Path) -> None:
    assert "At most once a day, from 50 new outcomes on" in run("retrain", "--help").stdout
    assert "Three are kept" in run("rollback", "--help").stdout


def test_recordings_calibrate_the_local_model_and_a_wrong_row_is_named(state: Path, tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "prompt": f"what is {n} times {n}", "weak": float(n % 3 == 0), "strong": 1} for n in range(520)
    ]
    file = tmp_path / "recorded.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = json.loads(run("retrain", "--recorded", str(file), "--json").stdout)
    assert (done["promoted"], done["outcomes"]) == (True, 520), done
    assert load_scorer(state).calibrated
    file.write_text(json.dumps(rows[0]) + "\n" + json.dumps({**rows[1], "weak": 7}) + "\n")
    failed = run("retrain", "--recorded", str(file))
    assert (failed.exit_code, "line 2" in failed.stderr) == (2, True)
