"""The wire floor does no I/O, and its secrets do not show themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hybrid.wire
from hybrid.wire.cosignature import CosignatureSigner
from hybrid.wire.envelope import ReplySealer
from hybrid.wire.keys import EpochKey, IdentityKey
from hybrid.wire.note import NoteSigner
from tests.wire.support import opener, reply_sealer, seal, sealer, worker

FOLDER = Path(hybrid.wire.__file__).parent
SOURCES = sorted(FOLDER.glob("*.py"))
FORBIDDEN = {"os", "pathlib", "socket", "logging", "asyncio", "threading", "subprocess", "io", "grpc", "mlx", "device"}


def _imports(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


def _calls(source: str) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_module_imports_io_or_calls_it(path: Path) -> None:
    source = path.read_text("utf-8")
    assert not _imports(source) & FORBIDDEN
    assert not _calls(source) & {"open", "print", "input", "exec", "eval", "__import__"}


def test_the_detector_sees_a_planted_import_and_call() -> None:
    assert len(SOURCES) >= 15
    assert _imports("import os.path\nfrom pathlib import Path\n") == {"os", "pathlib"}
    assert _calls("open('x')") == {"open"}


def test_the_import_statement_opens_no_door_to_grpc_or_mlx() -> None:
    modules = ", ".join(f"hybrid.wire.{path.stem}" for path in SOURCES if path.stem != "__init__")
    code = f"import sys, {modules}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parents[1]
    )
    loaded = set(done.stdout.split())
    assert {"cryptography", "google"} <= loaded
    assert not loaded & {"grpc", "mlx", "mlx_lm", "device", "pcc_server", "asyncio", "logging", "socket", "numpy"}


def _secretive() -> list[object]:
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    return [
        EpochKey.from_seed(b"\x41" * 32, 7, 300),
        IdentityKey.from_seeds(b"\x41" * 32, b"\x41" * 32),
        NoteSigner.from_seed("n", b"\x41" * 32),
        CosignatureSigner.from_seed("w", b"\x41" * 32, "ml-dsa-44"),
        sealer(token=b"AAAA"),
        opener(sealed),
        ReplySealer(b"\x41" * 32, bytes(32), q=sealed.q, index=0, ref=worker(0).candidate.ref),
        client,
        client._frames,
        client._frames._cipher if client._frames else None,
    ]


@pytest.mark.parametrize("secret", _secretive(), ids=lambda value: type(value).__name__)
def test_what_holds_a_secret_is_slotted_and_shows_nothing(secret: object) -> None:
    assert not hasattr(secret, "__dict__")
    shown = repr(secret) + str(secret)
    assert len(shown) < 300
    assert "AAAA" not in shown
    assert "41414141" not in shown
    assert "\\x" not in shown
