"""Which engines of others a node stands before: each unsafe setting refuses a start (X10)."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pcc_server import control
from pcc_server.config import Settings
from pcc_server.dial import Dialler, listener, listeners, refuse_exposed
from pcc_server.engines import open_engine
from pcc_server.engines.openai_checks import engine_settings
from pcc_server.engines.openai_start import manifest
from pcc_server.errors import StartFailure
from tests.pcc_server.engine_process import EngineProcess

CONTEXT = {"ollama": 2048, "llama-cpp-python": 2048}

UNSAFE = [
    ("vllm", ("old",), "engine.kind"),
    ("vllm", ("/server_info",), "engine.development"),
    ("vllm", ("ignores-salts",), "engine.prefix_cache"),
    ("sglang", ("radix-off", "logs"), "engine.request_log"),
    ("sglang", ("ignores-salts",), "engine.prefix_cache"),
    ("sglang", ("no-counters",), "engine.prefix_cache"),  # nothing proves that salts have an effect
    ("llama.cpp", ("/slots",), "engine.slots"),
    ("llama.cpp", ("/slots/0?action=none",), "engine.slot_files"),
    ("llama.cpp", ("/metrics",), "engine.metrics"),
    ("llama.cpp", ("/props-post",), "engine.properties"),
    ("llama.cpp", ("/tools",), "engine.tools"),
    ("llama.cpp", ("/cors-proxy",), "engine.proxy"),
    ("llama.cpp", ("ignores-cache_prompt",), "engine.prefix_cache"),
    ("llama-cpp-python", (), "engine.prefix_cache"),
    ("ollama", (), "engine.prefix_cache"),
]
SAFE = [
    ("vllm", (), True),
    ("vllm", ("cache-off",), None),
    ("vllm", ("no-counters",), None),
    ("sglang", ("radix-off",), True),
    ("sglang", (), True),
    ("llama.cpp", (), True),
    ("llama.cpp", ("no-counters",), None),
]


@pytest.mark.parametrize(("kind", "on", "name"), UNSAFE)
def test_an_unsafe_setting_refuses_the_start_and_names_itself(kind: str, on: tuple[str, ...], name: str) -> None:
    with EngineProcess(kind, *on) as process:
        settings = process.settings(context=CONTEXT.get(kind, 0))
        with pytest.raises(StartFailure, match=name.replace(".", r"\.")):
            open_engine(settings)
        found = {check.name: check for check in engine_settings(settings)}
        assert found[name].held is False
        assert found[name].consequence
        assert open_engine(process.settings(context=CONTEXT.get(kind, 0), protect="available")).engine.model_id


@pytest.mark.parametrize(("kind", "on", "held"), SAFE)
def test_a_safe_engine_is_taken(kind: str, on: tuple[str, ...], *, held: bool | None) -> None:
    with EngineProcess(kind, *on) as process:
        assert open_engine(process.settings()).engine.model_id
        found = engine_settings(process.settings())
        assert [check.name for check in found if check.held is False] == []
        assert {check.name: check.held for check in found}["engine.prefix_cache"] is held


@pytest.mark.parametrize("claimed", ["sglang", "llama.cpp", "llama-cpp-python", "ollama", "vllm"])
def test_an_engine_of_another_kind_than_said_is_refused(claimed: str) -> None:
    with EngineProcess("vllm" if claimed != "vllm" else "ollama") as process:
        settings = Settings(engine="openai", engine_kind=claimed, engine_port=process.port, context=64)
        found = engine_settings_or_failure(settings)
        assert found


def engine_settings_or_failure(settings: Settings) -> str:
    try:
        return "".join(check.name for check in engine_settings(settings) if check.held is False)
    except StartFailure as failure:
        return failure.message


# --- where it listens ------------------------------------------------------------------------------


@pytest.mark.linux
@pytest.mark.parametrize(
    ("family", "address", "held"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET, "0.0.0.0", False),  # noqa: S104 - the fault itself
        (socket.AF_INET6, "::", False),
    ],
)
def test_a_listener_off_loopback_is_seen(family: socket.AddressFamily, address: str, *, held: bool) -> None:
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen()
        settings = Settings(engine="openai", engine_kind="vllm", engine_port=server.getsockname()[1])
        check = listener(settings)
        assert (check.held, check.got) == (held, address)
        if not held:
            with pytest.raises(StartFailure, match=r"engine\.listener"):
                refuse_exposed(settings)


def test_a_listener_nobody_can_see_is_said_and_not_refused(tmp_path: Path) -> None:
    settings = Settings(engine="openai", engine_kind="vllm", engine_port=1)
    assert listener(settings).held is None
    refuse_exposed(settings)
    assert listeners(1, (str(tmp_path / "absent"),)) == set()


def test_the_kernels_tables_are_read_in_its_byte_order(tmp_path: Path) -> None:
    rest = "00000000:00000000 00:00000000 00000000 0 0 77"  # queues, timers, user, inode
    rows = (
        "  sl  local_address rem_address   st\n"
        f"   0: 0100007F:1F90 00000000:0000 0A {rest}\n"
        f"   1: 0500000A:1F90 00000000:0000 01 {rest}\n"  # not a listener
        f"   2: 0000000000000000FFFF00000100007F:1F91 0:0 0A {rest}\n"
    )
    table = tmp_path / "tcp"
    table.write_text(rows)
    assert listeners(8080, (str(table),)) == {"127.0.0.1"}
    assert listeners(8081, (str(table),)) == {"127.0.0.1"}


def test_a_model_nobody_measured_has_a_manifest_that_says_so() -> None:
    assert manifest("vllm", "a") != manifest("vllm", "b") != manifest("sglang", "b")
    assert len(manifest("vllm", "a")) == 32


# --- whose port it is --------------------------------------------------------------------------------

NOBODY = 65_534
SQUATTER = """
import os, socket, sys, time
os.setuid(int(sys.argv[1]))
if sys.argv[2].isdigit():
    end = socket.create_server(("127.0.0.1", int(sys.argv[2])))
else:
    end = socket.socket(socket.AF_UNIX)
    end.bind(sys.argv[2])
    end.listen()
print("there", flush=True)
time.sleep(60)
"""


@contextmanager
def engine_of_user(user: int, where: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", SQUATTER, str(user), where], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        yield
    finally:
        process.kill()
        process.communicate()


def dialled(dialler: Dialler) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        dialler.answer(ours, 1)
        (message,) = control.Inbox(theirs).read()
    if "fd" in message:
        os.close(message["fd"])
    return message


@pytest.mark.linux
@pytest.mark.parametrize("uds", [False, True])
def test_an_engine_s_place_that_another_user_took_gets_no_prompt(*, uds: bool) -> None:
    """The control: the engine's own user may start it again. Needs root, to be two users."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        where = f"{folder}/engine" if uds else str(port)
        names = {"engine_uds": where} if uds else {"engine_port": port}
        dialler = Dialler(Settings(engine="openai", engine_kind="vllm", **names))
        for user, answers in ((NOBODY - 1, True), (NOBODY - 1, True), (NOBODY, False), (NOBODY - 1, True)):
            with engine_of_user(user, where):
                assert ("fd" in dialled(dialler)) is answers, user
            Path(where).unlink(missing_ok=True)
