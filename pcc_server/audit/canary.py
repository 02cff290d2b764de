"""Requests that carry canaries through a second node, and where those canaries turned up (S1, S2, S5).

What is looked at: everything it prints, shows and answers outside the seal; the memory of its processes two seconds
after the last request; what they asked of the kernel. Each look first finds what was put there for it to find.
"""

import os
import secrets
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pcc_server.config import Settings
from pcc_server.errors import StartFailure
from pcc_server.events import Program
from pcc_server.residue.needles import needles_of
from pcc_server.residue.scan import scan

from . import cores
from .caller import Call, Caller
from .processes import PROGRAMS
from .report import Check, Found, Row, Unseen, good, wrong
from .search import leaks
from .second import Second
from .traces import calls, strace, writers

LETTERS = 18  # no library holds such a word by chance, and tokenizers make several tokens of it
SETTLE_S = 2.0  # what S1 gives a node
STREAMS = 4
LONG_TOKENS = 1024
SHORT_TOKENS = 8
MOST_CHARS = 800_000  # of a request, which has room for about a million bytes
SPOILED_AT = 70  # a byte of the body that is ciphertext
WANTED = frozenset(("request", "refused", "cancelled"))  # events that show that each way to end was gone
_LINE = "prompt={}"

SAID = Check(
    "canary.said", "no canary in any output, page, status or trailer", "prompts stand in logs or answers to others"
)
WRITTEN = Check("canary.written", "no call that writes to a file, and no canary in any call", "prompts are on a disk")
MEMORY = Check(
    "canary.memory",
    "no copy in any process 2 s after the last request; gateway and launcher hold none while requests run",
    "who reads the memory later finds the prompts of earlier callers",
)


