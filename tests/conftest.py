"""What every test gets: no connection beyond this machine, no settings or offline switch from outside.

Python's audit hook cannot see gRPC's own sockets; the node and transport tests therefore use loopback addresses only.
"""

import contextlib
import ipaddress
import sys
from collections.abc import Iterator
from typing import Any

import pytest


class Outside(AssertionError):
    """A test tried to leave this machine."""


class _Guard:
    """Refuses ``socket.connect`` to anything but loopback and Unix sockets while it is on."""

    on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in ("socket.connect", "socket.sendto") and not _is_here(arguments[1]):
            raise Outside(f"{event} to {arguments[1]!r}")


def _is_here(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    return address[0] in ("localhost", "")


_GUARD = _Guard()
sys.addaudithook(_GUARD)  # can never be taken away again, hence the switch


@pytest.fixture(autouse=True)
def _remembers_nothing(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Receipts, checkpoints and shares of a test go to a folder of its own; no trust file is found."""
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def _stay_on_this_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (
        "HYBRID_NODE",
        "HYBRID_NODE_KEY",
        "HYBRID_OFFLINE",
        "HYBRID_POLICY",
        "HYBRID_MODEL",
        "HYBRID_THRESHOLD",
    ):
        monkeypatch.delenv(name, raising=False)
    _GUARD.on = True
    yield
    _GUARD.on = False
