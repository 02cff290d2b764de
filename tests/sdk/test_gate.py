from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.errors import ConfigurationError, ContextOverflowError, HandoffDeclined, PolicyError
from hybrid.gate import Cleared, Gate
from hybrid.plan import wire_estimate
from hybrid.routing.labels import LabelReason, Labels, Segment, Source, from_source, typed
from hybrid.wire.constants import MAX_BODY_PLAIN_BYTES
from hybrid.wire.types import GenerateRequest, Message, Role, Route, Sampling
from tests.trust.maker import MODEL, NOW, Maker, asked, decision

PROMPT = "What is the capital of France?"
MAKER = Maker()
NODES = MAKER.verified().nodes


def labels(*segments: Segment) -> Labels:
    return Labels(segments or (typed(PROMPT),))


def mail(text: str = "Dear Ann, the test was positive.") -> Segment:
    return from_source(Source(label="doctor.eml", text=text, kind="mail"))


def refused(gate: Gate, *args: Any, **kw: Any) -> PolicyError:
    """Assert a refusal with zero bytes out, after the same gate has let an unlabelled request through."""
    gate.clear(asked(PROMPT), labels(), decision(), NODES)
    before = gate.bytes_sent, len(gate.records)
    with pytest.raises(PolicyError) as caught:
        gate.clear(*args, **kw)
    assert (gate.bytes_sent, len(gate.records)) == before == (0, 1)
    assert caught.value.left_device == "no"
    return caught.value


def test_a_request_whose_segments_may_all_leave_is_cleared_and_recorded_before_any_byte() -> None:
    gate = Gate(now=lambda: NOW)
    cleared = gate.clear(asked(PROMPT), labels(), decision(), NODES)
    (record,) = gate.records
    assert (record.bytes_wire, record.at, record.tier) == (0, NOW, 0)
    assert record.bytes_plain == cleared.plan.bytes_plain > len(PROMPT)
    assert [(s.source, s.chars) for s in record.segments] == [("prompt", len(PROMPT))]
    assert gate.bytes_sent == 0


def test_sending_counts_the_bytes_and_fills_in_the_record() -> None:
    gate = Gate()
    cleared = gate.clear(asked(PROMPT), labels(), decision(), NODES)
    assert gate.send(cleared, b"x" * 100) == b"x" * 100
    assert gate.bytes_sent == gate.records[0].bytes_wire == 100


def test_one_clearance_is_good_for_one_sending() -> None:
    gate = Gate()
    cleared = gate.clear(asked(PROMPT), labels(), decision(), NODES)
    gate.send(cleared, b"x")
    with pytest.raises(PolicyError):
        gate.send(cleared, b"x")
    assert gate.bytes_sent == 1


def test_another_gates_clearance_is_worth_nothing() -> None:
    cleared = Gate().clear(asked(PROMPT), labels(), decision(), NODES)
    gate = Gate()
    with pytest.raises(PolicyError):
        gate.send(cleared, b"x")
    assert gate.bytes_sent == 0


def test_a_cleared_request_cannot_be_made_elsewhere() -> None:
    cleared = Gate().clear(asked(PROMPT), labels(), decision(), NODES)
    fields = {name: getattr(cleared, name) for name in Cleared.__dataclass_fields__ if name != "token"}
    with pytest.raises(TypeError, match="nowhere else"):
        Cleared(**fields, token=object())


def test_a_label_that_forbids_it_is_refused_and_its_source_named() -> None:
    both = f"{mail().text}\n\n{PROMPT}"
    error = refused(Gate(), asked(both), labels(mail(), typed(PROMPT)), decision(), NODES)
    assert (error.source, error.label) == ("doctor.eml", "on_device")
    assert "positive" not in str(error)


def test_text_no_segment_accounts_for_is_refused() -> None:
    error = refused(Gate(), asked(f"{PROMPT} And one more thing."), labels(), decision(), NODES)
    assert error.source == "unlabelled text"


def test_text_changed_after_it_was_labelled_is_refused() -> None:
    segment = typed(PROMPT)
    object.__setattr__(segment, "text", "Something else entirely.")
    refused(Gate(), asked("Something else entirely."), labels(segment), decision(), NODES)


def test_a_label_changed_by_a_copy_of_the_segment_still_binds() -> None:
    forbidden = replace(typed(PROMPT), max_route=Route.ON_DEVICE)
    refused(Gate(), asked(PROMPT), labels(typed(PROMPT), forbidden), decision(), NODES)