@dataclass(kw_only=True)
class Harvest:
    """What came of one run.

    said: texts.  planted: whether a planted line among them was found.  events: names of those it told.
    in_flight: copies while requests ran, by process.  left: afterwards, "process needle" -> copies.
    unread: why memory could not be read.  calls: of its processes; None where they could not be traced.
    traced: whether a planted write and its content were seen.  untraced: why not.
    """

    said: list[str] = field(default_factory=list)
    events: set[str] = field(default_factory=set)
    in_flight: dict[Program, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    unread: str = ""
    calls: list[str] | None = None
    traced: bool = False
    untraced: str = ""


def rows(settings: Settings) -> Iterator[Row]:
    """Run it all, and judge."""
    canary = "".join(secrets.choice(string.ascii_lowercase) for _ in range(LETTERS))
    try:
        harvest = gather(settings, canary)
    except (Unseen, OSError, StartFailure) as why:
        for check in (SAID, WRITTEN, MEMORY):
            yield check.look(partial(_raise, Unseen(f"the second node could not be used: {why}")))
    else:
        yield SAID.look(lambda: judge_said(harvest, canary))
        yield WRITTEN.look(lambda: judge_written(harvest, canary, settings))
        yield MEMORY.look(lambda: judge_memory(harvest))
    yield cores.row(settings)


def _raise(error: Unseen) -> Found:
    raise error


# --- judging ------------------------------------------------------------------------------------------


def judge_said(harvest: Harvest, canary: str) -> Found:
    """Grep everything; a planted line must be found by the same search."""
    if found := leaks(canary, *harvest.said):
        return wrong(f"{len(found)} of {len(harvest.said)} texts hold a canary, the first begins {found[0][:40]!r}")
    if missing := WANTED - harvest.events:
        raise Unseen(f"not every way to end was gone: no event {', '.join(sorted(missing))}")
    if len(leaks(canary, *harvest.said, _LINE.format(canary))) != 1:
        raise Unseen("a planted line was not found by the same search")
    return good(f"{len(harvest.said)} lines, pages and answers are free of it; a planted line was found")


def judge_written(harvest: Harvest, canary: str, settings: Settings) -> Found:
    """Look through the calls. With an engine of others, prompts leave by a socket on purpose."""
    if harvest.calls is None:
        raise Unseen(harvest.untraced)
    if found := writers(harvest.calls):
        return wrong(f"{len(found)} calls write, the first: {found[0][:80]}")
    carrying = leaks(canary, *harvest.calls) if settings.engine != "openai" else []
    if carrying:
        return wrong(f"{len(carrying)} calls carry a canary, the first: {carrying[0].partition('(')[0]}")
    if not harvest.traced or not harvest.calls:
        raise Unseen("a planted write was not seen by the same trace")
    past = "; prompts go to the engine by a socket" if settings.engine == "openai" else ""
    return good(f"none of {len(harvest.calls)} calls; a planted write and its content were seen{past}")


def judge_memory(harvest: Harvest) -> Found:
    """Want no copies left, and none in the front at any time; the scan must have found those in flight."""
    if harvest.unread:
        raise Unseen(harvest.unread)
    front = [
        f"{program} while requests ran: {n}" for program, n in harvest.in_flight.items() if n and program != "worker"
    ]
    left = [f"{where}: {count}" for where, count in harvest.left.items()]
    if front or left:
        return wrong(f"copies in {'; '.join([*front, *left][:5])}")
    if not harvest.in_flight.get(Program.WORKER):
        raise Unseen("the scan did not find the requests that were running: it proves nothing")
    return good(f"none; the same scan found {harvest.in_flight[Program.WORKER]} while requests ran")


# --- gathering ----------------------------------------------------------------------------------------


def gather(settings: Settings, canary: str) -> Harvest:
    """Start the node, send everything, look everywhere. Raises Unseen, OSError."""
    harvest = Harvest()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trace = folder / "trace"
        harvest.untraced = _why_no_trace(folder, canary)
        harvest.traced = not harvest.untraced
        with Second(settings, folder, () if harvest.untraced else strace(trace)) as node:
            since = time.time()
            with Caller(str(node.facts["listen"])) as caller:
                _send_all(_Run(settings, canary, node, caller, harvest))
            node.stop()
            harvest.said += node.said
            harvest.events = node.events()
        if harvest.traced:
            harvest.calls = calls(trace, since=since)
    return harvest


@dataclass
class _Run:
    settings: Settings
    canary: str
    node: Second
    caller: Caller
    harvest: Harvest

    def send(self, text: str, tokens: int = SHORT_TOKENS, spoil: int | None = None) -> Call:
        return self.caller.send(text, max_tokens=tokens, spoil=spoil)

    def end(self, call: Call) -> None:
        for _ in call:
            pass
        self.harvest.said += call.seen()


def _send_all(run: _Run) -> None:
    """Send through every way to end; the worker is killed last, for it takes its memory with it."""
    _in_flight(run)
    run.end(run.send(f"Say {run.canary} again."))
    run.end(run.send(f"{run.canary} " * _too_many(run)))
    run.end(run.send(f"Say {run.canary} again.", spoil=SPOILED_AT))
    run.end(run.caller.send_raw(run.canary.encode().hex().encode()))  # nobody sealed this: not for the scan of memory
    run.end(run.caller.replayed(f"Say {run.canary} once.", SHORT_TOKENS))
    time.sleep(SETTLE_S)
    _read_memory(run)
    run.harvest.said += run.node.pages()
    last = run.send(_long(run.canary), LONG_TOKENS)
    next(iter(last), None)
    os.kill(run.node.pids()[Program.WORKER], signal.SIGKILL)
    run.end(last)
    run.harvest.said += run.node.pages()


def _long(canary: str) -> str:
    return f"Write a long story about a harbour town, its lamps and a ship that is called {canary} ."


def _in_flight(run: _Run) -> None:
    """Look at memory while requests run, then cancel them."""
    begun = [run.send(_long(run.canary), LONG_TOKENS) for _ in range(min(STREAMS, run.settings.max_running))]
    for call in begun:
        next(iter(call), None)
    pids, needles = run.node.pids(), needles_of(run.canary)
    try:
        for program in PROGRAMS:
            whole = {"utf-8": needles["utf-8"]} if program is Program.WORKER else needles
            run.harvest.in_flight[program] = sum(scan(pids[program], whole).values())
    except OSError as error:
        run.harvest.unread = f"memory cannot be read: {error.strerror}; run the audit as root"
    for call in begun:
        call.cancel()
        run.harvest.said += call.seen()


def _too_many(run: _Run) -> int:
    """Return how often the canary exceeds the context, or as often as a request can hold it."""
    context = run.caller.bundle().statement.models[0].context_tokens
    wanted = context + 1 if run.settings.engine == "fake" else context // 4
    return min(wanted, MOST_CHARS // (LETTERS + 1))


def _read_memory(run: _Run) -> None:
    if run.harvest.unread:
        return
    keys = {f"reply key {number}": key for number, key in enumerate(run.caller.keys[-STREAMS:])}
    drawn = {f"secret {number}": one for number, one in enumerate(run.caller.secrets[-STREAMS:])}
    needles = needles_of(run.canary, _ids(run.settings, run.canary)) | keys | drawn
    pids = run.node.pids()
    for program in PROGRAMS:
        found = scan(pids[program], needles)
        run.harvest.left |= {f"{program} {name}": count for name, count in found.items() if count}


def _ids(settings: Settings, text: str) -> list[int]:
    """Return a text's token ids but for its ends, which may join their neighbours."""
    if settings.engine != "mlx":
        return []
    from tokenizers import Tokenizer

    from pcc_server.engines.mlx import find_model

    tokenizer = Tokenizer.from_file(str(find_model(settings) / "tokenizer.json"))
    return list(tokenizer.encode(f" {text}", add_special_tokens=False).ids)[1:-1]


def _why_no_trace(folder: Path, canary: str) -> str:
    """Return why strace is of no use here; empty when it has seen a planted write and what was written."""
    if shutil.which("strace") is None:
        return "strace is not installed: install the package strace for this check"
    if os.geteuid() != 0:
        return "a process that is not dumpable can be traced by root alone: run the audit as root"
    output, planted = folder / "control", folder / "planted"
    code = f"import sys; open({str(planted)!r}, 'w').write(sys.argv[1])"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [*strace(output), sys.executable, "-I", "-S", "-c", code, canary], capture_output=True, check=False, timeout=60
    )
    if done.returncode:
        return "strace may trace nothing here: ptrace is not permitted"
    found = calls(output, since=0)
    seen = any(str(planted) in call for call in writers(found)) and leaks(canary, *found)
    return "" if seen else "a planted write was not seen under strace: its output is not understood here"
