"""Whatever is made from labelled text is labelled; nothing but a person takes a label off, and only a finding's."""

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.compose import Ask, Labelled, LabelledMessage, compose, system_text
from hybrid.errors import ConfigurationError
from hybrid.routing.decide import LabelForbids, decide
from hybrid.routing.labels import LabelReason, Labels, Segment, Source, from_source, typed, unlabelled
from hybrid.routing.outgoing import accounted, outgoing
from hybrid.routing.policy import Mode
from hybrid.routing.screen import Screener
from hybrid.routing.signals import Signals
from hybrid.routing.taint import (
    Tainted,
    Tool,
    derived,
    embedding,
    examined,
    forked,
    redacted,
    reloaded,
    retrieved,
    structured,
    summary,
    title,
    tool_arguments,
    tool_result,
)
from hybrid.wire.types import Message, Role, Route, Sampling
from tests.routing.cases import SCORER, kept, request

PACKAGE = Path(__file__).parents[2] / "hybrid"
FREE, HELD = typed("the weather"), kept("The X-ray shows a fracture.")
TAINTED = Labels((FREE, HELD))
PUBLIC = Labels((FREE,))
MAIL_TO = "Write to ann@rubyvault.com today."
SEARCH = Tool(name="search", max_route=Route.PRIVATE_CLOUD, network=True)
MAILBOX = Tool(name="mailbox", max_route=Route.ON_DEVICE, network=True)
CLOCK = Tool(name="clock", max_route=Route.PRIVATE_CLOUD)

MAKERS: dict[str, Callable[[Labels], Segment]] = {
    "answer": lambda context: derived("made", context),
    "summary": lambda context: summary("made", context),
    "title": lambda context: title("made", context),
    "structured": lambda context: structured('{"made": 1}', context),
    "embedding": lambda context: embedding([0.25, -1], context),
    "arguments": lambda context: tool_arguments("made", context, CLOCK),
    "result": lambda context: tool_result("made", CLOCK, context),
    "chunk": lambda context: retrieved("made", FREE, context),
}
SEGMENTS = st.builds(
    Segment,
    text=st.text("abc ", min_size=1, max_size=8),
    max_route=st.sampled_from(list(Route)),
    source=st.sampled_from(["prompt", "notes.txt", "doctor.eml"]),
    why=st.sampled_from(list(LabelReason)),
)


@pytest.mark.parametrize("maker", MAKERS)
@given(st.lists(SEGMENTS, min_size=1, max_size=5))
def test_whatever_is_made_is_limited_like_the_strictest_it_was_made_from(maker: str, segments: list[Segment]) -> None:
    context = Labels(tuple(segments))
    assert MAKERS[maker](context).max_route is context.strictest()


@pytest.mark.parametrize("maker", sorted(set(MAKERS) - {"result", "chunk"}))
def test_what_was_made_from_nothing_known_stays(maker: str) -> None:
    assert not MAKERS[maker](Labels()).may_leave


def test_what_is_made_names_the_source_that_bound_it() -> None:
    assert summary("s", TAINTED).source == "summary made from doctor.eml"
    assert tool_result("r", CLOCK, TAINTED).source == "result of clock made from doctor.eml"


def test_an_embedding_is_labelled_over_the_numbers_that_would_be_sent() -> None:
    assert embedding([0.25, -1], PUBLIC).text == "[0.25, -1.0]"


def test_a_tool_that_sends_never_gets_tainted_arguments() -> None:
    with pytest.raises(Tainted) as caught:
        tool_arguments("fracture", TAINTED, SEARCH)
    assert (caught.value.tool, caught.value.source) == ("search", "doctor.eml")
    assert "fracture" not in str(caught.value)
    with pytest.raises(Tainted):
        tool_arguments("from nowhere", Labels(), SEARCH)
    assert tool_arguments("weather", PUBLIC, SEARCH).may_leave