def test_every_message_is_judged_also_system_and_answer() -> None:
    request = GenerateRequest(
        messages=(
            Message(role=Role.SYSTEM, content="Be brief."),
            Message(role=Role.ASSISTANT, content="An answer made from mail."),
            Message(role=Role.USER, content=PROMPT),
        )
    )
    system, answer = typed("Be brief.", source="system"), typed("An answer made from mail.", source="answer")
    good = labels(system, answer, typed(PROMPT))
    assert Gate().clear(request, good, decision(), NODES)
    kept = replace(answer, max_route=Route.ON_DEVICE, why=LabelReason.DERIVED)
    assert refused(Gate(), request, labels(system, kept, typed(PROMPT)), decision(), NODES).source == "answer"
    assert refused(Gate(), request, labels(answer, typed(PROMPT)), decision(), NODES).source == "unlabelled text"


def test_stop_strings_leave_too_and_are_named_in_plan_and_record() -> None:
    gate = Gate()
    request = asked(PROMPT, sampling=Sampling(stop=("END", "\n\n")))
    record = gate.clear(request, labels(), decision(), NODES).record
    assert [(s.source, s.chars) for s in record.segments] == [
        ("prompt", len(PROMPT)), ("stop string", 3), ("stop string", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("stop", ["the test was positive", "the test  was\npositive", mail().text])
def test_a_stop_string_taken_from_what_must_stay_is_refused(stop: str) -> None:
    request = asked(PROMPT, sampling=Sampling(stop=("END", stop)))
    error = refused(Gate(), request, labels(mail(), typed(PROMPT)), decision(), NODES)
    assert (error.source, error.label) == ("doctor.eml", "on_device")
    assert "positive" not in str(error)


def test_a_decision_for_the_device_is_never_cleared() -> None:
    refused(Gate(), asked(PROMPT), labels(), decision(Route.ON_DEVICE), NODES)


@pytest.mark.parametrize("nodes", [(), ("127.0.0.1:8443",), MAKER.directory().nodes])
def test_nothing_is_cleared_for_a_node_that_was_not_verified(nodes: Any) -> None:
    refused(Gate(), asked(PROMPT), labels(), decision(), nodes)


def test_no_segments_at_all_clear_nothing() -> None:
    refused(Gate(), asked(PROMPT), Labels(()), decision(), NODES)


@pytest.mark.parametrize(
    ("consent", "by"), [("never", "configuration"), ("ask", "nobody"), (lambda _: False, "person")]
)
def test_a_refused_consent_is_declined_with_nothing_sent(consent: Any, by: Any) -> None:
    gate = Gate(consent)
    with pytest.raises(HandoffDeclined) as caught:
        gate.clear(asked(PROMPT), labels(), decision(), NODES)
    assert caught.value.by == by
    assert gate.records == ()


def test_an_asynchronous_callback_is_no_consent() -> None:
    async def always(_: object) -> bool:
        return True

    pending = []

    def forgotten(plan: object) -> object:
        pending.append(always(plan))
        return pending[0]

    with pytest.raises(HandoffDeclined):
        Gate(forgotten).clear(asked(PROMPT), labels(), decision(), NODES)
    pending[0].close()


def test_a_callback_sees_the_plan_and_decides() -> None:
    seen = []
    gate = Gate(lambda plan: seen.append(plan) is None)
    shown = gate.plan(asked(PROMPT), labels(), decision(), NODES, address="127.0.0.1:8443", withheld=("notes.txt",))
    cleared = gate.clear(asked(PROMPT), labels(), decision(), NODES, plan=shown)
    assert seen == [shown]
    assert (shown.node, shown.tier, shown.model, shown.reason) == ("127.0.0.1:8443", 0, "fake", "complex")
    assert cleared.record.plan_id == shown.id
    assert cleared.record.withheld == ("notes.txt",)


def test_who_asks_is_asked_under_ask() -> None:
    asker = {True: Gate("ask", ask=lambda _: True), False: Gate("ask", ask=lambda _: False)}
    assert asker[True].clear(asked(PROMPT), labels(), decision(), NODES)
    with pytest.raises(HandoffDeclined):
        asker[False].clear(asked(PROMPT), labels(), decision(), NODES)


def test_a_plan_for_another_request_clears_nothing() -> None:
    gate = Gate()
    other = gate.plan(asked("Who wrote Faust?"), labels(typed("Who wrote Faust?")), decision(), NODES)
    refused(gate, asked(PROMPT), labels(), decision(), NODES, plan=other)


def test_a_consent_that_is_none_of_the_four_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        Gate("perhaps")


def test_a_renewed_clearance_is_judged_and_recorded_anew_and_not_asked_about_again() -> None:
    asked_about = []
    gate = Gate(lambda plan: asked_about.append(plan) is None)
    first = gate.clear(asked(PROMPT), labels(), decision(), NODES)
    second = gate.renew(first, NODES)
    assert len(asked_about) == 1
    assert first.record.id != second.record.id
    assert first.record.plan_id == second.record.plan_id
    assert len(gate.records) == 2


def test_the_record_says_what_was_judged_and_not_what_a_plan_claims() -> None:
    gate = Gate()
    shown = replace(gate.plan(asked(PROMPT), labels(), decision(), NODES), segments=(), bytes_plain=0)
    record = gate.clear(asked(PROMPT), labels(), decision(), NODES, plan=shown).record
    assert [s.source for s in record.segments] == ["prompt"]
    assert record.bytes_plain > len(PROMPT)


def test_a_clearance_is_never_renewed_for_weaker_nodes_or_for_more_of_them() -> None:
    """Under "always" nobody is asked, so a retry that may weaken would weaken in silence (SPEC 10)."""
    gate = Gate()
    shown = gate.plan(asked(PROMPT), labels(), decision(), NODES, withheld=("notes.txt",))
    first = gate.clear(asked(PROMPT), labels(), decision(), NODES, plan=shown)
    second = gate.renew(first, NODES)  # as strong and as many: the same hand-off goes on
    assert second.record.plan_id == first.record.plan_id
    assert second.record.withheld == ("notes.txt",)
    more = MAKER.verified(Maker().bundle(), Maker().bundle()).nodes
    with pytest.raises(PolicyError):
        gate.renew(first, more)
    object.__setattr__(first, "plan", replace(first.plan, tier=2))  # no node of this version is so strong
    with pytest.raises(PolicyError):
        gate.renew(first, NODES)
    assert len(gate.records) == 2


def test_a_limit_is_never_larger_than_the_need_it_refuses() -> None:
    text = "x" * 2_000_000
    wide = MAKER.verified(MAKER.bundle(models=(replace(MODEL, context_tokens=10_000_000),))).nodes
    with pytest.raises(ContextOverflowError) as caught:
        Gate().clear(asked(text), labels(typed(text)), decision(), wide)
    assert caught.value.limit < caught.value.needed


def test_a_prompt_larger_than_any_sealed_request_names_limit_and_need_and_sends_nothing() -> None:
    gate = Gate()
    for size in (2_000_000, MAX_BODY_PLAIN_BYTES - 20):
        text = "x" * size
        with pytest.raises(ContextOverflowError) as caught:
            gate.clear(asked(text), labels(typed(text)), decision(), NODES)
        assert caught.value.limit == 2048
        assert caught.value.needed >= size // 4
    assert gate.records == ()


def test_text_that_is_not_unicode_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        Gate().plan(asked("lone \ud800"), labels(typed("lone \ud800")), decision(), NODES)


def test_neither_plan_nor_record_nor_error_shows_what_was_asked() -> None:
    canary = "heliotrope-4711"
    gate = Gate()
    cleared = gate.clear(asked(canary), labels(typed(canary)), decision(), NODES)
    assert canary not in repr((cleared, cleared.plan, gate.records))


def test_digests_in_the_record_cannot_be_guessed_without_this_process_secret() -> None:
    one, two = (Gate().plan(asked(PROMPT), labels(), decision(), NODES).segments[0].digest for _ in range(2))
    assert one != two


def test_the_records_kept_in_memory_are_bounded() -> None:
    gate = Gate()
    for _ in range(1030):
        cleared = gate.clear(asked(PROMPT), labels(), decision(), NODES)
    assert len(gate.records) == 1024
    assert gate.records[-1] == cleared.record


def test_the_estimate_of_bytes_on_the_wire_grows_by_bucket_and_candidate() -> None:
    assert wire_estimate(10, 1) == wire_estimate(1020, 1) < wire_estimate(1021, 1)
    assert wire_estimate(10, 3) - wire_estimate(10, 2) == 1201 + 80


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.sampled_from("abcdefgh"), min_size=3, max_size=8), st.booleans()),
        min_size=1,
        max_size=6,
        unique_by=lambda pair: pair[0],
    ),
    st.randoms(use_true_random=False),
)
def test_whatever_the_mixture_a_forbidden_segment_never_passes(pairs: Any, shuffle: Any) -> None:
    segments = [
        Segment(
            text=f"<{text}>",
            max_route=Route.PRIVATE_CLOUD if free else Route.ON_DEVICE,
            source=text,
            why=LabelReason.SOURCE,
        )
        for text, free in pairs
    ]
    request = asked(" \n ".join(s.text for s in segments))
    shuffled = list(segments)
    shuffle.shuffle(shuffled)
    gate = Gate()
    if all(free for _, free in pairs):
        assert gate.clear(request, Labels(tuple(shuffled)), decision(), NODES)
    else:
        with pytest.raises(PolicyError):
            gate.clear(request, Labels(tuple(shuffled)), decision(), NODES)
        assert gate.records == ()


def test_weaker_nodes_than_those_agreed_to_need_a_new_consent() -> None:
    gate = Gate(lambda _: True)
    stronger = replace(gate.plan(asked(PROMPT), labels(), decision(), NODES), tier=2, tier_words="sev-snp")
    with pytest.raises(PolicyError):
        gate.clear(asked(PROMPT), labels(), decision(), NODES, plan=stronger)
