"""Check digits: what tells an identifier from any other number. Each function takes digits or letters only."""

from collections.abc import Sequence

_TWICE = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: str) -> bool:
    """Check ISO/IEC 7812-1: every second digit from the right doubled, digit sums, multiple of 10. Not all zeros."""
    values = [int(d) for d in digits]
    total = sum(values[-1::-2]) + sum(_TWICE[v] for v in values[-2::-2])
    return total % 10 == 0 and any(values)


def mod97(iban: str) -> bool:
    """Check ISO 13616: the first four characters moved to the end, letters as 10 to 35, remainder 1 modulo 97."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def weighted(digits: str, weights: Sequence[int]) -> int:
    """Return the sum of digits times weights, first with first, over the shorter of the two."""
    return sum(int(d) * w for d, w in zip(digits, weights, strict=False))


def ean13(digits: str) -> bool:
    """Check the 13 digits of a GTIN: weights 1 and 3 in turn, multiple of 10; Switzerland's AHV number."""
    return weighted(digits, (1, 3) * 7) % 10 == 0


def date_of(year: str, month: str, day: str) -> bool:
    """Say whether two digits each could be a month and a day; the year is not judged."""
    return year.isdigit() and 1 <= int(month) <= 12 and 1 <= int(day) <= 31  # noqa: PLR2004 - months and days
