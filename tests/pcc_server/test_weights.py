"""X8: weights cannot run code. A folder that holds or asks for any is refused; the control shows what it would do."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from device.catalog import STARTER
from device.folder import write_manifest
from device.manifest import FileFact, list_files, read_manifest, sha256_file
from device.store import Store
from pcc_server.settings_source import default_store
from tests.pcc_server.node_client import Client, Node

pytestmark = [pytest.mark.linux, pytest.mark.model]


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The starter model in a folder of its own; large files are the same ones."""
    installed = Store(Path(default_store())).get(STARTER)
    copy = tmp_path / "model"
    shutil.copytree(installed.path, copy, copy_function=os.link)
    return copy


def rewrite(path: Path, data: bytes) -> None:
    """Give a file other contents, and leave alone the one it was linked to."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def vouch(folder: Path) -> None:
    """Write a manifest over what lies there now, as whoever made the folder would."""
    facts = {
        name: FileFact(size=(folder / name).stat().st_size, sha256=sha256_file(folder / name))
        for name in list_files(folder)
    }
    manifest = replace(read_manifest(folder), files=facts)
    (folder / "manifest.json").unlink()
    write_manifest(folder, manifest)


def asking(folder: Path, name: str, key: str, value: object) -> None:
    config = json.loads((folder / name).read_bytes())
    rewrite(folder / name, json.dumps({**config, key: value}).encode())


def refusal(folder: Path) -> str:
    node = Node("--model", str(folder), engine="mlx", wait=False)
    assert node.process.wait(60) == 4
    node.stop()
    assert not node.events("fault")
    return node.words().strip().splitlines()[-1]


CODE: dict[str, tuple[str, Callable[[Path, bytes], None]]] = {
    "python": ("modeling.py", lambda f, _: rewrite(f / "modeling.py", b"raise SystemExit")),
    "library": ("lib.so", lambda f, _: rewrite(f / "lib.so", b"\x7fELF")),
    "pickle": ("pytorch_model.bin", lambda f, planted: rewrite(f / "pytorch_model.bin", planted)),
    "auto_map": ("'auto_map'", lambda f, _: asking(f, "config.json", "auto_map", {"AutoModel": "modeling.X"})),
    "model_file": ("'model_file'", lambda f, _: asking(f, "config.json", "model_file", "modeling.py")),
    "tokenizer": ("'auto_map'", lambda f, _: asking(f, "tokenizer_config.json", "auto_map", {"AutoTokenizer": "x.Y"})),
    "disguised": ("load_safetensors", lambda f, planted: rewrite(f / "model.safetensors", planted)),
}


@pytest.mark.parametrize("kind", CODE)
def test_a_folder_with_code_is_refused_by_name_although_its_manifest_vouches_for_it(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    named, plant = CODE[kind]
    marker = tmp_path / "ran"
    plant(folder, pickle.dumps(Planted(marker)))
    vouch(folder)
    assert named in refusal(folder)
    assert not marker.exists()


def test_control_the_planted_bytes_run_where_they_are_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Planted(marker)))  # noqa: S301 - on purpose
    assert marker.exists()


def test_a_byte_that_the_digest_does_not_cover_refuses_to_load(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    rewrite(weights, bytes(data))
    assert "model.safetensors: its contents are not what the manifest says" in refusal(folder)


def test_control_the_same_folder_untouched_answers(folder: Path) -> None:
    with Node("--model", str(folder), engine="mlx") as node, Client(node) as client:
        assert client.ask("hello", max_tokens=2).receipt
