"""The screener: restricts what recognisers or the deny-list find something in, and what it can't examine."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.routing.labels import LabelReason, Labels, Source, frame, from_source, typed, unlabelled
from hybrid.routing.recognisers.chains import chains
from hybrid.routing.recognisers.denylist import DenyList
from hybrid.routing.recognisers.folding import Folded, fold
from hybrid.routing.recognisers.recognise import RECOGNISERS, Recogniser
from hybrid.routing.recognisers.spans import Span
from hybrid.routing.screen import KEPT_VERDICTS, Screener
from hybrid.wire.types import Route

CARD = "my card is 4111 1111 1111 1111"
NAMES = [r.__name__ for r in RECOGNISERS]


class Clock:
    """A clock that a recogniser can move."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def raising(_: Folded) -> Iterator[Span]:
    """Breaks while it runs, not when it is called."""
    yield from ()
    raise RuntimeError("4111 1111 1111 1111")


def instead(index: int, fault: Recogniser) -> tuple[Recogniser, ...]:
    return tuple(fault if i == index else r for i, r in enumerate(RECOGNISERS))


def test_a_finding_keeps_a_segment_on_the_device_and_says_its_type() -> None:
    found = Screener().segment(typed(CARD))
    assert (found.max_route, found.why, found.types) == (Route.ON_DEVICE, LabelReason.RECOGNISED, ("CREDIT_CARD",))


def test_a_harmless_segment_is_returned_as_it_is() -> None:
    segment = typed("What is 12 times 31?")
    assert Screener().segment(segment) is segment


def test_a_private_address_of_a_network_keeps_nothing_back() -> None:
    assert Screener().segment(typed("ping 192.168.0.1")).may_leave
    assert not Screener().segment(typed("ping 93.184.216.34")).may_leave


def test_the_fixed_words_of_a_program_are_not_examined() -> None:
    assert Screener().segment(frame(CARD)).may_leave


@pytest.mark.parametrize("index", range(len(RECOGNISERS)), ids=NAMES)
def test_a_recogniser_that_raises_keeps_the_text_here(index: int) -> None:
    found = Screener(recognisers=instead(index, raising)).segment(typed("hello"))
    assert (found.max_route, found.why) == (Route.ON_DEVICE, LabelReason.PRIVACY_ERROR)
    assert "4111" not in repr(found)


def test_a_text_that_cannot_be_read_plainly_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Folded:
        raise ValueError

    monkeypatch.setattr("hybrid.routing.screen.fold", broken)
    assert Screener().segment(typed("hello")).why is LabelReason.PRIVACY_ERROR


@pytest.mark.parametrize("index", range(len(RECOGNISERS)), ids=NAMES)
def test_a_recogniser_that_is_late_keeps_the_text_here(index: int) -> None:
    clock = Clock()

    def slow(_: Folded) -> Iterable[Span]:
        clock.at += 0.051
        return ()

    found = Screener(recognisers=instead(index, slow), now=clock).segment(typed("hello"))
    assert (found.max_route, found.why) == (Route.ON_DEVICE, LabelReason.PRIVACY_TIMEOUT)


def test_a_machine_that_stalls_once_keeps_nothing_here() -> None:
    clock = Clock()
    stalls = [0.2, 0.0]

    def stalled(_: Folded) -> Iterable[Span]:
        clock.at += stalls.pop(0)
        return ()

    assert Screener(recognisers=(stalled,), now=clock).segment(typed("hello")).may_leave


def test_one_that_is_just_in_time_does_not() -> None:
    clock = Clock()

    def brisk(_: Folded) -> Iterable[Span]:
        clock.at += 0.049
        return ()

    assert Screener(recognisers=(brisk,), now=clock).segment(typed("hello")).may_leave


def test_a_longer_text_has_longer_in_proportion() -> None:
    clock = Clock()

    def slow(_: Folded) -> Iterable[Span]:
        clock.at += 0.12
        return ()

    screener = Screener(recognisers=(slow,), now=clock)
    assert screener.segment(typed("a" * 300_000)).may_leave
    assert not screener.segment(typed("a" * 200_000)).may_leave


def test_a_failure_comes_before_a_finding_since_nobody_can_clear_it() -> None:
    found = Screener(recognisers=(*RECOGNISERS, raising)).segment(typed(CARD))
    assert (found.why, found.types) == (LabelReason.PRIVACY_ERROR, ("CREDIT_CARD",))


