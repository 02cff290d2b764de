"""Conversations: history, labels that follow it, hand-off in both directions, undo, save and load."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from hybrid.aio import AsyncClient
from hybrid.client import Client
from hybrid.compose import LabelledMessage
from hybrid.errors import ConfigurationError, PolicyError
from hybrid.events import Handoff
from hybrid.routing.outgoing import PLACEHOLDER
from hybrid.sources import Source
from hybrid.testing import FakeEngine
from hybrid.wire.types import Role, Route
from tests.support import EASY, HARD, Bench, kinds

HELD = Source.text("canary-mail: the secret is 4711", label="mail", max_route="on_device")


def test_history_is_part_of_the_next_request_and_the_partition_stays() -> None:
    bench = Bench(device=FakeEngine(["one", "two"]))
    with Client(**bench.options()) as client:
        session = client.session(system="be brief")
        session.ask("first")
        session.ask("second")
        client.ask("apart")
    first, second, apart = bench.device.requests
    assert [m.content for m in second.messages] == ["be brief", "first", "one", "second"]
    assert [m.content for m in apart.messages] == ["apart"]
    assert bench.device.partitions[0] == bench.device.partitions[1] != bench.device.partitions[2]
    assert [m.role for m in first.messages] == [Role.SYSTEM, Role.USER]


def test_what_was_cleared_for_an_answer_of_the_device_does_not_leave_with_the_next_turn() -> None:
    bench = Bench(device=FakeEngine(["Noted."]))
    with Client(**bench.options()) as client:
        session = client.session()
        session.ask("write to ann@rubyvault.com", cleared=("prompt",))
        assert [m.max_route for m in session.messages] == ["on_device", "on_device"]
        assert session.ask(HARD).route == "private_cloud"
    assert "rubyvault" not in bench.node_read
    assert bench.node_read.count(PLACEHOLDER) == 2


@pytest.mark.parametrize("fork", [True, False])
def test_nor_does_what_the_device_answered_from_a_cleared_system_text(fork: bool) -> None:
    bench = Bench(device=FakeEngine(["zebra: the debts are large"]))
    with Client(**bench.options()) as client:
        session = client.session(system="you serve ann@rubyvault.com, whose debts are large")
        session.ask("hi", cleared=("system text",))
        assert session.messages[-1].max_route == "on_device"
        if fork:
            client.ask([*session.messages, LabelledMessage(role="user", content=HARD, max_route="private_cloud")])
        else:
            session.system = "be brief"
            session.ask(HARD)
    assert bench.node_read
    assert "zebra" not in bench.node_read


def test_a_reply_says_of_itself_what_the_transcript_says() -> None:
    bench = Bench(device=FakeEngine(["zebra: the debts are large"]))
    with Client(**bench.options()) as client:
        session = client.session()
        reply = session.ask("write to ann@rubyvault.com", cleared=("prompt",))
        assert reply.max_route == session.messages[-1].max_route == "on_device"
        client.ask(HARD, sources=[Source(label="note", text=reply.text, max_route=reply.max_route)])
    assert "zebra" not in bench.node_read


def test_what_was_cleared_for_the_node_stays_cleared_in_its_conversation() -> None:
    bench = Bench()
    with Client(**bench.options()) as client:
        session = client.session()
        assert session.ask(f"{HARD} Write to ann@rubyvault.com", cleared=("prompt",)).route == "private_cloud"
        assert session.ask(HARD).route == "private_cloud"
    assert bench.node_read.count("rubyvault") == 2
    assert PLACEHOLDER not in bench.node_read


def test_two_sessions_never_share_a_partition() -> None:
    bench = Bench()
    with Client(**bench.options()) as client:
        client.session().ask("a")
        client.session().ask("b")
    assert len(set(bench.device.partitions)) == 2


def test_a_conversation_names_itself_to_a_nodes_cache_and_a_single_question_does_not() -> None:
    bench = Bench()
    with Client(**bench.options(policy="only_private_cloud")) as client:
        session = client.session()
        session.ask("first")
        session.ask("second")
        client.session().ask("apart")
        session.clear()
        session.ask("anew")
        client.ask("alone")
    first, second, apart, anew, alone = (request.cache_salt for request in bench.node.requests)
    assert first == second
    assert len(first) == 32
    assert len({first, apart, anew}) == 3
    assert alone == b""


def test_an_answer_made_from_a_labelled_source_carries_its_label() -> None:
    bench = Bench(device=FakeEngine(["It says 4711."]))
    with Client(**bench.options()) as client:
        session = client.session()
        reply = session.ask("What does it say?", sources=[HELD])
        session.ask("And in other words?")
    assert reply.max_route is Route.ON_DEVICE
    assert [m.max_route for m in session.messages] == ["on_device", "on_device", "private_cloud", "on_device"]
    assert session.messages[1].source == "answer made from mail"


def test_handing_over_in_mid_conversation_withholds_labelled_turns_behind_one_placeholder() -> None:
    bench = Bench(device=FakeEngine(["It says 4711."]))
    with Client(**bench.options()) as client:
        session = client.session(system="be brief")
        session.ask("What does it say?", sources=[HELD])
        with session.stream(HARD) as stream:
            events = list(stream)
    sent = [m.content for m in bench.node.requests[0].messages]
    assert sent == ["be brief", PLACEHOLDER, PLACEHOLDER, HARD]
    handoff = next(event for event in events if isinstance(event, Handoff))
    assert (handoff.from_, handoff.to, handoff.reason) == ("on_device", "private_cloud", "complex")
    assert "mail" in handoff.withheld
    assert kinds(events)[:2] == ["RouteDecided", "Handoff"]
    assert session.last is not None
    assert session.last.egress is not None
    assert "mail" in session.last.egress.withheld
    assert session.last.max_route is Route.PRIVATE_CLOUD


def test_coming_back_to_the_device_is_an_event_and_the_device_reads_everything() -> None:
    bench = Bench(device=FakeEngine(["It says 4711.", "back here"]))
    with Client(**bench.options()) as client:
        session = client.session()
        session.ask("What does it say?", sources=[HELD])
        session.ask(HARD)
        with session.stream("And now?", policy="only_on_device") as stream:
            events = list(stream)
    handoff = next(event for event in events if isinstance(event, Handoff))
    assert (handoff.from_, handoff.to) == ("private_cloud", "on_device")
    contents = [m.content for m in bench.device.requests[-1].messages]
    assert contents[0].startswith("canary-mail")
    assert contents[3] == "an answer from the node"


def test_twelve_turns_crossing_four_times_never_show_the_node_a_labelled_turn() -> None:
    bench = Bench(device=FakeEngine(["it says canary-mail"]))
    pattern = ["d", "d", "n", "n", "d", "d", "d", "n", "n", "n", "d", "d"]
    with Client(**bench.options()) as client:
        session = client.session()
        crossings = 0
        for number, side in enumerate(pattern):
            session.pin("on_device" if side == "d" else "private_cloud")
            sources = [HELD] if number == 1 else []
            with session.stream(f"turn {number}", sources=sources) as stream:
                crossings += kinds(list(stream)).count("Handoff")
    assert crossings == 4
    assert len(session.messages) == 24
    assert "canary-mail" not in bench.node_read
    assert "turn 0" in bench.node_read  # what may leave does
    assert [m.content for m in session.messages if m.role == "user"][2:] == [f"turn {n}" for n in range(2, 12)]


def test_a_pin_stays_within_the_ceiling() -> None:
    bench = Bench()
    with Client(**bench.options(policy="prefer_on_device")) as client:
        session = client.session()
        with pytest.raises(PolicyError):
            session.pin("private_cloud")
        session.pin("on_device")
        assert session.pinned is Route.ON_DEVICE
        with pytest.raises(ConfigurationError):
            session.pin("the_moon")


def test_a_pin_decides_until_it_is_taken_away() -> None:
    bench = Bench()
    with Client(**bench.options()) as client:
        session = client.session()
        session.pin("private_cloud")
        assert session.ask(EASY).route is Route.PRIVATE_CLOUD
        session.pin(None)
        assert session.ask(EASY).route is Route.ON_DEVICE


def test_undo_takes_back_question_and_answer() -> None:
    bench = Bench()
    with Client(**bench.options()) as client:
        session = client.session()
        session.ask("one")
        session.ask("two")
        assert session.undo()
        assert [m.content for m in session.messages] == ["one", "an answer from the device"]
        assert session.undo()
        assert not session.undo()
        session.ask("three")
    assert [m.content for m in bench.device.requests[-1].messages] == ["three"]


def test_a_failed_turn_leaves_the_conversation_as_it_was() -> None:
    from hybrid.errors import GenerationError

    bench = Bench(device=FakeEngine(["fine", GenerationError("broke"), "fine again"]))
    with Client(**bench.options()) as client:
        session = client.session()
        session.ask("one")
        with pytest.raises(GenerationError):
            session.ask("two")
        session.ask("three")
    assert [m.content for m in session.messages if m.role == "user"] == ["one", "three"]


def test_save_and_load_keep_the_labels_and_only_the_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    bench = Bench(device=FakeEngine(["It says 4711."]))
    with Client(**bench.options()) as client:
        session = client.session(system="be brief")
        session.ask("What does it say?", sources=[HELD])
        session.save(path)
        again = client.session()
        again.load(path)
        assert again.messages == session.messages
        assert again.system == "be brief"
        again.ask(HARD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert "canary-mail" not in bench.node_read
    assert "4711" not in bench.node_read
    assert HARD in bench.node_read


@pytest.mark.parametrize("strip", ["segments", "max_route", "unknown_route", "edited"])
def test_a_saved_text_whose_label_is_gone_or_wrong_stays_on_the_device(tmp_path: Path, strip: str) -> None:
    path = tmp_path / "talk.json"
    bench = Bench()
    with Client(**bench.options()) as client:
        session = client.session()
        session.ask("canary typed words")
        session.save(path)
        data = json.loads(path.read_text())
        message = data["turns"][0][0]
        if strip == "segments":
            del message["segments"]
        elif strip == "max_route":
            del message["segments"][0]["max_route"]
        elif strip == "unknown_route":
            message["segments"][0]["max_route"] = "anywhere"
        else:
            message["content"] = "canary other words"
        path.write_text(json.dumps(data))
        again = client.session()
        again.load(path)
        again.ask(HARD)
    assert HARD in bench.node_read
    assert "canary" not in bench.node_read


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "hybrid-conversation-1"}', "\x00", "[" * 100_000],
    ids=["empty", "list", "bare", "format alone", "null", "deep"],
)
def test_a_file_that_is_no_conversation_is_refused_and_nothing_is_lost(tmp_path: Path, content: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(content)
    with Client(**Bench().options()) as client:
        session = client.session()
        session.ask("one")
        with pytest.raises(ConfigurationError):
            session.load(path)
        assert len(session.messages) == 2


def test_explain_in_a_session_changes_nothing() -> None:
    bench = Bench()
    with Client(**bench.options()) as client:
        session = client.session()
        session.ask("one")
        before = session.messages
        assert session.explain(HARD).route is Route.PRIVATE_CLOUD
        assert session.messages == before


def test_a_follow_up_that_needs_a_withheld_source_again_stays_on_the_device() -> None:
    bench = Bench(device=FakeEngine(["It says 4711."]))
    with Client(**bench.options()) as client:
        session = client.session()
        session.ask("What does it say?", sources=[HELD])
        reply = session.ask(HARD, sources=[HELD])
    assert reply.route is Route.ON_DEVICE
    assert reply.decision.codes[0] == "label"


def test_the_asynchronous_session_is_the_same() -> None:
    import asyncio

    async def talk(options: dict[str, Any]) -> list[Any]:
        async with AsyncClient(**options) as client:
            session = client.session(system="be brief")
            await session.ask("What does it say?", sources=[HELD])
            reply = await session.ask(HARD)
            decision = await session.explain("more")
            assert decision.route is Route.ON_DEVICE
            return [reply.route, [m.max_route for m in session.messages], session.undo(), len(session.messages)]

    bench = Bench()
    found = asyncio.run(talk(bench.options()))
    labels = ["on_device", "on_device", "private_cloud", "private_cloud"]
    assert found == [Route.PRIVATE_CLOUD, labels, True, 2]
    assert "canary" not in bench.node_read
