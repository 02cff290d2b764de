"""Forbidden acts, tried in processes closed as the node's are; first in open ones, where they must succeed (X1)."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pcc_server.config import Settings
from pcc_server.events import Program
from pcc_server.harden import EXTRAS

from . import trial
from .machine import Machine
from .node import CHILDREN
from .report import Check, Found, Row, Unseen, good, wrong

ENOUGH = 25  # acts that the control must show where this user is itself confined
_ABSENT = "ENOSYS"

Trials = Mapping[str, Mapping[str, Any]]  # "open worker" -> what that trial printed


def run(settings: Settings) -> dict[str, dict[str, Any]]:
    """Run every trial, all at once; returns what each printed, nothing for one that did not come to an end."""
    begun = {
        f"{how} {program}": trial.begin(how, program, settings) for how in ("open", "closed") for program in CHILDREN
    }
    return {name: _ended(process) for name, process in begun.items()}


def _ended(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    try:
        printed, _ = process.communicate(timeout=trial.WAIT_S)
        found = json.loads(printed)
    except (ValueError, subprocess.TimeoutExpired):
        process.kill()
        process.communicate()
        return {}
    return found if isinstance(found, dict) else {}


def rows(trials: Trials, *, confined: bool) -> Iterator[Row]:
    """Judge what the trials printed. confined: this user has not all rights of root, so the machine denies him much."""
    for program in CHILDREN:
        yield _protections(program).look(partial(protections, trials, program))
        yield _escapes(program).look(partial(escapes, trials, program, confined=confined))


def _protections(program: Program) -> Check:
    return Check(
        f"protections.{program}",
        "every step of the sandbox can be taken on this machine",
        f"the {program} runs with less protection than its design counts on",
    )


def _escapes(program: Program) -> Check:
    return Check(
        f"escapes.{program}",
        "every forbidden act denied, on every thread",
        f"whoever takes over the {program} can get prompts out, or stay",
    )


def is_confined(machine: Machine) -> bool:
    """Tell whether this program lacks rights that root has on a machine of its own. Raises Unseen.

    Also where nothing can be written, as in an image whose root is read-only.
    """
    status = machine.fields("proc/self/status")
    last = machine.text("proc/sys/kernel/cap_last_cap") or "40"
    needed = (1 << 21) | (1 << 13) | (1 << 19)  # CAP_SYS_ADMIN, CAP_NET_RAW, CAP_SYS_PTRACE
    has_all = int(status.get("CapEff", "0"), 16) & needed == needed and int(last) > 0
    return not has_all or status.get("Seccomp") != "0" or not os.access("/tmp", os.W_OK)  # noqa: S108 - asked, not used


def protections(trials: Trials, program: Program) -> Found:
    """Say what the closed trial could and could not bring into force."""
    told = _trial(trials, "closed", program)
    if "failure" in told:
        return wrong(str(told["failure"]))
    stages = told["protection"].values()
    held = [name for stage in stages for name in stage["held"]]
    missing = {name: why for stage in stages for name, why in stage["missing"].items()}
    words = "; ".join(f"{name}: {why}" for name, why in missing.items())
    return Found(not missing.keys() - EXTRAS, "; ".join(filter(None, (", ".join(held), words and f"missing {words}"))))


def escapes(trials: Trials, program: Program, *, confined: bool) -> Found:
    """All acts must be denied, and each must succeed in the open trial.

    An act that this kernel does not have shows nothing and endangers nobody. Where this user is confined himself, so
    is what he starts: acts that his own confinement denies are told, and enough others must be shown.
    """
    before, closed = _trial(trials, "open", program)["main"], _trial(trials, "closed", program)
    succeeded = sorted({name for where in ("main", "thread") for name, why in closed.get(where, {}).items() if not why})
    if succeeded:
        return wrong(f"these succeed: {', '.join(succeeded)}")
    if "thread" not in closed:
        raise Unseen(f"the sandbox could not be closed: {closed.get('failure', 'no reason given')}")
    shown = [name for name, why in before.items() if not why]
    absent = [name for name, why in before.items() if why == _ABSENT]
    unshown = sorted(before.keys() - set(shown) - set(absent))
    if unshown and (not confined or len(shown) < ENOUGH):
        raise Unseen(
            f"{len(unshown)} acts fail in an open process as well ({', '.join(unshown)}): run the audit as root"
        )
    words = [f"{len(before)} denied, {len(shown)} of them succeeded in an open process"]
    words += [f"{len(absent)} are not in this kernel"] if absent else []
    words += [f"{len(unshown)} are denied to this user anyway: {', '.join(unshown)}"] if unshown else []
    return good("; ".join(words))


def _trial(trials: Trials, how: str, program: Program) -> Mapping[str, Any]:
    told = trials.get(f"{how} {program}") or {}
    if "main" not in told and "failure" not in told:
        raise Unseen(f"the {how} trial of the {program} did not come to an end")
    return told
