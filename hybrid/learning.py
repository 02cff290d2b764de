"""A user's own corrections of the router's weights on disk: the one in use, those before it, and the way back.

Three are kept, each in a private file of its own; one small file says which is in use, so that every change is one
replaced file. What is damaged, was tampered with or was made for other weights is not used, and the log says why:
then the shipped weights answer. Judging and fitting are `hybrid.retraining`'s. Routing design C10.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .errors import ConfigurationError
from .routing.log import DecisionRecord
from .routing.personal import Personal, PersonalError
from .state import locked, read_json, write_json, write_private

FOLDER, STATE = "learning", "state.json"
EXAMPLES = "examples.sqlite"
"""The store of questions that a person chose to keep, beside that folder."""

KEPT = 3
REVIEWED = 100
"""Requests after which a promoted correction is judged again."""

RISE_Z = 1.2816
"""One-sided 90 % of the normal distribution, for two shares."""

_log = logging.getLogger("hybrid")
_log.addHandler(logging.NullHandler())  # heard by programs that listen; never printed by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One kept correction.

    sha256: of its file.  at: Unix seconds of its promotion.  model: how decisions name it.  offset: that is in the
    scores it gave.  requests, overrides: of the time before it, to judge it by.  reviewed: whether that was done.
    """

    version: int
    sha256: str
    at: int
    model: str
    offset: float
    requests: int
    overrides: int
    reviewed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is kept, the newest last and in use.

    highest: the last version number given.  ran_at: Unix seconds of the last fit.  used_until: Unix minute up to which
    outcomes have been learned from.  last: how the last attempt ended, a stable word.
    """

    kept: tuple[Version, ...] = ()
    highest: int = 0
    ran_at: int | None = None
    used_until: int = 0
    last: str = ""

    @property
    def used(self) -> Version | None:
        """The correction in use; None for the shipped weights as they are."""
        return self.kept[-1] if self.kept else None


def current(folder: Path, *, base: str) -> Personal | None:
    """Return the correction in use, None for the shipped weights as they are.

    folder: the state folder.  base: `routing.personal.digest` of the shipped weights.  Never raises for what lies
    there: a file that can't be trusted is not used, and that is logged.
    """
    try:
        used = history(folder).used
        return _read(folder, used, base) if used else None
    except (ConfigurationError, PersonalError, OSError) as error:
        _log.warning("learning_not_used", extra={"reason": str(error)})
        return None


def history(folder: Path) -> History:
    """Return what is kept. Raises ConfigurationError for a file that can't be read."""
    path = _path(folder)
    value = read_json(path)
    try:
        return _history(value) if value is not None else History()
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigurationError(
            f"{path} is not ours", hint=f"remove the folder {path.parent}: the shipped weights are then used"
        ) from None


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[History]:
    """Be alone with what is kept, among all processes. Raises ConfigurationError."""
    with locked(_path(folder)):
        yield history(folder)


def save(folder: Path, value: History) -> None:
    """Replace what is kept, and remove the files that are kept no more. Call it inside `changing`."""
    write_json(_path(folder), {"format": 1, **asdict(value)})
    held = {_file(folder, each.version).name for each in value.kept}
    for path in _path(folder).parent.glob("personal-*.json"):
        if path.name not in held:
            path.unlink(missing_ok=True)


def promoted(folder: Path, before: History, personal: Personal, version: Version) -> History:
    """Write a correction's file and return the history with it in use; `save` makes it so."""
    write_private(_file(folder, personal.version), personal.to_bytes())
    kept = (*before.kept, version)[-KEPT:]
    return replace(before, kept=kept, highest=max(before.highest, version.version))


def rollback(folder: Path, *, reason: str = "asked", version: int | None = None) -> History:
    """Go back to the correction before the one in use, or to the shipped weights; returns what is kept then.

    The one that was in use is removed. version: only if this one is in use.  Where there is nothing to go back from,
    nothing changes.  Raises ConfigurationError.
    """
    with changing(folder) as before:
        used = before.used
        if used is None or version not in {None, used.version}:
            return before
        after = replace(before, kept=before.kept[:-1], last=f"rolled_back_{reason}")
        save(folder, after)
    _log.warning("learning_rolled_back", extra={"reason": reason, "version": used.version})
    return after


def review(folder: Path, records: Callable[[], Iterable[DecisionRecord]]) -> bool:
    """Judge the correction in use by its first 100 requests; roll it back if overrides rose. Whether it was.

    records: reads the decision log; asked only while something waits to be judged.  Raises ConfigurationError.
    """
    used = history(folder).used
    if used is None or used.reviewed:
        return False
    since = [each for each in records() if each.model == used.model and each.minute >= used.at // 60]
    if len(since) < REVIEWED:
        return False
    overrides = sum(each.outcome.overridden is not None for each in since)
    if rose(used.overrides, used.requests, overrides, len(since)):
        rollback(folder, reason="overrides", version=used.version)
        return True
    with changing(folder) as before:
        if before.used == used:
            save(folder, replace(before, kept=(*before.kept[:-1], replace(used, reviewed=True))))
    return False


def rose(before: int, of_before: int, after: int, of_after: int) -> bool:
    """Whether a share rose, with one-sided 90 % confidence: two shares, pooled normal approximation."""
    if not of_before:
        return False
    pooled = (before + after) / (of_before + of_after)
    spread = (pooled * (1 - pooled) * (1 / of_before + 1 / of_after)) ** 0.5
    return bool(after / of_after - before / of_before > RISE_Z * spread)


def tell(event: str, **facts: str | int) -> None:
    """Log an event of learning: names and numbers, never content."""
    _log.info(event, extra=facts)


def offsets(kept: History) -> Mapping[str, float]:
    """Return the offset in the scores of each kept correction, by the name decisions have for it."""
    return {each.model: each.offset for each in kept.kept}


def _read(folder: Path, version: Version, base: str) -> Personal:
    data = _file(folder, version.version).read_bytes()
    if hashlib.sha256(data).hexdigest() != version.sha256:
        raise PersonalError("the correction's file is not what was promoted")
    return Personal.from_bytes(data, base=base)


def _history(value: Mapping[str, Any]) -> History:
    if value["format"] != 1:
        raise ValueError
    names = [f.name for f in fields(History) if f.name != "kept"]
    return History(kept=tuple(Version(**each) for each in value["kept"]), **{name: value[name] for name in names})


def _path(folder: Path) -> Path:
    return folder / FOLDER / STATE


def _file(folder: Path, version: int) -> Path:
    return folder / FOLDER / f"personal-{int(version)}.json"
