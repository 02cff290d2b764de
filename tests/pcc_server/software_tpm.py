"""A real TPM 2.0 in software: Debian's ``swtpm`` on a free port, without a resource manager, as strict as it gets."""

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pcc_server.attest.collector import CollectFailure
from pcc_server.attest.tpm_commands import _PASSWORD as PASSWORD
from pcc_server.attest.tpm_commands import Tpm, sized
from pcc_server.attest.tpm_device import Device, open_device
from tests.pcc_server.node_client import until

FLAGS = "not-need-init,startup-clear"
GET_TIME = 0x14C
NV_DEFINE_SPACE = 0x12A
NV_WRITE = 0x137
OWNER = 0x40000001
_NV_ATTRIBUTES = 0x00060006  # owner and authorised users may write and read
_CHUNK = 512


class SoftwareTpm:
    """One TPM with its own seeds. ``restart`` is what a restart of the machine is to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        self._start()

    def _start(self) -> None:
        program = shutil.which("swtpm")
        assert program, "these tests need the program swtpm: install the Debian package swtpm (.ci/run does)"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        words = ["--tpmstate", f"dir={self._folder}", "--server", f"type=tcp,port={self.port}"]
        self._process = subprocess.Popen([program, "socket", "--tpm2", *words, "--flags", FLAGS])
        until(self._listens)

    def _listens(self) -> bool:
        assert self._process.poll() is None, "swtpm ended"
        try:
            self.open().close()
        except CollectFailure:
            return False
        return True

    @property
    def name(self) -> str:
        """What ``--tpm`` takes."""
        return f"swtpm:{self.port}"

    def open(self) -> Device:
        return open_device(self.name)

    @contextmanager
    def commands(self) -> Iterator[Tpm]:
        """A connection of its own; the TPM serves one at a time."""
        device = self.open()
        try:
            yield Tpm(device)
        finally:
            device.close()

    def restart(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def get_time(tpm: Tpm, key: int, challenge: bytes) -> tuple[bytes, bytes]:
    """What TPM2_GetTime signs: an attestation that is no quote."""
    endorsement = 0x4000000B
    parameters = sized(challenge) + b"\x00\x10"
    reply = tpm._run(GET_TIME, [endorsement, key], parameters, sessions=[PASSWORD, PASSWORD])
    return reply.sized(), reply.rest()


def write_nv(tpm: Tpm, index: int, data: bytes) -> None:
    """Store data as a TPM's maker stores a certificate."""
    area = struct.pack(">IHIHH", index, 0x000B, _NV_ATTRIBUTES, 0, len(data))
    tpm._run(NV_DEFINE_SPACE, [OWNER], sized(b"") + sized(area), sessions=[PASSWORD])
    for at in range(0, len(data), _CHUNK):
        parameters = sized(data[at : at + _CHUNK]) + struct.pack(">H", at)
        tpm._run(NV_WRITE, [index, index], parameters, sessions=[PASSWORD])
