"""What the machine around a node must not do: swap, hibernate, dump, drift, and let others attach."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pcc_server.events import Program

from .node import Node
from .report import Check, Found, Row, Unseen, aside, good, wrong

_UNSYNCHRONISED, _ERROR = 0x40, 5  # STA_UNSYNC; TIME_ERROR: adjtimex(2)
_STATUS_AT = 40  # of struct timex on 64-bit Linux: modes, offset, freq, maxerror, esterror, status
_TIMEX_BYTES = 512  # more than the struct has
_SHELLS = ("bin/sh", "bin/bash", "bin/dash", "bin/ash", "bin/busybox", "usr/bin/sh", "usr/bin/bash")
_MARKS = (".dockerenv", "run/.containerenv")
_LOCKED = frozenset(("[integrity]", "[confidentiality]"))

SWAP = Check("swap", "no swap, or none for the node", "pages with prompts and keys can be written to a disk")
HIBERNATION = Check("hibernation", "no image of memory on a disk", "all of memory, keys included, is written to a disk")
CRASH_KERNEL = Check("crash_kernel", "none loaded", "a crash of the kernel writes all of memory to a file")
CORE_PATTERN = Check(
    "core_pattern",
    "no program is handed cores, or the processes are not dumpable",
    "a core limit does not bind a program that the kernel hands cores to: a crash would give it prompts and keys",
)
YAMA = Check(
    "yama",
    "kernel.yama.ptrace_scope 1 or more",
    "programs of the same user may attach to a process of the node before it has closed itself",
)
LOCKDOWN = Check(
    "lockdown",
    "integrity or confidentiality",
    "root can change the running kernel, so what was measured at boot is not what runs",
)
CLOCK = Check(
    "clock",
    "synchronised, as the kernel knows it",
    "a clock that is off by more than 90 s opens and closes keys at the wrong time; clients refuse its evidence",
)
MOUNTS = Check("mounts", "a read-only root in an image", "what gets in can leave something behind")
SHELL = Check("shell", "no shell in an image", "what gets in finds tools")


def kernel_clock() -> bool | None:
    """Return whether the kernel holds its clock for synchronised; None where it may not be asked."""
    if sys.platform != "linux":
        return None
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    status = int.from_bytes(timex.raw[_STATUS_AT : _STATUS_AT + 4], sys.byteorder)
    return None if state < 0 else state != _ERROR and not status & _UNSYNCHRONISED


def rows(node: Node, synchronised: Callable[[], bool | None] = kernel_clock) -> Iterator[Row]:
    """Look at the machine."""
    yield SWAP.look(lambda: swap(node))
    yield HIBERNATION.look(lambda: hibernation(node))
    yield CRASH_KERNEL.look(lambda: crash_kernel(node))
    yield YAMA.look(lambda: yama(node))
    yield LOCKDOWN.look(lambda: lockdown(node))
    yield CLOCK.look(lambda: clock(synchronised()))
    yield MOUNTS.look(lambda: mounts(node))
    yield SHELL.look(lambda: shell(node))


# --- memory on a disk --------------------------------------------------------------------------------


def swap(node: Node) -> Found:
    """Want no swap at all, or a cgroup that forbids it to each process; and none in use."""
    areas = _swap_areas(node)
    used = {program: _swapped(node, program) for program in node.pids}
    if any(used.values()):
        return wrong("; ".join(f"{kb} kB of the {program} are swapped" for program, kb in used.items() if kb))
    if not areas:
        return good("this machine has none")
    if node.pids and all(_no_swap_for(node, program) for program in node.pids):
        return good(f"{', '.join(areas)}; memory.swap.max is 0 for the node")
    return wrong(
        f"{', '.join(areas)}, and nothing keeps the node out of it: swapoff -a, or MemorySwapMax=0 for its unit"
    )


def _swap_areas(node: Node) -> list[str]:
    return [line.split()[0] for line in node.machine.need("proc/swaps").splitlines()[1:] if line.strip()]


def _swapped(node: Node, program: Program) -> int:
    return int(node.machine.fields(node.proc(program, "status")).get("VmSwap", "0 kB").split()[0])


def _no_swap_for(node: Node, program: Program) -> bool:
    """Tell whether the process's group, or one around it, may not swap. Only the unified hierarchy says so."""
    lines = node.machine.need(node.proc(program, "cgroup")).splitlines()
    group = next((line[3:] for line in lines if line.startswith("0::")), None)
    if group is None:
        return False
    parts = [part for part in group.split("/") if part]
    folders = ("/".join(["sys/fs/cgroup", *parts[:depth]]) for depth in range(len(parts), -1, -1))
    return any(node.machine.text(f"{folder}/memory.swap.max") == "0" for folder in folders)


