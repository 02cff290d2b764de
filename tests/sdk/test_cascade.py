"""The cascade in a turn: what is held back, what is dropped, what stays, and that no label or mode is passed by."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from hybrid.choice import Rules, decide_route
from hybrid.client import Client
from hybrid.compose import Ask
from hybrid.errors import ConfigurationError
from hybrid.events import Done, Event, Handoff, RouteDecided, TextDelta
from hybrid.paced import paced
from hybrid.reply import Reply
from hybrid.routing.cascade import CHECK_AT, HELD_S
from hybrid.routing.complexity import NEAR
from hybrid.routing.decision import Decision
from hybrid.routing.signals import Signals
from hybrid.sources import Source
from hybrid.testing import FakeEngine, MemoryTransport, Wait
from hybrid.weights import load_scorer
from hybrid.wire.types import Route, TokenSignals
from tests.support import FACES, Bench, Opener, kinds

ASKED = "what does the mail say about the offer"
SURE = TokenSignals(lp_first=-0.01, margin_first=6.0, entropy_first=0.1, lp_q10=-0.05, lp_q50=-0.01, lp_min=-0.1)
LOST = TokenSignals(lp_first=-3.0, margin_first=0.1, entropy_first=5.0, lp_q10=-4.0, lp_q50=-2.0, lp_min=-6.0)
SLOW = Wait(HELD_S + 0.2)


def words(count: int, name: str = "word") -> str:
    return " ".join(f"{name}{i}" for i in range(count)) + " "


@pytest.fixture(params=list(FACES))
def face(request: pytest.FixtureRequest) -> Opener:
    return FACES[request.param]


@pytest.fixture
def close() -> float:
    """A threshold just above the score of ASKED, so that it is a close call for the device."""
    with Client(**Bench().options()) as client:
        return client.explain(ASKED).score + 0.02


def bench_of(*script: Any, node: Sequence[str] = ("the answer of the node",)) -> Bench:
    return Bench(device=FakeEngine([list(script), "another answer"]), node=MemoryTransport(FakeEngine(list(node))))


def deltas(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def reply_of(events: list[Event]) -> Reply:
    assert isinstance(events[-1], Done)
    return events[-1].reply


def follows_its_grammar(events: list[Event]) -> bool:
    """RouteDecided first and once, one UsageUpdate and one Done last, the text shown is the reply's."""
    names = kinds(events)
    once = names.count("RouteDecided") == names.count("UsageUpdate") == names.count("Done") == 1
    ends = names[0] == "RouteDecided" and names[-2:] == ["UsageUpdate", "Done"]
    return once and ends and deltas(events) == reply_of(events).text


# --- what is decided again counts, not the doubt ----------------------------------------------------------------------


