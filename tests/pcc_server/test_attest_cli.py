"""``pcc-server attest``: enrolment on a real TPM in software, and a look at bundles."""

import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from hybrid.wire.evidence import EvidenceItem, ModelEntry, Statement, binding, make_bundle
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.tpm2 import Tpm2Item, TpmEvent, name_of
from pcc_server.attest.collector import CollectFailure
from pcc_server.attest.credential import EkKey, make_credential
from pcc_server.attest.enrol import KINDS, MAX_CHAIN, EkKind, enrol
from pcc_server.attest.items import ask_for, make_item
from pcc_server.attest.tpm2 import Tpm2Collector
from pcc_server.attest.tpm_commands import AK_TEMPLATE, TpmError
from pcc_server.cli_attest import attest
from tests.pcc_server.software_tpm import SoftwareTpm, write_nv

pytestmark = pytest.mark.linux

DAY = timedelta(days=1)
RSA, ECC = KINDS


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftwareTpm]:
    with SoftwareTpm(tmp_path / "tpm") as running:
        yield running


def run(*words: str) -> Result:
    return CliRunner().invoke(attest, words)


# --- a maker of TPMs -------------------------------------------------------------------------------


class Authority:
    """Signs certificates; the first of a chain signs itself."""

    def __init__(self, name: str, by: "Authority | None" = None, *, ca: bool = True, days: int = 365) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=ca, path_length=None)
        self.certificate = (by or self).sign(self.name, self.key.public_key(), constraints, days=days)

    def sign(self, subject: x509.Name, key: EkKey, extension: x509.ExtensionType, *, days: int) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self.name, subject, serial_number=x509.random_serial_number())
        builder = builder.not_valid_before(now - 400 * DAY).not_valid_after(now + days * DAY)
        return builder.public_key(key).add_extension(extension, critical=False).sign(self.key, SHA256())

    def certify(self, key: EkKey, usage: str) -> bytes:
        """An EK certificate, as it stands in the TPM."""
        usages = x509.ExtendedKeyUsage([x509.ObjectIdentifier(usage)])
        return self.sign(x509.Name([]), key, usages, days=365).public_bytes(Encoding.DER)


def pem(path: Path, *authorities: Authority) -> str:
    path.write_bytes(b"".join(one.certificate.public_bytes(Encoding.PEM) for one in authorities))
    return str(path)


def ek_of(tpm: SoftwareTpm, kind: EkKind = RSA) -> bytes:
    with tpm.commands() as commands, commands.primary(kind.template) as ek:
        return ek.public


def give_certificate(
    tpm: SoftwareTpm, maker: Authority, kind: EkKind = RSA, *, usage: str = "2.23.133.8.1", of: bytes = b""
) -> None:
    """Put an EK certificate where its maker puts it, with room to spare. of: another TPMT_PUBLIC than its own."""
    data = maker.certify(kind.read(of or ek_of(tpm, kind)), usage)
    with tpm.commands() as commands:
        write_nv(commands, kind.index, data + b"\xff" * 50)


def ak_name(tpm: SoftwareTpm) -> bytes:
    with tpm.commands() as commands, commands.primary(AK_TEMPLATE) as key:
        return name_of(key.public)


def ak_line(tpm: SoftwareTpm) -> str:
    return f'ak_names = ["{ak_name(tpm).hex()}"]\n'


# --- enrol -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=["rsa", "ecc"])
def test_enrolment_prints_the_line_for_the_trust_file(tpm: SoftwareTpm, tmp_path: Path, kind: EkKind) -> None:
    root = Authority("maker's root")
    middle = Authority("maker's intermediate", root)
    give_certificate(tpm, middle, kind)
    done = run("enrol", "--tpm", tpm.name, "--ek-root", pem(tmp_path / "roots.pem", middle, root))
    assert (done.exit_code, done.stdout) == (0, ak_line(tpm))
    assert "the chain ends in CN=maker's root" in done.stderr


def test_without_roots_it_says_what_was_not_judged(tpm: SoftwareTpm) -> None:
    give_certificate(tpm, Authority("maker's root"))
    done = run("enrol", "--tpm", tpm.name)
    assert (done.exit_code, done.stdout) == (0, ak_line(tpm))
    assert "not judged: give the maker's certificates with --ek-root" in done.stderr


def test_a_tpm_without_a_certificate_is_the_operators_word(tpm: SoftwareTpm, tmp_path: Path) -> None:
    done = run("enrol", "--tpm", tpm.name)
    assert (done.exit_code, done.stdout) == (0, ak_line(tpm))
    assert "that it is genuine is your word alone" in done.stderr
    done = run("enrol", "--tpm", tpm.name, "--ek-root", pem(tmp_path / "roots.pem", Authority("root")))
    assert (done.exit_code, done.stdout) == (4, "")
    assert "holds no EK certificate" in done.stderr


def refuses(tpm: SoftwareTpm, *given: Authority) -> str:
    with tpm.commands() as commands, pytest.raises(CollectFailure) as failure:
        enrol(commands, [one.certificate for one in given])
    return failure.value.message


