"""``hybrid logs`` and ``hybrid eval replay``: one's own decisions, for people and programs, without content."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import main
from hybrid.decision_log import FILE, DecisionLog
from hybrid.routing.log import DecisionRecord, Outcome, score_step
from hybrid.wire.types import Route
from tests.cli.scenes import COMPLEX, SCENES

HERE, THERE = Route.ON_DEVICE, Route.PRIVATE_CLOUD


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, [*words])


def record(name: str, score: float, *, days_ago: float = 0.0, **given: Any) -> DecisionRecord:
    route = given.pop("route", THERE if score >= 0.75 else HERE)
    outcome = given.pop("outcome", Outcome(route=route, seconds=1.0))
    fields = {"mode": "auto", "open": True, "eligible": True, "length": 4, "threshold": 12, **given}
    fields.setdefault("reasons", ("complex",) if score >= 0.75 else ("simple",))
    minute = int((time.time() - days_ago * 86_400) // 60)
    return DecisionRecord(id=name, minute=minute, route=route, score=score_step(score), outcome=outcome, **fields)


def fill(folder: Path, *records: DecisionRecord) -> None:
    with closing(DecisionLog(folder)) as log:
        for each in records:
            log.add(each)


def some() -> list[DecisionRecord]:
    return [
        record("old", 0.2, days_ago=40),
        record("simple", 0.2, days_ago=2, outcome=Outcome(route=HERE, seconds=0.5, reasked=True)),
        record("complex", 0.9, days_ago=1, outcome=Outcome(route=THERE, seconds=2.0, verdict="good")),
        record("kept", 0.9, route=HERE, open=False, eligible=False, reasons=("label", "complex"), label="source"),
        record("found", 0.3, reasons=("recognised", "simple"), open=False, eligible=False, types=("IBAN_CODE",)),
        record("explored", 0.8, route=HERE, propensity=0.02, reasons=("explore", "complex")),
    ]


# --- logs -------------------------------------------------------------------------------------------------------------


def test_where_nothing_is_logged_it_says_so_and_where_it_would_be(state: Path) -> None:
    for words in (["logs"], ["eval", "replay"], ["eval", "replay", "--threshold", "0.5"]):
        result = run(*words)
        assert (result.exit_code, result.stdout) == (0, "")
        assert f"no decision is logged, in {state / FILE}" in result.stderr
    assert not state.exists()


def test_a_table_says_when_where_why_and_what_became_of_it(state: Path) -> None:
    fill(state, *some())
    result = run("logs")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert len(lines) == 6
    assert "● on device      simple               0.19 < 0.75  0.5 s, asked again" in lines[1]
    assert "▲ private cloud  complex              0.88 ≥ 0.75  2 s, said to be good" in lines[2]
    assert "● on device      label" in lines[3]
    assert "found iban_code" in lines[4]
    assert "explored with chance 0.02" in lines[5]
    assert f"6 decisions, kept 90 days in {state / FILE}" in result.stderr
    assert "25% of the last requests that might have gone to the private cloud went there" in result.stderr
    assert "no budget is set" in result.stderr


def test_the_budget_stands_beside_the_realised_share(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(state, *some())
    monkeypatch.setenv("HYBRID_BUDGET", "0.3")
    assert "the budget is 30%, and asks for a score of 0.70" in run("logs").stderr


def test_programs_get_one_object_a_line(state: Path) -> None:
    fill(state, *some())
    rows = [json.loads(line) for line in run("logs", "--json").stdout.splitlines()]
    assert [row["id"] for row in rows] == ["old", "simple", "complex", "kept", "found", "explored"]
    last = rows[-1]
    assert (last["route"], last["propensity"], last["reasons"]) == ("on_device", 0.02, ["explore", "complex"])
    assert (last["score"], last["threshold"], last["quality"]) == (0.75, 0.75, 1.0)
    assert run("logs", "--json", "--since", "1h").stdout.count("\n") == 3


@pytest.mark.parametrize(("since", "count"), [("30d", 5), ("36h", 4), ("10w", 6)])
def test_one_may_look_back_a_while(state: Path, since: str, count: int) -> None:
    fill(state, *some())
    assert len(run("logs", "--since", since).stdout.splitlines()) == count


def test_the_last_ones_are_shown(state: Path) -> None:
    fill(state, *some())
    result = run("logs", "-n", "2")
    assert len(result.stdout.splitlines()) == 2
    assert "the last 2 of 6 decisions" in result.stderr
    assert [json.loads(run("logs", "-n", "1", "--json").stdout)["id"]] == ["explored"]


def test_a_span_in_which_nothing_happened_is_told_from_an_empty_log(state: Path) -> None:
    fill(state, record("old", 0.2, days_ago=40))
    for words in (["logs"], ["eval", "replay"]):
        assert "no decision was logged since" in run(*words, "--since", "1d").stderr


def test_purging_removes_what_is_past_its_time_or_everything(state: Path) -> None:
    fill(state, *some())
    assert "removed 0 decisions older than 90 days" in run("logs", "--purge").stderr
    assert "removed 6 decisions from" in run("logs", "--purge", "--all").stderr
    assert "no decision is logged" in run("logs").stderr


def test_a_broken_log_is_an_error_with_a_way_out(state: Path) -> None:
    state.mkdir()
    (state / FILE).write_bytes(b"no database" * 500)
    for words in (["logs"], ["logs", "--purge"], ["eval", "replay"]):
        result = run(*words)
        assert result.exit_code == 2
        assert "cannot be read" in result.stderr
        assert "hybrid logs --purge --all" in result.stderr
    assert run("logs", "--purge", "--all").exit_code == 0
    assert "no decision is logged" in run("logs").stderr


@pytest.mark.parametrize(
    "words",
    [
        ["logs", "--all"],
        ["logs", "--since", "yesterday"],
        ["logs", "--since", "30"],
        ["logs", "--purge", "--json"],
        ["logs", "--purge", "--since", "3d"],
        ["logs", "-n", "0"],
        ["eval", "replay", "--threshold", "2"],
        ["eval", "replay", "--policy", "some"],
        ["eval", "replay", "--since", "x"],
    ],
    ids=" ".join,
)
def test_words_that_mean_nothing_are_a_usage_error(words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_what_was_asked_is_logged_without_a_word_of_it(state: Path) -> None:
    scene = SCENES["node"]()
    for question in ("canary-simple", f"{COMPLEX} canary-complex"):
        assert CliRunner().invoke(main, ["ask", question], obj=scene.doors).exit_code == 0
    shown = run("logs").output + run("logs", "--json").output + run("eval", "replay", "--threshold", "0.1").output
    assert len(run("logs").stdout.splitlines()) == 2
    assert "canary" not in shown
    assert b"canary" not in b"".join(path.read_bytes() for path in state.glob(f"{FILE}*"))
    with closing(sqlite3.connect(state / FILE)) as file:
        assert file.execute("SELECT COUNT(*) FROM decisions").fetchone() == (2,)


def test_explaining_logs_nothing(state: Path) -> None:
    assert CliRunner().invoke(main, ["explain", "hello"], obj=SCENES["device"]().doors).exit_code == 0
    assert not (state / FILE).exists()


# --- replay -----------------------------------------------------------------------------------------------------------


def test_replay_shows_another_threshold_beside_what_happened(state: Path) -> None:
    fill(state, *some())
    result = run("eval", "replay", "--threshold", "0.1")
    assert result.exit_code == 0
    assert "6 decisions; 3 would change, 2 are settled by labels, availability or a person" in result.stdout
    assert "private cloud  16.7%        66.7%" in result.stdout
    assert "inverse propensity   not identifiable: 2 would go where chance sent none like them" in result.stdout
    assert "thresholds: replayed in steps of 1/16" in result.stderr


def test_replay_shows_estimates_where_exploration_identifies_them(state: Path) -> None:
    explored = [record(f"e{n}", 0.8, route=HERE, propensity=0.02, reasons=("explore", "complex")) for n in range(12)]
    left = [record(f"l{n}", 0.8, propensity=0.98) for n in range(588)]
    fill(state, *explored, *left)
    result = run("eval", "replay", "--threshold", "0.875")
    assert result.stdout.count("95 % interval") == 3
    report = json.loads(run("eval", "replay", "--threshold", "0.875", "--json").stdout)
    assert (report["n"], report["explored"], report["unsupported"]) == (600, 12, 0)
    assert [e["method"] for e in report["estimates"]] == ["ips", "snips", "dr"]
    assert all(0 < e["low"] < e["value"] <= e["high"] <= 1 for e in report["estimates"])


def test_replay_of_a_mode_keeps_what_labels_settled(state: Path) -> None:
    fill(state, *some())
    report = json.loads(run("eval", "replay", "--policy", "prefer_private_cloud", "--json").stdout)
    assert (report["mode"], report["held"]) == ("prefer_private_cloud", 2)
    assert report["would"]["share"] == pytest.approx(4 / 6)


def test_replay_without_a_policy_shows_every_threshold(state: Path) -> None:
    fill(state, *some())
    result = run("eval", "replay")
    assert len(result.stdout.splitlines()) == 18
    grid = json.loads(run("eval", "replay", "--json").stdout)
    assert [row["threshold"] for row in grid["thresholds"]] == [n / 16 for n in range(17)]
    assert json.loads(run("eval", "replay", "--since", "1h", "--json").stdout)["n"] == 3
