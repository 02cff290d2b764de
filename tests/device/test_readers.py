"""Personal files: calendars with their rules and exceptions, mail with its encodings, text that is text."""

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from device.errors import BadSource
from device.index.html_text import html_text
from device.index.readers import CalendarEvent, calendar_text, read_calendar, read_mail, read_mails, read_text

BERLIN = ZoneInfo("Europe/Berlin")
FRIDAY = date(2025, 11, 28)


def calendar(tmp_path: Path, *events: str) -> Path:
    body = "".join(f"BEGIN:VEVENT\nDTSTAMP:20250101T000000Z\n{event.strip()}\nEND:VEVENT\n" for event in events)
    text = f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//test//EN\n{body}END:VCALENDAR\n"
    path = tmp_path / "own.ics"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    return path


def titles(path: Path, start: date = FRIDAY, days: int = 1, tz: timezone | ZoneInfo = BERLIN) -> list[str]:
    return [event.title for event in read_calendar(path, start=start, days=days, tz=tz)]


WEEKLY = """
UID:w
SUMMARY:Choir
DTSTART;TZID=Europe/Berlin:20250905T190000
DTEND;TZID=Europe/Berlin:20250905T203000
RRULE:FREQ=WEEKLY
LOCATION:Town hall
"""


def test_a_weekly_event_occurs_on_its_day_and_no_other(tmp_path: Path) -> None:
    path = calendar(tmp_path, WEEKLY)
    assert titles(path) == ["Choir"]
    assert titles(path, FRIDAY + timedelta(days=1)) == []
    assert [event.start.day for event in read_calendar(path, start=FRIDAY, days=15, tz=BERLIN)] == [28, 5, 12]


def test_its_hour_stays_the_same_when_the_clocks_change(tmp_path: Path) -> None:
    found = read_calendar(calendar(tmp_path, WEEKLY), start=date(2025, 10, 24), days=8, tz=BERLIN)
    assert [(event.start.isoformat(), event.location) for event in found] == [
        ("2025-10-24T19:00:00+02:00", "Town hall"),
        ("2025-10-31T19:00:00+01:00", "Town hall"),
    ]


def test_an_excluded_date_does_not_occur(tmp_path: Path) -> None:
    assert titles(calendar(tmp_path, WEEKLY + "EXDATE;TZID=Europe/Berlin:20251128T190000")) == []


def test_a_moved_occurrence_is_where_it_was_moved_to(tmp_path: Path) -> None:
    moved = """
UID:w
SUMMARY:Choir (moved)
RECURRENCE-ID;TZID=Europe/Berlin:20251128T190000
DTSTART;TZID=Europe/Berlin:20251129T100000
DTEND;TZID=Europe/Berlin:20251129T113000
"""
    path = calendar(tmp_path, WEEKLY, moved)
    assert titles(path) == []
    assert titles(path, FRIDAY + timedelta(days=1)) == ["Choir (moved)"]


def test_a_cancelled_occurrence_is_left_out(tmp_path: Path) -> None:
    cancelled = """
UID:w
SUMMARY:Choir
STATUS:CANCELLED
RECURRENCE-ID;TZID=Europe/Berlin:20251128T190000
DTSTART;TZID=Europe/Berlin:20251128T190000
DTEND;TZID=Europe/Berlin:20251128T203000
"""
    path = calendar(tmp_path, WEEKLY, cancelled)
    assert titles(path) == []
    assert titles(path, FRIDAY + timedelta(days=7)) == ["Choir"]


def test_days_are_counted_in_the_readers_zone(tmp_path: Path) -> None:
    late = "UID:l\nSUMMARY:Late call\nDTSTART:20251128T233000Z\nDTEND:20251129T001500Z"
    path = calendar(tmp_path, late)
    assert titles(path, tz=UTC) == ["Late call"]
    assert titles(path, tz=BERLIN) == []
    assert titles(path, FRIDAY + timedelta(days=1), tz=BERLIN) == ["Late call"]
    (event,) = read_calendar(path, start=FRIDAY + timedelta(days=1), days=1, tz=BERLIN)
    assert event.start == datetime(2025, 11, 29, 0, 30, tzinfo=BERLIN)


def test_an_event_over_midnight_belongs_to_both_days(tmp_path: Path) -> None:
    night = "UID:n\nSUMMARY:Night train\nDTSTART:20251127T220000Z\nDTEND:20251128T060000Z"
    path = calendar(tmp_path, night)
    assert titles(path, FRIDAY - timedelta(days=1), tz=UTC) == titles(path, FRIDAY, tz=UTC) == ["Night train"]
    assert titles(path, FRIDAY + timedelta(days=1), tz=UTC) == []


