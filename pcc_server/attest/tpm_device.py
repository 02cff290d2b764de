"""A TPM 2.0 that takes commands: the kernel's resource-managed device, or a software TPM's socket."""

import os
import socket
from typing import Protocol

from .collector import CollectFailure

MAX_RESPONSE_BYTES = 4096  # TCG PC Client: no response is longer
TIMEOUT_S = 120.0  # the kernel waits this long for the slowest commands
_HEADER_BYTES = 10
_SWTPM = "swtpm:"


class Device(Protocol):
    """Takes one command at a time."""

    def transmit(self, command: bytes) -> bytes:
        """Send a command and return the response to it. Raises CollectFailure when the device does not answer."""

    def close(self) -> None:
        """Let go of it."""


def open_device(name: str) -> Device:
    """Open a device: a path such as ``/dev/tpmrm0``, or ``swtpm:PORT`` on this machine. Raises CollectFailure."""
    try:
        return _Swtpm(int(name.removeprefix(_SWTPM))) if name.startswith(_SWTPM) else _Kernel(name)
    except ValueError:
        raise CollectFailure(f"a software TPM is named swtpm:PORT, not {name!r}") from None
    except FileNotFoundError:
        raise CollectFailure(f"there is no TPM at {name}; the kernel's resource manager is /dev/tpmrm0") from None
    except PermissionError:
        raise CollectFailure(f"{name} may not be opened; add this user to the group that owns it (tss)") from None
    except OSError as error:
        raise CollectFailure(f"the TPM {name} cannot be opened: {error.strerror or error}") from None


class _Kernel:
    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def transmit(self, command: bytes) -> bytes:
        try:
            os.write(self._fd, command)
            return os.read(self._fd, MAX_RESPONSE_BYTES)
        except OSError as error:
            raise CollectFailure(f"the TPM does not answer: {error.strerror}") from None

    def close(self) -> None:
        os.close(self._fd)


class _Swtpm:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)

    def transmit(self, command: bytes) -> bytes:
        try:
            self._socket.sendall(command)
            header = self._take(_HEADER_BYTES)
            return header + self._take(min(int.from_bytes(header[2:6], "big"), MAX_RESPONSE_BYTES) - _HEADER_BYTES)
        except OSError as error:
            raise CollectFailure(f"the software TPM does not answer: {error}") from None

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if not (more := self._socket.recv(count - len(data))):
                raise ConnectionError("it closed the connection")
            data += more
        return data

    def close(self) -> None:
        self._socket.close()
