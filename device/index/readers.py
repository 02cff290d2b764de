"""Personal files as plain values: a calendar's occurrences, a mail's fields, a text.

Calendars go through icalendar and recurring-ical-events (rules, exceptions, moved and cancelled occurrences, time
zones), mail through the standard library. A file that is not what it claims to be is a ``BadSource`` naming the file;
errors never quote its contents.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.errors import BadSource

if TYPE_CHECKING:
    from email.message import EmailMessage

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarEvent:
    """One occurrence. start, end: local times with their zone, or dates if ``all_day``; ``end`` is exclusive."""

    uid: str
    title: str = field(repr=False)
    start: datetime | date
    end: datetime | date
    all_day: bool
    location: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One message. date: when the header says it was sent, None without one; attachments: their names only."""

    sender: str = field(repr=False)
    to: str = field(repr=False)
    subject: str = field(repr=False)
    date: datetime | None
    body: str = field(repr=False)
    attachments: tuple[str, ...] = field(default=(), repr=False)


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, without a byte order mark. Raises BadSource, for other bytes with their offset."""
    data = _bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSource(str(path), f"is not UTF-8 text: invalid byte at offset {error.start}") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSource(str(path), f"cannot be read: {error.strerror}") from error


def read_calendar(path: Path, *, start: date, days: int, tz: tzinfo | None = None) -> list[CalendarEvent]:
    """Return what a calendar file holds on ``days`` days from ``start``, in order; cancelled occurrences left out.

    tz: the zone days are counted and times are given in; None is this machine's. Times without a zone are taken as
    they stand. Raises BadSource when the file is no calendar or an event's rule makes no sense.
    """
    import recurring_ical_events
    from icalendar import Calendar

    text = read_text(path)
    try:
        calendars = [c for c in Calendar.from_ical(text, multiple=True) if c.name == "VCALENDAR"]
        # A day more at both ends: an occurrence is placed by its own zone, and belongs to a day of ours.
        found = [
            occurrence
            for calendar in calendars
            for occurrence in recurring_ical_events.of(calendar).between(start - _DAY, start + (days + 1) * _DAY)
        ]
        events = [_event(item, tz) for item in found if str(item.get("STATUS", "")).upper() != "CANCELLED"]
    except Exception as error:  # noqa: BLE001 - the libraries raise whatever a malformed file trips
        raise BadSource(str(path), f"is not a calendar that can be read ({type(error).__name__})") from None
    if not calendars:
        raise BadSource(str(path), "holds no calendar")
    first, last = _midnight(start, tz), _midnight(start + days * _DAY, tz)
    kept = [e for e in events if _moment(e.start, tz) < last and _after(e, first, tz)]
    return sorted(kept, key=lambda e: (_moment(e.start, tz), not e.all_day, e.title))


def _event(item: Any, tz: tzinfo | None) -> CalendarEvent:
    start, end = item.start, item.end
    all_day = not isinstance(start, datetime)
    return CalendarEvent(
        uid=str(item.get("UID", "")),
        title=_line(item.get("SUMMARY", "")),
        start=start if all_day else _local(start, tz),
        end=end if all_day else _local(end, tz),
        all_day=all_day,
        location=_line(item.get("LOCATION", "")),
    )


def _line(value: object) -> str:
    return " ".join(str(value).split())


def _local(moment: datetime, tz: tzinfo | None) -> datetime:
    """Give a moment in our zone; one without a zone already is in ours."""
    if moment.tzinfo is None and tz is not None:
        return moment.replace(tzinfo=tz)
    return moment.astimezone(tz)


def _midnight(day: date, tz: tzinfo | None) -> datetime:
    return _local(datetime.combine(day, time.min), tz)


def _moment(value: datetime | date, tz: tzinfo | None) -> datetime:
    return value if isinstance(value, datetime) else _midnight(value, tz)


def _after(event: CalendarEvent, first: datetime, tz: tzinfo | None) -> bool:
    """Whether the event is not over at ``first``; one without length counts at its own moment."""
    start, end = _moment(event.start, tz), _moment(event.end, tz)
    return end > first or start >= first


def calendar_text(events: Iterable[CalendarEvent]) -> str:
    """Write occurrences out, one a line, in words a small model reads: day, times, title, place."""
    return "\n".join(f"{_when(event)}: {event.title or 'Busy'}{_where(event)}" for event in events)


def _when(event: CalendarEvent) -> str:
    if isinstance(event.start, datetime) and isinstance(event.end, datetime):
        return f"{_day(event.start)}, {_span(event.start, event.end)}"
    last = event.end - _DAY
    return f"{_day(event.start)}, all day" if last <= event.start else f"{_day(event.start)} to {_day(last)}, all day"


def _span(start: datetime, end: datetime) -> str:
    if end <= start:
        return f"{start:%H:%M}"
    day = "" if end.date() == start.date() else f"{_day(end)}, "
    return f"{start:%H:%M} to {day}{end:%H:%M}"


def _day(value: date) -> str:
    return f"{value:%A} {value.day} {value:%B %Y}"


def _where(event: CalendarEvent) -> str:
    return f" ({event.location})" if event.location else ""


def read_mail(path: Path) -> Mail:
    """Return the one message of a mail file. Raises BadSource when it is none, or a mailbox of several."""
    mails = list(read_mails(path))
    if len(mails) != 1:
        raise BadSource(str(path), f"is a mailbox of {len(mails)} messages, not one mail")
    return mails[0]


def read_mails(path: Path) -> Iterator[Mail]:
    """Yield the messages of an ``.eml`` file, an mbox file or a Maildir folder, without changing it.

    Raises BadSource when the path holds no mail, or a message cannot be read.
    """
    if path.is_dir():
        yield from (_mail(message, path) for message in _maildir(path))
    elif (data := _bytes(path)).startswith(b"From "):
        yield from (_mail(_parsed(raw), path) for raw in _mbox(data))
    else:
        yield _mail(_parsed(data), path)


def _maildir(path: Path) -> Iterator["EmailMessage"]:
    if not (path / "cur").is_dir():
        raise BadSource(str(path), "is a folder but no Maildir")
    for part in ("cur", "new"):
        for file in sorted((path / part).glob("*")):
            yield _parsed(_bytes(file))


def _mbox(data: bytes) -> Iterator[bytes]:
    """Cut at lines that begin with ``From `` after an empty line; undo the quoting of such lines in bodies."""
    for part in data.replace(b"\r\n", b"\n").removeprefix(b"From ").split(b"\n\nFrom "):
        yield part.split(b"\n", 1)[-1].replace(b"\n>From ", b"\nFrom ")


def _parsed(data: bytes) -> "EmailMessage":
    from email import message_from_bytes, policy

    return message_from_bytes(data, policy=policy.default)


def _mail(message: "EmailMessage", path: Path) -> Mail:
    if not any(message[name] for name in ("From", "Subject", "Date", "Message-ID")):
        raise BadSource(str(path), "has none of the header lines of a mail")
    sent = message["Date"]
    return Mail(
        sender=_line(message["From"] or ""),
        to=_line(message["To"] or ""),
        subject=_line(message["Subject"] or ""),
        date=sent.datetime if sent is not None else None,
        body=_body(message, path),
        attachments=tuple(_line(part.get_filename() or "unnamed") for part in message.iter_attachments()),
    )


def _body(message: "EmailMessage", path: Path) -> str:
    """Return the plain text part, else the HTML one as text; empty when the mail has neither."""
    part = message.get_body(("plain", "html"))
    if part is None:
        return ""
    try:
        text = str(part.get_content())
    except (LookupError, ValueError) as error:
        raise BadSource(str(path), f"its text is in an encoding that cannot be read ({type(error).__name__})") from None
    if part.get_content_subtype() == "html":
        from .html_text import html_text

        text = html_text(text)
    return _own_words(text.replace("\r\n", "\n"))


def _own_words(text: str) -> str:
    """Cut the signature and quoted lines; a mail that is nothing else is kept whole."""
    kept = []
    for line in text.split("\n"):
        if line in ("-- ", "--"):
            break
        if not line.startswith(">"):
            kept.append(line.rstrip())
    words = "\n".join(kept).strip()
    return words or text.strip()
