"""The control socket: lines that are whole, descriptors beside the messages they belong to, and what is no message."""

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcc_server import child, control
from pcc_server.config import Settings
from pcc_server.events import Program
from pcc_server.launcher import Launcher
from pcc_server.notices import Notices
from pcc_server.process import MAX_WORDS, Child
from tests.pcc_server.node_client import Client, Node, until

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def read_all(inbox: control.Inbox) -> list[dict[str, Any]]:
    """Read as often as an event loop would, which calls again while something waits."""
    return [message for _ in range(10) for message in inbox.read()]


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_a_descriptor_arrives_with_the_message_it_was_sent_with(ends: Ends) -> None:
    ours, theirs = ends
    pipes = [os.pipe() for _ in range(3)]
    for number, (reader, _) in enumerate(pipes):
        control.write(ours, before=number)
        control.write(ours, reader, link=number)
    got = read_all(control.Inbox(theirs))
    assert [message.get("before", message.get("link")) for message in got] == [0, 0, 1, 1, 2, 2]
    brought = [message["fd"] for message in got if "link" in message]
    assert [inode(fd) for fd in brought] == [inode(reader) for reader, _ in pipes]
    assert not any(os.get_inheritable(fd) for fd in brought)
    assert all("fd" not in message for message in got if "before" in message)
    for fd in (*brought, *(fd for pair in pipes for fd in pair)):
        os.close(fd)


def test_a_message_that_should_bring_a_descriptor_and_does_not_is_none(ends: Ends) -> None:
    ours, theirs = ends
    ours.sendall(b'{"link":true,"with_fd":true}\n{"worker":"gone"}\n')
    assert read_all(control.Inbox(theirs)) == [{"worker": "gone"}]


def test_what_is_no_message_is_left_out(ends: Ends) -> None:
    ours, theirs = ends
    ours.sendall(b'{"a":1}\nnonsense\n[1]\n\xff\n' + b"[" * 100_000 + b'\n{"b":2}\n{"cut')
    ours.close()
    inbox, got = control.Inbox(theirs), list[dict[str, Any]]()

    def to_the_end() -> None:
        while True:
            got.extend(inbox.read())

    with pytest.raises(EOFError):
        to_the_end()
    assert got == [{"a": 1}, {"b": 2}]


def test_a_descriptor_that_nobody_took_is_closed_with_the_end(ends: Ends) -> None:
    ours, theirs = ends
    reader, writer = os.pipe()
    socket.send_fds(ours, [b'{"no line yet'], [writer])
    os.close(writer)
    inbox = control.Inbox(theirs)
    assert not list(inbox.read())
    ours.close()
    with pytest.raises(EOFError):
        list(inbox.read())
    assert os.read(reader, 1) == b""  # nobody holds the other end
    os.close(reader)


def test_a_child_gets_a_descriptor_that_was_sent_before_it_listened(ends: Ends) -> None:
    """The settings line is read alone: what comes right behind it keeps its descriptor."""
    ours, theirs = ends
    reader, writer = os.pipe()
    control.write(ours, settings=Settings(engine="fake").to_json())
    control.write(ours, reader, link=True)
    assert "settings" in child._first_line(theirs)

    async def main() -> int:
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        child.on_control(theirs, heard.put_nowait, lambda: None)
        message = await heard.get()
        asyncio.get_running_loop().remove_reader(theirs)
        return int(message["fd"])

    brought = asyncio.run(main())
    assert inode(brought) == inode(reader)
    for fd in (reader, writer, brought):
        os.close(fd)


def test_a_child_that_does_not_read_does_not_hold_the_launcher_up(ends: Ends) -> None:
    ours, _ = ends
    ours.settimeout(0)
    for _ in range(2_000):
        control.write(ours, startup={"phase": "load", "pct": 1})


@pytest.mark.parametrize("program", [Program.GATEWAY, Program.WORKER])
def test_neither_child_may_say_what_is_the_other_s(program: Program) -> None:
    """A gateway that was taken over must not name a key of its own, nor have the launcher dial."""
    launcher = Launcher(Settings(engine="fake"), Notices(as_json=True))
    said: Any = type("Said", (), {"program": program, "failure": None, "served": False, "control": None})()
    facts = {"listen": "127.0.0.1:1", "admin": "127.0.0.1:2", "node_key": "k", "tier": 0, "engine": "e", "model": "m"}
    launcher._learn(said, {"facts": facts, "published": [[6, 2], [7, 1]]})
    if program is Program.GATEWAY:
        assert (set(launcher._facts), launcher._after) == ({"listen", "admin"}, [])
    else:
        assert (set(launcher._facts), launcher._after) == ({"node_key", "tier", "engine", "model"}, [[6, 2], [7, 1]])


