"""What a row of the decision log may hold: coarse numbers and codes, nothing by which a text can be looked up."""

import json
import random
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.routing.decide import decide
from hybrid.routing.decision import Counterfactual, Decision, Layer, Reason
from hybrid.routing.labels import Labels, Source, typed
from hybrid.routing.log import (
    COLUMNS,
    LONGEST,
    SHORTEST,
    DecisionRecord,
    Outcome,
    both_open,
    eligible,
    power_of_4,
    score_step,
    threshold_step,
    two_digits,
)
from hybrid.routing.policy import Mode
from hybrid.routing.screen import Screener
from hybrid.routing.signals import MemoryPressure, Signals, Thermal
from hybrid.weights import load_scorer
from hybrid.wire.types import GenerateRequest, Message, Role, Route
from tests.routing.cases import HARD, MAIL, SIMPLE, away, route

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
AT = 1_795_296_234.5


def kept(decision: Decision, **given: Any) -> DecisionRecord:
    return DecisionRecord.of(decision, **{"id": "0badcafe", "at": AT, "chars": 300, **given})


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "power"), [(0, 0), (1, 0), (2, 1), (4, 1), (5, 2), (16, 2), (17, 3), (256, 4), (257, 5), (10**6, 10)]
)
def test_lengths_are_powers_of_4(count: int, power: int) -> None:
    assert power_of_4(count) == power


@pytest.mark.parametrize(
    ("value", "coarse"),
    [(None, None), (0.0, 0.0), (-1.0, 0.0), (1.0, 1.0), (1.13, 1.3), (0.0123, 0.013), (87.0, 79.0), (1234.5, 1300.0)],
)
def test_times_energy_and_money_keep_two_digits_in_ten_steps_a_decade(
    value: float | None, coarse: float | None
) -> None:
    assert two_digits(value) == coarse
    assert coarse is None or len(f"{coarse:.9g}".replace(".", "").strip("0")) <= 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_kept(value: float) -> None:
    assert two_digits(value) is None


def test_scores_round_down_and_thresholds_to_the_nearest_of_16_steps() -> None:
    assert [score_step(s) for s in (0.0, 0.0624, 0.0625, 0.9375, 1.0)] == [0, 0, 1, 15, 15]
    assert [threshold_step(t) for t in (0.0, 0.6, 0.75, 1.0, 1.01)] == [0, 10, 12, 16, 16]


