"""``hybrid pull`` of a hub model without a known digest: it says what it got, and records it only on a yes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import main
from tests.support_hub import COMMIT, Hub, fake_hub
from tests.support_models import digest_of, model_files

FILES = model_files()
OWN_CATALOG = """
[[model]]
id = "tiny"
role = "chat"
title = "A tiny model"
licence = "Apache-2.0"
params = 1000
context_tokens = 64
kv_bytes_per_token = 0
size_bytes = 1000

[model.source]
kind = "hub"
repo = "test/tiny"
revision = "main"
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, own_world: Path) -> Iterator[Hub]:
    (own_world / "models").mkdir()
    (own_world / "models" / "catalog.toml").write_text(OWN_CATALOG)
    with fake_hub("test/tiny", FILES) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(own_world / "hf"))
        yield served


def pull(*words: str) -> Result:
    return CliRunner().invoke(main, ["pull", "tiny", *words])


def lock(world: Path) -> str:
    file = world / "models" / "models.lock"
    return file.read_text() if file.exists() else ""


def test_without_a_yes_it_is_shown_and_not_recorded(hub: Hub, own_world: Path) -> None:
    result = pull()
    assert result.exit_code == 0, result.stderr
    assert COMMIT in result.stderr
    assert digest_of(FILES) in result.stderr
    assert "not recorded" in result.stderr
    assert lock(own_world) == ""


def test_with_a_yes_it_is_recorded_and_other_bytes_are_refused(hub: Hub, own_world: Path) -> None:
    assert pull("--yes").exit_code == 0
    assert digest_of(FILES) in lock(own_world)
    hub.files["config.json"] = b'{"model_type": "other"}'
    again = pull("--force")
    assert again.exit_code == 4
    assert "not recorded" not in again.stderr
