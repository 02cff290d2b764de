"""``hybrid pull`` that cannot: exit 4, one sentence, nothing half-done shows, and the next pull works.

The store's own tests (tests/device/test_store*.py) have every way a fetch can fail; here: the command, a hub on
loopback, the hub's own client, and a disk that is full.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support_hub import Hub, fake_hub
from tests.support_models import model_files

ROOT = Path(__file__).resolve().parents[2]
FILES = {**model_files(), "model.safetensors": bytes(1_500_000)}
PULL = (sys.executable, "-m", "hybrid", "pull", "tiny", "--yes")
ENTRY = """
[[model]]
id = "tiny"
role = "chat"
title = "A tiny model"
licence = "MIT"
params = 1
context_tokens = 128
kv_bytes_per_token = 0
size_bytes = {size}
source = {{ kind = "hub", repo = "test/tiny", revision = "main" }}
files = [{files}]
"""


def entry_text(*, wrong: str = "") -> str:
    rows = [
        f'{{ path = "{path}", to = "{path}", size = {len(data)}, '
        f'sha256 = "{"00" * 32 if path == wrong else hashlib.sha256(data).hexdigest()}" }}'
        for path, data in FILES.items()
    ]
    return ENTRY.format(size=sum(map(len, FILES.values())), files=", ".join(rows))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with fake_hub("test/tiny", FILES) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield served


@pytest.fixture
def store(tmp_path: Path, hub: Hub) -> Path:
    del hub
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "catalog.toml").write_text(entry_text())
    return folder


def pulled(*program: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(program or PULL, capture_output=True, text=True, check=False, env=env)


def refused(done: "subprocess.CompletedProcess[str]", store: Path) -> str:
    """Check what every refusal has in common, and return its sentence."""
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert [path.name for path in store.iterdir() if not path.name.startswith(".")] == ["catalog.toml"]
    return next(line for line in done.stderr.splitlines() if line.startswith("error: "))


def works(store: Path) -> bool:
    done = pulled()
    assert done.returncode == 0, done.stderr
    return (store / "tiny" / "manifest.json").exists()


def test_a_file_of_other_content_is_refused_by_name_and_the_right_one_goes_in_afterwards(store: Path) -> None:
    (store / "catalog.toml").write_text(entry_text(wrong="model.safetensors"))
    assert "model.safetensors" in refused(pulled(), store)
    (store / "catalog.toml").write_text(entry_text())
    assert works(store)


def test_without_a_network_it_says_so_and_the_next_pull_works(
    store: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    done = pulled()
    assert "test/tiny could not be fetched" in refused(done, store)
    assert "hint: check the network" in done.stderr
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert works(store)


@pytest.mark.linux
def test_a_full_disk_is_refused_and_leaves_nothing(store: Path) -> None:
    """On a tmpfs of 1 MB in a namespace of its own."""
    unshare = ("unshare", "-Ur", "-m", "sh", "-c")
    if shutil.which("unshare") is None or pulled(*unshare, f"mount -t tmpfs tmpfs '{store}'").returncode:
        pytest.skip("no user namespace with a tmpfs here")
    words, kept = " ".join(f"'{word}'" for word in PULL), f"'{store}'/catalog.toml"
    done = pulled(
        *unshare,
        f"cp {kept} '{store}'.toml && mount -t tmpfs -o size=1m tmpfs '{store}' && cp '{store}'.toml {kept} && {words};"
        f" code=$?; find '{store}' -type f -size +0 | grep -v catalog.toml >&2; exit $code",
    )
    sentence = refused(done, store)
    assert "MB" in sentence
    assert "free" in done.stderr
    assert ".staging" not in done.stderr
    assert works(store)
