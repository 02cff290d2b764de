"""The store: what is installed is whole and verified, whatever happens on the way."""

import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device.catalog import MAC_DEFAULT, STARTER
from device.errors import BadSource, DiskFull, FetchFailed, ModelDamaged, ModelMissing, UnknownModel
from device.manifest import Manifest, check_hashes, read_manifest
from device.progress import Job
from device.seen import marks_of
from device.store import Installed, Progress, Store
from tests.support_models import Serving, cut, digest_of, entry, full_disk, known, model_files

MANY = 10**12
ENTRY = entry(aliases=("small",))


def store_with(root: Path, source: Serving, free: Callable[[Path], int] = lambda _: MANY) -> Store:
    return Store(root, known=known(ENTRY), fetches={"hub": source}, free=free)


def visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) if root.exists() else []


def staged(root: Path) -> list[Path]:
    return [path for path in (root / ".staging").rglob("*") if path.is_file()] if root.exists() else []


@pytest.fixture
def installed(tmp_path: Path) -> tuple[Store, Installed]:
    store = store_with(tmp_path / "store", Serving(model_files()))
    return store, store.pull(ENTRY)


def test_a_pulled_model_is_whole_listed_and_found_by_alias(installed: tuple[Store, Installed]) -> None:
    store, model = installed
    store.verify(model, full=True)
    assert {path.name for path in model.path.iterdir()} == {*model_files(), "manifest.json"}
    assert store.get("small") == model == store.list()[0]
    assert not staged(store.root)


def test_the_digest_is_the_protocols_hash_over_paths_hashes_and_sizes(installed: tuple[Store, Installed]) -> None:
    _, model = installed
    listed = json.loads((model.path / "manifest.json").read_bytes())["files"]
    rows = [[path, listed[path]["sha256"], listed[path]["size"]] for path in sorted(listed)]
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=True).encode()
    import hashlib

    assert hashlib.sha256(text).digest() == model.manifest_digest


def test_the_manifest_tells_what_an_engine_needs(installed: tuple[Store, Installed]) -> None:
    _, model = installed
    value = json.loads((model.path / "manifest.json").read_bytes())
    assert value["id"] == "tiny"
    assert value["licence"] == "MIT"
    assert value["context_tokens"] == 128  # the smaller of the model's limit and the catalogue's
    assert value["default_system"] == "Be kind."
    assert value["sampling"] == {"temperature": 0.0}
    assert value["stop_ids"] == [2, 0]


def test_pulling_again_fetches_nothing(installed: tuple[Store, Installed]) -> None:
    store, model = installed
    again = Serving(model_files())
    assert store_with(store.root, again).pull(ENTRY) == model
    assert again.fetched == []


def test_a_damaged_model_is_fetched_again(installed: tuple[Store, Installed]) -> None:
    store, model = installed
    (model.path / "tokenizer.json").unlink()
    assert store_with(store.root, Serving(model_files())).pull(ENTRY) == model
    store.verify(model)


def test_too_little_disk_is_refused_before_a_byte_is_fetched(tmp_path: Path) -> None:
    source = Serving(model_files())
    need = int(1.1 * ENTRY.download_bytes)
    with pytest.raises(DiskFull) as caught:
        store_with(tmp_path, source, free=lambda _: need - 1).pull(ENTRY)
    assert (caught.value.needed, caught.value.free) == (need, need - 1)
    assert source.fetched == []
    assert store_with(tmp_path, source, free=lambda _: need).pull(ENTRY).size_bytes == ENTRY.size_bytes


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        store_with(tmp_path, Serving(model_files(), full_disk("tokenizer.json"))).pull(ENTRY)
    assert visible(tmp_path) == []
    assert staged(tmp_path) == []


def test_a_cut_download_shows_nothing_and_the_next_pull_goes_on_from_it(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed):
        store_with(tmp_path, Serving(model_files(), cut("tokenizer.json"))).pull(ENTRY)
    assert visible(tmp_path) == []
    rest = Serving(model_files())
    store_with(tmp_path, rest).pull(ENTRY)
    assert rest.fetched == ["tokenizer.json", "chat_template.jinja"]


