"""An authority of one's own for a node's certificate: named everywhere, and each trouble with TLS by its own words."""

import asyncio
import contextlib
import json
import os
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hybrid.aio import from_config
from hybrid.client import Client
from hybrid.cloud import GrpcTransport
from hybrid.config import Config, load
from hybrid.errors import APIConnectionError, ConfigurationError
from hybrid.exchange import Timeout
from hybrid.testing import FakeEngine
from hybrid.wire.note import NoteSigner
from tests.authority import HOUR, Authority, own_address
from tests.pcc_server.node_client import Node

pytestmark = pytest.mark.linux

DEPLOYMENT = "pcc.example.org"
HINT = "--node-ca"
PROGRAM = """
import asyncio, hybrid, sys
from hybrid.errors import APIConnectionError
from hybrid.trust.policy import Policy
node, key, ca = sys.argv[1:4]
trust = Policy(deployment="pcc.example.org", endpoint=node, directory_signers=(key,), allow_software="always")
given = dict(node=node, trust=trust, node_ca=ca or None, policy="only_private_cloud", receipts="off", max_retries=0)
async def both():
    async with hybrid.AsyncClient(**given) as client:
        return (await client.ask("hello there", max_tokens=2)).text
try:
    with hybrid.Client(**given) as client:
        print(client.ask("hello there", max_tokens=2))
    print(asyncio.run(both()))
except APIConnectionError as error:
    print(error, "|", error.hint, "|", error.left_device)
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Iterator[Node]:
    """A real node on an address that is not loopback."""
    cert, key = authority.issue("node", [own_address()])
    words = ("--tls-cert", str(cert), "--tls-key", str(key), "--allow-software", "--deployment", DEPLOYMENT)
    with Node("--listen", f"{own_address()}:0", *words) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, node: Node) -> dict[str, str]:
    """The environment of somebody who trusts this node."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HYBRID_TRUST": str(tmp_path / "trust.toml")}
    added = ("trust", "add", node.address, "--key", node.ready["node_key"], "--name", DEPLOYMENT)
    assert hybrid(env, *added, "--allow-software", "always").returncode == 0
    return env


