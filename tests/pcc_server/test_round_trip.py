"""A sealed request goes in, a sealed answer comes out."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid.wire import codec
from hybrid.wire.errors import SealedCode
from hybrid.wire.types import Chunk, FinishReason
from tests.pcc_server.node_client import Client, Node, ask, collect


def test_a_sealed_request_is_answered_with_text_usage_and_a_receipt(client: Client) -> None:
    answer = client.ask("hello", max_tokens=4)
    assert answer.text == "fake engine: token 1 token 2 token 3 token 4 "
    assert (answer.usage.usage.output, answer.usage.finish) == (4, FinishReason.LENGTH)
    assert answer.receipt is not None  # the opener has checked it against request, reply and node
    assert (answer.receipt.tokens_out, answer.receipt.model_id) == (4, "fake")


def test_a_long_answer_comes_in_many_messages_and_nothing_is_lost(client: Client) -> None:
    answer = client.ask("x" * 3000, max_tokens=2000)
    assert answer.text.split()[-1] == "2000"
    assert answer.usage.usage.output == 2000


def test_progress_of_the_prompt_is_told_before_the_first_token(client: Client) -> None:
    first, second, *_ = client.ask("one two three").events
    assert isinstance(first, Chunk)
    assert isinstance(second, Chunk)
    assert (first.progress, second.progress) == ((0, 4), (4, 4))


def test_the_operator_s_limit_on_new_tokens_holds() -> None:
    with Node("--max-new", "5") as node, Client(node) as client:
        answer = client.ask("x" * 100, max_tokens=50)
        assert (answer.usage.usage.output, answer.usage.finish) == (5, FinishReason.LENGTH)
        assert client.directory.nodes[0].bundle.statement.models[0].max_output_tokens == 5


def test_a_prompt_beyond_the_context_is_refused_inside_the_seal_with_both_numbers(client: Client) -> None:
    answer = client.ask("w " * 9000)
    assert answer.error.code is SealedCode.CONTEXT_LENGTH
    assert (answer.error.first, answer.error.second) == (8192, 9002)
    assert answer.receipt is not None
    assert answer.text == ""


def test_thirty_two_requests_at_once_all_complete(client: Client) -> None:
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda n: client.ask("x" * n, max_tokens=n), range(1, 33)))
    assert [answer.usage.usage.output for answer in answers] == list(range(1, 33))


def test_everybody_gets_the_same_directory(node: Node) -> None:
    with Client(node) as one, Client(node) as two:
        assert one.directory.raw == two.directory.raw


def test_the_fake_engine_is_named_in_statement_and_ready_line(node: Node, client: Client) -> None:
    assert client.directory.nodes[0].bundle.statement.models[0].model_id == "fake"
    assert (node.ready["engine"], node.ready["model"], node.ready["tier"]) == ("fake", "fake", 0)


def test_a_key_renewed_every_second_fails_nobody() -> None:
    with Node("--epoch-s", "1") as node, Client(node) as old:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert old.ask("hi", max_tokens=2).receipt  # its key is up to two lives old
            with Client(node) as fresh:
                assert fresh.ask("hi", max_tokens=2).receipt
            time.sleep(0.2)
        with Client(node) as fresh:
            assert fresh.directory.epoch > old.directory.epoch
            assert fresh.candidate.key.key_id != old.candidate.key.key_id
            assert fresh.candidate.identity == old.candidate.identity


def test_a_reader_that_stops_for_a_while_gets_everything() -> None:
    """Two megabytes through a window of 256 KiB: the worker waits, nothing is dropped."""
    with Node("--max-new", "4000") as node, Client(node) as client:
        sealed, opener = client.seal(ask("x" * 4000, max_tokens=4000))
        call = client.send(client.encode(sealed))
        first = next(call)
        time.sleep(0.5)

        def rest():  # type: ignore[no-untyped-def]  # noqa: ANN202
            yield first
            yield from call

        assert collect(rest(), opener).usage.usage.output == 4000


@pytest.mark.model
def test_the_mlx_engine_answers_a_sealed_question() -> None:
    with Node("--model", "starter", engine="mlx") as node, Client(node) as client:
        answer = client.ask("What is the capital of France?", max_tokens=24)
        assert "Paris" in answer.text
        assert answer.receipt is not None
        assert answer.receipt.model_id == node.ready["model"] == "smollm2-135m"
        long = client.ask("w " * 9000)
        assert (long.error.code, long.error.first) == (SealedCode.CONTEXT_LENGTH, 8192)


@pytest.mark.parametrize("name", ["Evidence.Attest", "Evidence.EventLog", "Log.File"])
def test_methods_that_are_asked_nonsense_say_malformed_and_nothing_else(client: Client, name: str) -> None:
    import grpc

    call = client.channel.unary_stream(codec.METHODS[name])(b"anything", timeout=5)
    with pytest.raises(grpc.RpcError):
        list(call)
    assert (call.code(), call.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED")