def test_wrong_bytes_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    wrong = {**model_files(), "chat_template.jinja": b"{{ something_else }}"}
    with pytest.raises(ModelDamaged):
        store_with(tmp_path, Serving(wrong)).pull(ENTRY)
    assert visible(tmp_path) == []
    assert staged(tmp_path) == []


def test_control_without_the_digest_the_same_wrong_bytes_go_in(tmp_path: Path) -> None:
    wrong = {**model_files(), "chat_template.jinja": b"{{ something_else }}"}
    unchecked = replace(ENTRY, digest="", files=())
    model = Store(tmp_path, known=known(unchecked), fetches={"hub": Serving(wrong)}).pull(unchecked)
    assert model.manifest_digest.hex() == digest_of(wrong) != ENTRY.digest


def test_a_model_that_brings_code_is_refused_at_the_pull(tmp_path: Path) -> None:
    unpinned = replace(ENTRY, digest="", files=())
    store = Store(tmp_path, known=known(unpinned), fetches={"hub": Serving({**model_files(), "modeling_x.py": b""})})
    with pytest.raises(ModelDamaged, match=r"modeling_x\.py"):
        store.pull(unpinned)
    assert visible(tmp_path) == []


def test_a_pull_reports_bytes_that_only_grow_within_a_phase(tmp_path: Path) -> None:
    seen: list[Progress] = []
    store_with(tmp_path, Serving(model_files())).pull(ENTRY, progress=seen.append)
    verify = [step for step in seen if step.phase == "verify"]
    assert [step.done_bytes for step in verify] == sorted(step.done_bytes for step in verify)
    assert verify[-1].done_bytes == verify[-1].total_bytes == ENTRY.size_bytes
    assert seen[-1].phase == "done"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _flip_keeping_times(path: Path) -> None:
    facts = path.stat()
    _flip(path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    **{f"flip {name}": (name, lambda f, n=name: _flip(f / n)) for name in (*model_files(), "manifest.json")},  # type: ignore[misc]
    "flip, times set back": ("model.safetensors", lambda f: _flip_keeping_times(f / "model.safetensors")),
    "truncate": ("model.safetensors", lambda f: os.truncate(f / "model.safetensors", 100)),
    "drop": ("tokenizer.json", lambda f: (f / "tokenizer.json").unlink()),
    "drop the manifest": ("manifest.json", lambda f: (f / "manifest.json").unlink()),
    "second weights": ("model-2.safetensors", lambda f: shutil.copy(f / "config.json", f / "model-2.safetensors")),
    "code": ("run.py", lambda f: (f / "run.py").write_text("")),
    "code in a folder": ("deep/run.py", lambda f: ((f / "deep").mkdir(), (f / "deep/run.py").write_text(""))),
    "pickle": ("weights.pkl", lambda f: (f / "weights.pkl").write_bytes(pickle.dumps({}))),
    "torch weights": ("pytorch_model.bin", lambda f: (f / "pytorch_model.bin").write_bytes(b"")),
    "link to the outside": ("extra.json", lambda f: (f / "extra.json").symlink_to("/etc/hostname")),
    "linked weights": ("model.safetensors", lambda f: _replace_by_link(f / "model.safetensors")),
}


def _replace_by_link(path: Path) -> None:
    away = path.parent.parent / "elsewhere"
    path.rename(away)
    path.symlink_to(away)


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_change_to_an_installed_folder_is_refused_by_name(installed: tuple[Store, Installed], damage: str) -> None:
    store, model = installed
    store.verify(store.get("tiny"))
    name, harm = DAMAGES[damage]
    harm(model.path)
    with pytest.raises(ModelDamaged) as caught:
        store.verify(store.get("tiny"))
    assert caught.value.path == name


@pytest.mark.parametrize("key", ["auto_map", "model_file"])
def test_a_configuration_that_asks_for_its_own_code_is_refused(tmp_path: Path, key: str) -> None:
    files = model_files(**{key: "modeling_x.Model"})
    unpinned = replace(ENTRY, digest="", files=())
    with pytest.raises(ModelDamaged, match=key):
        Store(tmp_path, known=known(unpinned), fetches={"hub": Serving(files)}).pull(unpinned)


