"""A failed hand-over: an error, or a new decision that says so. Never plaintext, never silent, never after text."""

import itertools
from typing import Any

import pytest

from hybrid.errors import (
    APIConnectionError,
    APITimeoutError,
    AttestationError,
    ContextOverflowError,
    GenerationError,
    HandoffDeclined,
    HybridError,
    IntegrityError,
    KeyExpiredError,
    NodeAuthError,
    NoRouteError,
    OverloadedError,
    PolicyError,
    ProtocolError,
    RateLimitError,
    ServerError,
    UnavailableError,
)
from hybrid.events import Event, Handoff, RouteDecided, TextDelta
from hybrid.gate import HandoffPlan
from hybrid.sources import Source
from hybrid.testing import FakeEngine, MemoryTransport
from hybrid.wire.errors import ErrorCode, SealedCode
from hybrid.wire.types import Route
from tests.support import EASY, FACES, HARD, Bench, Opener

# fault -> (error, exit code, what had left, whether the device may answer instead)
FAULTS: dict[Any, tuple[type[HybridError], int, str, bool]] = {
    "no_directory": (APIConnectionError, 4, "no", True),
    "other_key": (AttestationError, 5, "no", True),
    ErrorCode.STALE_KEY: (KeyExpiredError, 75, "ciphertext", True),
    ErrorCode.BUSY: (OverloadedError, 75, "ciphertext", True),
    ErrorCode.LIMIT: (RateLimitError, 75, "ciphertext", True),
    ErrorCode.TOKEN: (NodeAuthError, 4, "ciphertext", True),
    ErrorCode.DEADLINE: (APITimeoutError, 75, "ciphertext", True),
    ErrorCode.FAULT: (ServerError, 1, "ciphertext", True),
    ErrorCode.REPLAY: (IntegrityError, 1, "ciphertext", False),
    ErrorCode.REJECTED: (ProtocolError, 1, "ciphertext", False),
    ErrorCode.MALFORMED: (ProtocolError, 1, "ciphertext", False),
    SealedCode.ENGINE_FAILED: (ServerError, 1, "yes", True),
    SealedCode.OVERLOADED: (OverloadedError, 75, "yes", True),
    SealedCode.CONTEXT_LENGTH: (ContextOverflowError, 6, "yes", False),
    SealedCode.BAD_REQUEST: (ProtocolError, 1, "yes", False),
    "cut_stream": (IntegrityError, 1, "yes", False),
    "no_final": (IntegrityError, 1, "yes", False),
    "flip_bit": (IntegrityError, 1, "yes", False),
    "reorder": (IntegrityError, 1, "yes", False),
    "duplicate": (IntegrityError, 1, "yes", False),
}
MODES = {"auto": HARD, "prefer_private_cloud": EASY, "only_private_cloud": EASY}


@pytest.fixture(params=list(FACES))
def face(request: pytest.FixtureRequest) -> Opener:
    return FACES[request.param]


def follow(face: Opener, bench: Bench, prompt: str, **given: Any) -> tuple[list[Event], HybridError | None]:
    """Ask once, and return every event and the failure, if there was one."""
    seen: list[Event] = []
    with face(**bench.options(on_event=seen.append, max_retries=0, **given)) as client:
        try:
            client.ask(prompt)
        except HybridError as error:
            return seen, error
    return seen, None


@pytest.mark.parametrize("fault", list(FAULTS), ids=str)
def test_only_private_cloud_makes_every_fault_an_error(face: Opener, fault: Any) -> None:
    kind, code, left, _ = FAULTS[fault]
    bench = Bench(node=MemoryTransport(fault=fault))
    seen, error = follow(face, bench, EASY, policy="only_private_cloud")
    assert type(error) is kind
    assert (error.exit_code, error.left_device, error.route) == (code, left, "private_cloud")
    assert error.partial == "".join(event.text for event in seen if isinstance(event, TextDelta))
    assert bench.device.requests == []


