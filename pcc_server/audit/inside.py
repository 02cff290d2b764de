"""The audit that a node runs of itself at its start, with ``trust.require_audit``.

Its process is started before the launcher closes anything, so that the controls can succeed; it tries the sandbox while
the model loads, and looks at the node once that is ready. What this user may not read, it takes from the processes'
own words.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcc_server.config import Settings  # which the launcher has read long before

    from .node import Told

_READ_BYTES = 65_536
_SETTINGS, _PIDS, _FACTS, _TOLD = "settings", "pids", "facts", "told"


class Inside:
    """The launcher's end of it."""

    def __init__(self, settings: "Settings") -> None:
        """Start it, with the environment that this program has."""
        words = [sys.executable, "-P", "-s", "-B", "-m", "pcc_server.audit.inside", str(os.getpid())]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, process_group=0
        )
        self._read = b""
        self._write({_SETTINGS: settings.to_json()})

    def fileno(self) -> int:
        """Return the descriptor on which its report comes."""
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        return self._process.stdout.fileno()

    def ask(self, *, pids: Mapping[str, int], facts: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Have it look. pids: of the three processes.  facts: the node's.  told: by its processes of themselves."""
        self._write({_PIDS: dict(pids), _FACTS: dict(facts), _TOLD: dict(told)})

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        with contextlib.suppress(OSError):  # its end shows where its report is read
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def report(self) -> list[str] | None:
        """Read what is there. Returns what is red in words, None while it is not done."""
        if data := os.read(self.fileno(), _READ_BYTES):
            self._read += data
            return None
        try:
            rows = json.loads(self._read)["rows"]
            return [f"{row['name']} ({row['got']})" for row in rows if row["state"] in ("red", "not_proven")]
        except (ValueError, KeyError, TypeError):
            return ["the audit did not come to an end"]

    def close(self) -> None:
        """Close its pipes; it ends with the launcher, whose own sandbox lets it send no signal to what is outside."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.poll()


def main(argv: list[str]) -> None:
    """Run as a child of the launcher."""
    from pcc_server.child import die_with
    from pcc_server.config import Settings

    from . import escapes
    from .run import look, report

    die_with(int(argv[0]))
    settings = Settings.from_json(json.loads(sys.stdin.readline())[_SETTINGS])
    trials = escapes.run(settings)
    if line := sys.stdin.readline():
        node = _node(settings, json.loads(line))
        print(json.dumps(report(node, look(node, trials)).to_json()))  # noqa: T201 - this is what it is for


def _node(settings: "Settings", given: Mapping[str, Any]) -> Any:
    from dataclasses import replace

    from pcc_server.events import Program

    from .machine import Machine
    from .node import Node

    addresses = {name: given[_FACTS][name] for name in ("listen", "admin") if name in given[_FACTS]}
    return Node(
        machine=Machine(),
        settings=replace(settings, **addresses),
        pids={Program(name): int(pid) for name, pid in given[_PIDS].items()},
        told={Program(name): _told(words) for name, words in given[_TOLD].items()},
        environ=dict(os.environ),
    )


def _told(words: Mapping[str, Any]) -> "Told":
    from .node import Told

    return Told(
        held=tuple(words["held"]),
        missing=words["missing"],
        writable_files=int(words["writable_files"]),
        listening=tuple(words["listening"]),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
