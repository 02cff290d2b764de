"""Tier 2: a report of AMD SEV-SNP's firmware (SPEC 13, ``sev-snp``, profile 1), asked for through the kernel.

What talks to the kernel is one ``ReportSource``; there are two, and neither has run on real hardware yet. Their bytes
follow Documentation/ABI/testing/configfs-tsm and include/uapi/linux/sev-guest.h.
"""

import ctypes
import fcntl
import os
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from .collector import Ask, CollectFailure, Parts

FORMAT = "sev-snp"
REPORT_BYTES = 1184
TSM = Path("/sys/kernel/config/tsm/report")
DEVICE = Path("/dev/sev-guest")
CERTIFICATES = Path("/etc/hybrid-pcc/sev-snp")
NAMES = ("vcek", "ask", "ark")
_GUIDS = {  # GHCB specification, "SNP Extended Guest Request": the digits in the order they are written
    bytes.fromhex("63da758de6644564adc5f4b93be8accd"): "vcek",
    bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782"): "ask",
    bytes.fromhex("c0b406a4a803495297433fb6014cd0ae"): "ark",
}
_ENTRY = struct.Struct("<16sII")  # guid, offset, length
_GET_EXT_REPORT = 0xC0205302  # _IOWR('S', 2, struct snp_guest_request_ioctl)
_EXT_REQUEST = struct.Struct("<64sI28xQI4x")  # report data, VMPL, address and size of the room for certificates
_GUEST_REQUEST = struct.Struct("<B7xQQQ")  # version, addresses of request and response, firmware error
_RESPONSE_BYTES = 4000
_ROOM_BYTES = 64 * 1024


class Reported(NamedTuple):
    """A report of 1,184 bytes, and the host's table of certificates; empty where the host gives none."""

    report: bytes
    table: bytes


class ReportSource(Protocol):
    """Asks the firmware for a report."""

    def report(self, data: bytes) -> Reported:
        """Return a report over 64 bytes of ours. Raises OSError."""


class ConfigfsSource:
    """Linux 6.7 and later: a folder under configfs is one request."""

    def __init__(self, root: Path = TSM) -> None:
        self._root = root

    def report(self, data: bytes) -> Reported:
        """Make a folder, write the data, read the report, remove the folder."""
        folder = Path(tempfile.mkdtemp(prefix="hybrid-pcc-", dir=self._root))
        try:
            if (provider := (folder / "provider").read_text().strip()) != "sev_guest":
                raise CollectFailure(f"this machine's evidence comes from {provider}, not from SEV-SNP")
            (folder / "inblob").write_bytes(data)
            return Reported((folder / "outblob").read_bytes(), (folder / "auxblob").read_bytes())
        finally:
            folder.rmdir()


class DeviceSource:
    """Linux 5.19 and later: SNP_GET_EXT_REPORT of ``/dev/sev-guest``. ioctl: as ``fcntl.ioctl``."""

    def __init__(self, path: Path = DEVICE, *, ioctl: Callable[[int, int, bytearray], int] = fcntl.ioctl) -> None:
        self._path = path
        self._ioctl = ioctl

    def report(self, data: bytes) -> Reported:
        """Ask with one ioctl."""
        room = ctypes.create_string_buffer(_ROOM_BYTES)
        response = ctypes.create_string_buffer(_RESPONSE_BYTES)
        request = ctypes.create_string_buffer(_EXT_REQUEST.pack(data, 0, ctypes.addressof(room), _ROOM_BYTES))
        call = bytearray(_GUEST_REQUEST.pack(1, ctypes.addressof(request), ctypes.addressof(response), 0))
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._ioctl(fd, _GET_EXT_REPORT, call)
        finally:
            os.close(fd)
        status, size = struct.unpack_from("<II", response.raw)
        if status or size != REPORT_BYTES:
            raise CollectFailure(f"the firmware refused a report with status 0x{status:x}")
        return Reported(response.raw[32 : 32 + size], room.raw)


def kernel_source() -> ReportSource:
    """Return what this kernel offers. Raises CollectFailure."""
    if TSM.is_dir():
        return ConfigfsSource()
    if DEVICE.exists():
        return DeviceSource()
    raise CollectFailure(f"this machine is no SEV-SNP guest: there is neither {TSM} nor {DEVICE}")


class SnpCollector:
    """Reports with their certificates: from the host's table, else from ``vcek.der``, ``ask.der``, ``ark.der``."""

    formats: tuple[str, ...] = (FORMAT,)

    def __init__(self, source: Callable[[], ReportSource] = kernel_source, folder: Path = CERTIFICATES) -> None:
        self._source = source
        self._folder = folder

    def collect(self, ask: Ask) -> Parts:
        """Ask for a report over the challenge. Raises CollectFailure."""
        try:
            reported = self._source().report(ask.challenge)
        except OSError as error:
            raise CollectFailure(f"the kernel gives no SEV-SNP report: {error.strerror}") from None
        if len(reported.report) != REPORT_BYTES or reported.report[0x50:0x90] != ask.challenge:
            raise CollectFailure("the kernel gave something that is not a report over our data")
        return {"report": reported.report, **self._certificates(read_table(reported.table))}

    def close(self) -> None:
        """Nothing is held between two reports."""

    def _certificates(self, given: Mapping[str, bytes]) -> Parts:
        try:
            return {name: given.get(name) or (self._folder / f"{name}.der").read_bytes() for name in NAMES}
        except OSError as error:
            raise CollectFailure(
                f"the host gives no certificates, and {error.filename} cannot be read; "
                "put this chip's vcek.der and AMD's ask.der and ark.der there"
            ) from None


def read_table(table: bytes) -> dict[str, bytes]:
    """Return the DER certificates of the host's table by name. Raises CollectFailure for a table that is cut off.

    Entries end with an all-zero one; those of other kinds are left out.
    """
    found: dict[str, bytes] = {}
    for at in range(0, len(table) - _ENTRY.size + 1, _ENTRY.size):
        guid, offset, length = _ENTRY.unpack_from(table, at)
        if not any(guid):
            break
        if offset + length > len(table):
            raise CollectFailure("the host's table of certificates is cut off")
        if name := _GUIDS.get(guid):
            found[name] = table[offset : offset + length]
    return found
