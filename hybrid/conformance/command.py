"""``python -m hybrid.wire.conformance``: run the suite, export it, or put it to another implementation (SPEC 18)."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from .cases import OURS, Case, own_cases
from .foreign import THEIRS, foreign_cases
from .runner import Tally, against, here, run, serve

DISAGREED, ABSENT = 1, 2


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; returns 0, 1 for a disagreement, 2 when vectors or the command are absent."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except (FileNotFoundError, PermissionError) as error:
        print(f"conformance: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return ABSENT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hybrid.wire.conformance", description=__doc__)
    parser.add_argument("--vectors", type=Path, default=OURS, help="our vectors (default: protos/vectors)")
    parser.add_argument("--foreign", type=Path, default=THEIRS, help="others' vectors (default: ../shared/vectors)")
    parser.add_argument("--own", action="store_true", help="our vectors alone")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--export", action="store_true", help="print every case as one JSON line, and run nothing")
    doing.add_argument("--against", metavar="COMMAND", help="put the questions to this command's stdin, a line each")
    doing.add_argument("--serve", action="store_true", help="answer questions on stdin with this library")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.serve:
        return _print_lines(serve(sys.stdin))
    cases: Iterable[Case] = own_cases(options.vectors)
    if not options.own:
        cases = chain(cases, foreign_cases(options.foreign))
    if options.export:
        return _print_lines(json.dumps(case.record()) for case in cases)
    if options.against:
        with against(options.against) as answer:
            return _report(run(cases, answer), as_json=options.json)
    return _report(run(cases, here), as_json=options.json)


def _print_lines(lines: Iterator[str]) -> int:
    for line in lines:
        print(line, flush=True)  # noqa: T201 - a command line
    return 0


def _report(tallies: Sequence[Tally], *, as_json: bool) -> int:
    wrong = [str(one) for tally in tallies for one in tally.disagreements]
    lines = [_as_json(tallies, wrong)] if as_json else [*_table(tallies), *wrong]
    _print_lines(iter(lines))
    return DISAGREED if wrong else 0


def _as_json(tallies: Sequence[Tally], wrong: Sequence[str]) -> str:
    suites = [
        {
            "suite": one.suite,
            "accepts": one.accepts,
            "rejects": one.rejects,
            "disagreements": len(one.disagreements),
        }
        for one in tallies
    ]
    return json.dumps({"suites": suites, **_total(tallies), "disagreements": list(wrong)})


def _total(tallies: Sequence[Tally]) -> dict[str, int]:
    return {"accepts": sum(one.accepts for one in tallies), "rejects": sum(one.rejects for one in tallies)}


def _table(tallies: Sequence[Tally]) -> Iterator[str]:
    yield f"{'suite':<26}{'accepts':>8}{'rejects':>9}{'wrong':>7}"
    for one in tallies:
        yield f"{one.suite:<26}{one.accepts:>8}{one.rejects:>9}{len(one.disagreements):>7}"
    total, wrong = _total(tallies), sum(len(one.disagreements) for one in tallies)
    yield f"{'total':<26}{total['accepts']:>8}{total['rejects']:>9}{wrong:>7}"