def test_another_models_folder_under_a_pinned_name_is_refused(tmp_path: Path) -> None:
    other = {**model_files(), "chat_template.jinja": b"{{ something_else }}"}
    Store(tmp_path, fetches={"hub": Serving(other)}).pull(replace(ENTRY, digest="", files=()))
    store = store_with(tmp_path, Serving({}))
    with pytest.raises(ModelDamaged, match="another model"):
        store.verify(store.get("tiny"))


def test_an_untouched_folder_is_hashed_once_and_again_in_full(installed: tuple[Store, Installed]) -> None:
    """The memory of checked files lies outside the folder; made to believe a damage is known, it is believed."""
    store, model = installed
    _flip(model.path / "model.safetensors")
    store._seen.remember(model.path, marks_of(model.path, model.manifest))
    store.verify(model)
    with pytest.raises(ModelDamaged, match=r"model\.safetensors"):
        store.verify(model, full=True)


def test_a_change_during_the_hashing_is_not_taken_for_what_was_hashed(
    installed: tuple[Store, Installed], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = installed
    (store.root / ".seen.json").unlink()

    def slow(folder: Path, manifest: Manifest) -> None:
        check_hashes(folder, manifest)
        time.sleep(0.02)  # the clock of a file system ticks slower than a test
        _flip(folder / "model.safetensors")

    monkeypatch.setattr("device.store.check_hashes", slow)
    store.verify(model)
    monkeypatch.undo()
    with pytest.raises(ModelDamaged, match=r"model\.safetensors"):
        store.verify(model)


def test_a_model_removed_while_it_is_checked_is_damaged(
    installed: tuple[Store, Installed], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = installed
    (store.root / ".seen.json").unlink()
    monkeypatch.setattr("device.store.refuse_code", shutil.rmtree)
    with pytest.raises(ModelDamaged, match="cannot be read: No such file"):
        store.verify(model)


def test_losing_the_memory_of_checked_files_costs_only_time(installed: tuple[Store, Installed]) -> None:
    store, model = installed
    (store.root / ".seen.json").write_text("{broken")
    store.verify(model)


def test_a_known_model_that_was_not_pulled_is_missing_with_its_size(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing) as caught:
        store_with(tmp_path, Serving({})).get("small")
    assert (caught.value.model_id, caught.value.size_bytes) == ("tiny", ENTRY.download_bytes)


@pytest.mark.parametrize("name", ["nosuch", "../tiny", "", ".staging", "a/b", "x" * 65])
def test_an_unknown_or_unusable_name_is_unknown(tmp_path: Path, name: str) -> None:
    store = store_with(tmp_path, Serving(model_files()))
    store.pull(ENTRY)
    with pytest.raises(UnknownModel):
        store.get(name)
    with pytest.raises(UnknownModel):
        store.remove(name)


def test_a_removed_model_is_gone(installed: tuple[Store, Installed]) -> None:
    store, model = installed
    store.remove("small")
    assert not model.path.exists()
    assert store.list() == []
    with pytest.raises(ModelMissing):
        store.remove("small")


def test_the_default_is_the_recommended_model_and_the_starter_where_nothing_else_was_pulled(tmp_path: Path) -> None:
    starter, recommended = (replace(ENTRY, id=name, aliases=()) for name in (STARTER, MAC_DEFAULT))
    embed = replace(ENTRY, id="embed", role="embed", aliases=())
    store = Store(tmp_path, known=known(starter, recommended, embed, ENTRY), fetches={"hub": Serving(model_files())})
    assert store.default(is_mac=True) is None
    store.pull(embed)
    assert store.default(is_mac=True) is None
    store.pull(starter)
    assert [store.default(is_mac=mac).entry.id for mac in (True, False)] == [STARTER, STARTER]  # type: ignore[union-attr]
    store.pull(ENTRY)
    assert [store.default(is_mac=mac).entry.id for mac in (True, False)] == [STARTER, "tiny"]  # type: ignore[union-attr]
    store.pull(recommended)
    assert [store.default(is_mac=mac).entry.id for mac in (True, False)] == [MAC_DEFAULT, MAC_DEFAULT]  # type: ignore[union-attr]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own model"
    folder.mkdir()
    for name, data in model_files().items():
        (folder / name).write_bytes(data)
    return folder


def test_a_users_own_folder_is_copied_in(tmp_path: Path, own: Path) -> None:
    store = store_with(tmp_path / "store", Serving({}))
    model = store.add_folder(own, name="mine", licence="MIT")
    shutil.rmtree(own)
    store.verify(model, full=True)
    assert store.get("mine").manifest_digest.hex() == digest_of(model_files())
    assert [item.entry.id for item in store.list()] == ["mine"]


def test_a_referenced_folder_stays_where_it_is_and_survives_removal(tmp_path: Path, own: Path) -> None:
    store = store_with(tmp_path / "store", Serving({}))
    model = store.add_folder(own, name="mine", copy=False)
    assert store.get("mine").path == own == model.path
    store.verify(model)
    _flip(own / "config.json")
    with pytest.raises(ModelDamaged, match=r"config\.json"):
        store.verify(model)
    store.remove("mine")
    assert (own / "model.safetensors").exists()
    assert store.list() == []


def test_a_folder_with_code_is_not_taken_in(tmp_path: Path, own: Path) -> None:
    (own / "modeling.py").write_text("")
    store = store_with(tmp_path / "store", Serving({}))
    for copy in (True, False):
        with pytest.raises(ModelDamaged, match=r"modeling\.py"):
            store.add_folder(own, name="mine", copy=copy)
    assert store.list() == []


def test_a_name_of_the_catalogue_is_not_for_a_folder(tmp_path: Path, own: Path) -> None:
    store = store_with(tmp_path / "store", Serving({}))
    for name in ("tiny", "small", "Small"):
        with pytest.raises(BadSource, match="belongs to a model of the catalogue"):
            store.add_folder(own, name=name, force=True)
    for name in ("../mine", ".hidden", "", "a b"):
        with pytest.raises(BadSource, match="cannot be the name"):
            store.add_folder(own, name=name)
    assert not list(tmp_path.glob("store/[a-z]*"))


def test_a_name_is_taken_once_unless_forced(tmp_path: Path, own: Path) -> None:
    store = store_with(tmp_path / "store", Serving({}))
    store.add_folder(own, name="mine")
    (own / "chat_template.jinja").write_text("other")
    with pytest.raises(BadSource, match="already has a model named 'mine'"):
        store.add_folder(own, name="mine")
    first = store.get("mine").manifest_digest
    assert store.add_folder(own, name="mine", force=True).manifest_digest != first


def test_hidden_files_and_rights_stay_behind(tmp_path: Path, own: Path) -> None:
    (own / ".git").mkdir()
    (own / ".git/hook.py").write_text("")
    (own / ".DS_Store").write_text("")
    (own / "extra").mkdir()
    (own / "extra/notes.txt").write_text("notes")
    for path in (*own.glob("*.json"), own / "extra", own):
        path.chmod(0o500)
    model = store_with(tmp_path / "store", Serving({})).add_folder(own, name="mine")
    assert set(model.manifest.files) == {*model_files(), "extra/notes.txt"}
    assert (model.path / "extra").stat().st_mode & 0o200
    own.chmod(0o700)


def test_a_pipe_in_a_folder_is_refused_and_never_opened(tmp_path: Path, own: Path) -> None:
    os.mkfifo(own / "pipe.json")
    store = store_with(tmp_path / "store", Serving({}))
    for copy in (True, False):
        with pytest.raises(ModelDamaged, match=r"pipe\.json: is no plain file"):
            store.add_folder(own, name="mine", copy=copy)


@pytest.mark.parametrize(
    "config",
    [
        '{"max_position_embeddings": "many"}',
        '{"max_position_embeddings": -1}',
        "[1]",
        "[" * 100_000,
    ],
)
def test_a_configuration_of_nonsense_is_refused_by_name(tmp_path: Path, own: Path, config: str) -> None:
    (own / "config.json").write_text(config)
    with pytest.raises(ModelDamaged, match=r"config\.json"):
        store_with(tmp_path / "store", Serving({})).add_folder(own, name="mine")


@pytest.mark.parametrize("text", ['{"text_config": null}', '{"eos_token_id": {"a": 1}}'])
def test_a_configuration_with_odd_values_is_taken_as_far_as_it_goes(tmp_path: Path, own: Path, text: str) -> None:
    (own / "config.json").write_text(text)
    (own / "generation_config.json").write_text("[]")
    model = store_with(tmp_path / "store", Serving({})).add_folder(own, name="mine")
    assert (model.manifest.context_tokens, model.manifest.stop_ids) == (2048, ())


def test_a_damaged_model_of_ones_own_can_be_removed(tmp_path: Path, own: Path) -> None:
    store = store_with(tmp_path / "store", Serving({}))
    (store.add_folder(own, name="mine").path / "manifest.json").write_text("{}")
    with pytest.raises(ModelDamaged):
        store.get("mine")
    store.remove("mine")
    assert visible(store.root) == []


def test_a_manifest_that_claims_another_id_leads_nowhere_else(tmp_path: Path, own: Path) -> None:
    store = store_with(tmp_path / "store", Serving({}))
    model = store.add_folder(own, name="mine")
    (model.path / "manifest.json").write_bytes(replace(model.manifest, id="../own model").encode())
    assert store.get("mine").path == model.path
    store.remove("mine")
    assert own.exists()
    assert visible(store.root) == []


def test_a_link_in_the_place_of_a_model_is_removed_without_what_it_points_to(
    installed: tuple[Store, Installed], own: Path
) -> None:
    store, model = installed
    shutil.rmtree(model.path)
    model.path.symlink_to(own)
    store_with(store.root, Serving(model_files())).pull(ENTRY, force=True)
    assert not model.path.is_symlink()
    assert (own / "config.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["sampling"].update(temperature=float("nan")),
        lambda value: value["files"]["config.json"].update(size=float("inf")),
        lambda value: value["files"].update({"../evil": value["files"]["config.json"]}),
        lambda value: value.update(files=[]),
    ],
)
def test_a_manifest_of_nonsense_is_damaged(
    installed: tuple[Store, Installed], change: Callable[[dict[str, Any]], None]
) -> None:
    _, model = installed
    value = json.loads((model.path / "manifest.json").read_bytes())
    change(value)
    (model.path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(ModelDamaged):
        read_manifest(model.path)


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path; from device.lock import writing\n"
        "with writing(Path(sys.argv[1]), lambda: None): print('held', flush=True); sys.stdin.read(1)"
    )
    command = [sys.executable, "-c", holder, str(tmp_path / ".lock")]
    seen: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"

        def release(step: Progress) -> None:
            seen.append(step.phase)
            if step.phase == "wait" and other.stdin and not other.stdin.closed:
                other.stdin.close()

        store_with(tmp_path, Serving(model_files())).pull(ENTRY, progress=release)
    assert seen[0] == "wait"
    assert seen[-1] == "done"


PULL = """
import sys, time
from pathlib import Path
from device.store import Store
from tests.support_gguf import write_tiny
from tests.support_models import entry, known

one = entry(convert="gguf", files=entry().files[:1], digest="")
def fetch(job):
    job.room(1); job.raw.mkdir(parents=True, exist_ok=True)
    write_tiny(job.raw / one.files[0].to); time.sleep(0.05)
    return "a test"
print("start", flush=True)
Store(Path(sys.argv[1]), known=known(one), fetches={"hub": fetch}).pull(one, progress=lambda _: time.sleep(0.002))
print("end", flush=True)
"""


def test_a_kill_at_any_moment_leaves_no_half_model(tmp_path: Path) -> None:
    """20 kills, the same store: what is visible is whole, and what is left over never hinders the next pull."""
    rng = random.Random(20)  # noqa: S311 - where a test kills is no secret
    root, unpinned = tmp_path / "store", replace(ENTRY, files=(), digest="")
    outcomes = []
    span = _timed_pull(tmp_path / "measure")
    for _ in range(20):
        with subprocess.Popen([sys.executable, "-c", PULL, str(root)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "start\n"
            time.sleep(rng.uniform(0, 1.1 * span))
            child.send_signal(signal.SIGKILL)
        store = Store(root, known=known(unpinned), free=lambda _: MANY)
        for model in store.list():
            store.verify(model, full=True)
        assert visible(root) in ([], ["tiny"])
        outcomes.append(bool(store.list()))
        if store.list():
            store.remove("tiny")
    assert not all(outcomes)
    subprocess.run([sys.executable, "-c", PULL, str(root)], check=True, capture_output=True)
    assert visible(root) == ["tiny"]
    assert staged(root) == []


def _timed_pull(root: Path) -> float:
    with subprocess.Popen([sys.executable, "-c", PULL, str(root)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        begin = time.monotonic()
        assert child.stdout.readline() == "end\n"
        return time.monotonic() - begin


FULL = """
import sys
from pathlib import Path
from device.errors import DiskFull
from device.store import Store
from tests.support_models import Serving, entry, known, model_files

root, lie = Path(sys.argv[1]), sys.argv[2] == "lie"
big = {**model_files(), "model.safetensors": bytes(2_000_000)}
one = entry(files=(), digest="", size_bytes=sum(map(len, big.values())))
serving = Serving(big)
options = {"free": lambda _: 10**12} if lie else {}
try:
    Store(root, known=known(one), fetches={"hub": serving}, **options).pull(one)
except DiskFull:
    rest = [p for p in root.rglob("*") if p.is_file() and p.stat().st_size]
    print("DiskFull", serving.fetched, rest)
"""


@pytest.mark.linux
@pytest.mark.parametrize(("claim", "fetched"), [("true", []), ("lie", ["config.json"])])
def test_a_truly_full_disk_is_a_clean_refusal(tmp_path: Path, claim: str, fetched: list[str]) -> None:
    """A tmpfs of 1 MB in a namespace of its own: refused before a byte, or cleaned up after ENOSPC in mid-file."""
    script = (
        f"mount -t tmpfs -o size=1m tmpfs '{tmp_path}' && exec '{sys.executable}' -c \"$PROGRAM\" '{tmp_path}' {claim}"
    )
    probe = subprocess.run(
        ["unshare", "-Ur", "-m", "sh", "-c", f"mount -t tmpfs tmpfs '{tmp_path}'"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"no user namespace with a tmpfs here: {probe.stderr.decode().strip()}")
    done = subprocess.run(
        ["unshare", "-Ur", "-m", "sh", "-c", script],
        env={**os.environ, "PROGRAM": FULL},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"DiskFull {fetched} []\n", done.stderr


def test_other_troubles_with_files_are_not_called_a_full_disk(tmp_path: Path) -> None:
    def broken(_: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(BadSource, match=r"cannot be used as the model store: Input/output error$"):
        store_with(tmp_path, Serving(model_files(), broken)).pull(ENTRY)
    assert visible(tmp_path) == []


@pytest.mark.parametrize("place", ["file", "file/models", "/proc/models"])
def test_a_store_that_cannot_be_one_is_refused_by_its_path(tmp_path: Path, own: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    store, source = store_with(tmp_path / place, Serving(model_files())), str(tmp_path / place)
    for act in (lambda: store.pull(ENTRY), lambda: store.add_folder(own, name="mine")):
        with pytest.raises(BadSource, match="cannot be used as the model store") as caught:
            act()
        assert caught.value.path == source
    assert store.list() == []
    with pytest.raises(ModelMissing):
        store.get("tiny")


def test_what_is_there_and_whole_is_found_in_a_store_that_cannot_be_written(
    installed: tuple[Store, Installed],
) -> None:
    store, model = installed
    (store.root / ".lock").unlink()
    (store.root / ".lock").mkdir()
    assert store.pull(ENTRY) == model
    with pytest.raises(BadSource):
        store.pull(ENTRY, force=True)
    store.verify(model)


def test_without_a_home_folder_no_store_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: Path("~/.cache/hybrid-pcc"))
    with pytest.raises(BadSource, match="home folder is not known"):
        Store()


def test_a_model_that_is_fetched_anew_stays_until_the_new_one_is_whole(installed: tuple[Store, Installed]) -> None:
    store, model = installed
    with pytest.raises(FetchFailed):
        store_with(store.root, Serving(model_files(), cut("tokenizer.json"))).pull(ENTRY, force=True)
    store.verify(store.get("tiny"), full=True)
    assert store_with(store.root, Serving(model_files())).pull(ENTRY, force=True) == model
    store.verify(model)
    assert staged(store.root) == []


def test_what_a_killed_run_was_deleting_is_deleted_by_the_next(installed: tuple[Store, Installed]) -> None:
    store, _ = installed
    left = store.root / ".staging" / "trash@other"
    left.mkdir()
    (left / "model.safetensors").write_bytes(bytes(1000))
    store.remove("tiny")
    assert not left.exists()


# -- what the hub served, agreed to


UNPINNED = replace(ENTRY, files=(), digest="", aliases=())
OTHER = {**model_files(), "chat_template.jinja": b"{{ something_else }}"}
COMMIT = "5f0f3d6c0a4e4d1b8b5f7a9d2c3e4f5a6b7c8d9e"


class Hub(Serving):
    """A hub that tells its commit and keeps which revision was asked for."""

    def __call__(self, job: Job) -> str:
        super().__call__(job)
        self.asked = job.entry.revision
        return f"hub test/tiny@{COMMIT}"


def hub_store(root: Path, source: Serving) -> Store:
    return Store(root, known=known(UNPINNED), fetches={"hub": source}, free=lambda _: MANY)


def test_an_unpinned_model_is_recorded_only_when_asked_to(tmp_path: Path) -> None:
    store = hub_store(tmp_path, Hub(model_files()))
    model = store.pull(UNPINNED)
    assert not model.entry.pinned
    assert not (tmp_path / "models.lock").exists()
    pinned = store.record(model)
    assert pinned.entry.pinned
    assert pinned.entry.revision == COMMIT
    assert json.loads((tmp_path / "models.lock").read_bytes()) == {
        "tiny": {"digest": model.manifest_digest.hex(), "repo": "test/tiny", "revision": COMMIT}
    }
    assert store.known.find("tiny").pinned


def test_a_recorded_model_is_fetched_at_its_commit_and_other_bytes_are_refused(tmp_path: Path) -> None:
    first = hub_store(tmp_path, Hub(model_files()))
    first.record(first.pull(UNPINNED))
    first.remove("tiny")
    same = Hub(model_files())
    assert hub_store(tmp_path, same).pull(UNPINNED).entry.pinned
    assert same.asked == COMMIT
    with pytest.raises(ModelDamaged, match="another digest"):
        hub_store(tmp_path, Hub(OTHER)).pull(UNPINNED, force=True)
    first.verify(first.get("tiny"), full=True)


def test_other_bytes_under_a_recorded_name_are_refused_at_load_and_go_in_without_the_record(tmp_path: Path) -> None:
    store = hub_store(tmp_path, Hub(model_files()))
    store.record(store.pull(UNPINNED))
    away = hub_store(tmp_path / "away", Hub(OTHER))
    away.pull(UNPINNED)
    shutil.rmtree(tmp_path / "tiny")
    shutil.copytree(tmp_path / "away/tiny", tmp_path / "tiny")
    with pytest.raises(ModelDamaged, match="another model than the one that is pinned"):
        store.verify(store.get("tiny"))
    (tmp_path / "models.lock").unlink()
    store.verify(store.get("tiny"))


@pytest.mark.parametrize(
    "text", ["{broken", "[]", '{"tiny": {}}', '{"tiny": {"repo": "a", "revision": "b", "digest": 1}}']
)
def test_a_record_that_cannot_be_read_does_not_count_as_none(tmp_path: Path, text: str) -> None:
    store = hub_store(tmp_path, Hub(model_files()))
    store.pull(UNPINNED)
    (tmp_path / "models.lock").write_text(text)
    with pytest.raises(BadSource, match=r"models\.lock"):
        store.get("tiny")
    with pytest.raises(BadSource, match=r"models\.lock"):
        store.pull(UNPINNED)


def test_a_damaged_model_cannot_be_recorded(tmp_path: Path) -> None:
    store = hub_store(tmp_path, Hub(model_files()))
    model = store.pull(UNPINNED)
    _flip(model.path / "model.safetensors")
    with pytest.raises(ModelDamaged):
        store.record(model)
    assert not (tmp_path / "models.lock").exists()


def test_the_catalogues_own_digest_is_never_overruled_by_a_record(installed: tuple[Store, Installed]) -> None:
    store, model = installed
    row = {"repo": "test/tiny", "revision": COMMIT, "digest": "00" * 32}
    (store.root / "models.lock").write_text(json.dumps({"tiny": row}))
    assert store.get("tiny") == model
    store.verify(model)


def test_the_manifest_reads_back_as_it_was_written(installed: tuple[Store, Installed]) -> None:
    _, model = installed
    assert read_manifest(model.path) == model.manifest