def test_an_event_that_ends_at_midnight_is_over_then(tmp_path: Path) -> None:
    path = calendar(tmp_path, "UID:m\nSUMMARY:Party\nDTSTART:20251127T200000Z\nDTEND:20251128T000000Z")
    assert titles(path, tz=UTC) == []


def test_all_day_events_are_dates_and_come_first(tmp_path: Path) -> None:
    holiday = "UID:h\nSUMMARY:Holiday\nDTSTART;VALUE=DATE:20251127\nDTEND;VALUE=DATE:20251129"
    early = "UID:e\nSUMMARY:Early\nDTSTART:20251127T230000Z\nDTEND:20251128T060000Z"
    found = read_calendar(calendar(tmp_path, early, holiday), start=FRIDAY, days=1, tz=BERLIN)
    assert [(event.title, event.all_day) for event in found] == [("Holiday", True), ("Early", False)]
    assert (found[0].start, found[0].end) == (date(2025, 11, 27), date(2025, 11, 29))
    assert titles(calendar(tmp_path, holiday), date(2025, 11, 29)) == []


def test_an_event_without_an_end_and_one_with_a_duration_are_read(tmp_path: Path) -> None:
    short = "UID:s\nSUMMARY:Reminder\nDTSTART:20251128T080000Z"
    long = "UID:d\nSUMMARY:Talk\nDTSTART:20251128T090000Z\nDURATION:PT45M"
    found = read_calendar(calendar(tmp_path, short, long), start=FRIDAY, days=1, tz=UTC)
    assert [(event.title, event.end.strftime("%H:%M")) for event in found] == [("Reminder", "08:00"), ("Talk", "09:45")]


def test_a_calendar_is_written_out_a_line_for_each_occurrence() -> None:
    dinner = CalendarEvent(
        uid="1",
        title="Dinner with Anna",
        start=datetime(2025, 11, 28, 19, 0, tzinfo=UTC),
        end=datetime(2025, 11, 28, 21, 30, tzinfo=UTC),
        all_day=False,
        location="Trattoria",
    )
    trip = CalendarEvent(uid="2", title="", start=date(2025, 11, 28), end=date(2025, 12, 1), all_day=True)
    assert calendar_text([dinner, trip]) == (
        "Friday 28 November 2025, 19:00 to 21:30: Dinner with Anna (Trattoria)\n"
        "Friday 28 November 2025 to Sunday 30 November 2025, all day: Busy"
    )


@pytest.mark.parametrize(
    "text",
    ["", "hello", "BEGIN:VCALENDAR\n", "BEGIN:VEVENT\nEND:VEVENT\n", "BEGIN:VCARD\nVERSION:3.0\nEND:VCARD\n"],
)
def test_what_is_no_calendar_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.ics"
    path.write_text(text)
    with pytest.raises(BadSource, match=r"x\.ics"):
        read_calendar(path, start=FRIDAY, days=1)


def test_a_rule_that_makes_no_sense_is_refused_without_quoting_it(tmp_path: Path) -> None:
    with pytest.raises(BadSource) as caught:
        titles(calendar(tmp_path, WEEKLY.replace("FREQ=WEEKLY", "FREQ=SECRETLY")))
    assert "SECRETLY" not in str(caught.value)


def test_a_rule_that_repeats_every_second_is_refused_and_one_every_hour_is_not(tmp_path: Path) -> None:
    hourly = WEEKLY.replace("FREQ=WEEKLY", "FREQ=HOURLY")
    assert len(titles(calendar(tmp_path, hourly))) == 25  # the one before midnight lasts into the day
    every = f"FREQ=DAILY;BYHOUR={_all(24)};BYMINUTE={_all(60)};BYSECOND={_all(60)}"
    for rule in ("FREQ=SECONDLY", "FREQ=SECONDLY;INTERVAL=2", every):
        with pytest.raises(BadSource, match="too often"):
            titles(calendar(tmp_path, WEEKLY.replace("FREQ=WEEKLY", rule)))


def _all(count: int) -> str:
    return ",".join(map(str, range(count)))


def test_a_time_without_a_zone_is_the_readers_own(tmp_path: Path) -> None:
    path = calendar(tmp_path, "UID:f\nSUMMARY:Lunch\nDTSTART:20251128T120000\nDTEND:20251128T130000")
    for tz in (BERLIN, UTC, ZoneInfo("Pacific/Kiritimati")):
        (event,) = read_calendar(path, start=FRIDAY, days=1, tz=tz)
        assert event.start == datetime(2025, 11, 28, 12, 0, tzinfo=tz)


