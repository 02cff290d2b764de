"""Files that hold a secret: nobody else may read them, except through a group that their owner gave them by."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid.credentials import read_token
from hybrid.errors import ConfigurationError
from hybrid.wire.note import NoteSigner
from pcc_server import admin
from pcc_server.errors import StartFailure
from pcc_server.tlog.errors import LogError
from pcc_server.tlog.key_files import read_signer

pytestmark = pytest.mark.linux

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "admin-token": ("x" * 43, lambda path: admin.read_token(str(path))),
    "note-key": (NoteSigner.generate("pcc.example/directory").secret(), read_signer),
    "access-key-of-a-client": ("x" * 43, read_token),
}
OURS, GIVEN = os.geteuid(), 12345


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("owner", "modes", "refused"),
    [
        (OURS, (0o600, 0o400), (0o640, 0o604, 0o620, 0o610)),
        (GIVEN, (0o440, 0o640, 0o600), (0o444, 0o460, 0o644, 0o641)),  # as Kubernetes and systemd give secrets
    ],
)
def test_who_may_read_a_secret(
    tmp_path: Path, kind: str, owner: int, modes: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    if OURS != 0:
        pytest.fail("this test gives a file away, which needs root")
    text, read = READERS[kind]
    file = tmp_path / "secret"
    file.write_text(f"{text}\n")
    os.chown(file, owner, -1)
    for mode in modes:
        file.chmod(mode)
        assert read(file)
    for mode in refused:
        file.chmod(mode)
        with pytest.raises((StartFailure, LogError, ConfigurationError)) as raised:
            read(file)
        said = f"{raised.value}{getattr(raised.value, 'message', '')}{getattr(raised.value, 'hint', '')}"
        assert f"chmod {'600' if owner == OURS else '640'} {file}" in said
