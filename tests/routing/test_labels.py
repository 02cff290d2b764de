import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.routing.labels import LabelReason, Labels, Segment, Source, frame, from_source, typed, unlabelled
from hybrid.routing.outgoing import PLACEHOLDER, cover, outgoing
from hybrid.routing.taint import derived
from hybrid.wire.types import GenerateRequest, Message, Role, Route
from tests.routing.cases import MAIL, OPEN_FILE, kept, one_turn, request

CANARY = "canary-7f3a"


def forbidden(request: GenerateRequest, labels: Labels) -> list[Segment]:
    """Every segment of exactly this request that may not leave."""
    return [part for parts in cover(request, labels) for part in parts if not part.may_leave]


@pytest.mark.parametrize("kind", ["mail", "calendar", "contacts", "index", "something new"])
def test_a_personal_or_unknown_kind_of_source_stays_on_the_device_by_default(kind: str) -> None:
    assert Source(label="x", text="y", kind=kind).limit is Route.ON_DEVICE


@pytest.mark.parametrize("kind", ["text", "file"])
def test_text_and_other_files_are_not_limited_by_default(kind: str) -> None:
    assert Source(label="x", text="y", kind=kind).limit is Route.PRIVATE_CLOUD


def test_the_owner_of_a_source_may_widen_or_narrow_it() -> None:
    assert Source(label="x", text="y", kind="mail", max_route=Route.PRIVATE_CLOUD).limit is Route.PRIVATE_CLOUD
    assert Source(label="x", text="y", kind="file", max_route=Route.ON_DEVICE).limit is Route.ON_DEVICE


def test_a_source_refuses_a_limit_that_is_no_route() -> None:
    with pytest.raises(ValueError, match="everywhere"):
        Source(label="x", text="y", max_route="everywhere")  # type: ignore[arg-type]


def test_a_segment_with_an_unknown_label_stays_on_the_device() -> None:
    segment = Segment(text="t", max_route="anywhere", source="s", why=LabelReason.TYPED)  # type: ignore[arg-type]
    assert segment.max_route is Route.ON_DEVICE
    assert segment.why is LabelReason.UNKNOWN_LABEL


def test_the_digest_of_a_segment_is_the_sha256_of_its_text() -> None:
    assert typed("schön").digest == hashlib.sha256("schön".encode()).digest()


def test_a_segment_never_shows_its_text() -> None:
    assert CANARY not in repr(kept(CANARY))
    assert CANARY not in repr(Labels((kept(CANARY),)))
    assert CANARY not in repr(outgoing(*one_turn(CANARY)))


def test_no_segments_at_all_means_on_device() -> None:
    assert Labels().strictest() is Route.ON_DEVICE


@given(st.lists(st.sampled_from([Route.ON_DEVICE, Route.PRIVATE_CLOUD]), min_size=1))
def test_the_strictest_label_wins(routes: list[Route]) -> None:
    labels = Labels(tuple(Segment(text="t", max_route=r, source="s", why=LabelReason.SOURCE) for r in routes))
    assert labels.strictest() is (Route.ON_DEVICE if Route.ON_DEVICE in routes else Route.PRIVATE_CLOUD)
    assert (labels.binding() is None) == (labels.strictest() is Route.PRIVATE_CLOUD)


def test_a_detector_may_restrict_a_segment_and_its_reason_is_kept() -> None:
    segment = typed("call me").restricted(LabelReason.RECOGNISED, ("PHONE_NUMBER",))
    assert (segment.max_route, segment.why, segment.types) == (
        Route.ON_DEVICE,
        LabelReason.RECOGNISED,
        ("PHONE_NUMBER",),
    )


def test_a_detector_does_not_replace_the_reason_of_a_source() -> None:
    segment = from_source(MAIL).restricted(LabelReason.RECOGNISED, ("IBAN_CODE",))
    assert (segment.why, segment.types) == (LabelReason.SOURCE, ("IBAN_CODE",))


def test_a_composed_message_is_covered_by_its_segments() -> None:
    req, labels = one_turn("What is it?", MAIL, OPEN_FILE)
    assert [s.source for s in cover(req, labels)[0]] == ["doctor.eml", "notes.txt", "prompt"]


def test_text_that_no_segment_accounts_for_stays_on_the_device() -> None:
    parts = cover(request("What is it? And this?"), Labels((typed("What is it?"),)))[0]
    assert [p.why for p in parts] == [LabelReason.TYPED, LabelReason.UNLABELLED]
    assert parts[1].max_route is Route.ON_DEVICE


def test_one_changed_character_makes_the_text_unlabelled() -> None:
    req, labels = one_turn("What is it?")
    assert not forbidden(req, labels)
    changed = request(req.messages[0].content + "!")
    assert forbidden(changed, labels)


def test_among_equal_texts_the_stricter_label_counts() -> None:
    labels = Labels((typed("same words"), kept("same words")))
    assert forbidden(request("same words"), labels)


