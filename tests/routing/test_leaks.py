"""R1: nothing made from text that must stay on the device ever reaches what the node decrypts, or a tool sends.

And every rule that sees to it is needed: a build without it leaks.
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hybrid import compose, conversation, core, gate
from hybrid.compose import Ask
from hybrid.routing import decide, labels, outgoing, screen, taint
from hybrid.routing.labels import LabelReason, Labels, Segment, typed
from hybrid.routing.outgoing import Outgoing
from hybrid.wire.types import GenerateRequest, Route
from tests.routing.talks import DISGUISES, Canary, Maker, Result, Talk, play

CONVERSATIONS = 2000
SOAK = 20_000
ENOUGH = 600  # conversations in which a deleted rule must show
FEW = 100
EXPECTED = {
    *("undo", "pin", "fork", "retry", "reload", "reload without labels", "reload edited", "tool refused"),
    *("answered on_device", "answered private_cloud", "to on_device: label", "to on_device: recognised"),
    *("to private_cloud: not_enough_memory", "to private_cloud: doubt", "to private_cloud: refusal_local"),
}


def played(folder: Path, count: int, **how: Any) -> Result:
    with mock.patch("hybrid.retries.BACKOFF_S", (0.0, 0.0)):  # a retry of a node in memory need not wait
        return asyncio.run(play(folder, range(count), **how))


def check(result: Result) -> None:
    """Assert that nothing leaked, and that everything that could have leaked it took place."""
    assert result.leaks == ()
    assert result.free_seen > result.free / 4
    assert result.requests > result.conversations / 2
    happened = {name for name, times in result.seen.items() if times > result.conversations / 400}
    assert happened >= EXPECTED


def test_no_canary_that_must_stay_is_ever_decrypted_by_the_node(tmp_path: Path) -> None:
    check(played(tmp_path, CONVERSATIONS))


@pytest.mark.soak
def test_the_long_form(tmp_path: Path) -> None:
    check(played(tmp_path, SOAK))


# --- without a rule ---------------------------------------------------------------------------------------------------


def free(segment: Segment) -> Segment:
    """Let a segment go, whatever its label."""
    return typed(segment.text, source=segment.source)


def loosest(routes: Any) -> Route:
    return Route.PRIVATE_CLOUD if Route.PRIVATE_CLOUD in set(routes) else Route.ON_DEVICE


def only_quoted(turn: core.Turn) -> Labels:
    """Label an answer by what it quotes word for word."""
    return Labels(tuple(s for s in turn.ask.labels.segments if s.text in turn.text) or (typed("nothing"),))


def let_go_by_cover(request: GenerateRequest, known: Labels) -> Any:
    parts = real_cover(request, known)
    return tuple(tuple(free(s) if s.source == "unlabelled text" else s for s in each) for each in parts)


def loosest_of_equals(request: GenerateRequest, known: Labels) -> Any:
    open_ones = {s.digest for s in known.segments if s.may_leave}
    return real_cover(request, Labels(tuple(s for s in known.segments if s.may_leave or s.digest not in open_ones)))


def cleared_everywhere(ask: Ask, screener: Any, cleared: frozenset[str] = frozenset()) -> Ask:
    history = compose._now(ask.history, screener, cleared)
    return replace(real_screened(ask, screener, cleared), history=history)


def cleared_whatever_bound_it(segment: Segment) -> Segment:
    return replace(segment, max_route=Route.PRIVATE_CLOUD, why=LabelReason.USER_CLEARED)


def redacted_and_trusted(text: str, original: Segment, _: Any) -> Segment:
    return replace(original, text=text) if original.why is LabelReason.SOURCE else typed(text)


def stops_let_go(request: GenerateRequest, _: Labels) -> tuple[Segment, ...]:
    return tuple(typed(text) for text in request.sampling.stop)


def everything(request: GenerateRequest, _: Labels) -> Outgoing:
    """Send all there is."""
    return Outgoing(request=request, segments=(), withheld=(), blocking=None, turn=())


def in_cover(fault: Any) -> "tuple[Fault, ...]":
    return (outgoing, "cover", fault), (gate, "cover", fault)


Fault = tuple[Any, str, Any]
real_cover, real_screened, real_derived = outgoing.cover, Ask.screened, taint.derived
real_embedding, real_tool_result = taint.embedding, taint.tool_result
WITHHOLDING: tuple[Fault, ...] = ((decide, "outgoing", everything), (core, "outgoing", everything))
JUDGING: tuple[Fault, ...] = ((gate.Gate, "_judged", lambda *_: ()),)
SCREENING: tuple[Fault, ...] = ((Ask, "screened", lambda ask, *_: ask),)
EXAMINING: tuple[Fault, ...] = ((gate, "examined", lambda segment, _: segment),)
REDACTING: tuple[Fault, ...] = ((taint, "redacted", redacted_and_trusted),)

RULES: dict[str, tuple[Fault, ...]] = {
    "a source has a limit": ((compose, "from_source", lambda source: free(labels.from_source(source))),),
    "personal kinds stay": ((labels, "OPEN_KINDS", {"text", "file", "mail", "calendar", "contacts", "index"}),),
    "an unknown kind stays": ((labels, "OPEN_KINDS", {"text", "file", "something new"}),),
    "the strictest of several wins": ((labels, "strictest", loosest),),
    "the strictest of equal texts wins": in_cover(loosest_of_equals),
    "text no segment accounts for stays": in_cover(let_go_by_cover),
    "an answer carries its context": ((conversation, "derived", lambda text, _: typed(text)),),
    "quoted or not": ((core.Turn, "context", only_quoted),),
    "a summary carries its context": ((taint, "summary", lambda text, _: typed(text)),),
    "a title carries its context": ((taint, "title", lambda text, _: typed(text)),),
    "a structured result carries its context": ((taint, "structured", lambda text, _: typed(text)),),
    "an embedding carries its context": (
        (taint, "embedding", lambda vector, _: free(real_embedding(vector, Labels()))),
    ),
    "a chunk carries its origin": ((taint, "retrieved", lambda text, _, query: real_derived(text, query)),),
    "a chunk carries its query": ((taint, "retrieved", lambda text, origin, _: replace(origin, text=text)),),
    "a tool result carries the tool's label": (
        (taint, "tool_result", lambda text, _, arguments: real_derived(text, arguments)),
    ),
    "a tool result carries its arguments": (
        (taint, "tool_result", lambda text, tool, _: real_tool_result(text, tool, Labels())),
    ),
    "tool arguments carry their context": ((taint, "tool_arguments", lambda text, _context, _tool: typed(text)),),
    "a tool that sends is an exit": ((taint, "tool_arguments", lambda text, context, _: real_derived(text, context)),),
    "a redacted copy keeps its origin": (
        (taint, "redacted", lambda text, _, screener: taint.examined(typed(text), screener)),
    ),
    "a fork keeps labels": ((compose, "_kept", lambda message: (typed(message.content),)),),
    "a saved label is read": ((conversation, "_segment", lambda entry: typed(entry["text"])),),
    "a file without labels stays": ((conversation, "_limited", typed),),
    "a file lets nothing go": ((conversation, "reloaded", lambda segment: segment),),
    "recognisers examine": ((screen.Screener, "segment", lambda _, segment: segment),),
    "a person clears one turn": ((Ask, "screened", cleared_everywhere),),
    "a person clears findings only": ((Segment, "cleared", cleared_whatever_bound_it),),
    "stop strings are text, too": ((outgoing, "stop_strings", stops_let_go), (gate, "stop_strings", stops_let_go)),
    "what must stay is withheld, and the gate looks": (*WITHHOLDING, *JUDGING),
    "text is examined before the decision, and at the gate": (*SCREENING, *EXAMINING),
}
OFTEN: dict[str, Maker] = {
    "an unknown kind stays": Talk.personal,
    "the strictest of equal texts wins": Talk.same_text,
    "a summary carries its context": Talk.made,
    "a title carries its context": Talk.made,
    "a structured result carries its context": Talk.made,
    "an embedding carries its context": Talk.made,
    "a chunk carries its origin": Talk.chunk,
    "a chunk carries its query": Talk.chunk,
    "a tool result carries the tool's label": Talk.tool_call,
    "a tool result carries its arguments": Talk.tool_call,
    "a redacted copy keeps its origin": Talk.redacted,
}
TWO_NETS = {
    "withholding": WITHHOLDING,
    "judging": JUDGING,
    "screening": SCREENING,
    "examining": EXAMINING,
    "redacting": REDACTING,
}


@pytest.mark.parametrize("rule", RULES)
def test_a_build_without_one_rule_leaks(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name, fault in RULES[rule]:
        monkeypatch.setattr(owner, name, fault)
    assert played(tmp_path, ENOUGH, often=OFTEN.get(rule), until_leak=True).leaks


@pytest.mark.parametrize("net", TWO_NETS)
def test_where_there_are_two_nets_one_is_enough(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name, fault in TWO_NETS[net]:
        monkeypatch.setattr(owner, name, fault)
    result = played(tmp_path, FEW)
    assert result.leaks == ()
    assert result.requests


@pytest.mark.parametrize("disguise", range(len(DISGUISES)))
@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_the_search_finds_every_disguise(disguise: int, before: str) -> None:
    canary = Canary("Vault bade ruby")
    assert canary.within(f"x {DISGUISES[disguise](f'{before} {canary.text} and more')} y")
    assert not canary.within(f"x {DISGUISES[disguise](f'{before} Vault bado ruby and more')} y")
