"""The same path on real weights: the starter on the device."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.client import Client
from hybrid.errors import ContextOverflowError, UnavailableError
from hybrid.events import TextDelta
from hybrid.local import DeviceModel
from hybrid.testing import FakeEngine, MemoryTransport
from hybrid.wire.types import FinishReason, Route

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    try:
        DeviceModel.find("starter")
    except UnavailableError:
        pytest.skip("the starter is not in the store: hybrid pull starter")
    with Client(model="starter") as client:
        yield client


def test_the_starter_answers_paris_on_the_device(client: Client) -> None:
    reply = client.ask("What is the capital of France?", max_tokens=30)
    assert "Paris" in reply.text
    assert (reply.route, reply.egress, reply.model) == (Route.ON_DEVICE, None, "smollm2-135m")
    assert reply.usage.output > 3
    assert reply.timing.decode_tps > 0
    assert reply.finish_reason is FinishReason.STOP


def test_the_second_turn_of_a_session_reads_only_what_is_new(client: Client) -> None:
    session = client.session()
    first = session.ask("Tell me about the sea. " * 20, max_tokens=8)
    second = session.ask("Go on.", max_tokens=4)
    assert first.usage.cached_input == 0
    assert second.usage.cached_input >= first.usage.input * 0.9
    apart = client.session().ask("Tell me about the sea. " * 20, max_tokens=4)
    assert apart.usage.cached_input == 0


def test_streaming_equals_not_streaming_for_a_seed(client: Client) -> None:
    whole = client.ask("Name three colours.", max_tokens=12, seed=5, temperature=0.8)
    with client.stream("Name three colours.", max_tokens=12, seed=5, temperature=0.8) as stream:
        text = "".join(stream.text_deltas())
    assert text == whole.text


def test_cancelling_frees_the_slot_at_once(client: Client) -> None:
    stream = client.stream("Tell me a long story.", max_tokens=400)
    for event in stream:
        if isinstance(event, TextDelta):
            break
    stream.cancel()
    assert stream.reply is not None
    assert stream.reply.finish_reason == "cancelled"
    assert client.ask("What is the capital of France?", max_tokens=5).text


def test_two_clients_share_the_weights_and_the_last_one_frees_them(client: Client) -> None:
    client.ask("Hi.", max_tokens=2)
    with Client(model="starter") as other:
        other.ask("Hi.", max_tokens=2)
        mine, theirs = (c._async._driver.engine() for c in (client, other))
        assert isinstance(mine, DeviceModel)
        assert isinstance(theirs, DeviceModel)
        assert mine._engine is theirs._engine
    assert client.ask("Hi.", max_tokens=2).text


def test_what_is_a_little_too_long_is_counted_and_refused(client: Client) -> None:
    size = client.context_size()
    with pytest.raises(ContextOverflowError) as caught:
        client.ask("word " * (size + 200))
    assert caught.value.limit == size
    assert caught.value.needed > size
    assert client.count_tokens("word " * 50) > 50


def test_a_damaged_model_is_refused_by_name(tmp_path: Path) -> None:
    from hybrid.local import open_store

    installed = open_store().get("starter")
    copy = tmp_path / installed.entry.id
    copy.mkdir()
    for file in installed.path.iterdir():
        (copy / file.name).symlink_to(file)
    (copy / "tokenizer_config.json").unlink()
    with Client(model="starter", models=tmp_path) as broken, pytest.raises(UnavailableError) as caught:
        broken.ask("hi")
    assert (caught.value.reason, caught.value.exit_code) == ("model_damaged", 4)


@pytest.mark.parametrize("question", ["What is the capital of France?", "What is 8231 * 4417?"])
def test_the_cascade_looks_at_the_starter_s_own_numbers(client: Client, question: str) -> None:
    node = MemoryTransport(FakeEngine(["answered by the node"]))
    close = client.explain(question).score + 0.01
    with Client(model="starter", transport=node, trust=node.policy, threshold=min(1.0, close)) as both:
        reply = both.ask(question, max_tokens=40, temperature=0.0)
    assert reply.cascade is not None
    assert {"lp_first", "margin_first", "entropy_first", "lp_min"} <= set(reply.cascade.statistics)
    escalated = reply.cascade.verdict == "escalated"
    assert (reply.route is Route.PRIVATE_CLOUD) == escalated == bool(node.sealed)
    assert (reply.text == "answered by the node") == escalated
    assert [attempt.error for attempt in reply.attempts] == (["Doubted", ""] if escalated else [""])