@pytest.mark.parametrize("tool", [MAILBOX, CLOCK], ids=lambda tool: tool.name)
def test_a_tool_that_is_no_exit_gets_them_with_their_label(tool: Tool) -> None:
    assert not tool_arguments("fracture", TAINTED, tool).may_leave


def test_a_tool_result_is_limited_by_the_tool_and_by_its_arguments() -> None:
    assert tool_result("noon", CLOCK, PUBLIC).may_leave
    assert tool_result("noon", CLOCK, Labels()).may_leave
    assert not tool_result("noon", CLOCK, TAINTED).may_leave
    assert not tool_result("a mail", MAILBOX, PUBLIC).may_leave
    unknown = Tool(name="t", max_route="anywhere")  # type: ignore[arg-type]
    assert not tool_result("x", unknown, PUBLIC).may_leave
    assert not tool_result("x", Tool(name="undeclared"), PUBLIC).may_leave


def test_a_chunk_is_limited_by_its_origin_and_by_the_query_that_chose_it() -> None:
    chunk = retrieved("a part", HELD, PUBLIC)
    assert (chunk.max_route, chunk.source, chunk.why) == (Route.ON_DEVICE, "doctor.eml", LabelReason.SOURCE)
    assert retrieved("a part", FREE, PUBLIC).may_leave
    assert not retrieved("a part", FREE, TAINTED).may_leave


# --- redaction --------------------------------------------------------------------------------------------------------


def test_a_redacted_copy_of_what_a_recogniser_held_is_free_once_nothing_is_found_in_it() -> None:
    screener = Screener()
    original = screener.segment(typed(MAIL_TO))
    assert not original.may_leave
    assert redacted("Write to [e-mail] today.", original, screener).may_leave
    assert not redacted("Write to [name], that is ann@rubyvault.com.", original, screener).may_leave


@pytest.mark.parametrize("why", sorted(set(LabelReason) - {LabelReason.RECOGNISED}))
def test_no_other_label_is_redacted_away(why: LabelReason) -> None:
    original = replace(HELD, why=why)
    copy = redacted("The X-ray shows [finding].", original, Screener())
    assert (copy.max_route, copy.why, copy.text) == (Route.ON_DEVICE, why, "The X-ray shows [finding].")


# --- examination and clearing -----------------------------------------------------------------------------------------


class Finds:
    """A screener that finds what it is told."""

    def __init__(self, *types: str, why: LabelReason = LabelReason.RECOGNISED) -> None:
        self.types, self.why = types, why

    def segment(self, segment: Segment) -> Segment:
        return segment.restricted(self.why, self.types)


class Broken:
    def segment(self, segment: Segment) -> Segment:
        raise RuntimeError(segment.source)


def screener(of: Any) -> Screener:
    return of  # type: ignore[no-any-return]


PROMPT = frozenset({"prompt"})


def test_a_person_clears_a_finding_and_its_types_stay() -> None:
    let_go = examined(typed(MAIL_TO), Screener(), PROMPT)
    assert (let_go.may_leave, let_go.why, let_go.types) == (True, LabelReason.USER_CLEARED, ("EMAIL_ADDRESS",))
    assert examined(let_go, Screener()) == let_go


def test_only_the_source_that_was_named_is_cleared() -> None:
    assert not examined(typed(MAIL_TO, source="list.txt"), Screener(), PROMPT).may_leave


def test_what_is_found_after_a_clearing_binds_again() -> None:
    let_go = examined(typed("text"), screener(Finds("PHONE_NUMBER")), PROMPT)
    assert examined(let_go, screener(Finds("PHONE_NUMBER"))).may_leave
    assert not examined(let_go, screener(Finds("PHONE_NUMBER", "IBAN_CODE"))).may_leave


@pytest.mark.parametrize("why", [LabelReason.PRIVACY_ERROR, LabelReason.PRIVACY_TIMEOUT])
def test_a_check_that_failed_cannot_be_cleared(why: LabelReason) -> None:
    assert examined(typed("text"), screener(Finds(why=why)), PROMPT).why is why
    let_go = examined(typed("text"), screener(Finds("X")), PROMPT)
    assert not examined(let_go, screener(Finds("X", why=why))).may_leave


