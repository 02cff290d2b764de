"""Server-sent events from bytes: what an engine streams, bounded and strict (WHATWG HTML, section 9.2)."""

from collections.abc import Iterator

MAX_LINE_BYTES = 262_144
MAX_LINES = 64  # of one event


class BadStream(Exception):
    """These bytes are no event stream, or one larger than any engine needs. Carries no text of theirs."""


class Events:
    """Splits a byte stream into events."""

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[str] = []

    def push(self, data: bytes) -> Iterator[str]:
        """Yield the data of each event that these bytes complete; comments and other fields are left out.

        Raises BadStream, also for an event that an engine marks as an error.
        """
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_LINE_BYTES:
            raise BadStream
        for line in lines:
            if (event := self._take(line.removesuffix(b"\r"))) is not None:
                yield event

    def _take(self, line: bytes) -> str | None:
        if not line:
            event, self._data = "\n".join(self._data), []
            return event or None
        if len(line) > MAX_LINE_BYTES or len(self._data) >= MAX_LINES:
            raise BadStream
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"error" or (name, value) == (b"event", b"error"):
            raise BadStream
        if name == b"data":
            try:
                self._data.append(value.decode())
            except UnicodeDecodeError:
                raise BadStream from None
        return None
