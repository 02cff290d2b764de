"""SIGHUP: limits and TLS files change while the node serves; everything else keeps its start value, and is named."""

import os
import signal
from pathlib import Path

import grpc
import pytest

from pcc_server.config import LIVE, SITE, Settings
from pcc_server.errors import StartFailure
from pcc_server.settings_file import from_flags
from pcc_server.settings_source import Source
from tests.pcc_server.node_client import Client, Node, ask, until

NODE = """
[model]
engine = "fake"
[limits]
max_running = 1
max_queue = {queue}
[test]
fake_delay_ms = 40
"""


def write(file: Path, text: str) -> Source:
    file.write_text(text)
    return Source(file=str(file), flags=from_flags({"listen": "127.0.0.1:0"}, {}), environ={})


def told(node: Node, name: str) -> dict[str, int]:
    """Tell the node to read again; returns the event of that name that follows."""
    before = len(node.events(name))
    os.kill(node.launcher, signal.SIGHUP)
    return dict(until(lambda: node.events(name)[before:])[0])


def test_only_what_is_no_part_of_the_digest_may_change() -> None:
    assert set(SITE) > LIVE


def test_what_may_change_is_told_and_the_rest_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    now = write(file, NODE.format(queue=0)).read().settings
    found = write(file, NODE.format(queue=3) + "[keys]\nepoch_s = 600\n[drain]\ntimeout_s = 9\n").reload(now)
    assert found.changed == {"max_queue": 3, "drain_timeout_s": 9.0}
    (sentence,) = found.refused
    assert sentence.startswith("keys.epoch_s changes with a restart only")


def test_nothing_new_is_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "node.toml", NODE.format(queue=0))
    found = source.reload(source.read().settings)
    assert (found.changed, found.refused) == ({}, ())


@pytest.mark.parametrize("text", ["[limits]\nmax_queue = 'many'\n", "[limits]\nsoft = 2.0\n", "[limits", "[x]\n"])
def test_a_file_that_could_not_start_a_node_changes_nothing(tmp_path: Path, text: str) -> None:
    with pytest.raises(StartFailure):
        write(tmp_path / "node.toml", text).reload(Settings())


def test_a_running_node_takes_new_limits_and_says_what_it_does_not_take(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    write(file, NODE.format(queue=0))
    with Node("--config", str(file)) as node, Client(node) as client:
        sealed, _ = client.seal(ask("r" * 90, max_tokens=100))
        running = client.send(client.encode(sealed))
        next(running)
        assert not admitted(client)
        write(file, NODE.format(queue=4).replace("fake_delay_ms = 40", "fake_delay_ms = 1"))
        assert told(node, "reloaded") == {"event": "reloaded", "changed": 1, "refused": 1}
        until(lambda: "test.fake_delay_ms changes with a restart only" in node.words())
        until(lambda: admitted(client))  # as soon as the worker knows of it
        assert running.is_active()  # so the place was one in the queue


def admitted(client: Client) -> bool:
    """Whether one more request is taken in: its head comes at once, its words when its turn has come."""
    sealed, _ = client.seal(ask("one more", max_tokens=1))
    call = client.send(client.encode(sealed))
    try:
        next(call)
    except grpc.RpcError:
        return False
    call.cancel()
    return True


def test_a_broken_file_changes_nothing_and_the_node_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    write(file, NODE.format(queue=4))
    with Node("--config", str(file)) as node, Client(node) as client:
        write(file, "[limits]\nmax_que = 1\n")
        assert told(node, "reload_refused")
        until(lambda: "the nearest is limits.max_queue" in node.words())
        assert client.ask("still here", max_tokens=2).text
        with pytest.raises(grpc.RpcError):
            next(client.send(b"rubbish"))


def test_a_node_without_a_file_survives_the_signal() -> None:
    with Node() as node, Client(node) as client:
        assert told(node, "reloaded") == {"event": "reloaded", "changed": 0, "refused": 0}
        assert client.ask("still here", max_tokens=2).text