def test_a_doubt_that_is_decided_for_the_device_sends_nothing(close: float, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = list[Decision]()

    def stubborn(ask: Ask, signals: Signals, rules: Rules) -> Decision:
        decided.append(decide_route(ask, dataclasses.replace(signals, doubt=None), rules))
        return decided[-1]

    bench = bench_of(LOST, "No.")
    with Client(**bench.options(threshold=close)) as client:
        assert client.ask(ASKED).route is Route.PRIVATE_CLOUD  # with the doubt it goes
    again = bench_of(LOST, "No.")
    with Client(**again.options(threshold=close)) as client:
        monkeypatch.setattr("hybrid.core.decide_route", stubborn)
        assert client.ask(ASKED).route is Route.ON_DEVICE
    assert (len(decided), again.node.requests) == (2, [])


def test_what_would_happen_is_said_without_exploring() -> None:
    rules = Rules(scorer=load_scorer(None), explore=0.02, rng=lambda: 0.0)
    assert (rules.settled.explore, rules.settled.rng) == (0.0, None)


# --- an abandoned start was never shown -------------------------------------------------------------------------------

START = words(CHECK_AT - 1)
ABANDONED = {
    "at token 1": [LOST, "No."],
    "at token 32": [START, LOST, "thirty-second ", words(60, "never")],
    "at the end, before 32": [words(7), LOST],
    "when half a second is over": [LOST, "slow ", SLOW, words(60, "never")],
    "for a refusal": ["I'm sorry, but I can't help with that. " + words(40), LOST],
}


@pytest.mark.parametrize("script", ABANDONED.values(), ids=ABANDONED)
def test_an_abandoned_start_was_never_shown(face: Opener, close: float, script: list[Any]) -> None:
    bench = bench_of(*script)
    with face(**bench.options(threshold=close)) as client:
        events = client.events(ASKED)
    assert follows_its_grammar(events)
    assert deltas(events) == "the answer of the node"
    handoff = next(event for event in events if isinstance(event, Handoff))
    assert (handoff.from_, handoff.to, handoff.restart) == ("on_device", "private_cloud", False)
    assert handoff.reason in {"doubt", "refusal_local"}
    assert handoff.decision is not None
    reply = reply_of(events)
    assert (reply.route, reply.decision) == (Route.PRIVATE_CLOUD, handoff.decision)
    assert [attempt.error for attempt in reply.attempts] == ["Doubted", ""]
    assert bench.device.running == 0
    assert "word" not in bench.node_read
    assert "No." not in bench.node_read


def test_the_start_of_an_answer_that_may_stand_is_shown_after_all(face: Opener, close: float) -> None:
    bench = bench_of(START, SURE, words(60))
    with face(**bench.options(threshold=close)) as client:
        events = client.events(ASKED)
    assert follows_its_grammar(events)
    assert deltas(events) == START + words(60)
    assert (reply_of(events).route, reply_of(events).doubt, bench.node.contacts) == (Route.ON_DEVICE, "", 0)


def test_nothing_is_held_back_for_longer_than_half_a_second(close: float) -> None:
    shown: list[str] = []

    async def watch() -> None:
        from hybrid.aio import AsyncClient

        client = AsyncClient(**bench_of(SURE, "slow ", Wait(60)).options(threshold=close))
        stream = client.stream(ASKED)
        async with asyncio.timeout(30):
            async for text in stream.text_deltas():
                shown.append(text)
                break
        await stream.cancel()
        await client.close()

    asyncio.run(watch())
    assert shown == ["slow "]


# --- what was shown stays ---------------------------------------------------------------------------------------------

DOUBTED = {
    "at token 33": [START, SURE, "thirty-second ", LOST, "thirty-third "],
    "at the end": [START, SURE, words(60), LOST],
}


@pytest.mark.parametrize("script", DOUBTED.values(), ids=DOUBTED)
def test_a_later_doubt_replaces_nothing_and_is_a_reason_for_the_next_turn(close: float, script: list[Any]) -> None:
    bench = bench_of(*script)
    with Client(**bench.options(threshold=close)) as client:
        session = client.session()
        with session.stream(ASKED) as stream:
            events = list(stream)
        after = session.explain(ASKED)
    assert follows_its_grammar(events)
    assert "Handoff" not in kinds(events)
    assert reply_of(events).doubt == "doubt"
    assert reply_of(events).text == "".join(part for part in script if isinstance(part, str))
    assert "doubt" in after.codes
    assert bench.node.contacts == 0


def test_outside_the_band_text_streams_at_once_and_a_doubt_is_said_at_the_end(face: Opener, close: float) -> None:
    bench = bench_of(words(5), LOST)
    with face(**bench.options(threshold=close + 0.1)) as client:
        events = client.events(ASKED)
    assert kinds(events).count("TextDelta") == 5  # held back, they would come as one
    assert reply_of(events).route is Route.ON_DEVICE
    assert reply_of(events).doubt == "doubt"


@pytest.mark.parametrize("cascade", ["offer", "off"])
def test_a_cascade_that_only_offers_holds_nothing_back(face: Opener, close: float, cascade: str) -> None:
    bench = bench_of(words(3), LOST)
    with face(**bench.options(threshold=close, cascade=cascade)) as client:
        events = client.events(ASKED)
    assert kinds(events).count("TextDelta") == 3
    assert "Handoff" not in kinds(events)
    assert reply_of(events).doubt == ("doubt" if cascade == "offer" else "")


# --- no label, no mode is passed by -----------------------------------------------------------------------------------

KEPT: dict[str, dict[str, Any]] = {
    "a source that stays": {"sources": [Source.text("offer one", label="mail", max_route="on_device")]},
    "only on the device": {"policy": "only_on_device"},
    "rather on the device": {"policy": "prefer_on_device"},
}


@pytest.mark.parametrize("how", KEPT.values(), ids=KEPT)
def test_where_the_node_is_forbidden_nothing_is_held_back_and_nothing_leaves(
    face: Opener, close: float, how: dict[str, Any]
) -> None:
    bench = bench_of(words(5), LOST)
    with face(**bench.options(threshold=close)) as client:
        events = client.events(ASKED, **how)
    assert kinds(events).count("TextDelta") == 5
    assert (reply_of(events).route, reply_of(events).cascade) == (Route.ON_DEVICE, None)
    assert (bench.node.contacts, bench.node.sealed) == (0, [])


def test_words_that_are_denied_keep_a_doubted_answer_here(face: Opener, close: float) -> None:
    for deny, contacts in (((), 1), (("offer",), 0)):  # the first is the control: without the list it would leave
        bench = bench_of(words(5), LOST)
        with face(**bench.options(threshold=close, deny=deny)) as client:
            client.ask(ASKED)
        assert bool(bench.node.sealed) == bool(contacts)


def test_a_node_that_fails_after_a_doubt_leaves_the_turn_to_the_device(face: Opener, close: float) -> None:
    from hybrid.errors import APIConnectionError

    bench = Bench(
        device=FakeEngine([[words(5), LOST], "answered after all"]),
        node=MemoryTransport(fault=APIConnectionError("gone")),
    )
    with face(**bench.options(threshold=close, max_retries=0)) as client:
        events = client.events(ASKED)
    assert follows_its_grammar(events)
    assert deltas(events) == "answered after all"
    assert [event.to for event in events if isinstance(event, Handoff)] == ["private_cloud", "on_device"]


def test_stopping_while_the_start_is_held_back_frees_the_engine(close: float) -> None:
    bench = bench_of(LOST, "one ", Wait(60))
    with Client(**bench.options(threshold=close)) as client:
        stream = client.stream(ASKED)
        assert isinstance(next(stream), RouteDecided)
        stream.cancel()
    assert bench.device.running == 0
    assert stream.text == ""


# --- what is said of it -----------------------------------------------------------------------------------------------


def test_the_findings_stand_under_the_decision_in_json_and_are_coarse(face: Opener, close: float) -> None:
    bench = bench_of(words(5), LOST)
    with face(**bench.options(threshold=close)) as client:
        value = client.ask(ASKED).to_dict()
    found = value["decision"]["signals"]["cascade"]
    assert (found["verdict"], found["reason"]) == ("escalated", "doubt")
    assert set(found["statistics"].values()) <= {0, 1, 2, 3}
    assert {"lp_min", "lp_q50"} <= set(found["statistics"])


def test_feedback_is_kept_with_the_decision_and_tells_the_next_turn(close: float) -> None:
    with Client(**bench_of("an answer").options()) as client:
        session = client.session()
        reply = session.ask("hello")
        before = session.explain("tell me more about the second point")
        assert client.feedback(reply.request_id, "bad")
        assert session.explain("tell me more about the second point").score > before.score
        assert not client.feedback("nobody", "good")
        with pytest.raises(ConfigurationError, match="verdict"):
            client.feedback(reply.request_id, "so-so")  # type: ignore[arg-type]
        rows = client._async._router.log.rows()
    assert [(row.id, row.outcome.verdict) for row in rows] == [(reply.request_id, "bad")]


def test_asking_again_is_an_outcome_of_the_answer_before() -> None:
    with Client(**Bench().options()) as client:
        session = client.session()
        first = session.ask("hello there my friend")
        session.ask("hello there my friend")
        third = session.ask("something else now")
        session.ask("something else now", again=True, policy="only_private_cloud", person="overridden")
        rows = {row.id: row.outcome for row in client._async._router.log.rows()}
    assert rows[first.request_id].reasked
    assert (rows[third.request_id].regenerated, rows[third.request_id].overridden) == (True, Route.PRIVATE_CLOUD)


def test_a_budget_binds_and_keeps_its_state() -> None:
    bench = Bench()
    with Client(**bench.options(threshold=0.05, budget=0.0)) as client:
        assert client.ask("hello").route is Route.ON_DEVICE
    with Client(**bench.options(threshold=0.05)) as client:  # the control: without it this goes
        assert client.ask("hello").route is Route.PRIVATE_CLOUD


def test_a_client_opens_no_file_before_its_first_decision(tmp_path: Any) -> None:
    bench = Bench()
    with Client(**bench.options(state=tmp_path / "state")) as client:
        assert not (tmp_path / "state").exists()
        client.ask("hello")
        assert (tmp_path / "state" / "decisions.db").exists()
    with Client(**bench.options(state=tmp_path / "none", decisions="off")) as client:
        client.ask("hello")
    assert not (tmp_path / "none" / "decisions.db").exists()


# --- waiting without losing -------------------------------------------------------------------------------------------


def test_waiting_with_little_patience_loses_no_item_and_closes_what_it_waits_for() -> None:
    closed: list[bool] = []

    async def items() -> Any:
        try:
            for n in range(3):
                await asyncio.sleep(0.03)
                yield n
        finally:
            closed.append(True)

    async def gather() -> list[int | None]:
        return [item async for item in paced(items(), lambda: 0.005)]

    async def leave() -> None:
        running = paced(items(), lambda: 0.005)
        assert await anext(running) is None
        await running.aclose()

    seen = asyncio.run(gather())
    assert [item for item in seen if item is not None] == [0, 1, 2]
    assert None in seen
    asyncio.run(leave())
    assert closed == [True, True]


def test_a_doubt_is_no_occasion_to_explore(close: float) -> None:
    names = ("lp_first", "lp_q10", "lp_q50", "lp_min", "margin_first", "entropy_first")
    explorable = []
    for n in range(30, 41):  # from an answer that is kept to one that is clearly doubted
        mixed = {name: getattr(SURE, name) + n / 100 * (getattr(LOST, name) - getattr(SURE, name)) for name in names}
        with Client(**bench_of(TokenSignals(**mixed), "No.").options(threshold=close, explore=0.02)) as client:
            client._async._router._rng = lambda: 0.0
            reply = client.ask(ASKED)
        assert reply.cascade is not None
        assert reply.route is (Route.PRIVATE_CLOUD if reply.cascade.score >= close else Route.ON_DEVICE)
        assert reply.decision.signals["propensity"] == 1.0
        explorable.append(0 <= reply.cascade.score - close <= NEAR)
    assert any(explorable)
