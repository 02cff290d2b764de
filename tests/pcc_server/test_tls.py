"""TLS in front of the sealed frames: a node with a certificate speaks to those who trust it, and only so."""

import datetime as dt
import ipaddress
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hybrid.wire import codec
from tests.pcc_server.node_client import Node
from tests.pcc_server.router_client import routed


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


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


def test_only_the_router_connects_to_a_node_that_wants_its_certificate(pair: tuple[Path, Path]) -> None:
    cert, key = map(str, pair)
    node_options = ("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert, "--access", "router")
    with Node(*node_options) as node:
        with routed([node], "--node-ca", cert, "--node-cert", cert, "--node-key", key) as client:
            assert client.ask_of(list(client.candidates().values()), "hello").text
        credentials = grpc.ssl_channel_credentials(pair[0].read_bytes())
        with grpc.secure_channel(node.address, credentials) as channel, pytest.raises(grpc.RpcError):
            fetch(channel)  # a client knows the authority and has no certificate of its own
