"""``hybrid list``: what is in the store and what could be; ``show`` and ``rm`` for one model."""

import json
from typing import TYPE_CHECKING, Any

import click

from hybrid.cli.models import Shelf
from hybrid.cli.render import size
from hybrid.cli.terminal import safe, talk

if TYPE_CHECKING:
    from device.catalog import Entry
    from device.store import Installed


@click.group("list", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List, show or remove models.

    Without a command: those in the store, and those the catalogue knows.
    """
    if ctx.invoked_subcommand is not None:
        return
    shelf = Shelf.open()
    have = {model.entry.id: model for model in shelf.installed()}
    default = shelf.default()
    listed = [model.entry for model in have.values() if model.entry.id not in {e.id for e in shelf.catalog.entries}]
    rows = [_row(entry, have.get(entry.id), default) for entry in (*shelf.catalog.entries, *listed)]
    if as_json:
        click.echo(json.dumps({"models": rows, "default": default.entry.id if default else None}, indent=2))
        return
    click.echo("\n".join(_lines(rows)))
    if default is None:
        talk("hint: nothing is in the store yet; hybrid pull starter fetches the smallest model")


def _row(entry: "Entry", installed: "Installed | None", default: "Installed | None") -> dict[str, Any]:
    return {
        "id": entry.id,
        "installed": installed is not None,
        "default": default is not None and default.entry.id == entry.id,
        "role": str(entry.role),
        "size_bytes": installed.size_bytes if installed else entry.size_bytes,
        "context_tokens": entry.context_tokens,
        "licence": entry.licence,
        "aliases": list(entry.aliases),
    }


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    wide = max(len(row["id"]) for row in rows)
    lines = []
    for row in rows:
        state = "default" if row["default"] else "in store" if row["installed"] else "-"
        names = f"  ({', '.join(row['aliases'])})" if row["aliases"] else ""
        figures = f"{size(row['size_bytes']):>8}  {row['context_tokens']:>7,} tok  {row['role']:<6}"
        lines.append(safe(f"{row['id']:<{wide}}  {state:<8}  {figures} {row['licence']}{names}"))
    return lines


@command.command()
@click.argument("name", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(name: str, as_json: bool) -> None:
    """Show one model of the store: where it lies, its digest, its licence."""
    model = Shelf.open().get(name)
    facts = {
        "id": model.entry.id,
        "path": str(model.path),
        "digest": model.manifest_digest.hex(),
        "size_bytes": model.size_bytes,
        "context_tokens": model.entry.context_tokens,
        "role": str(model.entry.role),
        "licence": model.entry.licence,
        "source": str(model.entry.source),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    facts["size_bytes"] = f"{model.size_bytes} ({size(model.size_bytes)})"
    click.echo("\n".join(safe(f"{key:<15} {value}") for key, value in facts.items()))


@command.command()
@click.argument("name", metavar="ID")
def rm(name: str) -> None:
    """Remove one model from the store."""
    Shelf.open().remove(name)
    talk(f"removed {safe(name)}")
