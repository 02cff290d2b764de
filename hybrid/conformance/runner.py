"""Puts cases to an implementation and counts: this library in this process, or another over stdin and stdout."""

import json
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from .cases import Case
from .outcomes import Outcome, outcome

Answer = Callable[[Case], Outcome]

UNTYPED = "untyped_error"
NO_ANSWER = "no_answer"
END_S = 5.0  # for another implementation to end once its input has


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A case that came out otherwise than it says."""

    case: Case = field(repr=False)
    got: str

    def __str__(self) -> str:
        """Return one line: where, what was expected, what came."""
        case = self.case
        return f"{case.suite}: {case.name} (section {case.section}): expected {case.expect}, got {self.got}"


@dataclass(slots=True, kw_only=True)
class Tally:
    """What ran of one suite: inputs that had to be taken, inputs that had to be refused, and what disagreed."""

    suite: str
    accepts: int = 0
    rejects: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)


def run(cases: Iterable[Case], answer: Answer) -> list[Tally]:
    """Put every case and count by suite, in the order of their first case."""
    tallies: dict[str, Tally] = {}
    for case in cases:
        tally = tallies.setdefault(case.suite, Tally(suite=case.suite))
        tally.accepts += case.accepts
        tally.rejects += not case.accepts
        got = disagreement(case, answer(case))
        if got:
            tally.disagreements.append(Disagreement(case=case, got=got))
    return list(tallies.values())


def disagreement(case: Case, got: Outcome) -> str:
    """Say how an outcome differs from the case's; empty when it doesn't."""
    if got.name != case.expect:
        return got.name
    return "" if got.output == case.output else f"{got.name} with another output"


def here(case: Case) -> Outcome:
    """Answer with this library; an exception that has no name in vectors is an outcome too, and a wrong one."""
    try:
        return outcome(case)
    except Exception as error:  # noqa: BLE001 - the one place that must see every kind of failure
        return Outcome(f"{UNTYPED}: {type(error).__name__}", {})


@contextmanager
def against(command: str) -> Iterator[Answer]:
    """Start another implementation; it reads one case a line and writes one answer a line.

    A line in is ``{suite, id, section, kind, input}``, a line out ``{"outcome": NAME, "output": {...}}``.
    Raises OSError when the command does not start.
    """
    words = shlex.split(command)
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - the user's own command
    try:
        yield lambda case: _ask(process, case)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    with suppress(OSError, subprocess.TimeoutExpired):  # it may have gone before its input was read
        process.communicate(timeout=END_S)
    process.kill()
    process.wait()


def _ask(process: "subprocess.Popen[str]", case: Case) -> Outcome:
    if process.stdin is None or process.stdout is None:
        return Outcome(NO_ANSWER, {})
    try:
        process.stdin.write(json.dumps(case.question()) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        return Outcome(str(answer["outcome"]), dict(answer.get("output", {})))
    except (OSError, ValueError, KeyError, TypeError):
        return Outcome(NO_ANSWER, {})


def serve(lines: Iterable[str]) -> Iterator[str]:
    """Answer questions as another implementation would: the other end of ``against``."""
    for line in lines:
        asked = json.loads(line)
        case = Case(
            suite=asked["suite"],
            name=asked["id"],
            section=asked["section"],
            kind=asked["kind"],
            given=asked["input"],
            expect="",
        )
        got = here(case)
        yield json.dumps({"id": case.name, "outcome": got.name, "output": got.output})
