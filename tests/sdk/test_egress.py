"""Nothing leaves but what was examined and labelled, in the form in which it was: the gate, and every side door."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid.client import Client
from hybrid.errors import HandoffDeclined, HybridError, PolicyError
from hybrid.exchange import Exchange
from hybrid.gate import Gate
from hybrid.plan import HandoffPlan
from hybrid.routing.labels import LabelReason, Labels, typed
from hybrid.routing.recognisers.spans import Span
from hybrid.routing.screen import Screener
from hybrid.routing.taint import examined
from hybrid.sources import Source
from hybrid.testing import FakeEngine
from hybrid.wire.codec import encode_request
from hybrid.wire.types import GenerateRequest, Message, Role, Sampling
from tests.routing.cases import SCORER
from tests.support import Bench
from tests.trust.maker import Maker, asked, decision

MAIL_TO = "Write to ann@rubyvault.com today."
PLAIN = "What is the capital of France?"
SECRET = "Vault seven ruby"
NODES = Maker().verified().nodes
PROMPT = frozenset({"prompt"})


def refused(gate: Gate, request: GenerateRequest, labels: Labels) -> PolicyError:
    """Assert a refusal with zero bytes out, after the same gate has let a plain request through."""
    gate.clear(asked(PLAIN), Labels((typed(PLAIN),)), decision(), NODES)
    with pytest.raises(PolicyError) as caught:
        gate.clear(request, labels, decision(), NODES)
    assert (gate.bytes_sent, len(gate.records)) == (0, 1)
    return caught.value


# --- the gate examines again ------------------------------------------------------------------------------------------


def test_the_gate_finds_what_nobody_looked_for_before() -> None:
    error = refused(Gate(screener=Screener()), asked(MAIL_TO), Labels((typed(MAIL_TO),)))
    assert (error.source, error.label) == ("prompt", "on_device")
    assert "rubyvault" not in str(error)
    assert Gate().clear(asked(MAIL_TO), Labels((typed(MAIL_TO),)), decision(), NODES)  # labels alone let it pass


def test_the_gate_lets_pass_what_a_person_cleared_and_no_more() -> None:
    cleared = examined(typed(MAIL_TO), Screener(), PROMPT)
    assert Gate(screener=Screener()).clear(asked(MAIL_TO), Labels((cleared,)), decision(), NODES)
    strict = Screener(deny=["write to"])
    refused(Gate(screener=strict), asked(MAIL_TO), Labels((cleared,)))


def test_the_gate_believes_no_clearing_of_another_kind() -> None:
    claimed = dataclasses.replace(typed(MAIL_TO), why=LabelReason.USER_CLEARED)  # without what had been found
    refused(Gate(screener=Screener()), asked(MAIL_TO), Labels((claimed,)))


def failing(calls: int) -> Callable[[Any], Iterator[Span]]:
    """Make a recogniser that works so many times."""
    left = [calls]

    def recogniser(_: Any) -> Iterator[Span]:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError
        return iter(())

    return recogniser


def test_a_recogniser_that_fails_at_the_gate_refuses() -> None:
    works, fails = Screener(recognisers=[failing(9)]), Screener(recognisers=[failing(1)])
    request, labels = asked(f"{PLAIN} Now."), Labels((typed(f"{PLAIN} Now."),))
    assert Gate(screener=works).clear(request, labels, decision(), NODES)
    refused(Gate(screener=fails), request, labels)


def test_a_recogniser_that_is_late_at_the_gate_refuses() -> None:
    clock = iter(range(100))
    late = Screener(now=lambda: float(next(clock)), limit_s=0.5)
    with pytest.raises(PolicyError):
        Gate(screener=late).clear(asked(PLAIN), Labels((typed(PLAIN),)), decision(), NODES)


def test_a_stop_string_is_examined_at_the_gate() -> None:
    request = asked(PLAIN, sampling=Sampling(stop=("END", "ann@rubyvault.com")))
    assert refused(Gate(screener=Screener()), request, Labels((typed(PLAIN),))).source == "stop string"


@pytest.mark.parametrize("what", ["nothing", "request", "message"])
def test_words_changed_after_they_were_cleared_are_not_sent(what: str) -> None:
    gate, request = Gate(), asked(PLAIN)
    cleared = gate.clear(request, Labels((typed(PLAIN),)), decision(), NODES)
    if what == "request":
        object.__setattr__(request, "messages", (Message(role=Role.USER, content=SECRET),))
    if what == "message":
        object.__setattr__(request.messages[0], "content", SECRET)
    if what == "nothing":
        assert gate.send(cleared, b"sealed") == b"sealed"
    else:
        with pytest.raises(PolicyError, match="changed"):
            gate.send(cleared, b"sealed")
        assert gate.bytes_sent == 0


# --- through a client -------------------------------------------------------------------------------------------------


def client(bench: Bench, **more: Any) -> Client:
    return Client(**bench.options(scorer=SCORER, threshold=0.0, **more))


def test_a_client_examines_before_it_decides() -> None:
    bench = Bench()
    with client(bench) as asks:
        here, there = asks.ask(MAIL_TO), asks.ask(PLAIN)
        cleared = asks.ask(MAIL_TO, cleared=["prompt"])
        with pytest.raises(PolicyError) as caught:
            asks.ask(MAIL_TO, policy="only_private_cloud")
    assert [str(r.route) for r in (here, there, cleared)] == ["on_device", "private_cloud", "private_cloud"]
    assert here.decision.signals["privacy"]["types"] == ["EMAIL_ADDRESS"]
    assert "user_cleared" in cleared.decision.codes
    assert caught.value.source == "prompt"
    assert [r.messages[-1].content for r in bench.node.requests] == [PLAIN, MAIL_TO]


@pytest.mark.parametrize("when", ["never", "while a person is asked", "before it is sealed"])
def test_text_changed_between_decision_and_sealing_never_leaves(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of the very request that is being cleared, or was, are swapped for others."""
    bench, seen = Bench(), []
    clear, start = Gate.clear, Exchange.start

    def swap() -> None:
        object.__setattr__(seen[-1].messages[-1], "content", SECRET)

    def watched(gate: Gate, request: GenerateRequest, *rest: Any, **more: Any) -> Any:
        seen.append(request)
        return clear(gate, request, *rest, **more)

    def consent(_: HandoffPlan) -> bool:
        if when == "while a person is asked":
            swap()
        return True

    def sealing(*given: Any, **more: Any) -> bytes:
        if when == "before it is sealed":
            swap()
        return start(*given, **more)

    monkeypatch.setattr(Gate, "clear", watched)
    monkeypatch.setattr(Exchange, "start", sealing)
    with client(bench, on_handoff=consent) as asks:
        if when == "never":
            asks.ask(PLAIN)
        else:
            with pytest.raises(PolicyError):
                asks.ask(PLAIN)
    assert len(bench.node.sealed) == (1 if when == "never" else 0)


