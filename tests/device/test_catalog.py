"""The catalogue: names, digests, and what it says about models it cannot pin."""

import subprocess
import sys
from pathlib import Path

import pytest

from device.catalog import Entry, HubSource, WheelSource, catalog, parse, wanted_from_hub
from device.errors import BadSource, UnknownModel

KNOWN_DIGESTS = (
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
OWN = """
[[model]]
id = "mine"
role = "chat"
title = "Mine"
licence = "MIT"
params = 1
context_tokens = 10
kv_bytes_per_token = 1
size_bytes = 1
{extra}
[model.source]
kind = "hub"
repo = "me/mine"
revision = "main"
"""


def test_every_model_of_the_design_is_listed_in_order() -> None:
    assert [entry.id for entry in catalog().entries] == [
        "smollm2-135m",
        "minilm-l6",
        "smollm3-3b-4bit",
        "llama-3.2-3b-4bit",
        "qwen3-14b-4bit",
        "qwen3-30b-a3b-2507-4bit",
    ]


@pytest.mark.parametrize("name", ["starter", "smollm2", "smollm2-135m", "Starter", "SMOLLM2-135M"])
def test_the_starter_answers_to_its_names_in_any_case(name: str) -> None:
    assert catalog().find(name).id == "smollm2-135m"


def test_an_unknown_name_brings_the_nearest_known_one() -> None:
    with pytest.raises(UnknownModel) as caught:
        catalog().find("smolm3-3b")
    assert caught.value.nearest == "smollm3-3b-4bit"


def test_a_name_like_no_other_brings_no_suggestion() -> None:
    with pytest.raises(UnknownModel) as caught:
        catalog().find("zzzzzzzz")
    assert caught.value.nearest is None


@pytest.mark.parametrize("digest", KNOWN_DIGESTS)
def test_the_known_digests_are_in_it(digest: str) -> None:
    sources = [e.source.sha256 for e in catalog().entries if isinstance(e.source, WheelSource)]
    assert digest in sources + [file.sha256 for e in catalog().entries for file in e.files]


def test_exactly_the_models_with_digests_count_as_pinned() -> None:
    assert {e.id for e in catalog().entries if e.pinned} == {"smollm2-135m", "minilm-l6"}
    assert all(isinstance(e.source, HubSource) for e in catalog().entries if not e.pinned)


def test_a_licence_that_must_be_accepted_says_so() -> None:
    assert [e.id for e in catalog().entries if e.accept_licence] == ["llama-3.2-3b-4bit"]


def test_a_wheel_needs_disk_for_pips_copy_its_files_and_the_converted_folder() -> None:
    starter = catalog().find("starter")
    assert starter.download_bytes == 92_871_040
    assert starter.scratch_bytes == 92_871_040 + 98_362_432 + starter.size_bytes


def test_a_users_own_file_adds_models(tmp_path: Path) -> None:
    own = tmp_path / "catalog.toml"
    own.write_text(OWN.format(extra=""))
    assert catalog(own).find("mine").licence == "MIT"
    assert catalog(own).find("starter").id == "smollm2-135m"
    assert catalog(tmp_path / "absent.toml").entries == catalog().entries


def test_a_name_taken_twice_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "catalog.toml"
    own.write_text(OWN.format(extra='aliases = ["starter"]'))
    with pytest.raises(BadSource, match="'starter' is taken twice"):
        catalog(own)


@pytest.mark.parametrize("text", ["model = 1", "[model]\nid = 1", "[[", "\xff", OWN.format(extra="")[:-9]])
def test_an_own_file_that_is_no_catalogue_is_refused_by_its_path(tmp_path: Path, text: str) -> None:
    own = tmp_path / "catalog.toml"
    own.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadSource, match=r"catalog\.toml"):
        catalog(own)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('"mine"', '"../mine"'),
        ('"mine"', '".staging"'),
        ('"mine"', '"a/b"'),
        ('"mine"', '""'),
        ('"mine"', '"mine.folder"'),
        ("params = 1", 'params = "1"'),
        ("params = 1", "params = -1"),
        ('repo = "me/mine"', 'repo = "--index-url=x"'),
        ('revision = "main"', "revision = 1"),
        ("size_bytes = 1", 'size_bytes = 1\ndigest = "abc"'),
        ("size_bytes = 1", 'size_bytes = 1\nconvert = "gguf"'),
        (
            "size_bytes = 1",
            f'size_bytes = 1\nfiles = [{{ path = "a.gguf", to = "b.gguf", size = 1, sha256 = "{"0" * 64}" }}]',
        ),
        ("size_bytes = 1", 'size_bytes = 1\nfiles = [{ path = "a", to = "a", size = 1, sha256 = "" }]'),
    ],
)
def test_an_entry_that_would_trip_somebody_later_is_refused(tmp_path: Path, good: str, bad: str) -> None:
    own = tmp_path / "catalog.toml"
    text = OWN.format(extra="")
    own.write_text(text)
    assert catalog(own).find("mine")
    own.write_text(text.replace(good, bad))
    with pytest.raises(BadSource, match=r"is out of place|cannot be a name|no size and SHA-256"):
        catalog(own)


def test_a_requirement_of_a_wheel_cannot_bring_lines_of_its_own(tmp_path: Path) -> None:
    source = 'kind = "wheel"\nproject = "p"\nversion = "1.0{}"\nfile = "p.whl"\nsize = 1\nsha256 = "' + "0" * 64 + '"'
    own = tmp_path / "catalog.toml"
    base = OWN.format(extra="").partition("kind")[0]
    own.write_text(base + source.format(""))
    assert catalog(own).find("mine")
    own.write_text(base + source.format("\\n--index-url https://example.org"))
    with pytest.raises(BadSource, match="out of place"):
        catalog(own)


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil"])
@pytest.mark.parametrize("key", ["path", "to"])
def test_a_file_that_leaves_its_folder_is_refused(path: str, key: str) -> None:
    fields = {"path": "good", "to": "good", key: path}
    files = f'files = [{{ path = "{fields["path"]}", to = "{fields["to"]}", size = 1, sha256 = "" }}]'
    with pytest.raises(ValueError, match="leaves its folder"):
        parse(OWN.format(extra=files))


@pytest.mark.parametrize("extra", ["colour = 1", "params = 2"])
def test_a_malformed_entry_is_refused(extra: str) -> None:
    with pytest.raises(ValueError, match=r"mine|Cannot overwrite"):
        parse(OWN.format(extra=extra))


def test_only_weights_configuration_and_tokenizer_are_wanted_of_a_hub_repository() -> None:
    wanted = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json"]
    unwanted = ["README.md", "modeling_x.py", "pytorch_model.bin", "sub/model.safetensors", "model.gguf"]
    assert [path for path in wanted + unwanted if wanted_from_hub(path)] == wanted


def test_an_entry_never_shows_its_system_text_in_a_log() -> None:
    starter: Entry = catalog().find("starter")
    assert starter.default_system
    assert starter.default_system not in repr(starter)


def test_importing_these_parts_loads_nothing_heavy() -> None:
    program = (
        "import sys, device.catalog, device.store, device.sensors, device.index.readers\n"
        "print(sorted({'mlx', 'numpy', 'huggingface_hub', 'icalendar', 'psutil', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
