"""One mail's fields and words by the standard library, which is strict where senders are not.

A header line that cannot be parsed is given as it stands; the body's bytes are decoded as what they are.
"""

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import EmailMessage, MIMEPart

_NAMES = ("From", "Subject", "Date", "Message-ID")
_UNDECLARED = frozenset({"", "ascii", "us-ascii", "unknown-8bit"})  # declared by senders that did not look
_APPLE = re.compile(rb"\s*(\d{1,12})\s*\n")  # an .emlx file: bytes of the message, the message, a property list


def cut(data: bytes, *, apple: bool) -> Iterator[bytes]:
    """Yield the raw messages of a file: of an mbox each, of any other file the one it is."""
    if apple and (count := _APPLE.match(data)):
        yield data[count.end() : count.end() + int(count[1])]
    elif data.startswith(b"From "):
        yield from _mbox(data)
    else:
        yield data


def _mbox(data: bytes) -> Iterator[bytes]:
    """Cut at lines that begin with ``From `` after an empty line; undo the quoting of such lines in bodies."""
    for part in data.replace(b"\r\n", b"\n").removeprefix(b"From ").split(b"\n\nFrom "):
        yield part.split(b"\n", 1)[-1].replace(b"\n>From ", b"\nFrom ")


def parse(data: bytes) -> "EmailMessage":
    """Parse one message; the library repairs what it can and never refuses."""
    from email import message_from_bytes, policy

    return message_from_bytes(data, policy=policy.default)


def is_mail(message: "EmailMessage") -> bool:
    """Whether any line that makes a mail is there."""
    return any(header(message, name) for name in _NAMES)


def header(message: "EmailMessage", name: str) -> str:
    """Return a header line's decoded text, raw where it breaks the library's parser; empty where there is none."""
    try:
        return str(message[name] or "")
    except Exception:  # noqa: BLE001 - IndexError, AttributeError and others for malformed addresses
        raw = [str(value) for key, value in message.raw_items() if key.lower() == name.lower()]
        return raw[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace") if raw else ""


def date_of(message: "EmailMessage") -> datetime | None:
    """Return when the mail says it was sent; None without a date that makes sense."""
    with contextlib.suppress(Exception):
        sent: datetime | None = message["Date"].datetime
        return sent
    return None


def attachments(message: "EmailMessage") -> Iterator[str]:
    """Yield the names of attachments; nothing else of them is read."""
    for part in message.iter_attachments():
        name = None
        with contextlib.suppress(Exception):
            name = part.get_filename()
        yield name or "unnamed"


def body(message: "EmailMessage") -> str:
    """Return the sender's own words: of the plain text part, else of the HTML one; empty when the mail has neither.

    Raises LookupError or ValueError for a character set nobody here knows.
    """
    for kind in ("plain", "html"):
        part = message.get_body((kind,))
        if part is not None and (words := _own_words(_text(part))):
            return words
    if message.get_content_maintype() == "multipart" and not message.is_multipart():  # its border was lost
        return _own_words(_decoded(message))
    return ""


def _text(part: "MIMEPart") -> str:
    text = _decoded(part)
    if part.get_content_subtype() == "html":
        from .html_text import html_text

        text = html_text(text)
    return text.replace("\r\n", "\n")


def _decoded(part: "MIMEPart") -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    charset = part.get_content_charset() or ""
    if charset not in _UNDECLARED:
        return data.decode(charset, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


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