def test_a_chain_to_nobody_we_know_is_refused(tpm: SoftwareTpm) -> None:
    root = Authority("maker's root")
    give_certificate(tpm, Authority("maker's intermediate", root))
    assert "none of the given certificates signed" in refuses(tpm, root)
    assert "none of the given certificates signed" in refuses(tpm, Authority("maker's intermediate", root), root)


def test_an_issuer_that_is_no_authority_is_refused(tpm: SoftwareTpm) -> None:
    root = Authority("maker's root")
    middle = Authority("a customer of the maker", root, ca=False)
    give_certificate(tpm, middle)
    assert "none of the given certificates signed" in refuses(tpm, middle, root)


def test_expired_certificates_are_refused(tpm: SoftwareTpm) -> None:
    root = Authority("maker's root")
    middle = Authority("maker's intermediate", root, days=-1)
    give_certificate(tpm, middle)
    assert "CN=maker's intermediate is not valid today" in refuses(tpm, middle, root)


def test_a_chain_without_end_is_refused(tpm: SoftwareTpm) -> None:
    chain = [Authority("root")]
    for number in range(MAX_CHAIN):
        chain.append(Authority(f"intermediate {number}", chain[-1]))
    give_certificate(tpm, chain[-1])
    assert "too long" in refuses(tpm, *chain)


def test_a_certificate_for_another_purpose_is_refused(tpm: SoftwareTpm) -> None:
    root = Authority("maker's root")
    give_certificate(tpm, root, usage="1.3.6.1.5.5.7.3.1")
    assert "not that of an endorsement key" in refuses(tpm, root)


def test_the_certificate_of_another_tpm_is_refused(tpm: SoftwareTpm, tmp_path: Path) -> None:
    root = Authority("maker's root")
    with SoftwareTpm(tmp_path / "other") as other:
        give_certificate(tpm, root, of=ek_of(other))
    assert "for another key than this TPM's" in refuses(tpm, root)


@pytest.mark.parametrize("kind", KINDS, ids=["rsa", "ecc"])
def test_only_the_named_key_in_the_same_tpm_activates_a_credential(
    tpm: SoftwareTpm, tmp_path: Path, kind: EkKind
) -> None:
    def activated(ek_public: bytes, name: bytes) -> bytes:
        sealed = make_credential(kind.read(ek_public), name, b"c" * 32, b"s" * 32)
        with tpm.commands() as commands, commands.primary(kind.template) as ek, commands.primary(AK_TEMPLATE) as ak:
            return commands.activate(ak.handle, ek.handle, *sealed)

    ours = (ek_of(tpm, kind), ak_name(tpm))
    with SoftwareTpm(tmp_path / "other") as other:
        theirs = (ek_of(other, kind), ak_name(other))
    assert activated(*ours) == b"c" * 32
    for ek_public, name in ((ours[0], theirs[1]), (theirs[0], ours[1])):
        with pytest.raises(TpmError):
            activated(ek_public, name)
    assert activated(*ours) == b"c" * 32  # and what was refused left nothing loaded


def test_a_missing_tpm_is_a_sentence() -> None:
    done = run("enrol", "--tpm", "/dev/no-tpm")
    assert (done.exit_code, done.stdout) == (4, "")
    assert "there is no TPM at /dev/no-tpm" in done.stderr