class Said:
    """A child as the launcher sees it: it says what a test wants, and is not killed but counted."""

    def __init__(self, program: Program, *lines: str) -> None:
        self.control, theirs = socket.socketpair()
        theirs.sendall("".join(f"{line}\n" for line in lines).encode())
        theirs.close()
        self.killed = 0
        self.child = Child(program=program, process=self, control=self.control)  # type: ignore[arg-type]

    def kill(self) -> None:
        self.killed += 1

    def told_to(self, launcher: Launcher) -> None:
        launcher._selector.register(self.control, 1, None)
        launcher._on_news(self.child)
        launcher._selector.unregister(self.control)
        self.control.close()


def launcher() -> Launcher:
    return Launcher(Settings(engine="fake"), Notices(as_json=True))


def facts(**told: str) -> str:
    return json.dumps({"facts": told})


def test_a_gateway_cannot_move_its_ports_once_it_serves() -> None:
    """What it says first it says before anybody could reach it; the next gateway is opened where the first one was."""
    node = launcher()
    Said(Program.GATEWAY, facts(listen="127.0.0.1:1"), facts(listen="0.0.0.0:2", admin="127.0.0.1:3")).told_to(node)
    assert node._first_words(Program.GATEWAY)["settings"]["listen"] == "127.0.0.1:1"
    assert node._first_words(Program.GATEWAY)["settings"]["admin"] == ""


def test_last_words_are_one_line_of_the_log_and_no_more() -> None:
    forged = '\x1b[2J\n{"event":"published","epoch":1}\n' + "x" * 50_000
    said = Said(Program.GATEWAY, json.dumps({"failed": {"exit_code": 3, "message": forged}}))
    said.told_to(launcher())
    assert said.child.failure is not None
    words, code = said.child.failure
    assert code == 3
    assert len(words) == MAX_WORDS
    assert words.isprintable()


@pytest.mark.parametrize("program", [Program.GATEWAY, Program.WORKER])
@pytest.mark.parametrize(
    "line",
    [
        *('{"failed":1}', '{"failed":{}}', '{"failed":{"exit_code":"x","message":""}}', '{"protection":[]}'),
        *('{"facts":7}', '{"facts":null}', '{"protection":{"held":[],"missing":3}}'),
        '{"failed":{"exit_code":Infinity,"message":"m"}}',
    ],
)
def test_a_child_that_speaks_nonsense_is_ended_and_the_launcher_goes_on(program: Program, line: str) -> None:
    said = Said(program, line)
    said.told_to(launcher())
    assert said.killed


@pytest.mark.parametrize(
    "line", ['{"beat":Infinity}', '{"published":[7,1]}', '{"dial":"x"}', '{"phase":"x"}', '{"published":[["a",1]]}']
)
def test_a_worker_that_speaks_nonsense_is_ended(line: str) -> None:
    said, control = Said(Program.WORKER, line), Said(Program.GATEWAY, line)
    for one in (said, control):  # what is not the gateway's to say is not even read
        one.told_to(launcher())
    assert (said.killed, control.killed) == (1, 0)


@pytest.mark.linux
def test_a_child_that_stands_still_holds_its_launcher_up_for_no_moment() -> None:
    """Else a gateway that was taken over could keep the launcher from its watchdog, its signals and its evidence."""
    link, other = socket.socketpair()
    with link, other:
        child = Child.start(Program.GATEWAY, link)
        os.kill(child.process.pid, signal.SIGSTOP)
        done = threading.Thread(
            target=lambda: [control.write(child.control, startup={"phase": "load"}) for _ in range(5_000)], daemon=True
        )
        done.start()
        done.join(30)
        held_up = done.is_alive()
        child.process.kill()
        child.process.wait()
        child.close()
    assert not held_up


# --- SIGHUP ------------------------------------------------------------------------------------------


@pytest.mark.linux
def test_sighup_reads_the_settings_again_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("[drain]\ntimeout_s = 60\n")
    with Node("--config", str(file)) as node:
        pids = [node.launcher, node.pid("gateway"), node.pid("worker")]
        file.write_text("[drain]\ntimeout_s = 30\n[limits]\nmax_new = 7\n")
        for pid in pids:  # a service manager may tell all of them
            os.kill(pid, signal.SIGHUP)
        until(lambda: node.events("reloaded"))
        assert node.events("reloaded") == [{"event": "reloaded", "changed": 1, "refused": 1}]
        until(lambda: any("limits.max_new changes with a restart only" in line for line in node.stderr))
        file.write_text("[drain]\ntimeout = 30\n")
        os.kill(node.launcher, signal.SIGHUP)
        until(lambda: node.events("reload_refused"))
        assert pids == [node.launcher, node.pid("gateway"), node.pid("worker")]
        with Client(node) as client:
            assert client.ask("still here").receipt
        assert json.loads(node.stdout[0])["event"] == "ready"