@pytest.mark.parametrize("fails", [False, True])
def test_a_check_that_fails_between_decision_and_gate_sends_nothing(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    plan = Gate.plan

    def after_the_decision(gate: Gate, *arguments: Any, **more: Any) -> Any:
        if fails:
            monkeypatch.setattr(Screener, "segment", lambda *_: 1 / 0)
        return plan(gate, *arguments, **more)

    monkeypatch.setattr(Gate, "plan", after_the_decision)
    with client(bench) as asks:
        if fails:
            with pytest.raises(PolicyError):
                asks.ask(PLAIN)
        else:
            asks.ask(PLAIN)
    assert len(bench.node.sealed) == (0 if fails else 1)


# --- side doors -------------------------------------------------------------------------------------------------------


def test_a_request_has_no_field_that_nobody_labels() -> None:
    """A new field of a request or of its sampling leaves with it: give it a label first, then add it here."""
    assert {f.name for f in dataclasses.fields(GenerateRequest)} == {"messages", "sampling", "cache_salt"}
    assert {f.name for f in dataclasses.fields(Message)} == {"role", "content"}
    assert {f.name for f in dataclasses.fields(Sampling)} == {
        *("max_tokens", "temperature", "top_p", "repetition_penalty", "seed", "stop")
    }  # numbers of the caller's own, but for the stop strings


HELD = Source.text(f"The diary says {SECRET}.", label="diary.txt", max_route="on_device")


@pytest.mark.parametrize(
    ("stop", "leaves"), [("seven ruby", False), ("SEVEN  ruby", False), ("END", True), (".", True), ("\n\n", True)]
)
def test_words_of_a_withheld_turn_do_not_leave_as_a_stop_string(stop: str, leaves: bool) -> None:
    bench = Bench()
    with client(bench) as asks:
        session = asks.session()
        session.ask("What does it say?", sources=[HELD])
        reply = session.ask(PLAIN, stop=[stop])
        assert (str(reply.route) == "private_cloud") == leaves
        if not leaves:
            assert reply.decision.codes[0] == "label"
            with pytest.raises(PolicyError) as caught:
                session.ask(PLAIN, stop=[stop], policy="only_private_cloud")
            assert caught.value.source == "diary.txt"
    assert SECRET not in bench.node_read


def test_the_salt_of_a_conversation_says_nothing_of_what_it_holds() -> None:
    bench = Bench()
    with client(bench) as asks:
        for _ in range(2):
            session = asks.session()
            session.ask("What does it say?", sources=[HELD])
            session.ask(PLAIN)
    one, two = bench.node.requests
    assert one.messages == two.messages
    assert one.cache_salt != two.cache_salt
    assert len(one.cache_salt) == len(two.cache_salt) == 32


def quoting(request: GenerateRequest) -> str:
    return "I read: " + " ".join(message.content for message in request.messages)


def files(folder: Path) -> str:
    return "\n".join(p.read_bytes().decode("utf-8", "replace") for p in folder.rglob("*") if p.is_file())


def test_neither_events_nor_errors_nor_files_repeat_what_was_asked(tmp_path: Path) -> None:
    """Receipts, the decision log and the budget are on; a conversation that is saved does hold its text."""
    bench, events, errors = Bench(device=FakeEngine([quoting])), [], []
    options = {"on_event": events.append, "state": tmp_path / "state", "budget": 0.9, "deny": ["vault seven"]}
    with client(bench, **options) as asks:
        session = asks.session()
        session.ask(f"{PLAIN} {SECRET}")
        session.ask("And now?", sources=[HELD])
        session.ask(f"{PLAIN} {MAIL_TO}", cleared=["prompt"])
        for fault in ("flip_bit", "cut_stream"):
            bench.node.fault = fault
            with pytest.raises(HybridError) as caught:
                session.ask(f"{PLAIN} Berlin", policy="only_private_cloud")
            errors.append(caught.value)
        with pytest.raises(PolicyError) as refusal:
            session.ask(SECRET, policy="only_private_cloud")
        session.save(tmp_path / "talk.json")
    said = repr(events) + repr(errors) + str([*errors, refusal.value]) + repr(refusal.value)
    assert bench.node.requests
    assert list((tmp_path / "state").rglob("*"))
    for words in (SECRET, "rubyvault", "capital of France", "Berlin"):
        assert words not in said
        assert words not in files(tmp_path / "state")
    assert "diary.txt" not in files(tmp_path / "state")
    assert SECRET in (tmp_path / "talk.json").read_text()


def test_a_declined_hand_over_sends_nothing_and_asks_the_device() -> None:
    bench = Bench()
    with client(bench, on_handoff=lambda _: False) as asks:
        assert str(asks.ask(PLAIN).route) == "on_device"
        with pytest.raises(HandoffDeclined):
            asks.ask(PLAIN, policy="only_private_cloud")
    assert bench.node.sealed == []


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Any]:
    """Save a conversation over a diary, change the file, load it, ask on; return what the node read."""

    def run(change: Callable[[dict[str, Any]], None], **more: Any) -> str:
        bench = Bench(device=FakeEngine([quoting]))
        with client(bench) as asks:
            session = asks.session(system="Be brief.")
            session.ask("What does it say?", sources=[HELD])
            session.save(tmp_path / "talk.json")
            data = json.loads((tmp_path / "talk.json").read_text())
            change(data)
            (tmp_path / "talk.json").write_text(json.dumps(data))
            later = asks.session()
            later.load(tmp_path / "talk.json")
            later.ask(PLAIN, **more)
        return "\n".join(encode_request(r).decode("utf-8", "replace") for r in bench.node.requests)

    return run


