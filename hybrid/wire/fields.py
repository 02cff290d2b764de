"""Reading the canonical JSON of a log entry: each field once, of its type, and none left over (SPEC 5)."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from .canonical import JsonValue
from .encoding import from_hex, identifier
from .errors import Malformed

T = TypeVar("T")

_TEXT = re.compile(r"[ -~]{1,256}")


class Fields:
    """An object whose every field must be read exactly once; call ``end`` last. All methods raise Malformed."""

    __slots__ = ("_left",)

    def __init__(self, value: JsonValue) -> None:
        """Take a decoded value that must be an object."""
        if not isinstance(value, Mapping):
            raise Malformed("an entry's words are a JSON object")
        self._left = dict(value)

    def take(self, name: str) -> JsonValue:
        """Read a field of any type."""
        if name not in self._left:
            raise Malformed(f"the entry has no field {name}")
        return self._left.pop(name)

    def has(self, name: str) -> bool:
        """Say whether a field is there, unread."""
        return name in self._left

    def text(self, name: str) -> str:
        """Read 1 to 256 printable ASCII characters."""
        return text(self.take(name), name)

    def identifier(self, name: str) -> str:
        """Read an identifier (SPEC 1)."""
        return identifier(text(self.take(name), name)).decode("ascii")

    def number(self, name: str) -> int:
        """Read a number that is not negative."""
        value = self.take(name)
        if not isinstance(value, int) or value < 0:
            raise Malformed(f"an entry's field {name} is no number, or below zero")
        return value

    def digest(self, name: str, length: int = 32) -> bytes:
        """Read lower-case hexadecimal of this many bytes."""
        return from_hex(text(self.take(name), name), length, name)

    def mapping(self, name: str, read: Callable[[JsonValue], T]) -> dict[str, T]:
        """Read an object with keys of the file's own choice."""
        value = self.take(name)
        if not isinstance(value, Mapping):
            raise Malformed(f"an entry's field {name} is no object")
        return {text(key, name): read(member) for key, member in value.items()}

    def items(self, name: str, read: Callable[[JsonValue], T]) -> tuple[T, ...]:
        """Read a list."""
        value = self.take(name)
        if not isinstance(value, list | tuple):
            raise Malformed(f"an entry's field {name} is no list")
        return tuple(read(member) for member in value)

    def end(self) -> None:
        """Insist that every field was read."""
        if self._left:
            raise Malformed(f"the entry has fields that do not belong to it: {', '.join(sorted(self._left))[:80]}")


def text(value: JsonValue, name: str) -> str:
    """Return a value that is 1 to 256 printable ASCII characters. Raises Malformed."""
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise Malformed(f"an entry's field {name} is no text of 1 to 256 printable characters")
    return value


def hex_text(value: JsonValue, length: int, name: str) -> str:
    """Return a value that is lower-case hexadecimal of this many bytes, as text. Raises Malformed."""
    return from_hex(text(value, name), length, name).hex()
