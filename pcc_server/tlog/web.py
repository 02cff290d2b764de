"""One HTTP exchange with a server that need not be honest: bounded in bytes, and in seconds from first to last."""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

_PORTS = {"http": 80, "https": 443}


class WebError(Exception):
    """There was no whole answer in time."""


def call(method: str, url: str, body: bytes | None = None, *, limit: int, patience_s: float) -> tuple[int, bytes]:
    """Return the status and at most ``limit`` bytes and one. It follows no redirection and asks no proxy.

    A timeout of each read would not do: one byte at a time, an answer lasts for days. Raises WebError.
    """
    try:
        parts = urlsplit(url)
        with _connected(parts, patience_s) as connection:
            connection.request(method, parts.path or "/", body)
            with connection.getresponse() as answer:
                return answer.status, answer.read(limit + 1)
    except (OSError, ValueError, http.client.HTTPException):
        raise WebError from None


@contextlib.contextmanager
def _connected(parts: SplitResult, patience_s: float) -> Iterator[http.client.HTTPConnection]:
    """Yield a connection that is cut after ``patience_s``; raises TimeoutError when it was."""
    if not parts.hostname:
        raise ValueError("no host")
    port = parts.port or _PORTS[parts.scheme]
    plain = socket.create_connection((parts.hostname, port), patience_s)
    with _cut_after(plain, patience_s):
        secure = parts.scheme == "https"
        try:
            end = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname) if secure else plain
        except BaseException:
            plain.close()
            raise
        connection = http.client.HTTPConnection(parts.hostname, port)
        connection.sock = end
        with end, contextlib.closing(connection):
            yield connection


@contextlib.contextmanager
def _cut_after(plain: socket.socket, patience_s: float) -> Iterator[None]:
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            handle.shutdown(socket.SHUT_RDWR)

    with plain.dup() as handle:  # TLS takes the other one over
        timer = threading.Timer(patience_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
    if late.is_set():  # an answer without a length would look whole
        raise TimeoutError
