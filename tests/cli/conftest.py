import os
from pathlib import Path

import pytest

MAIL = "From: ann@example.org\nTo: bob@example.org\nSubject: Offers\n\nOffer one costs 10. Offer two costs 12.\n"


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no settings, no models, a plain terminal; the current folder holds a mail and a text."""
    for name in [n for n in os.environ if n.startswith("HYBRID_")]:
        monkeypatch.delenv(name)
    for name, value in {"XDG_CONFIG_HOME": "config", "HOME": ".", "HYBRID_MODELS": "models"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    for name, value in {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "mail.eml").write_text(MAIL)
    (tmp_path / "notes.txt").write_text("The meeting is on Monday.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path