def test_a_file_that_is_no_certificate_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("nothing")
    done = run("enrol", "--ek-root", str(tmp_path / "roots.pem"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "holds no PEM certificate" in done.stderr


# --- show and verify -------------------------------------------------------------------------------


def a_bundle(tpm: SoftwareTpm | None, folder: Path, *, age_s: int = 0) -> tuple[Statement, IdentityKey, bytes]:
    identity, begun = IdentityKey.generate(), int(time.time()) - age_s
    epoch = begun // 300
    statement = Statement(
        deployment="pcc.example.com",
        identity=identity.public,
        not_before=epoch * 300,
        not_after=(epoch + 2) * 300,
        keys=(EpochKey.generate(epoch, 300).config,),
        models=(ModelEntry(model_id="m", manifest=bytes(32), context_tokens=1, max_output_tokens=1),),
        config_digest=hashlib.sha256(b"config").digest(),
        formats=("tpm2" if tpm else "software",),
    )
    item = quote(tpm, statement, folder) if tpm else EvidenceItem(format="software")
    return statement, identity, make_bundle(statement, (item,), identity)


def quote(tpm: SoftwareTpm, statement: Statement, folder: Path) -> EvidenceItem:
    collector = Tpm2Collector(tpm.open, folder / "events")
    event = TpmEvent(
        release_leaf=statement.release_leaf,
        config_digest=statement.config_digest,
        node_id=statement.identity.node_id,
    )
    try:
        return make_item("tpm2", collector.collect(ask_for("tpm2", binding(statement.encode(), (), "tpm2"), event)))
    finally:
        collector.close()


def written(folder: Path, data: bytes) -> tuple[str, str]:
    path = folder / "bundle"
    path.write_bytes(data)
    return "--bundle", str(path)


def failures(done: Result) -> list[str]:
    return [row["check"] for row in json.loads(done.stdout)["checks"] if row["result"] == "fail"]


def test_a_bundle_with_a_quote_fits_together(tpm: SoftwareTpm, tmp_path: Path) -> None:
    _, _, data = a_bundle(tpm, tmp_path)
    done = run("verify", *written(tmp_path, data))
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()[:-1]] == [
        ["pass", name]
        for name in (
            "bundle.format",
            "bundle.signature",
            "bundle.validity",
            "evidence.complete",
            "tpm2.format",
            "tpm2.qualifying-data",
            "tpm2.pcr-digest",
            "tpm2.runtime-log",
        )
    ]
    assert "hybrid verify judges these against a trust file" in done.stdout


def test_every_piece_that_does_not_fit_is_named(tpm: SoftwareTpm, tmp_path: Path) -> None:
    statement, identity, data = a_bundle(tpm, tmp_path)
    item = quote(tpm, statement, tmp_path)
    decoded = Tpm2Item.decode(item.item)
    other = replace(statement, not_after=statement.not_after + 1)
    made = {
        "bundle.signature": data[:-1] + bytes([data[-1] ^ 1]),
        "tpm2.qualifying-data": make_bundle(other, (item,), identity),
        "tpm2.pcr-digest": resigned(statement, identity, replace(decoded, pcrs={**decoded.pcrs, 0: b"\1" * 32})),
        "tpm2.runtime-log": resigned(statement, identity, replace(decoded, pcr_before=b"\1" * 32)),
        "tpm2.format": resigned(statement, identity, replace(decoded, attest=b"nothing")),
        "evidence.complete": make_bundle(statement, (EvidenceItem(format="software"),), identity),
    }
    for check, bundle in made.items():
        done = run("verify", "--json", *written(tmp_path, bundle))
        assert (check, done.exit_code, failures(done)) == (check, 1, [check])


def resigned(statement: Statement, identity: IdentityKey, item: Tpm2Item) -> bytes:
    return make_bundle(statement, (EvidenceItem(format="tpm2", item=item.encode()),), identity)


def test_an_old_bundle_is_named(tmp_path: Path) -> None:
    _, _, data = a_bundle(None, tmp_path, age_s=3600)
    done = run("verify", "--json", *written(tmp_path, data))
    assert (done.exit_code, failures(done)) == (1, ["bundle.validity"])


def test_bytes_that_are_no_bundle_are_named(tmp_path: Path) -> None:
    done = run("verify", "--json", *written(tmp_path, b"nothing"))
    assert (done.exit_code, failures(done)) == (1, ["bundle.format"])
    done = run("show", *written(tmp_path, b"nothing"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "not a bundle of evidence" in done.stderr


@contextmanager
def an_admin_port(body: bytes, status: int = 200, token: str | None = None) -> Iterator[str]:
    """What a node's admin port answers to GET /evidence; token: what it wants to be told."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name of the standard library
            known = self.headers.get("authorization") == (f"Bearer {token}" if token else None)
            self.send_response((status if known else 401) if self.path == "/evidence" else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:  # noqa: A002 - the name of the standard library
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_show_reads_a_nodes_admin_port(tpm: SoftwareTpm, tmp_path: Path) -> None:
    statement, _, data = a_bundle(tpm, tmp_path)
    with an_admin_port(data) as address:
        done, plain = run("show", address, "--json"), run("show", address)
    said = json.loads(done.stdout)
    assert (done.exit_code, said["node_id"]) == (0, statement.identity.node_id.hex())
    assert said["tpm2.ak_name"] in ak_line(tpm)
    assert {"tpm2.pcr_4", "tpm2.pcr_15"} < said.keys()
    assert f"node_id                  {said['node_id']}" in plain.stdout


def test_the_nodes_token_file_opens_its_port(tmp_path: Path) -> None:
    _, _, data = a_bundle(None, tmp_path)
    (tmp_path / "token").write_text("0123456789abcdef012345\n")
    with an_admin_port(data, token="0123456789abcdef012345") as address:
        assert run("verify", address, "--admin-token", str(tmp_path / "token")).exit_code == 0
        done = run("verify", address)
    assert (done.exit_code, "HTTP 401" in done.stderr) == (4, True)


def test_a_port_that_refuses_or_is_closed_is_a_sentence() -> None:
    with an_admin_port(b"", 404) as address:
        done = run("show", address)
        assert (done.exit_code, "HTTP 404" in done.stderr) == (4, True)
    done = run("verify", address)
    assert (done.exit_code, "no admin port answers" in done.stderr) == (4, True)


def test_one_source_is_needed(tmp_path: Path) -> None:
    for words in ((), ("127.0.0.1:1", *written(tmp_path, b"")), ("nowhere",)):
        assert run("show", *words).exit_code == 2