def test_all_there_is_of_a_decision_is_kept_coarsely() -> None:
    signals = Signals(battery=0.31, on_mains=False, thermal=Thermal.FAIR, device_wait_s=4.0, cloud_wait_s=1.0)
    decision = route(HARD, signals=signals)
    record = kept(
        decision,
        chars=1000,
        outcome=Outcome(route=decision.route, seconds=1.234, first_s=0.5678, tokens=77, money=0.0123),
    )
    assert record.minute == int(AT // 60)
    assert record.length == 5
    assert record.score == score_step(decision.score)
    assert (record.battery, record.thermal, record.memory, record.offline) == (0.25, "fair", "normal", False)
    assert (record.device * 20).is_integer()
    assert (record.outcome.seconds, record.outcome.first_s, record.outcome.money) == (1.3, 0.63, 0.013)
    assert record.outcome.tokens == 256
    assert record.policy
    assert record.model


def test_a_row_holds_these_columns_and_no_other() -> None:
    """What may be kept is a list, not what happens to be there: a new field is a decision about R10."""
    assert set(COLUMNS) == {
        *("id", "minute", "route", "mode", "reasons", "open", "eligible", "length", "cascade", "score", "threshold"),
        *("propensity", "label", "types", "counterfactual", "device", "cloud", "battery", "thermal", "memory"),
        *("offline", "policy", "model", "calibrator", "table"),
        *("answered", "verdict", "overridden", "reasked", "regenerated", "tool_failed", "agreed"),
        *("seconds", "first_s", "energy_j", "money", "tokens"),
    }


def test_a_close_call_keeps_what_the_cascade_saw_in_place_of_the_length() -> None:
    close = replace(route(SIMPLE), score=0.5, threshold=0.55)
    assert (kept(close).length, kept(close).cascade) == (5, None)
    assert (kept(close, after=0.8).length, kept(close, after=0.8).cascade) == (None, 3)
    assert kept(replace(close, score=0.1), after=0.8).cascade is None
    assert kept(replace(close, route=Route.PRIVATE_CLOUD), after=0.8).cascade is None


def test_words_that_are_no_codes_are_not_kept() -> None:
    smuggled = "ask doctor Smith"
    decision = Decision(
        route=Route.ON_DEVICE,
        score=0.5,
        threshold=0.5,
        reasons=(Reason(code=smuggled, layer=Layer.PRIVACY, text=smuggled),),
        signals={
            "mode": smuggled,
            "privacy": {"by": smuggled, "source": smuggled, "types": [smuggled, "PERSON"]},
            "thermal": smuggled,
            "memory": smuggled,
            "versions": {"policy": smuggled, "model": "router-1:9f3a", "calibrator": smuggled, "table": smuggled},
            "top": [[smuggled, 1.0]],
        },
        counterfactual=Counterfactual(
            route=Route.PRIVATE_CLOUD, change=smuggled, before=smuggled, after=smuggled, text=smuggled
        ),
    )
    row = kept(decision).to_row()
    assert smuggled.lower() not in json.dumps(row).lower()
    assert "smith" not in json.dumps(row).lower()
    assert (row["reasons"], row["types"], row["model"]) == ("other", "OTHER,PERSON", "router-1:9f3a")


@pytest.mark.parametrize("name", ["", "a b", "naïve", "x" * 65, "a/b", "a\n"])
def test_an_id_that_could_be_a_text_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="id is"):
        kept(route(), id=name)


# --- what counts as open and eligible ---------------------------------------------------------------------------------


def test_only_what_score_and_threshold_decided_counts_towards_the_budget() -> None:
    assert eligible(route(SIMPLE))
    assert eligible(route(HARD))
    assert eligible(route(HARD, signals=Signals(battery=0.1, on_mains=False)))
    barred = [
        route(HARD, MAIL),
        route(HARD, signals=Signals(offline=True)),
        route(HARD, signals=away(Route.PRIVATE_CLOUD, "node_unreachable")),
        route(SIMPLE, signals=away(Route.ON_DEVICE, "model_not_downloaded")),
        route(HARD, signals=Signals(background=True)),
        route(SIMPLE, signals=Signals(memory=MemoryPressure.CRITICAL)),
        route(SIMPLE, signals=Signals(thermal=Thermal.CRITICAL)),
        route(HARD, mode=Mode.ONLY_ON_DEVICE, signals=Signals(person="pinned")),
        route(HARD, mode=Mode.ONLY_PRIVATE_CLOUD, signals=Signals(person="overridden")),
        route(HARD, signals=away(Route.PRIVATE_CLOUD, "declined")),
        route(HARD, mode=Mode.ONLY_ON_DEVICE),
    ]
    assert not any(map(eligible, barred))
    assert not any(map(both_open, barred))
    for mode in (Mode.PREFER_ON_DEVICE, Mode.PREFER_PRIVATE_CLOUD):
        assert both_open(route(HARD, mode=mode))
        assert not eligible(route(HARD, mode=mode))


def test_what_exploration_answered_is_kept_with_its_chance() -> None:
    close = Signals()
    explored = kept(route_close(lambda: 0.0, close))
    plain = kept(route_close(lambda: 0.9, close))
    assert (explored.route, explored.propensity, "explore" in explored.reasons) == (Route.ON_DEVICE, 0.02, True)
    assert (plain.route, plain.propensity, "explore" in plain.reasons) == (Route.PRIVATE_CLOUD, 0.98, False)
    assert explored.open
    assert explored.eligible