@pytest.mark.parametrize("fault", [Finds(why=LabelReason.PRIVACY_ERROR), Broken()], ids=["says so", "raises"])
def test_a_check_that_failed_outweighs_what_was_found_before(fault: Any) -> None:
    found = examined(typed("text"), screener(Finds("X")))
    again = examined(found, screener(fault), PROMPT)
    assert (again.may_leave, again.why, again.types) == (False, LabelReason.PRIVACY_ERROR, ("X",))


def test_a_listed_word_never_leaves_whoever_clears() -> None:
    listed = Screener(deny=["Project Blue"])
    assert examined(typed(f"{MAIL_TO} Project Blue."), listed, PROMPT).why is LabelReason.RECOGNISED
    assert examined(typed(MAIL_TO), listed, PROMPT).may_leave


def test_a_screener_that_raises_keeps_the_text() -> None:
    assert examined(typed("text"), screener(Broken()), PROMPT).why is LabelReason.PRIVACY_ERROR


@given(SEGMENTS, st.sets(st.sampled_from(["prompt", "notes.txt", "doctor.eml"])), st.booleans())
def test_examining_never_relaxes_any_label_but_a_finding_of_a_named_source(
    segment: Segment, cleared: set[str], found: bool
) -> None:
    after = examined(segment, screener(Finds("X")) if found else Screener(), frozenset(cleared))
    if after.may_leave and not segment.may_leave:
        assert segment.why is LabelReason.RECOGNISED
        assert segment.source in cleared
        assert after.why is LabelReason.USER_CLEARED


def asked(*sources: Source, prompt: str = MAIL_TO, stop: tuple[str, ...] = (), system: str | None = None) -> Ask:
    earlier = Labelled(message=Message(role=Role.USER, content=MAIL_TO), segments=(typed(MAIL_TO),))
    answer = Labelled(message=Message(role=Role.ASSISTANT, content="Done."), segments=(derived("Done.", PUBLIC),))
    return Ask(
        turn=compose(prompt, sources), history=(*system_text(system), earlier, answer), sampling=Sampling(stop=stop),
        sources=sources,
    )  # fmt: skip


def test_a_clearing_reaches_this_turn_and_no_earlier_one() -> None:
    ask = asked().screened(Screener(), PROMPT)
    assert [s.may_leave for s in ask.turn[0].segments] == [True]
    assert [s.may_leave for s in ask.history[0].segments] == [False]


def test_a_clearing_reaches_no_earlier_message_of_a_fork_either() -> None:
    roles = (Role.USER, Role.ASSISTANT, Role.USER)
    turn = compose(tuple(Message(role=role, content=f"{MAIL_TO} {i}") for i, role in enumerate(roles)), ())
    ask = Ask(turn=turn).screened(Screener(), PROMPT)
    assert [s.may_leave for each in ask.turn for s in each.segments] == [False, False, True]


def test_the_system_text_belongs_to_every_turn() -> None:
    ask = asked(prompt="Hi.", system=MAIL_TO)
    assert not ask.screened(Screener()).history[0].segments[0].may_leave
    assert ask.screened(Screener(), frozenset({"system text"})).history[0].segments[0].may_leave


def test_a_source_of_a_person_is_not_cleared_whatever_its_name() -> None:
    mail = Source(label="prompt", text=MAIL_TO, kind="mail")
    ask = asked(mail, prompt="What does it say?").screened(Screener(), PROMPT)
    assert [s.may_leave for s in ask.turn[0].segments] == [False, True]


def test_no_source_passes_as_words_of_the_program() -> None:
    source = Source(label="frame", text=MAIL_TO, kind="frame", max_route=Route.PRIVATE_CLOUD)
    assert not Screener().segment(from_source(source)).may_leave


