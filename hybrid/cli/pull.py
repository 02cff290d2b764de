"""``hybrid pull``: fetch a model into the store, after saying what it is and what it will take."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hybrid.cli.models import Shelf
from hybrid.cli.render import Progress, size
from hybrid.cli.terminal import Screen, safe, screen_of, talk
from hybrid.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from device.catalog import Entry
    from device.store import Installed
    from device.store import Progress as Step

DOING = {"wait": "waiting for another pull", "download": "downloading", "unpack": "unpacking",
         "convert": "converting", "verify": "verifying", "done": "done"}  # fmt: skip
EVERY_SHARE = 25  # percent between two lines where no line can be redrawn


@click.command("pull")
@click.argument("name", metavar="NAME|FOLDER")
@click.option("--yes", is_flag=True, help="Accept the licence, and record unpinned bytes, without asking.")
@click.option("--force", is_flag=True, help="Fetch again, and even if it hardly fits in memory.")
def command(name: str, yes: bool, force: bool) -> None:
    """Fetch a model into the store.

    Nothing shows in the store before every byte was checked. After a cut, run it again: it goes on or starts anew.
    A folder, named with a /, is copied into the store instead.
    """
    shelf, screen = Shelf.open(), screen_of(sys.stderr)
    if "/" in name or name in (".", ".."):
        _done(shelf.add_folder(_folder(name), name=_name_for(name), force=force))
        return
    entry = shelf.entry(name)
    if not force and any(model.entry.id == entry.id for model in shelf.installed()):
        talk(f"{entry.id} is in the store; checking it")
    else:
        _announce(entry, shelf, force=force)
        _agree(entry, yes=yes)
    with Progress(screen) as line:
        installed = shelf.pull(entry, progress=_reporter(line, screen), force=force)
    if not installed.entry.pinned and installed.entry.source.kind == "hub":
        _pin(shelf, installed, yes=yes)
    _done(installed)


def _announce(entry: "Entry", shelf: Shelf, *, force: bool) -> None:
    """Say what it is and what it will take. Raises UnavailableError where it cannot run here."""
    talk(f"{entry.id}: {safe(entry.title)}")
    talk(f"  licence {safe(entry.licence)}, from {safe(str(entry.source))}, fetches {size(entry.download_bytes)}")
    if not entry.kv_bytes_per_token:
        return
    fit = shelf.fit_of(entry)
    needs, room = size(fit.need_bytes), size(fit.room_bytes)
    talk(f"  will use {needs} of your {room} with {fit.context_tokens:,} tokens of context")
    if fit.verdict == "refused" and not force:
        hint = "choose a smaller model (hybrid list), or --force to fetch it all the same"
        raise UnavailableError(fit.text, reason="not_enough_memory", hint=hint)


def _agree(entry: "Entry", *, yes: bool) -> None:
    """Ask for a licence that wants a yes. Raises ConfigurationError where nobody gives it."""
    if not entry.accept_licence or yes:
        return
    question = f"its licence, {safe(entry.licence)}, must be accepted"
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{entry.id}: {question}", hint=f"hybrid pull {entry.id} --yes")
    talk(f"  {question}")
    if not click.confirm("Go on?", err=True):
        raise ConfigurationError(f"{entry.id} was not fetched", hint="hybrid list shows other models")


def _pin(shelf: Shelf, installed: "Installed", *, yes: bool) -> None:
    """Show which bytes came, and record them on an explicit yes: the catalogue knows no digest to compare with."""
    name = installed.entry.id
    talk(f"{name} is unpinned: no digest of it was known beforehand; the hub served")
    talk(f"  {safe(installed.manifest.source)}, digest {installed.manifest_digest.hex()}")
    if yes or (sys.stdin.isatty() and click.confirm("Record it, and refuse other bytes from now on?", err=True)):
        shelf.record(installed)
        talk("recorded: other bytes are refused from now on")
    else:
        talk(f"not recorded: a node will refuse it; hybrid pull {name} --yes records it")


def _reporter(line: Progress, screen: Screen) -> "Callable[[Step], None]":
    """Return what shows each step: one changing line, or a few plain ones where no line can be redrawn."""
    told: set[tuple[str, int]] = set()

    def show(step: "Step") -> None:
        share = 100 * step.done_bytes // step.total_bytes if step.total_bytes else 0
        words = DOING.get(step.phase, step.phase)
        if screen.live:
            line.show(f"{words} {share:3d} %  {size(step.done_bytes)} of {size(step.total_bytes)}")
        elif (mark := (step.phase, share // EVERY_SHARE)) not in told and step.phase != "done":
            told.add(mark)
            talk(f"{words} {share} %" if step.total_bytes else words)

    return show


def _folder(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_dir():
        raise ConfigurationError(f"no such folder: {safe(name)}", hint="a catalogue name has no /; see hybrid list")
    return path


def _name_for(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", Path(name).expanduser().resolve().name.lower()).strip("-._") or "model"


def _done(installed: "Installed") -> None:
    talk(f"{installed.entry.id} is ready: {size(installed.size_bytes)} in {safe(str(installed.path))}")
