"""A second node with the same settings, on loopback ports of its own: canaries go through it, nobody's requests do."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Self

from pcc_server.config import Settings, split_address
from pcc_server.events import Program
from pcc_server.settings_file import PREFIX, Effective, to_toml

from .machine import Machine
from .node import running
from .report import Unseen

START_S = 900.0  # a large model takes long to hash and load
END_S = 20.0
FAKE_DELAY_MS = 50.0  # so that an answer is still running while memory is looked at
_POLL_S = 0.05
_PAGES = ("/metrics", "/startupz", "/readyz", "/livez")
_FILE = "node.toml"


def private(settings: Settings) -> Settings:
    """Return the settings of the second node: without what others reach it by, devices and logs."""
    return replace(
        settings,
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        protect=settings.protection,
        admin_token="",
        tls_cert="",
        tls_key="",
        tls_client_ca="",
        access_keys="",
        log="",
        release="",
        event_log="",
        fault="",
        access="open",
        attester="software",
        require_audit=False,
        drain_grace_s=0.0,
        drain_timeout_s=5.0,
        fake_delay_ms=FAKE_DELAY_MS if settings.engine == "fake" else 0.0,
    )


class Second:
    """It runs from ``with`` to the end of it. folder: for its settings.  prefix: words before its command.

    said: everything it has printed, line by line.
    """

    def __init__(self, settings: Settings, folder: Path, prefix: tuple[str, ...] = ()) -> None:
        file = folder / _FILE
        file.write_text(to_toml(Effective(settings=private(settings), places={})))
        words = [
            *prefix,
            sys.executable,
            "-P",
            "-s",
            "-B",
            "-m",
            "pcc_server",
            "serve",
            "--json",
            "--config",
            str(file),
        ]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            words, env=environ, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        self._out: list[str] = []
        self._err: list[str] = []
        self._threads = [
            threading.Thread(target=_drain, args=pair, daemon=True)
            for pair in ((self._process.stdout, self._out), (self._process.stderr, self._err))
        ]
        for thread in self._threads:
            thread.start()
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and read what it said last."""
        if self._process.poll() is None:
            self._end()
        for thread in self._threads:
            thread.join(END_S)

    def _end(self) -> None:
        try:
            os.kill(self.pids().get(Program.LAUNCHER, self._process.pid), signal.SIGTERM)
            self._process.wait(END_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def _wait_ready(self) -> None:
        end = time.monotonic() + START_S
        while not self.facts:
            self.facts = next((line for line in map(_object, self._out) if line.get("event") == "ready"), {})
            if self._process.poll() is not None:
                raise Unseen(f"the second node did not start: {''.join(self._err[-1:]).strip()}")
            if time.monotonic() > end:
                raise Unseen(f"the second node was not ready within {START_S:.0f} s")
            time.sleep(_POLL_S)

    @property
    def said(self) -> list[str]:
        """Both of its outputs so far."""
        return [*self._out, *self._err]

    def events(self) -> set[str]:
        """Names of the events it has told."""
        return {str(line["event"]) for line in map(_object, self._err) if "event" in line}

    def pages(self) -> list[str]:
        """Return what its admin port shows to anybody, whatever the status. Raises OSError."""
        host, port = split_address(str(self.facts["admin"]))
        texts = []
        for page in _PAGES:
            connection = http.client.HTTPConnection(host, port, timeout=END_S)
            with contextlib.closing(connection):
                connection.request("GET", page)
                texts.append(connection.getresponse().read().decode("utf-8", "replace"))
        return texts

    def pids(self) -> Mapping[Program, int]:
        """Return the ids of its processes; the launcher may be a child of what was put before its command."""
        machine, ours = Machine(), self._process.pid
        for pids in running(machine):
            launcher = pids[Program.LAUNCHER]
            if ours in (launcher, int(machine.fields(f"proc/{launcher}/status").get("PPid", "0"))):
                return pids
        return {}


def _drain(pipe: IO[bytes], lines: list[str]) -> None:
    with pipe:
        lines.extend(line.decode("utf-8", "replace") for line in pipe)


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
