"""docs/operations.md, sections 1 to 9 and 11: what the page says is run, and comes out as it says.

The tests share one machine and go on where the one before has ended, as a reader does.
"""

import json
import signal
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.deploy.chart import settings_from
from tests.e2e.walk import NODE_USER, ROOT, Person, Running, Walk, blocks, commands, free_port, walking
from tests.pcc_server.node_client import until

pytestmark = pytest.mark.linux

SLOW = {"PCC_TEST_FAKE_DELAY_MS": "20", "PCC_DRAIN_GRACE_S": "0.5"}
BEGIN = "pcc-server serve --config /etc/hybrid-pcc/node.toml"
ASK = 'hybrid ask --private-cloud --node pcc.example.org --node-ca ca.crt "hello there"'
LONG = ASK.replace("hello there", "hello there " * 15)  # the fake engine gives a word for a letter
TOKEN = ("--node-token-file", "access.token")
OF_THE_NODE = (
    *("node", "threads.", "capabilities", "dumpable", "core_limit", "environment.", "descriptors", "listeners"),
    *("config_digest", "caches", "test_switches", "protections.", "escapes.", "canary."),
)


@pytest.fixture(scope="module")
def walk() -> Iterator[Walk]:
    with walking() as one:
        yield one


@pytest.fixture(scope="module")
def node(walk: Walk) -> Running:
    """The node of section 6."""
    return walk.start(BEGIN, env=SLOW)


@pytest.fixture(scope="module")
def person(walk: Walk, node: Running) -> Person:
    """The user of section 8, who runs what the node's card says, and has the key of section 4."""
    person = walk.user("person")
    person.given(Path(walk.folder / "token").read_text())
    line = next(line.strip() for line in node.out if "hybrid trust add" in line)
    (documented,) = [command for command in commands(8) if "trust add" in command]
    key = line.split("--key ")[1].split()[0]
    assert line == documented.replace("NODE_KEY", key).replace("8443", str(walk.port))
    added = person.run(line.replace("pcc.example.org:", f"{walk.ip}:"))
    assert added.returncode == 0, added.stderr
    assert "NOT private from its operator" in added.stderr
    return person


def served_certificate(walk: Walk) -> str:
    words = ["openssl", "s_client", "-connect", f"{walk.ip}:{walk.port}", "-alpn", "h2"]
    shown = subprocess.run(words, input="", capture_output=True, errors="replace", check=False, timeout=30).stdout
    return shown.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END")[0]


# --- sections 1 to 5: before it runs ----------------------------------------------------------------


def test_1_the_plan_answers(walk: Walk) -> None:
    for command in commands(1):
        assert "people" in walk.good(command).lower()


def test_3_certificates_end_where_the_nodes_group_reads_them(walk: Walk) -> None:
    for block in range(2):
        walk.section(3, block=block)
    key = walk.folder / "etc" / "tls.key"
    assert (stat.S_IMODE(key.stat().st_mode), key.stat().st_uid, key.stat().st_gid) == (0o640, 0, NODE_USER)


def test_4_an_access_key_is_printed_once(walk: Walk) -> None:
    add, revoke = commands(4)
    token = walk.good(add).strip()
    assert token.startswith("pcc_")
    (walk.folder / "token").write_text(token)
    assert token not in (walk.folder / "etc" / "access.keys").read_text()
    assert "revoke it first" in walk.run(add).stderr
    assert "revoke" in revoke


def test_5_the_settings_of_the_page_are_the_units_and_good(walk: Walk) -> None:
    (page,) = blocks(5, "toml")
    unit = (ROOT / "deploy" / "systemd" / "node.toml").read_text()
    assert settings_from(page) == settings_from(unit)
    walk.write("node.toml", page)
    check, show = commands(5)
    assert walk.good(check) == "the settings are good\n"
    printed = walk.good(show)
    assert f'listen = "0.0.0.0:{walk.port}"  # node.listen in ' in printed
    walk.write("again.toml", printed)
    assert walk.good(check.replace("node.toml", "again.toml")) == "the settings are good\n"
    walk.write("wrong.toml", page.replace("tls.key", "none.key").replace("access.keys", "none.keys"))
    wrong = walk.run(check.replace("node.toml", "wrong.toml"))
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 2)


# --- sections 6 to 8: it runs ------------------------------------------------------------------------


def test_6_it_runs_as_a_user_without_rights_and_shows_its_state(walk: Walk, node: Running) -> None:
    owner = Path(f"/proc/{node.process.pid}/status").read_text()
    assert f"Uid:\t{NODE_USER}" in owner
    for command in commands(6):
        if command.startswith("curl"):
            told = json.loads(walk.good(command))
            assert told.get("state") == "started" or told == {"ready": True, "reasons": []}


