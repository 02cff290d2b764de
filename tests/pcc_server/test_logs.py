"""The node's lines: each kind of them is explained to operators, and each process loads only what it needs to speak."""

import subprocess
import sys
from pathlib import Path

import pytest

from pcc_server.events import Event

OPERATORS = Path(__file__).parents[2] / "docs" / "operators.md"


def explained(document: str) -> set[str]:
    """The names in the first column of the document's tables."""
    rows = (line.split("|") for line in document.splitlines() if line.startswith("| `"))
    return {name.strip(" `") for row in rows for name in row[1].split(",")}


def test_every_event_is_explained_to_operators() -> None:
    assert not {event.value for event in Event} - explained(OPERATORS.read_text())


def test_an_event_without_a_row_would_be_noticed() -> None:
    assert explained("| `phase` | start-up |\n| event | means |\nnothing about `request`\n") == {"phase"}


@pytest.mark.parametrize("program", ["worker", "launcher", "cli"])
def test_only_the_gateway_loads_what_serves_the_admin_port(program: str) -> None:
    code = f"import sys, pcc_server.{program}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"uvicorn", "starlette", "prometheus_client"} & set(done.stdout.split())


def test_the_gateway_does_load_it() -> None:
    code = "import sys, pcc_server.admin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert {"uvicorn", "starlette", "prometheus_client"} <= set(done.stdout.split())
