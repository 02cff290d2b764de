"""Models from a hub, by the real client against a small hub on loopback."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from device.catalog import HubSource, SourceFile
from device.errors import FetchFailed, ModelDamaged
from device.store import Progress, Store
from tests.support_hub import COMMIT, Hub, fake_hub
from tests.support_models import digest_of, entry, known, model_files

REPO = "test/tiny"
BIG = os.urandom(1 << 20) * 12  # more than the 10 MiB in which the client writes
FILES = {**model_files(), "model.safetensors": BIG}
UNWANTED = {
    "README.md": b"# hi",
    "modeling_x.py": b"raise SystemExit",
    "pytorch_model.bin": b"x",
    "sub/config.json": b"{}",
}
UNPINNED = replace(entry(), files=(), digest="", size_bytes=len(BIG))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with fake_hub(REPO, {**FILES, **UNWANTED}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as it is set where models are loaded
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "5")
        yield served


def pinned() -> SourceFile:
    return SourceFile(
        path="model.safetensors", to="model.safetensors", size=len(BIG), sha256=hashlib.sha256(BIG).hexdigest()
    )


def test_a_model_comes_from_the_hub_at_one_commit_and_nothing_but_its_files(hub: Hub, tmp_path: Path) -> None:
    seen: list[Progress] = []
    model = Store(tmp_path / "store", known=known(UNPINNED)).pull(UNPINNED, progress=seen.append)
    assert {path.name for path in model.path.iterdir()} == {*FILES, "manifest.json"}
    assert model.manifest_digest.hex() == digest_of(FILES)
    assert model.manifest.source == f"hub {REPO}@{COMMIT}"
    assert all(f"/resolve/{COMMIT}/" in path for method, path, _ in hub.log if method == "GET" and "/resolve/" in path)
    assert not any(hub.gets(path) for path in UNWANTED)
    assert not (tmp_path / "hf").exists() or not list((tmp_path / "hf").rglob("*.safetensors"))
    done = [step.done_bytes for step in seen if step.phase == "download"]
    assert done == sorted(done)
    assert done[-1] == sum(map(len, FILES.values()))


def test_a_cut_connection_resumes_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cut["model.safetensors"] = (10 << 20) + 4096
    model = Store(tmp_path / "store", known=known(UNPINNED)).pull(UNPINNED)
    assert model.manifest_digest.hex() == digest_of(FILES)
    first, second = hub.gets("model.safetensors")
    assert first is None
    assert second == f"bytes={10 << 20}-"


def test_weights_left_from_another_commit_do_not_come_along(hub: Hub, tmp_path: Path) -> None:
    """A branch moved between two tries; mlx-lm would load every model*.safetensors there is."""
    left = tmp_path / "store" / ".staging" / "tiny@main" / "raw" / "model-00001-of-00002.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"stale")
    model = Store(tmp_path / "store", known=known(UNPINNED)).pull(UNPINNED)
    assert model.manifest_digest.hex() == digest_of(FILES)


def test_what_came_can_be_recorded_and_is_then_fetched_at_its_commit(hub: Hub, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", known=known(UNPINNED))
    store.record(store.pull(UNPINNED))
    store.remove("tiny")
    hub.log.clear()
    assert store.pull(UNPINNED).entry.revision == COMMIT
    assert hub.log[0][1].endswith(COMMIT)
    hub.files = {**hub.files, "chat_template.jinja": b"{{ something_else }}"}
    with pytest.raises(ModelDamaged, match="another digest"):
        store.pull(UNPINNED, force=True)
    assert store.get("tiny").manifest_digest.hex() == digest_of(FILES)


def test_a_hub_that_answers_with_another_commit_is_refused(hub: Hub, tmp_path: Path) -> None:
    one = replace(UNPINNED, source=HubSource(repo=REPO, revision="0" * 40))
    with pytest.raises(FetchFailed, match="not served at the commit asked for"):
        Store(tmp_path / "store", known=known(one)).pull(one)
    assert not hub.gets("config.json")


def test_a_pinned_file_of_other_content_is_refused_and_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    one = replace(UNPINNED, files=(replace(pinned(), sha256="00" * 32),))
    with pytest.raises(ModelDamaged, match=r"model\.safetensors"):
        Store(tmp_path / "store", known=known(one)).pull(one)
    assert not list((tmp_path / "store" / ".staging").iterdir())
    assert not (tmp_path / "store" / "tiny").exists()


def test_a_pinned_file_the_repository_lacks_is_a_failed_fetch(hub: Hub, tmp_path: Path) -> None:
    one = replace(UNPINNED, files=(replace(pinned(), path="gone.safetensors"),))
    with pytest.raises(FetchFailed, match=r"has no file gone\.safetensors"):
        Store(tmp_path / "store", known=known(one)).pull(one)


def test_a_repository_the_hub_does_not_have_is_said_in_one_sentence(hub: Hub, tmp_path: Path) -> None:
    one = replace(UNPINNED, source=HubSource(repo="test/absent", revision="main"))
    with pytest.raises(FetchFailed, match="no such repository") as caught:
        Store(tmp_path / "store", known=known(one)).pull(one)
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_said_in_one_sentence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchFailed) as caught:
        Store(tmp_path / "store", known=known(UNPINNED)).pull(UNPINNED)
    assert "\n" not in str(caught.value)
    assert str(caught.value) == "test/tiny could not be fetched: the hub cannot be reached (ConnectError)"


def test_whole_files_survive_a_kill_and_the_next_pull_completes_the_rest(hub: Hub, tmp_path: Path) -> None:
    """The weights stall, the pull is killed there; the small files are not fetched a second time."""
    order = ("chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json")
    hub.files = {path: FILES[path] for path in order}
    hub.stall["model.safetensors"] = (10 << 20) + 4096
    program = (
        "import sys; from pathlib import Path; from device.store import Store\n"
        "from dataclasses import replace; from tests.support_models import entry, known\n"
        "one = replace(entry(), files=(), digest='', size_bytes=1)\n"
        "tell = lambda step: print(step.done_bytes, flush=True)\n"
        "Store(Path(sys.argv[1]), known=known(one)).pull(one, progress=tell)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) > 1 << 20:
                child.send_signal(signal.SIGKILL)
    assert not (tmp_path / "store" / "tiny").exists()
    hub.release.set()
    hub.log.clear()
    model = Store(tmp_path / "store", known=known(UNPINNED)).pull(UNPINNED)
    assert model.manifest_digest.hex() == digest_of(hub.files)
    assert hub.gets("config.json") == []
    assert len(hub.gets("model.safetensors")) == 1
    assert not list((tmp_path / "store").rglob("*.incomplete"))
