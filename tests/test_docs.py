"""Documents are true: their links lead somewhere and the commands in them exist, with those flags."""

import re
import shlex
from pathlib import Path

import click
import pytest

from hybrid.cli import main as hybrid_main
from pcc_server.cli import main as node_main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "SECURITY.md", ROOT / "deploy/README.md"]
PROGRAMS = {"hybrid": hybrid_main, "pcc-server": node_main}
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def typed_lines(document: Path) -> list[str]:
    blocks = CONSOLE.findall(document.read_text())
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]


def unknown_flags(line: str) -> list[str]:
    """The flags of a typed line that its program does not have."""
    words = shlex.split(re.split(r" [|>] ", line, maxsplit=1)[0], comments=True)
    if words[0] not in PROGRAMS:
        return []
    command: click.Command = PROGRAMS[words[0]]
    context = click.Context(command, **command.context_settings)  # a command remembers the names of its help
    rest = words[1:]
    while isinstance(command, click.Group) and rest and (sub := command.get_command(context, rest[0])):
        command, rest = sub, rest[1:]
        context = click.Context(command, parent=context)
    known = {flag for p in command.get_params(context) for flag in (*p.opts, *p.secondary_opts)}
    return [w for w in rest if w.startswith("-") and w != "-" and w.split("=")[0] not in known]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_typed_command_has_the_flags_it_shows(document: Path) -> None:
    assert [(line, bad) for line in typed_lines(document) if (bad := unknown_flags(line))] == []


def test_a_flag_that_does_not_exist_is_noticed() -> None:
    assert unknown_flags("hybrid ask --no-such-flag hello") == ["--no-such-flag"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_relative_link_leads_to_a_file(document: Path) -> None:
    targets = LINK.findall(document.read_text())
    assert [t for t in targets if not (document.parent / t).exists()] == []