def route_close(rng: Any, signals: Signals) -> Decision:
    """Decide a close call for the node, exploring."""
    from tests.routing.cases import SCORER, one_turn

    return decide(*one_turn(HARD), signals, Mode.AUTO, SCORER, threshold=0.9, explore=0.02, rng=rng)


# --- rows -------------------------------------------------------------------------------------------------------------

FULL = Outcome(
    route=Route.ON_DEVICE, verdict="bad", overridden=Route.PRIVATE_CLOUD, reasked=True, regenerated=True,
    tool_failed=True, agreed=False, seconds=1.3, first_s=0.5, energy_j=20.0, money=0.013, tokens=64,
)  # fmt: skip


@pytest.mark.parametrize("outcome", [Outcome(), FULL, replace(FULL, agreed=True, verdict="good")])
@pytest.mark.parametrize("source", [(), (MAIL,)])
def test_rows_are_read_as_they_were_written(outcome: Outcome, source: tuple[Source, ...]) -> None:
    record = kept(route(HARD, *source), outcome=outcome)
    assert DecisionRecord.from_row(record.to_row()) == record
    assert list(record.to_row()) == list(COLUMNS)
    assert all(value is None or isinstance(value, str | int | float) for value in record.to_row().values())
    assert json.loads(json.dumps(record.to_dict()))["reasons"] == list(record.reasons)


