"""What a turn yields, on both routes and through both clients."""

import json
from typing import Any

import pytest

from hybrid.errors import ConfigurationError, PolicyError
from hybrid.events import Done, Handoff, RouteDecided, TextDelta, UsageUpdate, event_to_dict
from hybrid.sources import Source
from hybrid.testing import FakeEngine
from hybrid.wire.types import FinishReason, Message, Role, Route
from tests.support import EASY, FACES, HARD, Bench, Opener, kinds

YES_KEYS = ["text", "route", "model", "finish_reason", "request_id", "decision", "usage", "timing", "egress"]


@pytest.fixture(params=list(FACES))
def face(request: pytest.FixtureRequest) -> Opener:
    return FACES[request.param]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_easy_question_is_answered_on_the_device(face: Opener, bench: Bench) -> None:
    with face(**bench.options()) as client:
        reply = client.ask(EASY)
    assert (reply.text, reply.route, reply.egress) == ("an answer from the device", Route.ON_DEVICE, None)
    assert bench.node.sealed == []
    assert bench.node.contacts == 0


def test_a_hard_question_is_handed_over_sealed_and_the_reply_says_what_left(face: Opener, bench: Bench) -> None:
    with face(**bench.options()) as client:
        reply = client.ask(HARD)
    assert (reply.text, reply.route, reply.model) == ("an answer from the node", Route.PRIVATE_CLOUD, "fake")
    assert reply.egress is not None
    assert reply.egress.bytes_wire == sum(map(len, bench.node.sealed))
    assert reply.egress.bytes_plain > len(HARD)
    assert [segment.source for segment in reply.egress.segments] == ["prompt"]
    assert reply.egress.tier == 0
    assert "NOT private from the operator" in reply.egress.tier_words
    assert reply.egress.receipt_id
    assert reply.receipt is not None
    assert bench.device.requests == []


@pytest.mark.parametrize("prompt", [EASY, HARD])
def test_events_follow_their_grammar(face: Opener, bench: Bench, prompt: str) -> None:
    with face(**bench.options()) as client:
        events = client.events(prompt)
    names = kinds(events)
    assert names[0] == "RouteDecided"
    assert names.count("RouteDecided") == 1
    assert names[-2:] == ["UsageUpdate", "Done"]
    assert names.count("UsageUpdate") == names.count("Done") == 1
    done = events[-1]
    assert isinstance(done, Done)
    assert done.reply.text == "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("mode", ["only_on_device", "only_private_cloud"])
def test_streaming_gives_what_not_streaming_gives(face: Opener, bench: Bench, mode: str) -> None:
    with face(**bench.options(policy=mode)) as client:
        whole = client.ask("the same question", seed=7)
        done = client.events("the same question", seed=7)[-1]
    assert isinstance(done, Done)
    same = (whole.text, whole.usage, whole.finish_reason, whole.route)
    assert same == (done.reply.text, done.reply.usage, done.reply.finish_reason, done.reply.route)


@pytest.mark.parametrize("mode", ["only_on_device", "only_private_cloud"])
def test_max_tokens_ends_an_answer_with_length_on_both_routes(face: Opener, bench: Bench, mode: str) -> None:
    with face(**bench.options(policy=mode)) as client:
        reply = client.ask("count", max_tokens=2)
    assert reply.finish_reason is FinishReason.LENGTH
    assert reply.usage.output == 2


@pytest.mark.parametrize("prompt", [EASY, HARD])
def test_explain_agrees_with_ask_and_touches_nothing(face: Opener, bench: Bench, prompt: str) -> None:
    with face(**bench.options()) as client:
        before = client.explain(prompt)
        assert (bench.node.contacts, bench.device.requests) == (0, [])
        assert before == client.ask(prompt).decision


def test_the_json_object_always_has_its_promised_keys(face: Opener, bench: Bench) -> None:
    with face(**bench.options()) as client:
        for reply in (client.ask(EASY), client.ask(HARD)):
            value = json.loads(json.dumps(reply.to_dict()))
            assert list(value)[: len(YES_KEYS)] == YES_KEYS
            assert value["schema_version"] == 1
            assert {"input", "cached_input", "output"} <= set(value["usage"])
            assert {"ttft", "total", "decode_tps"} <= set(value["timing"])
            assert len(value["decision"]) == 6


def test_every_event_is_plain_values_as_json(face: Opener, bench: Bench) -> None:
    with face(**bench.options()) as client:
        lines = [json.dumps(event_to_dict(event)) for event in client.events(HARD)]
    assert json.loads(lines[0])["event"] == "route_decided"
    assert json.loads(lines[1])["checks"][0].keys() == {"name", "status", "detail"}
    assert json.loads(lines[-1])["reply"]["text"] == "an answer from the node"


def test_no_event_shows_text_in_its_repr(face: Opener) -> None:
    bench = Bench(device=FakeEngine(["canary-answer"]))
    with face(**bench.options()) as client:
        shown = repr(client.events("canary-question", system="canary-system"))
    assert "canary" not in shown
    assert TextDelta(text="canary-answer").text == "canary-answer"  # the detector looks for what is there