def test_a_label_is_never_taken_away() -> None:
    mail = from_source(Source(label="mail", text="hello", kind="mail"))
    assert not Screener().segment(mail).may_leave
    assert Screener().segment(unlabelled(CARD)).why is LabelReason.UNLABELLED
    assert Screener().segment(unlabelled(CARD)).types == ("CREDIT_CARD",)


def test_a_text_is_examined_once() -> None:
    seen: list[int] = []

    def counting(text: Folded) -> Iterable[Span]:
        seen.append(len(text.text))
        return ()

    screener = Screener(recognisers=(counting,))
    for _ in range(3):
        screener.segment(typed("hello"))
    assert seen == [5]


def test_an_error_is_not_remembered() -> None:
    faults = [RuntimeError(), None]

    def once(_: Folded) -> Iterable[Span]:
        fault = faults.pop(0)
        if fault:
            raise fault
        return ()

    screener = Screener(recognisers=(once,))
    assert not screener.segment(typed("hello")).may_leave
    assert screener.segment(typed("hello")).may_leave


def test_what_recognisers_work_on_shows_no_text() -> None:
    plain = fold("zanzibar 555-123-4567")
    assert "zanzibar" not in repr(plain)
    assert "4567" not in repr(next(chains(plain.text)))


def test_memory_is_bounded_and_holds_no_text() -> None:
    screener = Screener()
    for n in range(KEPT_VERDICTS + 50):
        screener.segment(typed(f"zanzibar {n}"))
    assert len(screener._verdicts) == KEPT_VERDICTS
    assert "zanzibar" not in repr(screener._verdicts)


def test_off_switches_patterns_off_and_the_deny_list_not() -> None:
    assert Screener(detect="off").segment(typed(CARD)).may_leave
    found = Screener(detect="off", deny=["Project Blue"]).segment(typed("about project\n blue!"))
    assert (found.why, found.types) == (LabelReason.RECOGNISED, ("DENY_LIST",))


def test_strict_finds_more_than_standard() -> None:
    text = typed("Dr. Ann Lee lives at 12 Baker Street")
    assert Screener().segment(text).may_leave
    assert Screener(detect="strict").segment(text).types == ("ADDRESS", "PERSON")


def test_labels_are_examined_one_by_one() -> None:
    found = Screener().labels(Labels((typed("hello"), typed(CARD))))
    assert [s.may_leave for s in found.segments] == [True, False]


@pytest.mark.parametrize("bad", [{"detect": "loose"}, {"deny": "one string"}], ids=["detect", "deny"])
def test_a_wrong_setting_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"detect|deny"):
        Screener(**bad)  # type: ignore[arg-type]


def hits(entries: list[str], text: str) -> list[str]:
    return [text[s.start : s.end] for s in DenyList(entries)(fold(text))]


@pytest.mark.parametrize(
    ("entry", "text", "hit"),
    [
        ("Acme", "at ACME, now", "ACME"),
        ("Straße 5", "in der STRASSE  5.", "STRASSE  5"),
        ("élan", "the E\u0301lan here", "E\u0301lan"),
        ("project x", "Project\n\tX", "Project\n\tX"),
        ("#42", "see #42!", "#42"),
        ("秘密", "这是秘密计划", "秘密"),
        ("blue moon", "b\u200blue m\u00adoon", "b\u200blue m\u00adoon"),
        ("İzmir", "İZMİR", "İZMİR"),
    ],
)
def test_a_listed_word_is_found_however_it_is_written(entry: str, text: str, hit: str) -> None:
    assert hits([entry], text) == [hit]


@pytest.mark.parametrize("text", ["acmes", "xacme", "acme_2", "ac me", "a-cme"])
def test_a_part_of_a_word_is_no_hit(text: str) -> None:
    assert hits(["acme"], text) == []


def test_empty_entries_count_for_nothing() -> None:
    assert hits(["", "  "], "anything at all") == []


@given(st.text(max_size=60), st.text(max_size=60), st.text("abcXYZ é1", min_size=1, max_size=12))
def test_a_listed_word_between_blanks_is_always_found(before: str, after: str, entry: str) -> None:
    if fold(entry).text.strip():
        assert list(DenyList([entry])(fold(f"{before} {entry} {after}")))