@pytest.mark.parametrize("which", [0, 1])
def test_7_the_audit_finds_nothing_wrong_with_the_node(walk: Walk, node: Running, which: int) -> None:
    done = walk.run(commands(7)[which], "--json", "--pid", str(node.process.pid))
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert len([name for name in rows if name.startswith("canary.")]) == 4 * which
    own = {name: row for name, row in rows.items() if name.startswith(OF_THE_NODE)}
    assert len(own) >= 15 + 4 * which
    assert {name: row["got"] for name, row in own.items() if row["state"] != "ok"} == {}
    assert done.returncode == int(any(row["state"] not in ("ok", "limit", "does not apply") for row in rows.values()))


def test_8_a_user_across_the_network_verifies_and_asks(person: Person) -> None:
    _, verify, ask = commands(8)
    shown = person.run(verify)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-1] == "✓ verified  tier 0 software, NOT private from the operator"
    asked = person.run(ask, "--max-tokens", "5")
    assert (asked.returncode, asked.stdout) == (0, "fake engine: token 1 token 2 token 3 token 4 token 5 \n")


@pytest.mark.parametrize(
    ("without", "code", "words"),
    [
        ("--node-ca ca.crt", 4, "its certificate is not trusted by this device"),
        ("--node-token-file access.token", 4, "refuses this client's credentials"),
    ],
)
def test_8_what_is_left_out_is_named_and_no_text_leaves(
    person: Person, node: Running, without: str, code: int, words: str
) -> None:
    answered = len(node.events("request"))
    asked = person.run(commands(8)[2].replace(without, ""))
    assert (asked.returncode, asked.stdout) == (code, "")
    assert words in asked.stderr
    assert "hint: " in asked.stderr
    assert len(node.events("request")) == answered


def test_3_a_certificate_is_renewed_while_a_reply_streams(walk: Walk, node: Running, person: Person) -> None:
    before, loads = served_certificate(walk), len(node.events("certificates"))
    with person.begin(LONG, *TOKEN, "--jsonl", "--max-tokens", "150") as asking:
        assert asking.stdout
        deltas = (event["text"] for event in map(json.loads, asking.stdout) if event["event"] == "text_delta")
        text = next(deltas)
        walk.section(3, block=2)
        node.signal(signal.SIGHUP)  # what systemctl reload sends
        until(lambda: len(node.events("certificates")) > loads)
        assert asking.poll() is None, "the reply ended before the renewal"
        text += "".join(deltas)
    assert (asking.returncode, text.split()[-1]) == (0, "150")
    assert node.events("certificates")[-1]["accepted"] == 1
    after = served_certificate(walk)
    assert before
    assert after != before
    assert person.run(ASK, *TOKEN, "--max-tokens", "2").returncode == 0


def test_3_a_pair_that_does_not_fit_is_refused_and_the_old_one_stays(walk: Walk, node: Running, person: Person) -> None:
    loads, shown = len(node.events("certificates")), served_certificate(walk)
    pair = walk.folder / "etc" / "tls.crt"
    good = pair.read_text()
    pair.write_text((walk.folder / "secrets" / "ca.crt").read_text())
    node.signal(signal.SIGHUP)
    until(lambda: len(node.events("certificates")) > loads)
    assert node.events("certificates")[-1]["accepted"] == 0
    assert "not a certificate chain and its unencrypted key" in walk.run(commands(5)[0]).stderr
    assert served_certificate(walk) == shown
    assert person.run(ASK, *TOKEN, "--max-tokens", "2").returncode == 0
    pair.write_text(good)


def test_4_a_revoked_key_is_refused_at_once(walk: Walk, person: Person) -> None:
    assert person.run(ASK, *TOKEN, "--max-tokens", "2").returncode == 0
    walk.good(commands(4)[1])

    def refused() -> bool:
        asked = person.run(ASK, *TOKEN, "--max-tokens", "2")
        return asked.returncode == 4 and "it may have been revoked" in asked.stderr

    until(refused, 10)


def test_11_a_lone_node_that_was_started_again_has_another_key(walk: Walk, node: Running, person: Person) -> None:
    person.given(walk.good(commands(4)[0]).strip())
    assert node.stop() == 0
    with_new_key = walk.start(BEGIN, env=SLOW)
    asked = person.run(ASK, *TOKEN)
    assert (asked.returncode, "directory.signature" in asked.stderr) == (5, True), asked.stderr
    assert "if the node was restarted, use the key it prints now" in asked.stderr
    assert with_new_key.stop() == 0


# --- section 9, and 11 with a router -----------------------------------------------------------------