@pytest.mark.parametrize(
    "change",
    [
        {"route": "mars"},
        {"id": "two words"},
        {"id": None},
        {"answered": "mars"},
        {"minute": "x"},
        {"reasons": None},
        {"reasons": 7},
        {"verdict": "fine words"},
        {"score": 0.51},
        {"score": 16},
        {"threshold": -1},
        {"length": None},
        {"cascade": 1},
        {"device": 0.123},
        {"battery": 0.31},
        {"propensity": 0.0},
        {"reasons": ""},
        {"reasons": "Ask doctor Smith"},
        {"types": "Ann"},
        {"model": "a text"},
        {"tokens": 77},
        {"length": 300},
        {"seconds": 1.2345},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_row_that_was_not_written_by_us_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no row|not a valid"):
        DecisionRecord.from_row(kept(route()).to_row() | change)


def test_a_row_with_a_missing_column_is_refused() -> None:
    row = kept(route()).to_row()
    del row["score"]
    with pytest.raises(ValueError, match="no row"):
        DecisionRecord.from_row(row)


def test_what_becomes_known_later_joins_what_is_known() -> None:
    record = kept(route(), outcome=Outcome(route=Route.ON_DEVICE, seconds=1.0))
    later = record.ended(Outcome(reasked=True)).ended(Outcome(verdict="bad", seconds=2.04)).ended(Outcome(agreed=False))
    assert later.outcome == Outcome(route=Route.ON_DEVICE, seconds=2.0, reasked=True, verdict="bad", agreed=False)


# --- R10: the dictionary test -----------------------------------------------------------------------------------------
#
# Somebody holds the log and 10,000 texts and knows the machine as it was: every field that a text decides may be
# compared. Each row must leave at least 20 of them, for 99 rows in 100. What the cascade saw cannot be computed from a
# text; it is taken as a number of its own for every text, the worst case.

CANDIDATES, FEWEST, ENOUGH = 10_000, 20, 0.99
SCENES = {
    "mains": Signals(),
    "battery": Signals(battery=0.3, on_mains=False, metered=True, low_power=True, device_wait_s=8.0, cloud_wait_s=2.0),
    "talk": Signals(current_route=Route.ON_DEVICE, quota_left=0.1, cost=0.01, metered=True),
}


def prompts() -> list[str]:
    """Half everyday requests, half hard ones, of the developers' data."""
    if not DATA.is_dir():
        pytest.fail("the data of others is not beside this checkout: ../shared/data")
    easy = [r["text"] for name in ("clinc150", "banking77", "hwu64_train") for r in read(f"assistant/{name}.jsonl")]
    names = ("routellm_mmlu", "mmlu_pro_multi_model", "zeroeval_crux", "llmrouter_dcrouter_train")
    hard = [_asked(r) for name in names for r in read(f"routing/{name}.jsonl")]
    rng = random.Random(1)  # noqa: S311 - a draw of rows
    return rng.sample(sorted(set(hard)), CANDIDATES // 2) + rng.sample(sorted(set(easy)), CANDIDATES // 2)


def read(name: str) -> list[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _asked(row: dict[str, Any]) -> str:
    options = [f"{chr(65 + i)}. {text}" for i, text in enumerate(row.get("options", ()))]
    return "\n".join([row["prompt"], *options])


def decided(texts: Sequence[str], signals: Signals, budget: float | None) -> list[tuple[str, Decision]]:
    scorer, screener = load_scorer(None), Screener(now=lambda: 0.0)
    pairs = []
    for text in texts:
        request = GenerateRequest(messages=(Message(role=Role.USER, content=text),))
        labels = screener.labels(Labels((typed(text),)))
        pairs.append((text, decide(request, labels, signals, Mode.AUTO, scorer, budget=budget)))
    return pairs


def content_fields(text: str, decision: Decision) -> tuple[Hashable, ...]:
    """Every field of a row but those that no text decides: its id and its time."""
    after = (zlib.crc32(text.encode()) % 4 + 0.5) / 4
    row = DecisionRecord.of(decision, id="x", at=0.0, chars=len(text), after=after).to_row()
    return tuple(row.values())


def hidden(rows: Iterable[Hashable]) -> float:
    """Share of rows that leave at least `FEWEST` candidates."""
    rows = list(rows)
    alike = Counter(rows)
    return sum(alike[row] >= FEWEST for row in rows) / len(rows)


def check_dictionary(scene: str) -> None:
    pairs = decided(prompts(), SCENES[scene], 0.8 if scene == "talk" else None)
    rows = [content_fields(*pair) for pair in pairs]
    assert hidden(rows) >= ENOUGH, f"{1 - hidden(rows):.2%} of the rows leave fewer than {FEWEST} candidates"
    assert sum(d.route is Route.ON_DEVICE for _, d in pairs) > 0
    for name, exact in {
        "exact length": lambda t, _: len(t),
        "exact score": lambda _, d: d.score,
        "gain": lambda _, d: d.signals["gain"],
        "p_ok": lambda _, d: d.signals["p_ok"],
        "strongest features": lambda _, d: json.dumps(d.signals["top"]),
    }.items():
        spoilt = [(*row, exact(*pair)) for row, pair in zip(rows, pairs, strict=True)]
        assert hidden(spoilt) < ENOUGH, f"{name} in a row must make this test fail"


def test_a_row_leaves_twenty_of_ten_thousand_texts_and_one_exact_field_would_not() -> None:
    check_dictionary("mains")


@pytest.mark.soak
@pytest.mark.parametrize("scene", ["battery", "talk"])
def test_a_row_leaves_twenty_texts_also_on_battery_and_in_a_conversation(scene: str) -> None:
    check_dictionary(scene)


def test_the_length_is_kept_between_its_ends() -> None:
    lengths = {kept(route(), chars=chars).length for chars in (0, 1, 200, 300, 2000, 10**7)}
    assert lengths == {SHORTEST, SHORTEST + 1, LONGEST}


def test_no_field_of_a_record_is_a_number_read_off_the_text() -> None:
    """Two texts of one length and score are the same row, whatever they say."""
    one, other = (kept(route(text)) for text in ("What is the capital of Peru?", "Who is the mayor of Lyon now?"))
    different = {f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)}
    assert different == set()
