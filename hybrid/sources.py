"""Personal files as labelled sources. Mail, calendars and contacts stay on the device unless their owner widens them.

Reading goes through ``hybrid.local``; nothing here looks at content to decide a label, only at what a file is.
"""

from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .routing import labels
from .wire.types import Route

CALENDAR_DAYS = 7  # today and six more: each weekday once, so that "on Friday" means one day
KINDS: Mapping[str, str] = {
    ".eml": "mail",
    ".emlx": "mail",
    ".mbox": "mail",
    ".ics": "calendar",
    ".ical": "calendar",
    ".vcf": "contacts",
    ".vcard": "contacts",
}


class _TextField:
    """On a source, its text; on the class, the constructor from typed text. One name, as people expect both."""

    def __get__(self, source: "Source | None", owner: "type[Source]") -> Any:
        return _INNER_TEXT.__get__(source, owner) if source is not None else text

    def __set__(self, source: "Source", value: str) -> None:
        _INNER_TEXT.__set__(source, value)


_INNER_TEXT: Any = labels.Source.__dict__["text"]


class Source(labels.Source):
    """A piece of context and the farthest route it may take: ``Source(label="notes", text="…", max_route=…)``.

    Constructors: ``Source.text``, ``Source.file``, ``Source.mail``, ``Source.calendar``. Mail, calendars and contacts
    are ``on_device`` by default; typed text and other files are not limited.
    """

    __slots__ = ()
    if not TYPE_CHECKING:
        text = _TextField()

    def __post_init__(self) -> None:
        """Refuse a limit that is no route. Raises ConfigurationError."""
        try:
            labels.Source.__post_init__(self)
        except ValueError:
            raise ConfigurationError(
                f"there is no route {self.max_route!r}", hint="max_route is on_device or private_cloud"
            ) from None

    @staticmethod
    def file(path: str | Path, *, max_route: Route | str | None = None) -> "Source":
        """Read a file as what its name says it is; see ``hybrid.sources.file``."""
        return file(path, max_route=max_route)

    @staticmethod
    def mail(path: str | Path, *, max_route: Route | str | None = None, headers: bool = False) -> "Source":
        """Read one message; see ``hybrid.sources.mail``."""
        return mail(path, max_route=max_route, headers=headers)

    @staticmethod
    def calendar(
        path: str | Path,
        *,
        start: date | None = None,
        days: int = CALENDAR_DAYS,
        max_route: Route | str | None = None,
    ) -> "Source":
        """Read the entries of some days; see ``hybrid.sources.calendar``."""
        return calendar(path, start=start, days=days, max_route=max_route)


def text(content: str, *, label: str = "text", max_route: Route | str | None = None) -> Source:
    """Label typed text; not limited unless ``max_route`` says so."""
    return _make(label, content, "text", None, max_route)


def file(path: str | Path, *, max_route: Route | str | None = None) -> Source:
    """Read a file as what its name says it is.

    ``.eml``, ``.mbox``, ``.ics``, ``.vcf`` and their like stay on the device whatever ``max_route`` says; to widen one
    that is your own, use its constructor. Any other file is UTF-8 text and not limited unless ``max_route`` says so.
    Raises ConfigurationError when it is not there, not readable or not what its name says.
    """
    path = Path(path)
    kind = KINDS.get(path.suffix.lower(), "file")
    reader = _READERS.get(path.suffix.lower(), _plain)
    return _make(str(path), reader(path), kind, path, max_route if kind == "file" else Route.ON_DEVICE)


def mail(path: str | Path, *, max_route: Route | str | None = None, headers: bool = False) -> Source:
    """Read one message (RFC 5322): its body, after sender, subject and date where ``headers`` is true.

    The body alone by default: small models take header lines for facts about people.
    """
    path = Path(path)
    return _make(str(path), _mail(path, headers=headers), "mail", path, max_route)


def calendar(
    path: str | Path, *, start: date | None = None, days: int = CALENDAR_DAYS, max_route: Route | str | None = None
) -> Source:
    """Read the entries of ``days`` days from ``start`` (today) on, one line each, repeating entries worked out."""
    path = Path(path)
    return _make(str(path), _calendar(path, start=start, days=days), "calendar", path, max_route)


def _make(label: str, content: str, kind: str, path: Path | None, max_route: Route | str | None) -> Source:
    return Source(
        label=label,
        text=content,
        kind=kind,
        path=None if path is None else str(path),
        max_route=max_route,  # type: ignore[arg-type]  # a str is settled or refused by __post_init__
    )


def _plain(path: Path) -> str:
    return str(_read("read_text", path))


def _mail(path: Path, *, headers: bool = False) -> str:
    message = _read("read_mail", path)
    if not headers:
        return str(message.body)
    return (
        f"From: {message.sender}\nTo: {message.to}\nSubject: {message.subject}\nDate: {message.date}\n\n{message.body}"
    )


def _calendar(path: Path, *, start: date | None = None, days: int = CALENDAR_DAYS) -> str:
    from .local import part

    entries = _read("read_calendar", path, start=start or date.today(), days=days)  # noqa: DTZ011 - the owner's own day
    return str(part("index.readers").calendar_text(entries))


def _read(reader: str, path: Path, **how: Any) -> Any:
    from .local import mapped, part

    if not path.exists():
        raise ConfigurationError(f"no such file: {path}")
    with mapped():
        try:
            return getattr(part("index.readers"), reader)(path, **how)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None


_READERS: Mapping[str, Callable[[Path], str]] = {".eml": _mail, ".emlx": _mail, ".ics": _calendar, ".ical": _calendar}
