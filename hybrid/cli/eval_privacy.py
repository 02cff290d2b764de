"""``hybrid eval privacy``: what the recognisers find in texts, one line per row.

Offline, no model; texts are not copied.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hybrid.cli.rows import rows, text
from hybrid.cli.terminal import safe, talk
from hybrid.errors import ConfigurationError

_FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class Row:
    """A text and the name it goes by."""

    id: Any
    text: str


@click.command("privacy")
@click.option("--data", required=True, metavar="ROWS.jsonl", type=_FILE, help="Rows: id, text.")
@click.option("--out", required=True, metavar="OUT.jsonl", type=_FILE, help="One line a row: id, spans, private.")
@click.option("--strict", is_flag=True, help="Also names, addresses, birth dates and health, as detect=strict does.")
def command(*, data: Path, out: Path, strict: bool) -> None:
    """Mark what the recognisers find in texts.

    spans holds start, end and type of each finding, in characters, end exclusive. private says whether detection
    alone would keep the text on the device. A row's answer depends on its text alone; nothing is sent.
    """
    if out.exists() and data.exists() and out.samefile(data):
        raise ConfigurationError("--out names the same file as --data", hint="write the result to another file")
    done = marked = 0
    with out.open("w", encoding="utf-8") as file:
        for row in rows(data, _row):
            found = _found(row, strict=strict)
            file.write(json.dumps(found) + "\n")
            done, marked = done + 1, marked + found["private"]
    talk(f"{done} rows, {marked} private, in {safe(str(out))}")


def _row(row: Mapping[str, Any]) -> Row:
    if "id" not in row or isinstance(row["id"], dict | list):
        raise ValueError('"id" must be a text or a number')
    return Row(row["id"], text(row, "text"))


def _found(row: Row, *, strict: bool) -> dict[str, Any]:
    from hybrid.routing.recognisers.recognise import private, recognise

    spans = recognise(row.text, strict=strict)
    return {
        "id": row.id,
        "spans": [{"start": s.start, "end": s.end, "type": s.type} for s in spans],
        "private": private(spans),
    }
