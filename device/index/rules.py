"""How often the rules of a calendar let its events occur, so that one that repeats every second is never worked out."""

from typing import Any

_DAY = {"SECONDLY": 86_400, "MINUTELY": 1_440, "HOURLY": 24}  # times a day; every other frequency counts as once
_WITHIN = {
    "SECONDLY": (),
    "MINUTELY": ("BYSECOND",),
    "HOURLY": ("BYSECOND", "BYMINUTE"),
    "": ("BYSECOND", "BYMINUTE", "BYHOUR"),
}


def most_a_day(calendar: Any) -> int:
    """Return the most occurrences that the rules of all components of an icalendar calendar can make in one day."""
    total = 0
    for component in calendar.walk():
        rules = component.get("RRULE", [])
        total += sum(_of_rule(rule) for rule in (rules if isinstance(rules, list) else [rules]))
    return total


def _of_rule(rule: Any) -> int:
    """Occurrences a day of one rule; limits such as COUNT, UNTIL and BYDAY only make it fewer."""
    frequency = str((rule.get("FREQ") or [""])[0]).upper()
    interval = int((rule.get("INTERVAL") or [1])[0]) if frequency in _DAY else 1
    times = -(-_DAY.get(frequency, 1) // max(1, interval))
    for part in _WITHIN.get(frequency, _WITHIN[""]):
        times *= max(1, len(rule.get(part) or ()))
    return times