def test_zones_more_than_a_day_apart_still_meet(tmp_path: Path) -> None:
    """23:30 on Wednesday at UTC-12 is 01:30 on Friday at UTC+14."""
    far = "UID:z\nSUMMARY:Far\nDTSTART;TZID=Etc/GMT+12:20251126T233000\nDTEND;TZID=Etc/GMT+12:20251126T234500"
    path = calendar(tmp_path, far)
    assert titles(path, tz=ZoneInfo("Pacific/Kiritimati")) == ["Far"]
    assert titles(path, FRIDAY - timedelta(days=1), tz=ZoneInfo("Pacific/Kiritimati")) == []


def test_an_event_never_shows_its_title_in_a_log(tmp_path: Path) -> None:
    (event,) = read_calendar(calendar(tmp_path, WEEKLY), start=FRIDAY, days=1, tz=BERLIN)
    assert "Choir" not in repr(event)
    assert "Town" not in repr(event)


MAIL = """\
From: =?utf-8?q?Dr=2E_M=C3=BCller?= <clinic@example.org>
To: Anna <anna@example.org>
Subject: Your X-ray
Date: Fri, 21 Nov 2025 09:30:00 +0100
MIME-Version: 1.0
"""
PLAIN = MAIL + "Content-Type: text/plain; charset=utf-8\n\nDear Anna,\nfour weeks.\n\n-- \nClinic\n"


