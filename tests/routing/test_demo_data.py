"""The demo's files and framings lead to the routes the demo promises. The readers have tests of their own."""

import email
import email.policy
import tomllib
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import icalendar
import pytest
import recurring_ical_events

from hybrid.routing.labels import Source
from hybrid.weights import load_scorer
from tests.routing.cases import route

DATA = Path(__file__).parents[2] / "examples" / "data"
ITEMS: list[dict[str, Any]] = tomllib.loads((DATA / "demo.toml").read_text(encoding="utf-8"))["item"]
KEYS = {
    "title",
    "question",
    "files",
    "prompt",
    "max_tokens",
    "temperature",
    "route",
    "reasons",
    "show_source",
}


def source(name: str) -> Source:
    """Read a file of the demo with the standard library alone."""
    raw = (DATA / name).read_bytes()
    if name.endswith(".ics"):
        return Source(label=name, text=raw.decode(), kind="calendar")
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert not message.defects
    return Source(label=name, text=message.get_content(), kind="mail")


def test_there_are_four_items_and_each_says_all_it_must() -> None:
    assert len(ITEMS) == 4
    assert all(set(item) - {"system"} == KEYS for item in ITEMS)


@pytest.mark.parametrize("item", ITEMS, ids=lambda i: i["title"])
def test_an_item_takes_the_route_it_names_for_the_reasons_it_names(item: dict[str, Any]) -> None:
    decision = route(item["prompt"], *(source(name) for name in item["files"]), model=load_scorer(None))
    assert decision.route == item["route"]
    assert list(decision.codes[: len(item["reasons"])]) == item["reasons"]


@pytest.mark.parametrize("item", ITEMS, ids=lambda i: i["title"])
def test_an_item_takes_the_same_route_while_the_node_is_cold_or_the_link_is_metered(item: dict[str, Any]) -> None:
    from hybrid.routing.signals import Signals

    signals = Signals(metered=True, cloud_wait_s=8)
    decision = route(item["prompt"], *map(source, item["files"]), signals=signals, model=load_scorer(None))
    assert decision.route == item["route"]


@pytest.mark.parametrize("today", [date(2025, 11, 21) + timedelta(days=97 * n) for n in range(20)], ids=str)
def test_every_week_has_one_friday_dinner_at_seven_in_the_evening(today: date) -> None:
    calendar = icalendar.Calendar.from_ical((DATA / "calendar.ics").read_bytes())
    events = recurring_ical_events.of(calendar).between(today, today + timedelta(days=7))
    dinners = [e.start for e in events if "Dinner" in e["SUMMARY"]]
    assert [(d.isoweekday(), d.hour, d.minute) for d in dinners] == [(5, 19, 0)]


@pytest.mark.parametrize("name", ["calendar.ics", "doctor.eml", "supplier-offers.eml"])
def test_lines_end_and_fold_as_their_formats_want(name: str) -> None:
    raw = (DATA / name).read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert max(map(len, raw.split(b"\r\n"))) <= 78
