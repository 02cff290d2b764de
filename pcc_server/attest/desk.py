"""The launcher's part of collection: one thread that takes the worker's requests in turn.

A TPM may take a second and a broken one minutes; meanwhile the launcher still has signals to answer.
"""

import base64
import os
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcc_server import control, events

from .collector import Ask, CollectFailure, Collector, Parts


class Desk:
    """Collects for whoever is the worker. make: opens the collector, at the first request; raises CollectFailure."""

    def __init__(self, make: Callable[[], Collector]) -> None:
        self._make = make
        self._asked: queue.SimpleQueue[tuple[dict[str, Any], socket.socket]] = queue.SimpleQueue()
        self._collector: Collector | None = None
        self._thread: threading.Thread | None = None

    def ask(self, request: dict[str, Any], end: socket.socket) -> None:
        """Take a request as ``Remote`` writes it. end: of the control socket that the answer goes to."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="evidence", daemon=True)
            self._thread.start()
        self._asked.put((request, end))

    def _work(self) -> None:
        while True:
            request, end = self._asked.get()
            control.write(end, collected={"id": request["id"], **self._answer(request)})

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            parts = self._collect(_read(request))
        except CollectFailure as failure:
            return {"error": failure.message}
        except Exception as error:  # noqa: BLE001 - the worker must not wait for a thread that is gone
            events.fault(error)
            return {"error": "the collector has a fault; the event before this line says where"}
        return {"parts": {name: base64.b64encode(part).decode("ascii") for name, part in parts.items()}}

    def _collect(self, ask: Ask) -> Parts:
        if self._collector is None:
            self._collector = self._make()
        if ask.format not in self._collector.formats:
            raise CollectFailure(f"this node does not collect evidence of the kind {ask.format!r}")
        return self._collector.collect(ask)


def _read(request: dict[str, Any]) -> Ask:
    return Ask(
        format=request["format"],
        challenge=bytes.fromhex(request["challenge"]),
        event=bytes.fromhex(request["event"]),
        extend=bytes.fromhex(request["extend"]),
    )


def collector_for(attester: str, tpm: str) -> Collector:
    """Return the collector that the settings name; no device is opened yet. Raises CollectFailure."""
    if attester == "tpm2":
        return _tpm2(tpm)
    if attester == "sev-snp":
        from .snp import SnpCollector  # ctypes

        return SnpCollector()
    raise CollectFailure(f"evidence of the kind {attester!r} is not collected here")


def _tpm2(name: str) -> Collector:
    from .tpm2 import Tpm2Collector
    from .tpm_device import open_device

    kept = events_folder() / f"events-{name.rpartition('/')[2].replace(':', '-')}"
    return Tpm2Collector(lambda: open_device(name), kept)


def events_folder() -> Path:
    """Return where the runtime PCR's log is kept: it ends with the boot, as the PCR does."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "hybrid-pcc"
