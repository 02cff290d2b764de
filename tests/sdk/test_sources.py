"""Files as sources: how they are read, and which of them stay on the device by themselves."""

import os
import threading
from datetime import date
from pathlib import Path

import pytest

from hybrid.client import Client
from hybrid.errors import ConfigurationError
from hybrid.sources import Source, file
from hybrid.wire.types import Route
from tests.support import HARD, Bench

MAIL = """From: Dr Who <who@example.org>
To: me@example.org
Subject: X-ray
Date: Fri, 13 Nov 2026 10:00:00 +0000
Content-Type: text/plain; charset=utf-8

Please keep the splint on for four weeks.
"""
CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//test//test//EN
BEGIN:VEVENT
UID:1@example.org
DTSTAMP:20260101T000000Z
DTSTART:20260102T190000
DTEND:20260102T210000
RRULE:FREQ=WEEKLY
SUMMARY:Choir rehearsal
END:VEVENT
END:VCALENDAR
"""
CARD = "BEGIN:VCARD\nVERSION:4.0\nFN:Ann Example\nTEL:+49 30 5550100\nEND:VCARD\n"
MBOX = f"""From who@example.org Fri Nov 13 10:00:00 2026
{MAIL}
From ann@example.org Sat Nov 14 09:00:00 2026
From: Ann <ann@example.org>
Subject: Swimming
Date: Sat, 14 Nov 2026 09:00:00 +0000

Not this week.
>From Monday on again.
"""


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    path = tmp_path / "letter.eml"
    path.write_text(MAIL)
    return path


@pytest.fixture
def calendar(tmp_path: Path) -> Path:
    path = tmp_path / "week.ics"
    path.write_text(CALENDAR.replace("\n", "\r\n"))
    return path


def test_a_mail_is_its_body_and_stays_on_the_device(mail: Path) -> None:
    source = Source.file(mail)
    assert (source.kind, source.limit, source.path) == ("mail", Route.ON_DEVICE, str(mail))
    assert source.text.strip() == "Please keep the splint on for four weeks."


def test_header_lines_come_on_wish(mail: Path) -> None:
    text = Source.mail(mail, headers=True).text
    assert text.startswith("From: ")
    assert "Subject: X-ray" in text


def test_a_calendar_is_its_entries_of_the_coming_days(calendar: Path) -> None:
    source = Source.calendar(calendar, start=date(2026, 11, 16))
    assert (source.kind, source.limit) == ("calendar", Route.ON_DEVICE)
    assert source.text.count("Choir rehearsal") == 1
    assert Source.calendar(calendar, start=date(2026, 11, 16), days=14).text.count("Choir rehearsal") == 2


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.eml", MAIL, "mail"),
        ("A.EML", MAIL, "mail"),
        ("b.ics", CALENDAR, "calendar"),
        ("c.vcf", CARD, "contacts"),
        ("e.vcard", CARD, "contacts"),
        ("d.mbox", MBOX, "mail"),
        ("Inbox", MBOX, "mail"),  # an mbox as mail programs name it
        ("week.txt", CALENDAR, "calendar"),
        ("people", CARD, "contacts"),
        ("Maildir/cur/1700000000.M1P2.host:2,S", MAIL, "mail"),
        ("Maildir/new/1700000001.M1P2.host", MAIL, "mail"),
    ],
)
def test_a_personal_file_is_never_widened_by_a_general_wish(tmp_path: Path, name: str, content: str, kind: str) -> None:
    for folder in ("cur", "new", "tmp"):
        (tmp_path / "Maildir" / folder).mkdir(parents=True)
    (tmp_path / name).write_text(content)
    source = file(tmp_path / name, max_route="private_cloud")
    assert (source.limit, source.kind) == (Route.ON_DEVICE, kind)


def test_a_file_in_a_folder_that_only_looks_like_a_maildir_is_no_mail(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes").write_text("From here on: words.")
    assert file(tmp_path / "new" / "notes").limit is Route.PRIVATE_CLOUD


def test_each_message_of_a_mailbox_says_who_wrote_it_and_quoted_lines_are_unquoted(tmp_path: Path) -> None:
    (tmp_path / "d.mbox").write_text(MBOX)
    text = file(tmp_path / "d.mbox").text
    first, second = text.split("--------")
    assert "who@example.org" in first
    assert first.strip().endswith("four weeks.")
    assert "ann@example.org" in second
    assert "From Monday on" in second
    assert "\n>From" not in text


def test_contacts_are_their_text(tmp_path: Path) -> None:
    (tmp_path / "c.vcf").write_text(CARD)
    assert file(tmp_path / "c.vcf").text == CARD


def test_its_own_constructor_widens_it(mail: Path) -> None:
    assert Source.mail(mail, max_route="private_cloud").limit is Route.PRIVATE_CLOUD


def test_another_file_is_not_limited_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# Notes")
    assert (file(path).limit, file(path).text) == (Route.PRIVATE_CLOUD, "# Notes")
    assert file(path, max_route="on_device").limit is Route.ON_DEVICE


def test_typed_text_has_constructor_and_field_of_one_name() -> None:
    source = Source.text("words", label="mine", max_route="on_device")
    assert (source.text, source.label, source.limit) == ("words", "mine", Route.ON_DEVICE)
    assert source == Source(label="mine", text="words", max_route=Route.ON_DEVICE)
    assert "words" not in repr(source)


@pytest.mark.parametrize("bad", ["somewhere", ""])
def test_a_limit_that_is_no_route_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError):
        Source.text("x", max_route=bad)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        file(tmp_path / "nowhere.txt")


def test_bytes_that_are_not_utf8_are_refused_by_offset(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ConfigurationError, match="3"):
        file(path)


def test_a_mail_in_the_conversation_never_reaches_the_node(mail: Path) -> None:
    bench = Bench()
    with Client(**bench.options()) as client:
        kept = client.ask(HARD, sources=[file(mail)])
        client.ask(HARD, sources=[Source.mail(mail, max_route="private_cloud")])
    assert kept.route is Route.ON_DEVICE
    assert bench.node_read.count("splint") == 1  # the one that was widened on purpose


@pytest.mark.parametrize(("words", "limit"), [("just words\n", Route.PRIVATE_CLOUD), (CALENDAR, Route.ON_DEVICE)])
def test_a_pipe_is_read_once_and_whole_and_keeps_its_label(tmp_path: Path, words: str, limit: Route) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(words,))
    writer.start()
    source = Source.file(pipe)
    writer.join()
    assert source.text == words
    assert source.limit is limit
