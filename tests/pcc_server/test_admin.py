"""The operator's port of a real node: keys rotate and are revoked, evidence is shown, nobody else gets in."""

import asyncio
import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid.wire.evidence import Bundle
from pcc_server.admin import read_token
from pcc_server.announce import MAX_SEQ
from pcc_server.entry import Entry
from pcc_server.errors import Limit, StartFailure
from pcc_server.keys import KeyRing
from tests.pcc_server.node_client import COMMAND, Node, collect, until
from tests.pcc_server.router_client import ManyClient, published, routed

MARK = {"x-pcc-admin": "1"}
EPOCH_S = 900
EPOCH = ("--epoch-s", str(EPOCH_S))
TEST_S = 40  # no test here takes longer


@pytest.fixture
def node() -> Iterator[Node]:
    """A node whose epoch does not turn in the middle of a test."""
    if (left_s := EPOCH_S - time.time() % EPOCH_S) < TEST_S:
        time.sleep(left_s)
    with Node("--admin", "127.0.0.1:0", *EPOCH) as running:
        yield running


def call(node: Node, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(str(node.ready["admin"]), timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if "json" in (response.getheader("content-type") or "") else body
    finally:
        connection.close()


def keys(node: Node) -> list[dict[str, Any]]:
    status, found = call(node, "GET", "/keys")
    assert status == 200
    return list(found["keys"])


# --- keys ------------------------------------------------------------------------------------------


def test_the_keys_that_open_requests_are_shown(node: Node) -> None:
    with ManyClient(node) as client:
        statement = client.newest().nodes[0].bundle.statement
        assert [key["id"] for key in keys(node)] == [key.key_id.hex() for key in statement.keys]
        assert [key["epoch"] for key in keys(node)] == [key.epoch for key in statement.keys]
        assert all(key["listed"] for key in keys(node))


def test_rotated_keys_are_published_with_a_raised_sequence_number_and_the_old_ones_go_on(node: Node) -> None:
    with ManyClient(node) as client:
        before, old = client.newest(), keys(node)
        sealed, opener = client.seal_to([client.candidate], "sealed before")
        assert call(node, "POST", "/keys/rotate", MARK)[0] == 200
        after = client.newest()
        assert (after.epoch, after.seq) == (before.epoch, before.seq + 1)
        assert after.nodes[0].bundle.id != before.nodes[0].bundle.id
        found = keys(node)
        assert {key["id"] for key in found if not key["listed"]} == {key["id"] for key in old}
        assert len(found) == 4
        assert collect(client.send(client.encode(sealed)), opener).text
        assert client.ask_of(list(client.candidates().values()), "sealed after").text


def test_a_revoked_key_opens_nothing_any_more_and_another_takes_its_place(node: Node) -> None:
    with ManyClient(node) as client:
        sealed, _ = client.seal_to([client.candidate], "sealed before")
        revoked = client.candidate.key.key_id.hex()
        assert revoked in {key["id"] for key in keys(node)}
        assert call(node, "POST", f"/keys/revoke?key={revoked}", MARK)[0] == 200
        assert revoked not in {key["id"] for key in keys(node)}
        assert client.refused(client.encode(sealed))[1] == "STALE_KEY"
        assert client.newest().seq == 1
        assert client.ask_of(list(client.candidates().values()), "sealed after").text
        assert call(node, "POST", f"/keys/revoke?key={revoked}", MARK) == (404, {"code": "STALE_KEY"})


def test_a_router_lists_rotated_keys_soon(node: Node) -> None:
    with routed([node], *EPOCH) as client:
        before = client.newest()
        call(node, "POST", "/keys/rotate", MARK)
        after = published(client, lambda found: found.seq > before.seq)
        assert after.nodes[0].bundle.id != before.nodes[0].bundle.id


def test_an_epoch_bears_sixteen_publications_and_a_revocation_still_destroys(node: Node) -> None:
    for _ in range(MAX_SEQ):
        assert call(node, "POST", "/keys/rotate", MARK)[0] == 200
    assert call(node, "POST", "/keys/rotate", MARK) == (429, {"code": "LIMIT"})
    with ManyClient(node) as client:
        sealed, _ = client.seal_to([client.candidate], "sealed before")
        call(node, "POST", f"/keys/revoke?key={client.candidate.key.key_id.hex()}", MARK)
        assert client.refused(client.encode(sealed))[1] == "STALE_KEY"


def test_the_ring_destroys_what_is_revoked_and_keeps_what_is_replaced(entry: Entry) -> None:
    async def main() -> None:
        ring = entry._ring
        await entry.publish(900)
        first = ring.current()
        ring.rotate()
        assert not set(map(id, first)) & set(map(id, ring.current()))
        assert set(map(id, first)) <= set(map(id, ring.accepted()))
        ring.revoke(first[0].key.config.key_id)
        assert id(first[0]) not in set(map(id, ring.accepted()))
        for _ in range(MAX_SEQ):
            await entry.publish(900)
        with pytest.raises(Limit):
            await entry.publish(900)

    asyncio.run(main())


@pytest.fixture
def entry() -> Entry:
    from hybrid.wire.evidence import ModelEntry
    from pcc_server.entry import Served

    model = ModelEntry(model_id="m", manifest=bytes(32), context_tokens=100, max_output_tokens=10)
    now = time.time()  # one moment: no epoch turns
    return Entry(Served(deployment="localhost", model=model, config_digest=bytes(32)), KeyRing(900, now=lambda: now))


# --- evidence --------------------------------------------------------------------------------------


def test_the_newest_bundle_is_shown(node: Node) -> None:
    with ManyClient(node) as client:
        status, body = call(node, "GET", "/evidence")
        assert status == 200
        assert Bundle.decode(body).id == client.candidate.bundle_id


# --- who gets in -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/keys/rotate", {}),  # what a form in a browser sends
        ("POST", "/keys/rotate", {"x-pcc-admin": "0"}),
        ("POST", "/keys/rotate", {**MARK, "host": "evil.example"}),  # a name of somebody else's that leads here
        ("POST", "/keys/rotate", {**MARK, "host": "127.0.0.1.evil.example"}),
        ("GET", "/keys", {"host": "evil.example"}),
        ("GET", "/evidence", {"host": ""}),
    ],
)
def test_what_a_browser_could_be_made_to_send_is_refused(
    node: Node, method: str, path: str, headers: dict[str, str]
) -> None:
    before = [key["id"] for key in keys(node)]
    status, _ = call(node, method, path, headers)
    assert status in {400, 403}
    assert [key["id"] for key in keys(node)] == before


