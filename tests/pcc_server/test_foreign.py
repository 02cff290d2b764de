"""A third-party client with plain generated stubs gets what SPEC 14 and 10 allow, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hybrid.wire import codec
from hybrid.wire.codec import METHODS
from hybrid.wire.directory import Directory
from hybrid.wire.errors import ErrorCode
from pcc_server.errors import STATUS
from tests.pcc_server.node_client import Client, Node, ask, collect

HERE = Path(__file__).parent
PROTOS = HERE.parents[1] / "protos" / "hybrid" / "wire" / "v1"
SERVICES = {"Directory": ["Get"], "Evidence": ["Attest", "EventLog"], "Inference": ["Invoke"], "Log": ["File"]}
ALLOWED = {(status, code.value) for code, status in STATUS.items()}  # the table of SPEC 10
TRAILERS = {"grpc-status-details-bin", "retry-after-ms"}


def generated(folder: Path) -> Path:
    """Make plain stubs of our proto files, as anybody would, and put the client beside them."""
    words = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{PROTOS}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
    ]
    subprocess.run([*words, "pcc.proto"], check=True, timeout=60)
    client = folder / "foreign_client.py"
    client.write_bytes((HERE / "foreign_client.py").read_bytes())
    return client


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generated(tmp_path_factory.mktemp("foreign"))


def run(script: Path, node: Node, **given: str) -> dict[str, Any]:
    words = [sys.executable, "-s", str(script), node.address]
    done = subprocess.run(
        words, input=json.dumps(given), capture_output=True, text=True, timeout=120, cwd=script.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def told(foreign: Path, node: Node) -> dict[str, Any]:
    return run(foreign, node)


def test_the_client_is_somebody_else_s(told: dict[str, Any]) -> None:
    assert told["ours"] == []


def test_there_are_the_methods_of_the_spec_and_no_others(told: dict[str, Any]) -> None:
    assert told["methods"] == SERVICES
    assert sorted(METHODS.values()) == sorted(
        f"/hybrid.wire.v1.{s}/{m}" for s, names in SERVICES.items() for m in names
    )


def test_reflection_is_off_and_so_is_everything_else(told: dict[str, Any]) -> None:
    ends = {(end["code"], end["details"], end["replies"], *end["trailers"]) for end in told["nowhere"].values()}
    assert ends == {("UNIMPLEMENTED", "Method not found!", 0)}
    assert len(told["nowhere"]) == 9


def test_a_request_sealed_elsewhere_is_answered_over_plain_stubs(foreign: Path, node: Node, client: Client) -> None:
    sealed, opener = client.seal(ask("hello", max_tokens=5))
    told = run(foreign, node, sealed=client.encode(sealed).hex())
    answer = collect(iter([bytes.fromhex(reply) for reply in told["replies"]]), opener)
    assert answer.receipt
    assert answer.usage.usage.output == 5
    directory = Directory.decode(codec.decode_directory_reply(bytes.fromhex(told["directory"])).directory)
    assert directory.nodes[0].bundle.statement.identity == client.candidate.identity


def test_garbage_is_told_what_the_spec_allows_and_no_more(told: dict[str, Any]) -> None:
    answered = {path for path, end in told["garbage"] if end["code"] is None}
    assert answered == {METHODS["Directory.Get"]}  # an empty request is a right one there
    for path, end in [*told["garbage"], *(("message", end) for end in told["messages"])]:
        if end["code"] is None:
            continue
        assert (end["code"], end["details"]) in ALLOWED, (path, end)
        assert end["replies"] == 0
        assert set(end["trailers"]) <= TRAILERS
        assert end["initial"] == []
    assert {end["details"] for end in told["messages"]} == {ErrorCode.MALFORMED.value}