def test_a_stop_string_is_examined_like_any_text() -> None:
    ask = asked(prompt="Hi.", stop=("END", "ann@rubyvault.com")).screened(Screener())
    assert outgoing(ask.request, ask.labels).blocking == ask.stops[1]
    cleared = asked(prompt="Hi.", stop=("ann@rubyvault.com",)).screened(Screener(), frozenset({"stop string"}))
    assert cleared.stops[0].may_leave


# --- forks and files --------------------------------------------------------------------------------------------------


def said(content: str, *segments: Segment, max_route: str = "on_device") -> LabelledMessage:
    return LabelledMessage(role="user", content=content, max_route=max_route, source="doctor.eml", segments=segments)


def labels_of(*messages: LabelledMessage | Message) -> list[tuple[str, bool]]:
    turn = compose((*messages, Message(role=Role.USER, content="And now?")), ())
    return [(s.source, s.may_leave) for s in turn[0].segments]


def test_a_message_said_again_elsewhere_keeps_its_labels() -> None:
    both = f"{HELD.text}\n\n{FREE.text}"
    assert labels_of(said(both, HELD, FREE)) == [("doctor.eml", False), ("prompt", True)]
    assert labels_of(said(both)) == [("doctor.eml", False)]
    assert labels_of(said("Hi", max_route="private_cloud")) == [("doctor.eml", True)]
    assert labels_of(said("Hi", max_route="anywhere")) == [("doctor.eml", False)]


def test_what_a_tool_said_stays_unless_it_comes_with_a_label() -> None:
    assert labels_of(Message(role=Role.TOOL, content="21 degrees")) == [("unlabelled text", False)]
    given = replace(said("21 degrees", max_route="private_cloud"), role="tool", source="weather")
    assert labels_of(given) == [("weather", True)]


def test_a_message_said_again_can_be_limited_but_not_let_go() -> None:
    assert labels_of(said(FREE.text, FREE)) == [("doctor.eml", False)]
    assert labels_of(said(HELD.text, HELD, max_route="private_cloud")) == [("doctor.eml", False)]
    changed = replace(said(FREE.text, FREE, max_route="private_cloud"), content=f"{FREE.text} and a secret")
    assert ("doctor.eml", False) in labels_of(changed)


def test_a_message_said_again_elsewhere_is_cleared_no_more() -> None:
    let_go = examined(typed(MAIL_TO), Screener(), PROMPT)
    assert labels_of(said(MAIL_TO, let_go, max_route="private_cloud")) == [("prompt", False)]


def test_a_message_of_nobody_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="role"):
        labels_of(replace(said("Hi"), role="router"))


def test_a_fork_without_a_name_says_so() -> None:
    assert forked("x", Route.ON_DEVICE, "").source == "an earlier conversation"
    assert forked("x", Route.PRIVATE_CLOUD, "").source == "prompt"


@given(SEGMENTS)
def test_a_file_never_relaxes_a_label_and_never_claims_a_clearing_or_a_frame(segment: Segment) -> None:
    loaded = reloaded(segment)
    assert loaded.max_route is Route.ON_DEVICE or segment.may_leave
    assert loaded.why not in {LabelReason.USER_CLEARED, LabelReason.FRAME}
    if loaded.may_leave:
        assert loaded.why in {LabelReason.TYPED, LabelReason.SOURCE, LabelReason.DERIVED}
    assert loaded.text == segment.text


def test_a_file_cannot_have_its_text_passed_by_as_a_frame() -> None:
    claimed = replace(typed(MAIL_TO), kind="frame")  # with a reason that is none of a frame's
    assert examined(claimed, Screener()).may_leave
    assert reloaded(claimed).why is LabelReason.UNLABELLED


def test_a_file_says_no_more_than_its_segments_account_for() -> None:
    assert accounted(FREE.text, (FREE,)) == (FREE,)
    assert accounted(f"{FREE.text} and more", (FREE,)) == (FREE, unlabelled("and more"))
    assert accounted(f"{HELD.text}\n\n{FREE.text}", (HELD, FREE)) == (HELD, FREE)