def test_other_methods_and_paths_do_not_exist(node: Node) -> None:
    for method, path, status in (("GET", "/keys/rotate", 405), ("GET", "/", 404), ("POST", "/evidence", 405)):
        assert call(node, method, path, MARK)[0] == status


@pytest.mark.parametrize("key", ["", "zz" * 16, "00" * 15, "00" * 17, "00" * 16 + "%00"])
def test_a_key_that_is_none_is_refused(node: Node, key: str) -> None:
    assert call(node, "POST", f"/keys/revoke?key={key}", MARK)[0] == 400


def test_a_token_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t" * 40 + "\n")
    file.chmod(0o600)
    with Node("--admin", "127.0.0.1:0", "--admin-token", str(file)) as node:
        assert call(node, "GET", "/keys")[0] == 401
        assert call(node, "GET", "/keys", {"authorization": "Bearer " + "t" * 39})[0] == 401
        assert call(node, "GET", "/keys", {"authorization": "Bearer " + "t" * 40})[0] == 200
        assert command(node, "list").returncode == 1
        assert command(node, "--token-file", str(file), "list").returncode == 0


def listening(node: Node) -> int:
    """How many TCP sockets the gateway listens on."""
    states = ("/proc/net/tcp", "/proc/net/tcp6")
    rows = [line.split() for path in states for line in Path(path).read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    folder = Path(f"/proc/{node.pid('gateway')}/fd")
    return len(inodes & {str(entry.readlink()) for entry in folder.iterdir()})


@pytest.mark.linux
def test_without_the_option_there_is_no_second_port(node: Node) -> None:
    with Node() as plain:
        assert "admin" not in plain.ready
        assert (listening(plain), listening(node)) == (1, 2)


def test_a_token_that_others_can_read_is_none(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t" * 40)
    for mode in (0o604, 0o640):
        file.chmod(mode)
        with pytest.raises(StartFailure, match="chmod 600"):
            read_token(str(file))
    file.chmod(0o600)
    assert read_token(str(file)) == "t" * 40


# --- the command -----------------------------------------------------------------------------------


def command(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "keys", "--admin", str(node.ready["admin"]), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_the_command_lists_rotates_and_revokes(node: Node) -> None:
    first = keys(node)
    listed = command(node, "list")
    assert (listed.returncode, all(key["id"] in listed.stdout for key in first)) == (0, True)
    rotated = command(node, "rotate")
    assert rotated.stdout.count("only for who holds an older directory") == 2
    gone = json.loads(command(node, "revoke", first[0]["id"], "--json").stdout)
    assert first[0]["id"] not in {key["id"] for key in gone["keys"]}
    again = command(node, "revoke", first[0]["id"])
    assert (again.returncode, "no such key" in again.stderr) == (1, True)
    assert len(until(lambda: node.events("keys_changed"))) == 2


def test_the_command_takes_no_key_that_no_address_can_hold() -> None:
    words = [*COMMAND, "keys", "--admin", "127.0.0.1:1", "revoke", "\u00e9" * 32]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, "32 hexadecimal digits" in done.stderr) == (2, True), done.stderr


def test_the_command_says_when_nobody_answers() -> None:
    done = subprocess.run(
        [*COMMAND, "keys", "--admin", "127.0.0.1:1", "list"], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, "no admin port answers" in done.stderr) == (4, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--admin", "0.0.0.0:0"), "--admin-token, --tls-cert and --tls-key are required"),
        (("--admin", "nonsense"), "--admin takes HOST:PORT"),
        (("--admin-token", "/nowhere"), "--admin-token needs --admin"),
        (("--admin", "127.0.0.1:0", "--admin-token", "/nowhere"), "cannot read --admin-token"),
        (("--admin", "127.0.0.1:0", "--admin-token", "/dev/null"), "holds under 22 characters"),
    ],
)
def test_options_that_do_not_fit_say_what_to_do(options: tuple[str, ...], says: str) -> None:
    words = [*COMMAND, "serve", "--engine", "fake", "--listen", "127.0.0.1:0", *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
