"""What people see, as text files in ``transcripts``. TRANSCRIPTS=write writes them anew; read the difference."""

import os
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from hybrid.cli import main
from tests.cli.scenes import SCENES

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))
VARIES = (
    (re.compile(r"\b\d+\.\d\d s\b"), "0.00 s"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "0123456789abcdef"),
    (re.compile(r"\+[0-9a-f]{8}\b"), "+01234567"),
    (re.compile(r"\b0\.\d{2,4}\b(?! s)"), "0.nn"),  # scores and prices are the router's business
    (re.compile(r"(request), judged by [^;]*;"), r"\1;"),
    (re.compile(r"^((?:! )?(?:judged by|expected|price|machine|decided by) +).*$", re.MULTILINE), r"\g<1>…"),
)


def played(file: Path) -> str:
    """Run every command of a transcript in its scene and return the transcript as it is now."""
    lines = [f"scene {(scene := file.read_text().splitlines()[0].removeprefix('scene '))}"]
    for typed in [line for line in file.read_text().splitlines() if line.startswith("$ ")]:
        words, _, piped = typed[2:].partition(" < ")
        result = CliRunner().invoke(
            main, shlex.split(words)[1:], input=piped.encode().decode("unicode_escape").encode("latin-1"),
            prog_name="hybrid", obj=SCENES[scene]().doors,
        )  # fmt: skip
        lines += ["", typed, *result.stdout.splitlines(), *(f"! {line}" for line in result.stderr.splitlines())]
        lines.append(f"exit {result.exit_code}")
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    for pattern, fixed in VARIES:
        text = pattern.sub(fixed, text)
    return text


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_transcript_is_what_people_see(file: Path) -> None:
    now = played(file)
    if os.environ.get("TRANSCRIPTS") == "write":
        file.write_text(now)
    assert file.read_text() == now
