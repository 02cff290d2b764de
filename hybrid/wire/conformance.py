"""``python -m hybrid.wire.conformance``: the door to ``hybrid.conformance``, above this floor (SPEC 18)."""

import importlib
import sys


def main() -> int:
    """Run the suite; returns the exit status."""
    status: int = importlib.import_module("hybrid.conformance.command").main(sys.argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