def test_a_short_free_segment_does_not_shadow_a_longer_limited_one() -> None:
    labels = Labels((typed("The"), kept("The secret")))
    assert [s.text for s in forbidden(request("The secret"), labels)] == ["The secret"]


def test_an_answer_carries_the_strictest_label_of_everything_it_was_made_from() -> None:
    _, labels = one_turn("What is it?", MAIL)
    answer = derived("A fracture.", labels)
    assert answer.max_route is Route.ON_DEVICE
    assert "doctor.eml" in answer.source
    assert derived("Paris.", Labels((typed("Capital?"),))).max_route is Route.PRIVATE_CLOUD


def tainted_conversation() -> tuple[GenerateRequest, Labels]:
    """Turn 1 over a mail with its answer, turn 2 free of it."""
    first, labels = one_turn("What is it?", MAIL)
    answer = derived(f"A fracture {CANARY}.", labels)
    req = request(first.messages[0].content, answer.text, "And what is the capital of France?")
    return req, labels.plus(answer, typed("And what is the capital of France?"))


def test_earlier_turns_with_a_limited_label_are_withheld_and_replaced() -> None:
    out = outgoing(*tainted_conversation())
    assert out.blocking is None
    contents = [m.content for m in out.request.messages]
    assert contents == [PLACEHOLDER, PLACEHOLDER, "And what is the capital of France?"]
    assert [s.source for s in out.withheld] == ["doctor.eml", "prompt", "answer made from doctor.eml"]


def test_what_is_sent_passes_the_check_the_gate_makes_and_the_whole_conversation_does_not() -> None:
    req, labels = tainted_conversation()
    assert not forbidden(outgoing(req, labels).request, labels)
    assert forbidden(req, labels)


def test_an_answer_to_the_withheld_rest_is_free_again() -> None:
    out = outgoing(*tainted_conversation())
    assert derived("Paris.", out.labels).max_route is Route.PRIVATE_CLOUD


def test_a_limited_source_of_this_turn_blocks_it_also_in_a_message_of_its_own() -> None:
    labels = Labels((kept("mail text"), typed("Summarise it.")))
    messages = (Message(role=Role.USER, content="mail text"), Message(role=Role.USER, content="Summarise it."))
    assert outgoing(GenerateRequest(messages=messages), labels).blocking == kept("mail text")


def test_a_limited_system_text_blocks_every_turn() -> None:
    labels = Labels((kept("You know: secret."), typed("Hi"), typed("Hello"), typed("And now?")))
    messages = (
        Message(role=Role.SYSTEM, content="You know: secret."),
        Message(role=Role.USER, content="Hi"),
        Message(role=Role.ASSISTANT, content="Hello"),
        Message(role=Role.USER, content="And now?"),
    )
    assert outgoing(GenerateRequest(messages=messages), labels).blocking is not None


def test_a_limited_segment_that_shows_in_no_message_blocks_all_the_same() -> None:
    req, labels = one_turn("What is in the picture?")
    assert outgoing(req, labels.plus(kept("pixels"))).blocking is not None


def test_a_forked_conversation_keeps_its_labels() -> None:
    req, labels = tainted_conversation()
    fork = GenerateRequest(messages=(*req.messages[:2], Message(role=Role.USER, content="Tell me more.")))
    out = outgoing(fork, labels.plus(typed("Tell me more.")))
    assert CANARY not in "".join(m.content for m in out.request.messages)
    assert len(out.withheld) == 3


def test_a_conversation_loaded_without_labels_is_withheld() -> None:
    req, _ = tainted_conversation()
    out = outgoing(req, Labels((typed(req.messages[-1].content),)))
    assert CANARY not in "".join(m.content for m in out.request.messages)


PIECES = st.lists(
    st.tuples(st.text("abc ", min_size=1, max_size=6).filter(str.strip), st.booleans()), min_size=1, max_size=9
)


@given(PIECES, st.integers(0, 3))
def test_no_limited_piece_of_text_is_ever_in_what_is_sent(pieces: list[tuple[str, bool]], sources: int) -> None:
    segments, texts = [], []
    for i, (text, limited) in enumerate(pieces):
        unique = f"{text.strip()}-{i}-{CANARY if limited else 'free'}"
        segments.append(kept(unique) if limited else typed(unique))
        texts.append(unique)
    cut = min(sources, len(texts) - 1)
    texts = [*texts[: len(texts) - 1 - cut], "\n\n".join(texts[len(texts) - 1 - cut :])]
    req, labels = request(*texts), Labels(tuple(segments))
    sent = "\n".join(m.content for m in outgoing(req, labels).request.messages)
    assert CANARY not in sent
    assert (CANARY in "".join(texts)) == bool(forbidden(req, labels))


def test_frames_may_leave_and_unlabelled_text_may_not() -> None:
    assert frame("Question:").may_leave
    assert not unlabelled("who knows").may_leave


def test_a_lone_surrogate_is_text_like_any_other() -> None:
    assert typed("\ud800").digest != typed("\ud801").digest