def mail(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "a.eml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_mails_fields_come_apart_from_its_words(tmp_path: Path) -> None:
    found = read_mail(mail(tmp_path, PLAIN))
    assert (found.sender, found.to, found.subject) == (
        '"Dr. Müller" <clinic@example.org>',
        "Anna <anna@example.org>",
        "Your X-ray",
    )
    assert found.date == datetime(2025, 11, 21, 8, 30, tzinfo=UTC)
    assert found.body == "Dear Anna,\nfour weeks."
    assert "weeks" not in repr(found)


def test_windows_line_ends_read_alike(tmp_path: Path) -> None:
    assert read_mail(mail(tmp_path, PLAIN.replace("\n", "\r\n"))).body == "Dear Anna,\nfour weeks."


@pytest.mark.parametrize(
    ("encoding", "charset", "raw"),
    [
        ("quoted-printable", "utf-8", b"Gr=C3=BC=C3=9Fe"),
        ("base64", "utf-8", b"R3LDvMOfZQ=="),
        ("8bit", "iso-8859-1", "Grüße".encode("latin-1")),
    ],
)
def test_transfer_encodings_and_character_sets_are_undone(
    tmp_path: Path, encoding: str, charset: str, raw: bytes
) -> None:
    head = f"{MAIL}Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: {encoding}\n\n"
    assert read_mail(mail(tmp_path, head.encode() + raw)).body == "Grüße"


@pytest.mark.parametrize(
    ("raw", "words"), [("Grüße".encode(), "Grüße"), ("Grüße".encode("latin-1"), "Grüße"), (b"plain", "plain")]
)
def test_a_body_without_a_character_set_is_read_as_what_it_is(tmp_path: Path, raw: bytes, words: str) -> None:
    assert read_mail(mail(tmp_path, MAIL.encode() + b"\n" + raw)).body == words


@pytest.mark.parametrize(
    "line",
    ["From: <", "From: a@b@c, <", "From: a:b;c", "To: @", "Date: nonsense", "Date: Fri, 99 Nov 2025 09:30:00 +0100"],
)
def test_a_header_line_that_breaks_the_parser_is_given_as_it_stands(tmp_path: Path, line: str) -> None:
    found = read_mail(mail(tmp_path, f"Subject: hello\n{line}\n\nwords"))
    assert (found.subject, found.body, found.date) == ("hello", "words", None)
    if line.startswith("From"):
        assert found.sender == line.removeprefix("From: ")


def test_a_mail_without_a_date_has_none(tmp_path: Path) -> None:
    assert read_mail(mail(tmp_path, "Subject: hello\n\nwords")).date is None


def test_a_mail_whose_parts_have_lost_their_border_keeps_its_words(tmp_path: Path) -> None:
    assert read_mail(mail(tmp_path, f"{MAIL}Content-Type: multipart/mixed\n\nwords")).body == "words"


def test_an_empty_plain_part_gives_way_to_the_html_one(tmp_path: Path) -> None:
    assert read_mail(mail(tmp_path, MIXED.replace("plain words", " "))).body == "html words"


def test_a_mail_of_apples_program_is_read_without_its_property_list(tmp_path: Path) -> None:
    path, data = tmp_path / "1.emlx", PLAIN.replace("-- \nClinic\n", "").encode()
    path.write_bytes(b'%d      \n%b<?xml version="1.0"?><plist>flags</plist>' % (len(data), data))
    assert read_mail(path).body == "Dear Anna,\nfour weeks."


def test_a_file_too_large_to_be_meant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.index.readers._MAX_BYTES", 1_000_000)
    path = mail(tmp_path, b"a" * 1_000_000)
    assert len(read_text(path)) == 1_000_000
    path.write_bytes(b"a" * 1_000_001)
    for large in (path, Path("/dev/zero")):
        with pytest.raises(BadSource, match="is larger than 1 MB"):
            read_text(large)


def test_an_unknown_character_set_is_refused_by_name(tmp_path: Path) -> None:
    head = f"{MAIL}Content-Type: text/plain; charset=klingon\n\nabc"
    with pytest.raises(BadSource, match=r"a\.eml.*encoding"):
        read_mail(mail(tmp_path, head))


MIXED = (
    MAIL
    + """\
Content-Type: multipart/mixed; boundary=B

--B
Content-Type: multipart/alternative; boundary=C

--C
Content-Type: text/plain; charset=utf-8

plain words
--C
Content-Type: text/html; charset=utf-8

<p>html words</p>
--C--
--B
Content-Type: application/pdf; name=result.pdf
Content-Disposition: attachment; filename=result.pdf

SECRET
--B--
"""
)


def test_plain_text_is_preferred_and_attachments_are_named_only(tmp_path: Path) -> None:
    found = read_mail(mail(tmp_path, MIXED))
    assert found.body == "plain words"
    assert found.attachments == ("result.pdf",)


def test_html_alone_becomes_text_without_pictures_and_styles(tmp_path: Path) -> None:
    html = '<html><head><title>T</title><style>p{}</style></head><body><p>Dear&nbsp;Anna,</p><img src="http://x/y">'
    found = read_mail(mail(tmp_path, f"{MAIL}Content-Type: text/html\n\n{html}<p>come <b>soon</b>.</p></body>"))
    assert found.body == "Dear Anna,\ncome soon."


def test_quoted_mail_is_cut_unless_it_is_all_there_is(tmp_path: Path) -> None:
    head = f"{MAIL}Content-Type: text/plain\n\n"
    assert read_mail(mail(tmp_path, head + "Yes.\n> Are you coming?\n> Anna")).body == "Yes."
    assert read_mail(mail(tmp_path, head + "> Are you coming?")).body == "> Are you coming?"


MBOX = f"From a@b Fri Nov 21 09:30:00 2025\n{PLAIN}>From here on\n\nFrom c@d Fri Nov 21 10:30:00 2025\n{PLAIN}"


def test_a_mailbox_is_read_message_by_message_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "box.mbox"
    path.write_text(MBOX.replace("-- \nClinic\n", ""))
    before = path.stat().st_mtime_ns
    first, second = read_mails(path)
    assert first.body.endswith("From here on")
    assert second.body == "Dear Anna,\nfour weeks."
    assert path.stat().st_mtime_ns == before
    with pytest.raises(BadSource, match="2 messages"):
        read_mail(path)


def test_a_maildir_is_read(tmp_path: Path) -> None:
    for part in ("cur", "new", "tmp"):
        (tmp_path / part).mkdir()
    (tmp_path / "cur/1:2,S").write_text(PLAIN)
    (tmp_path / "tmp/2").write_text("half")
    (tmp_path / "cur/.DS_Store").write_bytes(bytes(9))
    assert [found.subject for found in read_mails(tmp_path)] == ["Your X-ray"]


@pytest.mark.parametrize("text", [b"", b"just words", bytes(range(256))])
def test_what_is_no_mail_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(BadSource, match=r"a\.eml"):
        read_mail(mail(tmp_path, text))


def test_a_folder_that_is_no_maildir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="no Maildir"):
        list(read_mails(tmp_path))


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a<br>b", "a\nb"),
        ("<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a b"),
        ("<script>x()</script>y<style>z</style>", "y"),
        ("<head><title>never closed<body>seen", "seen"),
        ("<blockquote>old</blockquote>new", "> old\nnew"),
        ("<![if !mso]>a<![endif]><![foo[b]]><!--[if mso]>x<![endif]-->c", "ac"),
        ("a &lt;b&gt; &amp; c", "a <b> & c"),
        ("one<b>two</b> three", "onetwo three"),
    ],
)
def test_html_reads_as_a_person_would_see_it(html: str, text: str) -> None:
    assert html_text(html) == text


def test_text_loses_a_byte_order_mark_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\n")
    assert read_text(path) == "naïve\r\n"


def test_bytes_that_are_not_utf8_are_refused_at_their_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good \xff bad")
    with pytest.raises(BadSource, match=r"a\.txt: is not UTF-8 text: invalid byte at offset 5"):
        read_text(path)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=r"none\.txt: cannot be read: No such file"):
        read_text(tmp_path / "none.txt")
