"""Fail on any skipped test but those that need a Mac: their reason starts with ``mac:``."""

import sys
import xml.etree.ElementTree as ET  # the file is our own test run's
from pathlib import Path

ALLOWED = "mac:"


def main(path: Path) -> int:
    cases = ET.parse(path).getroot().iter("testcase")  # noqa: S314 - written by pytest a moment ago
    skips = [(case.get("name"), skip.get("message") or "") for case in cases for skip in case.iter("skipped")]
    unexpected = [f"{name}: {reason}" for name, reason in skips if not reason.startswith(ALLOWED)]
    print(f"skipped: {len(skips)}, of them for want of a Mac: {len(skips) - len(unexpected)}")
    for line in unexpected:
        print(f"unexpected skip: {line}", file=sys.stderr)
    return 1 if unexpected else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