@pytest.mark.parametrize(("fault", "mode"), list(itertools.product(FAULTS, ["auto", "prefer_private_cloud"])), ids=str)
def test_another_mode_answers_on_the_device_where_it_may_and_says_so(fault: Any, mode: str) -> None:
    kind, _, left, may = FAULTS[fault]
    bench = Bench(node=MemoryTransport(fault=fault))
    seen, error = follow(FACES["sync"], bench, MODES[mode], policy=mode)
    if not may:
        assert type(error) is kind
        assert bench.device.requests == []
        return
    assert error is None
    handoff = next(event for event in seen if isinstance(event, Handoff))
    reply = seen[-1].reply  # type: ignore[union-attr]
    assert (handoff.from_, handoff.to) == ("private_cloud", "on_device")
    assert handoff.decision is reply.decision
    assert reply.route is Route.ON_DEVICE
    assert "degraded" in reply.decision.codes
    assert [attempt.error for attempt in reply.attempts] == [kind.__name__, ""]
    assert (reply.egress is not None) == (left != "no")
    assert next(e for e in seen if isinstance(e, RouteDecided)).decision.route is Route.PRIVATE_CLOUD


@pytest.mark.parametrize("fault", ["no_directory", "other_key"])
def test_a_node_that_is_absent_or_cannot_prove_itself_gets_no_byte_of_the_request(fault: str) -> None:
    bench = Bench(node=MemoryTransport(fault=fault))
    follow(FACES["sync"], bench, EASY, policy="only_private_cloud")
    assert bench.node.sealed == []
    bench.node.fault = None  # the detector sees what does arrive
    follow(FACES["sync"], bench, EASY, policy="only_private_cloud")
    assert bench.node.sealed != []


def test_failed_evidence_is_never_retried(face: Opener) -> None:
    bench = Bench(node=MemoryTransport(fault="other_key"))
    with face(**bench.options(policy="only_private_cloud", max_retries=2)) as client, pytest.raises(AttestationError):
        client.ask(EASY)
    assert bench.node.contacts == 1


def test_after_text_was_shown_no_fault_leads_to_another_answer(face: Opener) -> None:
    broken = FakeEngine([["half an ", "answer", ServerError("the node broke")]], model_id="fake")
    bench = Bench(node=MemoryTransport(broken))
    seen, error = follow(face, bench, HARD, policy="auto")
    assert isinstance(error, ServerError)
    assert error.partial == "half an answer"
    assert error.left_device != "no"
    assert bench.device.requests == []
    assert not any(isinstance(event, Handoff) for event in seen)


def test_what_left_in_a_failed_attempt_is_in_the_reply_of_the_device(face: Opener) -> None:
    bench = Bench(node=MemoryTransport(fault=ErrorCode.FAULT))
    with face(**bench.options(policy="prefer_private_cloud", max_retries=0)) as client:
        reply = client.ask(EASY)
    assert reply.egress is not None
    assert reply.egress.bytes_wire == len(bench.node.sealed[0])
    assert reply.to_dict()["route"] == "on_device"


def test_when_neither_route_answers_the_first_failure_is_raised(face: Opener) -> None:
    gone = UnavailableError("the engine is gone", reason="engine_missing")
    bench = Bench(device=FakeEngine([gone]), node=MemoryTransport(fault="no_directory"))
    _, error = follow(face, bench, EASY, policy="prefer_private_cloud")
    assert type(error) is UnavailableError  # the device was tried as a new decision, and this is what it said
    bench = Bench(node=MemoryTransport(fault="no_directory"))
    held = Source.text("x")
    without_model = face(transport=bench.node, trust=bench.node.policy, models="/nonexistent-store")
    with without_model as client, pytest.raises(APIConnectionError):
        client.ask(HARD, sources=[held])


def test_a_device_that_cannot_answer_hands_over_as_a_new_decision(face: Opener) -> None:
    gone = UnavailableError("does not fit", reason="not_enough_memory")
    bench = Bench(device=FakeEngine([gone]))
    seen, error = follow(face, bench, EASY, policy="auto")
    assert error is None
    handoff = next(event for event in seen if isinstance(event, Handoff))
    assert (handoff.from_, handoff.to, handoff.reason) == ("on_device", "private_cloud", "not_enough_memory")
    assert seen[-1].reply.route is Route.PRIVATE_CLOUD  # type: ignore[union-attr]