def test_a_system_text_without_a_label_stays(saved: Callable[..., Any]) -> None:
    assert "Be brief." in saved(lambda _: None)
    assert saved(lambda data: data.pop("system_max_route")) == ""


def every(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (segment for turn in data["turns"] for item in turn for segment in item["segments"])


@pytest.mark.parametrize("claim", [{"why": "user_cleared"}, {"why": "frame", "kind": "frame"}, {"why": "recognised"}])
def test_a_file_cannot_claim_what_only_this_process_knows(claim: dict[str, str], saved: Callable[..., Any]) -> None:
    def edit(data: dict[str, Any]) -> None:
        for segment in every(data):
            segment.update({**claim, "max_route": "private_cloud"})

    read = saved(edit, cleared=["diary.txt", "prompt", "answer"])
    assert PLAIN in read
    assert SECRET not in read


def test_words_added_to_a_file_beside_its_segments_stay_and_taint_what_is_made_from_them(tmp_path: Path) -> None:
    bench = Bench(device=FakeEngine([quoting]))
    with client(bench) as asks:
        session = asks.session()
        session.ask("Hello.", policy="only_on_device")
        session.save(tmp_path / "talk.json")
        data = json.loads((tmp_path / "talk.json").read_text())
        data["turns"][0][0]["content"] += f" {SECRET}"
        (tmp_path / "talk.json").write_text(json.dumps(data))
        session.load(tmp_path / "talk.json")
        session.ask("And?", policy="only_on_device")  # an answer made from what nobody labelled
        assert [m.max_route for m in session.messages] == ["on_device", "private_cloud", "private_cloud", "on_device"]
        session.ask(PLAIN)
    assert PLAIN in bench.node_read
    assert SECRET not in bench.node_read
