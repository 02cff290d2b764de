"""Tier 1: a quote of a TPM 2.0 over the boot and the node's own events (SPEC 13, ``tpm2``)."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .collector import Ask, CollectFailure, Parts
from .runtime_log import LogFile, RuntimeLog
from .tpm_commands import AK_TEMPLATE, Tpm
from .tpm_device import Device

FORMAT = "tpm2"
RUNTIME_PCR = 15
# All that software cannot reset, but for 10: Linux' integrity measurements change it at any time.
QUOTED = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, RUNTIME_PCR)
_TRIES = 3  # a PCR may change between reading and quoting


class Tpm2Collector:
    """Quotes, and keeps the runtime PCR's log. open_device: makes a connection; it is made at the first request."""

    formats: tuple[str, ...] = (FORMAT,)

    def __init__(self, open_device: Callable[[], Device], log_path: Path) -> None:
        self._open = open_device
        self._file = LogFile(log_path)
        self._device: Device | None = None
        self._log: RuntimeLog | None = None

    def collect(self, ask: Ask) -> Parts:
        """Extend the runtime PCR by the request's event unless it is the last one, then quote. Raises CollectFailure.

        A device that fails is opened anew next time.
        """
        try:
            return self._collect(self._tpm(), ask)
        except CollectFailure:
            self.close()
            raise

    def close(self) -> None:
        """Close the device."""
        if self._device:
            with suppress(OSError):
                self._device.close()
        self._device = self._log = None

    def _tpm(self) -> Tpm:
        if self._device is None:
            self._device = self._open()
        return Tpm(self._device)

    def _collect(self, tpm: Tpm, ask: Ask) -> Parts:
        log = self._log = self._extended(tpm, ask)
        with tpm.primary(AK_TEMPLATE) as key:
            for _ in range(_TRIES):
                pcrs = tpm.read_pcrs(QUOTED)
                quoted = tpm.quote(key.handle, ask.challenge, QUOTED)
                if quoted.attest.endswith(hashlib.sha256(b"".join(pcrs[index] for index in QUOTED)).digest()):
                    break
            else:
                raise CollectFailure("the PCRs change faster than they can be quoted")
        if pcrs[RUNTIME_PCR] != log.value:
            raise CollectFailure(f"something else extends PCR {RUNTIME_PCR}; a machine's TPM serves one node")
        return {
            "public": key.public,
            "attest": quoted.attest,
            "signature": quoted.signature,
            "pcrs": b"".join(bytes([index]) + pcrs[index] for index in QUOTED),
            "before": log.before,
            "events": b"".join(entry.event for entry in log.entries),
        }

    def _extended(self, tpm: Tpm, ask: Ask) -> RuntimeLog:
        log = self._log or self._file.load(tpm.read_pcrs([RUNTIME_PCR])[RUNTIME_PCR])
        if log.last == ask.event:
            return log
        log = log.plus(ask.event, ask.extend)
        self._file.save(log)  # first: an event that is in the PCR but not in the log would spoil it until a restart
        tpm.extend(RUNTIME_PCR, ask.extend)
        return log
