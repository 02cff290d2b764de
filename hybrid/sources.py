"""Personal files as labelled sources. Mail, calendars and contacts stay on the device unless their owner widens them.

Reading goes through ``hybrid.local``. What a file is shows in its name, in the mail folder it lies in, or in its first
words; what it says never decides.
"""

import contextlib
import re
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
FIRST_WORDS: Mapping[str, re.Pattern[bytes]] = {
    "mail": re.compile(rb"From \S+ +[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]"),  # an mbox: sender and date
    "calendar": re.compile(rb"BEGIN:VCALENDAR\s"),
    "contacts": re.compile(rb"BEGIN:VCARD\s"),
}
FIRST_BYTES = 512
MAILDIR = ("cur", "new", "tmp")  # the three folders every Maildir has
DASH = "-" * 8  # between two messages of a mailbox


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
    """Read a file as what it is.

    Mail (``.eml``, ``.mbox``, a file of a Maildir), calendars (``.ics``) and contacts (``.vcf``, as text) stay on the
    device whatever ``max_route`` says, also under another name; to widen one that is your own, use its constructor.
    Any other file is UTF-8 text and not limited unless ``max_route`` says so.
    Raises ConfigurationError when it is not there, not readable or not what its name says.
    """
    path = Path(path)
    if path.is_fifo():  # it can be read once: as text, under the label its first words ask for
        content = _plain(path)
        kind = _kind_by_words(content.encode()[:FIRST_BYTES])
    else:
        kind = kind_of(path)
        content = _READERS.get(kind, _plain)(path)
    return _make(str(path), content, kind, path, max_route if kind == "file" else Route.ON_DEVICE)


def kind_of(path: Path) -> str:
    """Say what a file is: ``mail``, ``calendar``, ``contacts`` or ``file``."""
    if path.suffix.lower() in KINDS:
        return KINDS[path.suffix.lower()]
    if _in_maildir(path):
        return "mail"
    first = b""
    with contextlib.suppress(OSError), path.open("rb") as opened:  # whoever reads it says what is wrong with it
        first = opened.read(FIRST_BYTES)
    return _kind_by_words(first)


def _kind_by_words(first: bytes) -> str:
    return next((kind for kind, words in FIRST_WORDS.items() if words.match(first)), "file")


def mail(path: str | Path, *, max_route: Route | str | None = None, headers: bool = False) -> Source:
    """Read one message (RFC 5322), or a mailbox: each body, after sender, subject and date where ``headers`` is true.

    The body alone by default: small models take header lines for facts about people. Messages of a mailbox always have
    them, since nothing else says who wrote which.
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
    return str(_read(path, lambda readers: readers.read_text(path)))


def _mail(path: Path, *, headers: bool = False) -> str:
    messages = _read(path, lambda readers: list(readers.read_mails(path)))
    if len(messages) == 1 and not headers:
        return str(messages[0].body)
    return f"\n{DASH}\n".join(
        f"From: {m.sender}\nTo: {m.to}\nSubject: {m.subject}\nDate: {m.date}\n\n{m.body}" for m in messages
    )


def _calendar(path: Path, *, start: date | None = None, days: int = CALENDAR_DAYS) -> str:
    first = start or date.today()  # noqa: DTZ011 - the owner's own day
    return str(_read(path, lambda r: r.calendar_text(r.read_calendar(path, start=first, days=days))))


def _in_maildir(path: Path) -> bool:
    folder = path.absolute().parent
    return folder.name in MAILDIR and all((folder.parent / name).is_dir() for name in MAILDIR)


def _read(path: Path, read: Callable[[Any], Any]) -> Any:
    """Read with the device's readers. Raises ConfigurationError for what is not there or not what it should be."""
    from .local import mapped, part

    if not path.exists():
        raise ConfigurationError(f"no such file: {path}")
    with mapped():
        try:
            return read(part("index.readers"))
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None


_READERS: Mapping[str, Callable[[Path], str]] = {"mail": _mail, "calendar": _calendar}
