"""Personal files as plain values: a calendar's occurrences, a mail's fields, a text.

Calendars go through icalendar and recurring-ical-events (rules, exceptions, moved and cancelled occurrences, time
zones), mail through the standard library. A file that is not what it claims to be is a ``BadSource`` naming the file;
errors never quote its contents.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any

from device.errors import BadSource

from .mail_text import attachments, body, cut, date_of, header, is_mail, parse
from .rules import most_a_day

_DAY = timedelta(days=1)
_MAX_BYTES = 64_000_000  # a personal file is read whole; nobody means to ask about more
_MOST_A_DAY = 10_000  # occurrences that are worked out, over all events of a calendar


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
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadSource(str(path), f"cannot be read: {getattr(error, 'strerror', None) or 'no usable path'}") from error
    if len(data) > _MAX_BYTES:
        raise BadSource(str(path), f"is larger than {_MAX_BYTES // 1_000_000} MB, too much to read at once")
    return data


def read_calendar(path: Path, *, start: date, days: int, tz: tzinfo | None = None) -> list[CalendarEvent]:
    """Return what a calendar file holds on ``days`` days from ``start``, in order; cancelled occurrences left out.

    tz: the zone days are counted and times are given in; None is this machine's. Times without a zone are taken as
    they stand. Raises BadSource when the file is no calendar, or an event's rule makes no sense or far too many.
    """
    import recurring_ical_events

    calendars = _calendars(path)
    # Two days more at both ends: an occurrence is placed by its own zone, up to 26 hours from ours.
    early, late = start - 2 * _DAY, start + (days + 2) * _DAY
    with _readable(path, "is not a calendar that can be read"):
        found = [event for calendar in calendars for event in recurring_ical_events.of(calendar).between(early, late)]
        events = [_event(item, tz) for item in found if str(item.get("STATUS", "")).upper() != "CANCELLED"]
    begin, over = _midnight(start, tz), _midnight(start + days * _DAY, tz)
    kept = [e for e in events if _moment(e.start, tz) < over and _after(e, begin, tz)]
    return sorted(kept, key=lambda e: (_moment(e.start, tz), not e.all_day, e.title))


def _calendars(path: Path) -> list[Any]:
    """Return the calendars of a file. Raises BadSource when there is none, or its rules would never end."""
    from icalendar import Calendar

    text = read_text(path)
    with _readable(path, "is not a calendar that can be read"):
        found = [c for c in Calendar.from_ical(text, multiple=True) if c.name == "VCALENDAR"]
        often = sum(map(most_a_day, found))
    if not found:
        raise BadSource(str(path), "holds no calendar")
    if often > _MOST_A_DAY:
        raise BadSource(str(path), "repeats its events too often to be worked out")
    return found


@contextlib.contextmanager
def _readable(path: Path, otherwise: str) -> Iterator[None]:
    """Turn whatever a malformed file trips in a library into BadSource, without its words: they could be the file's."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the libraries raise anything
        raise BadSource(str(path), f"{otherwise} ({type(error).__name__})") from None


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
        for file in _maildir(path):
            yield _mail(_bytes(file), path)
    else:
        for raw in cut(_bytes(path), apple=path.suffix.lower() == ".emlx"):
            yield _mail(raw, path)


def _maildir(path: Path) -> list[Path]:
    if not (path / "cur").is_dir():
        raise BadSource(str(path), "is a folder but no Maildir")
    found = [file for part in ("cur", "new") for file in sorted((path / part).glob("*"))]
    return [file for file in found if not file.name.startswith(".")]


def _mail(data: bytes, path: Path) -> Mail:
    with _readable(path, "is not a mail that can be read"):
        message = parse(data)
        known = is_mail(message)
    if not known:
        raise BadSource(str(path), "has none of the header lines of a mail")
    with _readable(path, "its text or the encoding of it cannot be read"):
        words = body(message)
    with _readable(path, "is not a mail that can be read"):
        return Mail(
            sender=_line(header(message, "From")),
            to=_line(header(message, "To")),
            subject=_line(header(message, "Subject")),
            date=date_of(message),
            body=words,
            attachments=tuple(map(_line, attachments(message))),
        )