@pytest.fixture(scope="module")
def routed(walk: Walk) -> "Routed":
    """Two nodes that let in the router alone, a router with a lasting key, and a person who trusts that key."""
    return Routed(walk)


class Routed:
    """What section 9 makes. nodes: by number."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.ports = {number: free_port() for number in (1, 2)}
        walk.names |= {f"node{number}.example.org:8443": f"{walk.ip}:{port}" for number, port in self.ports.items()}
        with ThreadPoolExecutor() as pool:
            self.nodes = dict(zip(self.ports, pool.map(self.node, self.ports), strict=True))
        keygen, route = commands(9)
        self.key = walk.good(keygen).strip()
        walk.names["0.0.0.0:8443"] = f"{walk.ip}:{walk.port}"
        self.route = route
        self.person = walk.user("another")
        self.person.given(walk.good(commands(4)[0].replace("laptop", "phone")).strip())
        self.router = walk.start(route, user=0)
        added = self.person.run(commands(8)[0].replace("NODE_KEY", self.key))
        assert added.returncode == 0, added.stderr

    def node(self, number: int) -> Running:
        """Start a node with the page's settings and the two that section 9 changes."""
        (page,), (changed,) = blocks(5, "toml"), blocks(9, "toml")
        node, access = (part.partition("]\n")[2].strip() for part in changed.split("\n\n"))
        text = page.replace('mode = "keys"\n', f"{access}\n").replace("[node]\n", f"[node]\n{node}\n")
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("keys =", "admin =")))
        name = f"node{number}.toml"
        self.walk.write(name, text.replace("0.0.0.0:8443", f"{self.walk.ip}:{self.ports[number]}"))
        return self.walk.start(BEGIN.replace("node.toml", name), env=SLOW)


def test_9_a_router_with_a_lasting_key_stands_before_nodes_that_let_in_nobody_else(routed: Routed) -> None:
    verify, ask = commands(8)[1:]
    assert f"router ready on {routed.walk.ip}:{routed.walk.port}" in routed.router.said
    until(lambda: len(routed.router.events("node_listed")) == 2, 30)
    shown = routed.person.run(verify, "--json")
    assert shown.returncode == 0, shown.stderr
    assert len(json.loads(shown.stdout)["nodes"]) == 2
    assert routed.person.run(ask, "--max-tokens", "3").returncode == 0
    for number, port in routed.ports.items():
        straight = routed.person.run(
            f"hybrid verify {routed.walk.ip}:{port} --node-ca ca.crt --node-key {_key(routed, number)}"
        )
        assert straight.returncode == 4
        assert "only callers with a certificate" in straight.stderr
        assert "connect to the router's address" in straight.stderr


def _key(routed: Routed, number: int) -> str:
    return next(line for line in routed.nodes[number].out if "--key " in line).split("--key ")[1].split()[0]


def test_9_the_directory_key_file_is_refused_where_others_may_read_it(routed: Routed) -> None:
    key = routed.walk.folder / "etc" / "directory.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    refused = routed.walk.run(routed.route)
    key.chmod(0o600)
    assert (refused.returncode, f"chmod 600 {key}" in refused.stderr) == (2, True), refused.stderr


def test_11_nodes_are_upgraded_one_by_one_and_no_request_fails(routed: Routed) -> None:
    ended = False
    codes: list[tuple[int, str]] = []

    def asking() -> None:
        while not ended:
            done = routed.person.run(commands(8)[2], "--max-tokens", "20")
            codes.append((done.returncode, done.stderr))

    with ThreadPoolExecutor() as pool:
        work = pool.submit(asking)
        try:
            for number in routed.ports:
                answered = len(codes)
                assert routed.nodes[number].stop() == 0
                routed.nodes[number] = routed.node(number)
                until(partial(_more, codes, answered + 2), 60)
                # the next one goes when the router lists this one again
                until(lambda: len(json.loads(_seen(routed))["nodes"]) == 2, 60)
        finally:
            ended = True
        work.result()
    assert [told for code, told in codes if code] == []
    assert len(codes) >= 6


def _more(codes: list[tuple[int, str]], than: int) -> bool:
    return len(codes) > than


def _seen(routed: Routed) -> str:
    return routed.person.run(commands(8)[1], "--json").stdout


def test_11_the_router_comes_back_with_the_key_that_everybody_has(routed: Routed) -> None:
    assert routed.router.stop() == 0
    routed.router = routed.walk.start(routed.route, user=0)
    assert routed.person.run(commands(8)[2], "--max-tokens", "3").returncode == 0


def test_11_control_without_any_node_the_same_question_fails(routed: Routed) -> None:
    for node in routed.nodes.values():
        assert node.stop() == 0
    assert routed.person.run(commands(8)[2], "--max-tokens", "3").returncode in (4, 75)