def hybrid(env: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    """Run the command: tests themselves may not connect to anything but loopback."""
    program = [sys.executable, "-P", "-m", "hybrid", *words]
    return subprocess.run(program, env=env, capture_output=True, text=True, check=False, timeout=60)


def asked(node: Node) -> int:
    return len(node.events("request")) + len(node.events("refused"))


# --- with and without it ---------------------------------------------------------------------------


def test_both_clients_answer_with_the_authority_and_send_nothing_without(
    node: Node, authority: Authority, home: dict[str, str]
) -> None:
    words = [sys.executable, "-P", "-c", PROGRAM, node.address, node.ready["node_key"]]
    done = subprocess.run([*words, str(authority.crt)], env=home, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["fake engine: token 1 token 2 "] * 2, done.stderr
    before = asked(node)
    control = subprocess.run([*words, ""], env=home, capture_output=True, text=True, check=False)
    assert control.stdout, control.stderr
    said, hint, left = control.stdout.strip().split(" | ")
    assert said.endswith("its certificate is not trusted by this device")
    assert HINT in hint
    assert (left, asked(node)) == ("no", before)


@pytest.mark.parametrize("command", [("ask", "--private-cloud", "hello there"), ("verify", "--json")])
@pytest.mark.parametrize("way", ["flag", "variable", "settings"])
def test_the_command_line_takes_it_from_every_layer(
    node: Node, authority: Authority, home: dict[str, str], command: tuple[str, ...], way: str
) -> None:
    verb, *rest = command
    words = [verb, *(("--node",) if verb == "ask" else ()), node.address, *rest]
    env = dict(home)
    if way == "flag":
        without = hybrid(home, *words)
        assert (without.returncode, HINT in without.stderr) == (4, True), without.stderr
        assert "ssl_transport_security" not in without.stderr  # gRPC's own lines
        words += ["--node-ca", str(authority.crt)]
    elif way == "variable":
        env["HYBRID_NODE_CA_FILE"] = str(authority.crt)
    else:
        folder = Path(home["HOME"]) / ".config" / "hybrid-pcc"
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(f'[node]\nca_file = "{authority.crt}"\n')
    assert hybrid(env, *words).returncode == 0


def test_explain_and_chat_take_it(node: Node, authority: Authority, home: dict[str, str]) -> None:
    given = ("--node", node.address, "--node-ca", str(authority.crt))
    explained = hybrid(home, "explain", *given, "--json", "hello there")
    assert json.loads(explained.stdout)["route"]
    program = [sys.executable, "-P", "-m", "hybrid", "chat", "--private-cloud", *given]
    chat = subprocess.run(program, env=home, input="hello there\n", capture_output=True, text=True, check=False)
    assert "fake engine: token 1" in chat.stdout, chat.stderr


# --- what is none ----------------------------------------------------------------------------------


def test_a_file_that_is_no_authority_is_refused_in_a_sentence(
    node: Node, authority: Authority, home: dict[str, str]
) -> None:
    folder = Path(home["HOME"])
    der = ssl.PEM_cert_to_DER_cert(authority.crt.read_text())
    (folder / "ca.der").write_bytes(der)
    (folder / "garbage").write_bytes(b"\xff\x00 garbage")
    (folder / "empty").write_bytes(b"")
    (folder / "key").write_bytes((authority.folder / "node.key").read_bytes())
    says = {
        "absent": "cannot be read: No such file or directory",
        "ca.der": "is a certificate in DER form",
        "garbage": "holds no certificate",
        "empty": "holds no certificate",
        "key": "holds no certificate",
    }
    for name, words in says.items():
        done = hybrid(home, "verify", node.address, "--node-ca", str(folder / name))
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
        with pytest.raises(ConfigurationError, match=words):
            Client(engine=FakeEngine(), node_ca=folder / name)
    with pytest.raises(ConfigurationError, match="node_ca is a certificate in DER form"):
        Client(engine=FakeEngine(), node_ca=der)


def test_a_project_may_not_name_an_authority(tmp_path: Path) -> None:
    (tmp_path / "hybrid.toml").write_text('node.ca_file = "ca.crt"')
    with pytest.raises(ConfigurationError, match="project"):
        load({}, environ={}, folder=tmp_path, user_file=tmp_path / "none")


def test_a_node_of_ones_own_is_reached_without_it() -> None:
    settings = Config(node="elsewhere:1", node_ca_file=Path("ca.crt"), node_key=_key())
    assert from_config(settings, {})["node_ca"] == Path("ca.crt")
    assert from_config(settings, {"node": "elsewhere:2"})["node_ca"] == Path("ca.crt")
    assert from_config(settings, {"node": object()})["node_ca"] is None


def _key() -> str:
    return NoteSigner.generate("localhost/directory").vkey


# --- why a connection fails ------------------------------------------------------------------------


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[str]:
    """A server on loopback that says what HTTP/2 says first, if its handshake is done."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                own = context.wrap_socket(self.request, server_side=True) if context else self.request
                with own:
                    own.sendall(b"\0\0\0\4\0\0\0\0\0")
                    own.recv(1024)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def why(roots: bytes, pair: tuple[Path, Path] | None, *, callers: Path | None = None) -> APIConnectionError:
    """Connect with these roots to a server with this certificate on loopback; return the error."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if pair else None
    if context and pair:
        context.load_cert_chain(*pair)
        context.set_alpn_protocols(["h2"])
    if context and callers:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(callers)

    async def run(address: str) -> APIConnectionError:
        transport = GrpcTransport(address, Timeout(connect=5), root_certificates=roots)
        try:
            with pytest.raises(APIConnectionError) as raised:
                await transport.directory()
        finally:
            await transport.close()
        return raised.value

    with serving(context) as address:
        return asyncio.run(run(address))


def test_each_trouble_with_tls_has_words_of_its_own(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    here, there = ["127.0.0.1"], ["192.0.2.9", "elsewhere.example"]
    good, roots = authority.issue("good", here), authority.crt.read_bytes()
    causes = {
        "not trusted by the authority you named": why(other.crt.read_bytes(), good),
        "for another name than 127.0.0.1": why(roots, authority.issue("there", there)),
        "certificate has expired": why(roots, authority.issue("old", here, begins=-2 * HOUR, ends=-HOUR)),
        "certificate is not valid yet": why(roots, authority.issue("new", here, begins=HOUR, ends=2 * HOUR)),
        "does not speak TLS 1.3": why(roots, None),
        "only callers with a certificate": why(roots, good, callers=authority.crt),
    }
    for words, error in causes.items():
        assert words in str(error)
        assert error.hint
    assert len({error.hint for error in causes.values()}) > 4  # what to do differs, too


def test_control_a_good_certificate_is_no_trouble(authority: Authority, node: Node) -> None:
    credentials = grpc.ssl_channel_credentials(authority.crt.read_bytes())
    with grpc.secure_channel(node.address, credentials) as channel:
        grpc.channel_ready_future(channel).result(10)
