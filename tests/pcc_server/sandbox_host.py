"""A disposable process that closes the sandbox of a program around itself, or not, and does something forbidden.

``sandbox_host.py PROGRAM WHAT``; PROGRAM is ``gateway``, ``worker`` or ``none`` (the control). WHAT is ``probe``: every
probe, on the main thread, on one that began before the sandbox was closed and on one that began later; prints
``{thread: {probe: denied}}``. Or ``die:SIGNAL``: hold a canary and get that signal. Or ``x32``, ``i386``: a call by
another architecture's door. Or ``starved``: the kernel has no Landlock, with ``node.protect`` as the third word.
"""

import json
import mmap
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable

from pcc_server import harden
from pcc_server.config import Settings
from pcc_server.errors import StartFailure
from pcc_server.events import Program
from pcc_server.harden import kernel, landlock, probe

CANARY = "canary-of-the-core-7f3a"
I386_GETPID = bytes.fromhex("b814000000cd80c3")  # mov eax, 20; int 0x80; ret


def say(words: object) -> None:
    sys.stdout.write(f"{words}\n")


def close(name: str) -> None:
    if name != "none":
        settings = Settings(engine="fake", protect="require")
        harden.stage1(Program(name), settings)
        if name != "launcher":
            harden.stage2(Program(name), settings)


def probe_everywhere(name: str) -> None:
    """The early thread begins between the two stages, as those of libraries do while they load."""
    real, found = harden.stage2, queue.SimpleQueue[tuple[str, dict[str, bool]]]()
    gate = threading.Event()

    def apart(where: str, go: threading.Event | None = None) -> None:
        if go:
            go.wait()
        found.put((where, probe.run()))

    def begin_early() -> None:
        threading.Thread(target=apart, args=("early", gate)).start()

    def stage2(program: Program, settings: Settings) -> harden.Protection:
        begin_early()
        return real(program, settings)

    if name == "none":
        begin_early()
    harden.stage2 = stage2
    close(name)
    gate.set()
    threading.Thread(target=apart, args=("late",)).start()
    apart("main")
    say(json.dumps(dict(found.get() for _ in range(3))))


def die(name: str, number: str) -> None:
    held = [CANARY.encode() * 3]
    close(name)
    say(os.getpid())
    sys.stdout.flush()
    os.kill(os.getpid(), signal.Signals[number])
    held.clear()


def x32(name: str) -> None:
    close(name)
    try:
        kernel.call(0x40000000 | 39)  # getpid
    except OSError:
        say("the kernel has no such calls")
    else:
        say("made")


def i386(name: str) -> None:
    """The machine code is brought in before: the sandbox would not let it become executable."""
    import ctypes

    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(I386_GETPID)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    close(name)
    say("made" if ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid() else "not made")


def starved(name: str, protect: str) -> None:
    landlock.abi = lambda: 0
    try:
        held = harden.stage1(Program(name), Settings(engine="fake", protect=protect))
    except StartFailure as failure:
        say(json.dumps({"exit_code": failure.exit_code, "message": failure.message}))
    else:
        say(json.dumps({"held": held.held, "missing": held.missing}))


def threaded(name: str) -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    try:
        close(name)
    except StartFailure as failure:
        say(failure.message)


ACTS: dict[str, Callable[..., None]] = {
    "probe": probe_everywhere,
    "die": die,
    "x32": x32,
    "i386": i386,
    "starved": starved,
    "threaded": threaded,
}

if __name__ == "__main__":
    program, what = sys.argv[1:]
    act, *words = what.split(":")
    ACTS[act](program, *words)
