"""Routing touches nothing: no files, sockets, clock or dice, and nothing of a prompt in what it says."""

import ast
import json
import sys
from pathlib import Path

import pytest

from hybrid.routing.decide import NoRoute
from hybrid.routing.labels import Source
from hybrid.routing.policy import Mode
from hybrid.routing.signals import Signals
from hybrid.wire.types import Route
from tests.routing.cases import HARD, SIMPLE, away, route

ROUTING = Path(__file__).parents[2] / "hybrid" / "routing"
ALLOWED = {
    "array",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "hybrid.wire.types",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "re",
    "statistics",
    "sys",
    "types",
    "typing",
    "unicodedata",
    "zlib",
}
CLOCKS = {name: {"time"} for name in ("guardrails.py", "screen.py")}  # the default of their parameter ``now``
NUMERIC = {  # never loaded to decide: see test_imports
    name: {"numpy", "numpy.typing"}
    for name in ("evaluation.py", "guardrails.py", "linear_fit.py", "logistic.py", "training.py")
}
CANARY = "zanzibar-9c41e7"


def imports(source: str) -> set[str]:
    """Every module a source imports from outside its own package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", sorted(ROUTING.rglob("*.py")), ids=lambda p: p.name)
def test_a_module_imports_only_what_is_pure(path: Path) -> None:
    assert imports(path.read_text(encoding="utf-8")) <= ALLOWED | CLOCKS.get(path.name, set()) | NUMERIC.get(
        path.name, set()
    )


def test_an_impure_import_would_be_noticed() -> None:
    assert not imports("import time\nfrom os import path") <= ALLOWED


EVENTS: list[str] = []
WATCHING = False


def watch(event: str, _args: tuple[object, ...]) -> None:
    if WATCHING and event.partition(".")[0] in {"open", "socket", "subprocess", "os", "import"}:
        EVENTS.append(event)


def watched(*, planted: bool = False) -> list[str]:
    """Decide under an audit hook and return what touched the world."""
    global WATCHING  # noqa: PLW0603 - a hook cannot be taken out again
    route(HARD)  # whatever is loaded late is loaded now
    EVENTS.clear()
    WATCHING = True
    try:
        route(HARD)
        route(SIMPLE, Source(label="m", text="t", kind="mail"))
        if planted:
            Path(__file__).read_bytes()
    finally:
        WATCHING = False
    return list(EVENTS)


def test_deciding_opens_nothing() -> None:
    sys.addaudithook(watch)
    assert watched() == []
    assert "open" in watched(planted=True)


def everything_said(text: str, *sources: Source, mode: Mode, signals: Signals) -> str:
    try:
        decision = route(text, *sources, mode=mode, signals=signals)
    except NoRoute as error:
        return repr(error) + json.dumps([error.per_route, error.label, error.mode, error.source])
    return repr(decision) + json.dumps(decision.to_dict())


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("kind", ["mail", "file", f"{CANARY}-kind"])
def test_no_word_of_prompt_or_source_is_in_a_decision_or_a_refusal(mode: Mode, kind: str) -> None:
    source = Source(label="a name", text=f"{CANARY} in the source", kind=kind)
    for signals in (Signals(), Signals(offline=True), away(Route.ON_DEVICE, "model_not_downloaded")):
        for text in (f"{HARD} {CANARY}", f"{CANARY}?"):
            said = everything_said(text, source, mode=mode, signals=signals)
            assert CANARY not in said
            assert CANARY not in everything_said(text, mode=mode, signals=signals)


def test_the_name_of_a_source_is_said_so_that_people_know_which_one() -> None:
    said = everything_said(HARD, Source(label=CANARY, text="t", kind="mail"), mode=Mode.AUTO, signals=Signals())
    assert CANARY in said  # also shows that the search above would find a leak