def test_a_device_that_cannot_answer_never_hands_over_what_is_labelled(face: Opener) -> None:
    gone = UnavailableError("does not fit", reason="not_enough_memory")
    bench = Bench(device=FakeEngine([gone]))
    held = Source.text("canary", max_route="on_device")
    with face(**bench.options()) as client, pytest.raises(UnavailableError):
        client.ask(EASY, sources=[held])
    assert bench.node.sealed == []


def test_a_model_that_fails_on_the_device_is_an_error_and_no_reason_to_hand_over(face: Opener) -> None:
    bench = Bench(device=FakeEngine([["some ", GenerationError("it broke")]]))
    seen, error = follow(face, bench, EASY, policy="auto")
    assert type(error) is GenerationError
    assert (error.partial, error.left_device) == ("some ", "no")
    assert bench.node.sealed == []
    assert kinds_of_last(seen) == "TextDelta"


def kinds_of_last(seen: list[Event]) -> str:
    return type(seen[-1]).__name__


def test_a_label_without_an_engine_on_the_device_is_no_route(face: Opener, tmp_path: Any) -> None:
    node = MemoryTransport()
    held = Source.text("canary", label="notes", max_route="on_device")
    with face(transport=node, trust=node.policy, models=tmp_path) as client, pytest.raises(NoRouteError) as caught:
        client.ask(HARD, sources=[held])
    assert caught.value.exit_code == 4
    assert caught.value.per_route == {"on_device": "model_not_downloaded", "private_cloud": "label"}
    assert "notes" in str(caught.value)
    assert "pull" in caught.value.hint
    assert (node.sealed, node.contacts) == ([], 0)


def test_without_a_model_and_a_node_the_fix_is_named(face: Opener, tmp_path: Any) -> None:
    with face(models=tmp_path) as client, pytest.raises(NoRouteError, match="model not downloaded") as caught:
        client.ask(EASY)
    assert caught.value.hint == "hybrid pull starter"


def test_only_private_cloud_without_a_node_is_no_route(face: Opener) -> None:
    with face(engine=FakeEngine(), policy="only_private_cloud") as client, pytest.raises(NoRouteError) as caught:
        client.ask(EASY)
    assert caught.value.exit_code == 4


def test_a_label_against_only_private_cloud_is_a_policy_error_naming_the_source(face: Opener) -> None:
    bench = Bench()
    held = Source.text("canary", label="the letter", max_route="on_device")
    with face(**bench.options(policy="only_private_cloud")) as client, pytest.raises(PolicyError) as caught:
        client.ask(EASY, sources=[held])
    assert (caught.value.source, caught.value.label, caught.value.exit_code) == ("the letter", "on_device", 3)
    assert (bench.node.sealed, bench.device.requests) == ([], [])


def test_an_unknown_model_is_named_with_its_nearest(face: Opener, tmp_path: Any) -> None:
    with face(model="startr", models=tmp_path) as client, pytest.raises(HybridError) as caught:
        client.ask(EASY)
    assert caught.value.exit_code == 2
    assert "starter" in str(caught.value)


# --- too long ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "only_on_device", "only_private_cloud", "prefer_private_cloud"])
def test_two_megabytes_are_refused_with_limit_and_need_and_nothing_leaves(face: Opener, mode: str) -> None:
    bench = Bench()
    with face(**bench.options(policy=mode)) as client, pytest.raises(ContextOverflowError) as caught:
        client.ask("word " * 400_000)
    assert (caught.value.exit_code, caught.value.left_device) == (6, "no")
    assert caught.value.needed >= 400_000 > caught.value.limit > 0
    assert (bench.node.sealed, bench.device.requests) == ([], [])


def test_what_fits_the_node_alone_is_handed_over_with_that_reason(face: Opener) -> None:
    bench = Bench(device=FakeEngine(context_size=64))
    with face(**bench.options(policy="prefer_on_device")) as client:
        reply = client.ask("word " * 400)
    assert reply.route is Route.PRIVATE_CLOUD
    assert reply.decision.codes[0] == "does_not_fit"