# --- with decide() ----------------------------------------------------------------------------------------------------


def may_leave(ask: Ask) -> bool:
    """Say whether the node may get this turn at all."""
    try:
        return decide(ask.request, ask.labels, Signals(), Mode.ONLY_PRIVATE_CLOUD, SCORER).route is Route.PRIVATE_CLOUD
    except LabelForbids:
        return False


SOURCES = st.builds(
    Source,
    label=st.sampled_from(["prompt", "a.txt", "doctor.eml"]),
    text=st.sampled_from(["Notes.", MAIL_TO, "The X-ray shows a fracture.", "[e-mail]"]),
    max_route=st.sampled_from([None, *Route]),
    kind=st.sampled_from(["text", "file", "mail", "index", "new", "frame"]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(SOURCES, max_size=3), SOURCES, st.sampled_from(["Hi there.", MAIL_TO]),
    st.sampled_from(["source", "earlier turn", "finding", "stop string"]), st.booleans(),
)  # fmt: skip
def test_nothing_that_is_added_lets_a_turn_leave(
    sources: list[Source], more: Source, prompt: str, what: str, clearing: bool
) -> None:
    cleared = PROMPT if clearing else frozenset()
    before = asked(*sources, prompt=prompt).screened(Screener(), cleared)
    after = {
        "source": lambda: asked(*sources, more, prompt=prompt),
        "earlier turn": lambda: replace(
            asked(*sources, prompt=prompt), history=(*before.history, *compose("An earlier turn.", (more,)))
        ),
        "finding": lambda: asked(*sources, prompt=prompt),
        "stop string": lambda: asked(*sources, prompt=prompt, stop=("END", more.text)),
    }[what]()
    strict = Screener(deny=("hi", "notes")) if what == "finding" else Screener()
    assert may_leave(before) or not may_leave(after.screened(strict, cleared))


def test_turns_do_leave_and_do_stay() -> None:
    assert may_leave(asked(prompt="Hi there.").screened(Screener()))
    assert not may_leave(asked().screened(Screener()))
    assert may_leave(replace(asked(), history=()).screened(Screener(), PROMPT))
    assert not may_leave(asked().screened(Screener(), PROMPT))  # the same words stand in the history, not cleared


def test_what_is_withheld_from_the_node_cannot_come_back_as_a_stop_string() -> None:
    labels = Labels((HELD, typed("Hello"), typed("And now?")))
    history = request(HELD.text, "Hello", "And now?")
    for stop, blocks in (("END", False), ("a  FRACTURE", True), ("\n\n", False), (".", False)):
        sent = outgoing(replace(history, sampling=Sampling(stop=(stop,))), labels)
        assert (sent.blocking is not None) == blocks, stop


# --- no way around ----------------------------------------------------------------------------------------------------

LABELLERS = {"Segment", "typed", "frame", "from_source"}
HOMES = {
    "routing/labels.py": LABELLERS,
    "routing/taint.py": {"Segment", "typed"},
    "routing/outgoing.py": {"frame", "typed"},
    "conversation.py": {"Segment"},
    "compose.py": {"typed", "from_source"},
    "routing/guardrails.py": {"typed", "from_source"},  # a suite that a retrained model has to pass
}


def labellers(path: Path) -> set[str]:
    """Name the makers of labels that a module imports from where labels are made."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text if "labels" in text else "")
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").endswith("labels")]
    names = {alias.name for node in imports for alias in node.names} & LABELLERS
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return names & calls


def test_labels_are_made_in_few_places() -> None:
    found = {str(path.relative_to(PACKAGE)): labellers(path) for path in PACKAGE.rglob("*.py")}
    assert {name: made for name, made in found.items() if made} == {
        name: made for name, made in HOMES.items() if name != "routing/labels.py"
    }