def hibernation(node: Node) -> Found:
    """Look for what hibernation needs: the kernel's support and a swap area."""
    states = (node.machine.text("sys/power/state") or "").split()
    if "disk" not in states or (node.machine.text("sys/power/disk") or "").startswith("[disabled]"):
        return good("this kernel does not hibernate")
    if areas := _swap_areas(node):
        return wrong(f"the kernel can, into {', '.join(areas)}: swapoff -a, or boot with nohibernate")
    return good("there is no swap area to write it to")


def crash_kernel(node: Node) -> Found:
    """Look for a crash kernel, which writes all of memory to a file."""
    if not node.machine.exists("sys/kernel"):
        raise Unseen("/sys/kernel is missing here: mount sysfs")
    loaded = node.machine.text("sys/kernel/kexec_crash_loaded")
    if loaded in (None, "0"):
        return good("none" if loaded else "this kernel has none")
    return wrong("loaded: stop kdump, and boot without crashkernel=")


def core_pattern(node: Node, *, closed: bool) -> Found:
    """Look for a program that is handed cores. closed: no process of the node is dumpable, as was tried."""
    pattern = node.machine.need("proc/sys/kernel/core_pattern")
    if not pattern.startswith("|"):
        return good(f"{pattern}: a file, which the core limit of 0 forbids")
    return Found(closed, f"{pattern.split()[0]}: a program{', but nothing here is dumpable' if closed else ''}")


# --- who else may look --------------------------------------------------------------------------------


def yama(node: Node) -> Found:
    """Look at the scope of ptrace."""
    scope = node.machine.text("proc/sys/kernel/yama/ptrace_scope")
    if scope is None:
        return wrong("this kernel has no Yama: use one that has, or give the node a user of its own")
    return Found(scope != "0", scope if scope != "0" else "0: sysctl kernel.yama.ptrace_scope=1")


def lockdown(node: Node) -> Found:
    """Look whether root may change the kernel: it matters where evidence says what was booted."""
    if node.settings.attester == "software":
        return aside("tier 0: nobody was promised which kernel runs")
    said = node.machine.text("sys/kernel/security/lockdown")
    if said is None:
        raise Unseen("/sys/kernel/security/lockdown is missing: mount securityfs, or boot a kernel with lockdown")
    return Found(bool(_LOCKED & set(said.split())), said)


def clock(synchronised: bool | None) -> Found:
    """Take the kernel's own flag; nothing is asked over a network."""
    if synchronised is None:
        raise Unseen("the kernel's clock state cannot be asked from here: look at it on the host")
    if not synchronised:
        raise Unseen("the kernel calls its clock unsynchronised: start chrony or systemd-timesyncd")
    return good("synchronised")


# --- the image ----------------------------------------------------------------------------------------


class _Image(NamedTuple):
    """The node's root. at: where it is seen from here.  is_one: it belongs to an image.  writable: other mounts."""

    at: str
    is_one: bool
    read_only: bool
    writable: int


def _image(node: Node) -> _Image:
    own = f"proc/{node.pids[Program.WORKER]}" if Program.WORKER in node.pids else "proc/self"
    listed = node.machine.need(f"{own}/mountinfo")
    mounted = [line.partition(" - ") for line in listed.splitlines()]
    points = [(head.split()[4], head.split()[5].split(","), tail.split()[0]) for head, _, tail in mounted]
    _, options, kind = next(((p, o, k) for p, o, k in reversed(points) if p == "/"), ("", [], ""))
    at = _root(node, own, listed)
    marked = any(node.machine.exists(at + mark) for mark in _MARKS)
    return _Image(at, marked or kind == "overlay", "ro" in options, sum(1 for _, how, _ in points if "rw" in how))


def _root(node: Node, own: str, listed: str) -> str:
    """Return the path of the node's root; this program's own where both have the same mounts. Raises Unseen."""
    try:
        return f"{own}/root/" if node.machine.exists(f"{own}/root/proc") else ""
    except Unseen:
        if listed == node.machine.need("proc/self/mountinfo"):
            return ""
        raise


def mounts(node: Node) -> Found:
    """Look whether the root can be written to; the sandbox forbids that to the node on any machine."""
    image = _image(node)
    if not image.is_one:
        return aside(
            f"no image; {image.writable} mounts can be written to, but not by the node: its sandbox forbids it"
        )
    return Found(image.read_only, "read-only" if image.read_only else "the root is writable: run it with --read-only")


def shell(node: Node) -> Found:
    """Look for a shell; exec is forbidden to the node on any machine."""
    image = _image(node)
    if not image.is_one:
        return aside("no image; the sandbox forbids the node to start anything")
    found = [f"/{path}" for path in _SHELLS if node.machine.exists(image.at + path)]
    return Found(not found, ", ".join(found) or "none")
