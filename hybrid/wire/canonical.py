"""Canonical JSON (SPEC 1): one spelling for log entries, manifests and parameters."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from .constants import MAX_ENTRY_BYTES
from .errors import Malformed, NonCanonical, Oversized

JsonValue: TypeAlias = str | int | Sequence["JsonValue"] | Mapping[str, "JsonValue"]

_INTEGER_BITS = 53


def canonical_json(value: JsonValue) -> bytes:
    """Encode: ASCII, sorted keys, no spaces; only strings and integers below 2^53, in lists and objects.

    Raises Malformed for anything else.
    """
    try:
        _check_json(value)
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (RecursionError, TypeError, ValueError):
        raise Malformed("the value has no canonical JSON") from None


def decode_canonical_json(data: bytes, *, limit: int = MAX_ENTRY_BYTES) -> JsonValue:
    """Decode, encode again and compare. Raises Malformed, NonCanonical, Oversized."""
    if len(data) > limit:
        raise Oversized(len(data), limit)
    try:
        value: JsonValue = json.loads(data.decode("ascii"))
    except (RecursionError, ValueError):
        raise Malformed("the JSON does not decode") from None
    if canonical_json(value) != data:
        raise NonCanonical("the JSON is not in its canonical form")
    return value


def _check_json(value: object) -> None:
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate is no text
    elif isinstance(value, Mapping):
        for key, member in value.items():
            if not isinstance(key, str):
                raise TypeError
            _check_json(key)
            _check_json(member)
    elif isinstance(value, list | tuple):
        for member in value:
            _check_json(member)
    elif isinstance(value, bool) or not isinstance(value, int) or abs(value) >> _INTEGER_BITS:
        raise TypeError
