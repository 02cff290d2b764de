"""Single-bit mutations of a positive vector: what a case makes of each, counted."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from hybrid.conformance.cases import Case, Values, from_hex
from hybrid.conformance.outcomes import KINDS
from hybrid.errors import AttestationError
from hybrid.wire.errors import WireError

Run = Callable[[Values], Values]
Path = tuple[str | int, ...]

ACCEPTED, REFUSED, UNTYPED = "accepted", "refused", "untyped"


def flipped(data: bytes, bit: int) -> bytes:
    """Return data with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def mutated(given: Values, paths: list[Path], count: int, seed: str) -> Iterator[Values]:
    """Yield the input with one random bit of one of the fields flipped; longer fields are hit more often."""
    rng = random.Random(seed)  # noqa: S311 - reproducible mutations, not a secret
    lengths = [8 * len(_get(given, path)) for path in paths]
    for path in rng.choices(paths, lengths, k=count):
        data = _get(given, path)
        yield _with(given, path, flipped(data, rng.randrange(8 * len(data))))


def survey(case: Case, paths: list[Path], count: int, run: Run | None = None) -> Counter[str]:
    """Count how ``count`` mutations of a case end; the positive control is that it is accepted as it stands."""
    given, act = from_hex(case.given), run or KINDS[case.kind]
    act(given)
    return Counter(_end(act, changed) for changed in mutated(given, paths, count, case.name))


def _end(act: Run, given: Values) -> str:
    try:
        act(given)
    except (WireError, AttestationError):
        return REFUSED
    except Exception as error:  # noqa: BLE001 - an untyped error is what this looks for
        return f"{UNTYPED}: {error!r}"
    return ACCEPTED


def _get(value: Any, path: Path) -> bytes:
    for step in path:
        value = value[step]
    assert isinstance(value, bytes)
    return value


def _with(value: Any, path: Path, data: bytes) -> Any:
    if not path:
        return data
    copy: Any = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = _with(copy[path[0]], path[1:], data)
    return copy
