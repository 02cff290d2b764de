"""TLS in front of the sealed frames: a node with a certificate speaks to those who trust it, and only so."""

import datetime as dt
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hybrid.wire import codec
from tests.pcc_server.node_client import Client, Node, ask, collect, until
from tests.pcc_server.router_client import Router, routed

HOUR = dt.timedelta(hours=1)


def make_pair(folder: Path, *, name: str = "localhost", lasts: dt.timedelta = HOUR) -> tuple[Path, Path]:
    """Write a self-signed certificate for this machine and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * HOUR)
        .not_valid_after(now + lasts)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_pair(tmp_path)


class SecureClient(Client):
    """The small client over TLS. roots: certificates it trusts."""

    def __init__(self, node: Node, roots: bytes) -> None:
        self.credentials = grpc.ssl_channel_credentials(roots)
        super().__init__(node)

    def connect(self, address: str) -> grpc.Channel:
        return grpc.secure_channel(address, self.credentials, options=self.OPTIONS)


def fetch(channel: grpc.Channel) -> codec.DirectoryReply:
    parts = list(channel.unary_stream(codec.METHODS["Directory.Get"])(b"", timeout=5))
    return codec.decode_directory_reply(codec.join_parts(parts))


def test_a_node_with_a_certificate_speaks_tls_and_nothing_else(pair: tuple[Path, Path]) -> None:
    cert, key = pair
    with Node("--tls-cert", str(cert), "--tls-key", str(key)) as node:
        with grpc.secure_channel(node.address, grpc.ssl_channel_credentials(cert.read_bytes())) as channel:
            assert fetch(channel).directory
        with grpc.insecure_channel(node.address) as channel, pytest.raises(grpc.RpcError):
            fetch(channel)


def test_a_certificate_that_is_none_is_a_bad_option(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    node = Node("--tls-cert", str(nonsense), "--tls-key", str(nonsense), wait=False)
    assert node.process.wait(20) == 2
    node.stop()
    assert "are not a certificate chain and its unencrypted key" in node.stderr[-1]


def test_an_expired_certificate_is_a_bad_option(tmp_path: Path) -> None:
    cert, key = make_pair(tmp_path, lasts=-HOUR)
    node = Node("--tls-cert", str(cert), "--tls-key", str(key), wait=False)
    assert node.process.wait(20) == 2
    node.stop()
    assert f"the certificate in {cert} ended at" in node.stderr[-1]


def test_only_the_router_connects_to_a_node_that_wants_its_certificate(pair: tuple[Path, Path]) -> None:
    cert, key = map(str, pair)
    node_options = ("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert, "--access", "router")
    with Node(*node_options) as node:
        with routed([node], "--node-ca", cert, "--node-cert", cert, "--node-key", key) as client:
            assert client.ask_of(list(client.candidates().values()), "hello").text
        credentials = grpc.ssl_channel_credentials(pair[0].read_bytes())
        with grpc.secure_channel(node.address, credentials) as channel, pytest.raises(grpc.RpcError):
            fetch(channel)  # a client knows the authority and has no certificate of its own


# --- TLS 1.3 alone -----------------------------------------------------------------------------------


def handshake(address: str, version: str) -> tuple[bool, str]:
    """Try one version with openssl; whether it came about, and what openssl said."""
    words = ["openssl", "s_client", version, "-alpn", "h2", "-connect", address]
    done = subprocess.run(words, input=b"", capture_output=True, timeout=20, check=False)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    return done.returncode == 0 and "Cipher is (NONE)" not in said, said


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A node with TLS, a router before it, and a plain server of the library: the control."""
    cert, key = make_pair(tmp_path_factory.mktemp("tls"))
    own = ("--tls-cert", str(cert), "--tls-key", str(key))
    server = grpc.server(ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    plain = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    with Node(*own) as node, Router([node], *own, "--node-ca", str(cert)) as router:
        yield {"node": node.address, "router": router.address, "library": f"127.0.0.1:{plain}"}
    server.stop(None)


@pytest.mark.parametrize("front", ["node", "router"])
def test_tls_1_3_is_spoken_and_nothing_older(fronts: dict[str, str], front: str) -> None:
    done, said = handshake(fronts[front], "-tls1_3")
    assert done, said
    assert "TLSv1.3" in said
    for version in ("-tls1_2", "-tls1_1", "-tls1"):
        done, said = handshake(fronts[front], version)
        assert not done, said


def test_the_library_by_itself_speaks_tls_1_2(fronts: dict[str, str]) -> None:
    """The control: the same handshake succeeds where nobody forbids it, so a refusal is ours."""
    done, said = handshake(fronts["library"], "-tls1_2")
    assert done, said


# --- certificates that change --------------------------------------------------------------------------


def served_name(address: str) -> str:
    """The subject of the certificate that new connections are shown."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(plain) as channel:
            shown = x509.load_der_x509_certificate(channel.getpeercert(binary_form=True) or b"")
    return str(shown.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def replace_pair(folder: Path, cert: bytes | None, key: bytes | None) -> None:
    for name, data in (("cert.pem", cert), ("key.pem", key)):
        if data is not None:
            (folder / name).write_bytes(data)


def reload(node: Node, *, accepted: int) -> None:
    before = len(node.events("certificates"))
    os.kill(node.launcher, signal.SIGHUP)
    until(lambda: len(node.events("certificates")) > before)
    assert node.events("certificates")[-1]["accepted"] == accepted


def test_new_certificates_are_shown_without_dropping_a_stream(tmp_path: Path) -> None:
    here = tmp_path / "served"
    cert, key = make_pair(here, name="first")
    old = cert.read_bytes()
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--fake-delay-ms", "30")
    with Node(*options) as node, SecureClient(node, old) as client:
        sealed, opener = client.seal(ask("x" * 100, max_tokens=60))
        call = client.send(client.encode(sealed))
        first = next(call)
        assert served_name(node.address) == "first"
        new_cert, new_key = make_pair(tmp_path / "new", name="second")
        replace_pair(here, new_cert.read_bytes(), new_key.read_bytes())
        assert served_name(node.address) == "first"  # not before it is told to
        reload(node, accepted=1)
        assert served_name(node.address) == "second"
        assert collect(iter([first, *call]), opener).usage.usage.output == 60  # the stream goes on
        with grpc.secure_channel(node.address, grpc.ssl_channel_credentials(new_cert.read_bytes())) as channel:
            assert fetch(channel).directory


def test_a_file_of_no_use_keeps_the_old_certificate_and_says_so(tmp_path: Path) -> None:
    here = tmp_path / "served"
    cert, key = make_pair(here, name="good")
    good = cert.read_bytes()
    expired = make_pair(tmp_path / "expired", name="expired", lasts=-HOUR)
    stranger = make_pair(tmp_path / "stranger", name="stranger")
    bad: list[tuple[bytes | None, bytes | None]] = [
        (b"garbage", None),
        (b"", None),
        (expired[0].read_bytes(), expired[1].read_bytes()),
        (stranger[0].read_bytes(), None),  # without its key
    ]
    kept = (good, key.read_bytes())
    with Node("--tls-cert", str(cert), "--tls-key", str(key)) as node:
        for new_cert, new_key in bad:
            replace_pair(here, new_cert, new_key)
            reload(node, accepted=0)
            assert served_name(node.address) == "good"
            replace_pair(here, *kept)
        cert.unlink()
        reload(node, accepted=0)
        with grpc.secure_channel(node.address, grpc.ssl_channel_credentials(good)) as channel:
            assert fetch(channel).directory
        replace_pair(here, stranger[0].read_bytes(), stranger[1].read_bytes())
        reload(node, accepted=1)  # the control: a good pair is taken
        assert served_name(node.address) == "stranger"


def test_a_router_reads_its_certificates_again_too(tmp_path: Path) -> None:
    here = tmp_path / "served"
    cert, key = make_pair(here, name="first")
    with Node() as node, Router([node], "--tls-cert", str(cert), "--tls-key", str(key), wait=True) as router:
        assert served_name(router.address) == "first"
        new = make_pair(tmp_path / "new", name="second")
        replace_pair(here, new[0].read_bytes(), new[1].read_bytes())
        reload(router, accepted=1)
        assert served_name(router.address) == "second"


def test_the_authority_of_callers_is_read_again(tmp_path: Path) -> None:
    """Mutual TLS: whom the node lets connect changes with the file, not with a restart."""
    here = tmp_path / "served"
    cert, key = make_pair(here)
    first, second = make_pair(tmp_path / "a", name="a"), make_pair(tmp_path / "b", name="b")
    authority = here / "callers.pem"
    authority.write_bytes(first[0].read_bytes())

    def connects(pair: tuple[Path, Path]) -> bool:
        own = grpc.ssl_channel_credentials(cert.read_bytes(), pair[1].read_bytes(), pair[0].read_bytes())
        with grpc.secure_channel(node.address, own, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
            try:
                return bool(fetch(channel).directory)
            except grpc.RpcError:
                return False

    with Node("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(authority)) as node:
        assert (connects(first), connects(second)) == (True, False)
        authority.write_bytes(second[0].read_bytes())
        reload(node, accepted=1)
        assert (connects(first), connects(second)) == (False, True)
        authority.write_bytes(b"garbage")
        reload(node, accepted=0)
        assert connects(second)