def test_sources_come_before_the_question_in_the_order_given(face: Opener, bench: Bench) -> None:
    sources = [Source.text("first text", label="one"), Source.text("second text", label="two")]
    with face(**bench.options()) as client:
        reply = client.ask("And the question?", sources=sources, system="be brief")
    request = bench.device.requests[0]
    assert [m.content for m in request.messages] == ["be brief", "first text\n\nsecond text\n\nAnd the question?"]
    assert [used.label for used in reply.sources] == ["one", "two"]


def test_a_source_alone_is_a_question(face: Opener, bench: Bench) -> None:
    with face(**bench.options()) as client:
        client.ask("", sources=[Source.text("the body of a mail")], system="Summarise.")
    assert bench.device.requests[0].messages[-1].content == "the body of a mail"


def test_messages_are_taken_as_they_are(face: Opener, bench: Bench) -> None:
    messages = [
        Message(role=Role.SYSTEM, content="be brief"),
        Message(role=Role.USER, content="one"),
        Message(role=Role.ASSISTANT, content="two"),
        Message(role=Role.USER, content="three"),
    ]
    with face(**bench.options()) as client:
        client.ask(messages)
    assert bench.device.requests[0].messages == tuple(messages)


@pytest.mark.parametrize("prompt", ["", "  \n", [], [Message(role=Role.ASSISTANT, content="x")]])
def test_an_empty_prompt_is_a_configuration_error(face: Opener, bench: Bench, prompt: Any) -> None:
    with face(**bench.options()) as client, pytest.raises(ConfigurationError):
        client.ask(prompt)
    assert (bench.device.requests, bench.node.contacts) == ([], 0)


@pytest.mark.parametrize("where", ["prompt", "system", "source"])
def test_half_of_a_surrogate_pair_is_refused_by_its_place(face: Opener, bench: Bench, where: str) -> None:
    bad = "canary \ud800"
    how: dict[str, Any] = {"system": {"system": bad}, "source": {"sources": [Source.text(bad)]}, "prompt": {}}[where]
    with face(**bench.options()) as client, pytest.raises(ConfigurationError, match="7") as caught:
        client.ask(bad if where == "prompt" else "hi", **how)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "how",
    [
        {"max_tokens": 0},
        {"temperature": float("nan")},
        {"stop": [""]},
        {"policy": "atuo"},
        {"timeout": -1},
        {"timeout": "soon"},
    ],
)
def test_a_bad_option_is_a_configuration_error(face: Opener, bench: Bench, how: dict[str, Any]) -> None:
    with face(**bench.options()) as client, pytest.raises(ConfigurationError) as caught:
        client.ask(EASY, **how)
    assert caught.value.exit_code == 2
    if how.get("policy"):
        assert "auto" in caught.value.hint


@pytest.mark.parametrize(
    "given",
    [{"policy": "x"}, {"threshold": 2}, {"max_retries": -1}, {"on_handoff": "maybe"}, {"timeout": 0}],
)
def test_a_bad_constructor_value_is_a_configuration_error(face: Opener, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError), face(engine=FakeEngine(), **given):
        pass


def test_a_node_without_its_key_is_a_configuration_error(face: Opener) -> None:
    with pytest.raises(ConfigurationError, match="key"), face(engine=FakeEngine(), node="127.0.0.1:9"):
        pass


@pytest.mark.parametrize("ceiling", ["only_on_device", "prefer_on_device"])
def test_no_call_goes_above_a_ceiling(face: Opener, bench: Bench, ceiling: str) -> None:
    with face(**bench.options(policy=ceiling)) as client:
        with pytest.raises(PolicyError):
            client.ask(EASY, policy="only_private_cloud")
        assert client.ask(EASY, policy="only_on_device").route is Route.ON_DEVICE
    assert bench.node.contacts == 0


def test_the_author_may_lift_a_ceiling_and_never_a_label(face: Opener, bench: Bench) -> None:
    held = Source.text("mine", max_route="on_device")
    with face(**bench.options(policy="only_on_device", allow_relax=True)) as client:
        assert client.ask(EASY, policy="only_private_cloud").route is Route.PRIVATE_CLOUD
        with pytest.raises(PolicyError) as caught:
            client.ask(EASY, policy="only_private_cloud", sources=[held])
    assert (caught.value.source, caught.value.label) == ("text", "on_device")
    assert "mine" not in bench.node_read


@pytest.mark.parametrize(("threshold", "route"), [(0.0, Route.PRIVATE_CLOUD), (1.01, Route.ON_DEVICE)])
def test_the_threshold_moves_the_choice(face: Opener, bench: Bench, threshold: float, route: Route) -> None:
    with face(**bench.options(threshold=threshold)) as client:
        assert client.ask(HARD if route is Route.ON_DEVICE else EASY).route is route


def test_on_event_sees_every_event(face: Opener, bench: Bench) -> None:
    seen: list[Any] = []
    with face(**bench.options(on_event=seen.append)) as client:
        events = client.events(EASY)
    assert kinds(seen) == kinds(events)
    assert isinstance(seen[0], RouteDecided)
    assert isinstance(seen[-2], UsageUpdate)
    assert not any(isinstance(event, Handoff) for event in seen)
