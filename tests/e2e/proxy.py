"""A proxy on loopback that sees every byte between a client and a node, in both directions."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Wire:
    """What passed. sent: from the client.  received: from the node."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent, self.received = bytearray(), bytearray()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                self._join(self._listener.accept()[0])

    def _join(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target)
        except OSError:  # the node is gone, and so is whoever calls it through here
            near.close()
            return
        self._open += [near, far]
        for one, other, log in ((near, far, self.sent), (far, near, self.received)):
            threading.Thread(target=_pass_on, args=(one, other, log), daemon=True).start()

    def close(self) -> None:
        """End every connection."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _pass_on(one: socket.socket, other: socket.socket, log: bytearray) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            log += data
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


@contextmanager
def watched(target: str) -> Iterator[Wire]:
    """Put a proxy before a node until the block ends."""
    wire = Wire(target)
    try:
        yield wire
    finally:
        wire.close()