def test_a_request_larger_than_any_sealed_body_is_refused_even_for_a_huge_context(face: Opener) -> None:
    bench = Bench(node=MemoryTransport(context_tokens=10_000_000))
    with face(**bench.options(policy="only_private_cloud")) as client, pytest.raises(ContextOverflowError):
        client.ask("word " * 400_000)
    assert bench.node.sealed == []


def test_the_head_the_middle_and_the_tail_of_a_long_prompt_all_arrive(face: Opener) -> None:
    bench = Bench()
    parts = ["head-7", *["word"] * 3000, "middle-8", *["word"] * 3000, "tail-9"]
    with face(**bench.options()) as client:
        client.ask(" ".join(parts), policy="only_on_device")
        client.ask(" ".join(parts), policy="only_private_cloud")
    for request in (bench.device.requests[0], bench.node.requests[0]):
        assert request.messages[-1].content == " ".join(parts)


# --- consent ----------------------------------------------------------------------------------------------------------


def test_a_person_who_agrees_has_seen_the_plan(face: Opener) -> None:
    bench, plans = Bench(), []

    def agree(plan: HandoffPlan) -> bool:
        plans.append(plan)
        assert bench.node.sealed == []
        return True

    with face(**bench.options(on_handoff=agree, policy="only_private_cloud")) as client:
        reply = client.ask(EASY)
    assert [plan.node for plan in plans] == ["127.0.0.1:1"]
    assert reply.egress is not None
    assert reply.egress.bytes_plain == plans[0].bytes_plain


@pytest.mark.parametrize("answer", [False, None, "yes"])
def test_anything_but_yes_is_a_no(face: Opener, answer: Any) -> None:
    bench = Bench()
    with face(**bench.options(on_handoff=lambda _: answer)) as client:
        with pytest.raises(HandoffDeclined) as caught:
            client.ask(EASY, policy="only_private_cloud")
        reply = client.ask(HARD)
    assert (caught.value.exit_code, caught.value.left_device) == (3, "no")
    assert (reply.route, reply.egress) == (Route.ON_DEVICE, None)
    assert "declined" in reply.decision.codes
    assert bench.node.sealed == []


def test_a_callback_that_raises_goes_up_and_counts_as_a_no() -> None:
    bench = Bench()

    def broken(_: HandoffPlan) -> bool:
        raise LookupError("the dialogue is gone")

    opened = FACES["sync"](**bench.options(on_handoff=broken, policy="only_private_cloud"))
    with opened as client, pytest.raises(LookupError):
        client.ask(EASY)
    assert bench.node.sealed == []


def test_never_keeps_everything_here(face: Opener) -> None:
    bench = Bench()
    with face(**bench.options(on_handoff="never")) as client:
        assert client.ask(HARD).route is Route.ON_DEVICE
    assert (bench.node.sealed, bench.node.contacts) == ([], 0)


def test_offline_refuses_a_node_elsewhere_and_allows_one_here(face: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    for offline in ({"offline": True}, {}):
        if not offline:
            monkeypatch.setenv("HYBRID_OFFLINE", "1")
        away = Bench(node=MemoryTransport(address="192.0.2.7:1", loopback=False))
        with face(**away.options(**offline)) as client:
            assert client.ask(HARD).route is Route.ON_DEVICE
            with pytest.raises(NoRouteError, match="offline"):
                client.ask(EASY, policy="only_private_cloud")
        assert away.node.contacts == 0
        here = Bench()
        with face(**here.options(**offline)) as client:
            assert client.ask(EASY, policy="only_private_cloud").route is Route.PRIVATE_CLOUD


def test_offline_false_does_not_undo_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_OFFLINE", "1")
    away = Bench(node=MemoryTransport(address="192.0.2.7:1", loopback=False))
    with FACES["sync"](**away.options(offline=False)) as client:
        assert client.ask(HARD).route is Route.ON_DEVICE
