"""One key of ours in the operating system's keychain, through the ``keyring`` library: the only file that knows it.

The macOS Keychain, or a Secret Service such as GNOME Keyring or KWallet on Linux. A store that would keep the key in a
plain file, or nowhere at all, is refused: a key beside what it protects protects nothing.
"""

import base64
import binascii
import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Protocol

from .errors import UnavailableError

SERVICE = "hybrid-pcc"
KEY_BYTES = 32
LEAST_PRIORITY = 1
"""What ``keyring`` gives a keychain it recommends; plain files have 0.5, none has 0, one that forgets has -1."""


class Backend(Protocol):
    """What we use of ``keyring.backend.KeyringBackend``."""

    @property
    def priority(self) -> float:
        """How much it is recommended, see `LEAST_PRIORITY`."""

    def get_password(self, service: str, username: str, /) -> str | None:
        """Return a secret, None where there is none."""

    def set_password(self, service: str, username: str, password: str, /) -> None:
        """Keep a secret."""

    def delete_password(self, service: str, username: str, /) -> None:
        """Forget a secret; raises when there is none."""


class Keychain:
    """The place of one key. account: the name it has there.  backend: None takes the system's, on first use."""

    def __init__(
        self, account: str, *, backend: Backend | None = None, rng: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._account = account
        self._backend = backend
        self._rng = rng

    def key(self) -> bytes | None:
        """Return the key, None where there is none yet. Raises UnavailableError without a keychain, or a locked one."""
        with _mapped():
            text = self._found().get_password(SERVICE, self._account)
        try:
            key = base64.b64decode(text, validate=True) if text else None
        except (binascii.Error, ValueError):
            key = None
        return key if key is not None and len(key) == KEY_BYTES else None

    def make(self) -> bytes:
        """Return the key, made and kept first where there is none. Raises UnavailableError."""
        key = self.key()
        if key is not None:
            return key
        made = self._rng(KEY_BYTES)
        with _mapped():
            self._found().set_password(SERVICE, self._account, base64.b64encode(made).decode("ascii"))
        kept = self.key()  # another process may have been first, and a broken store may have kept nothing
        if kept is None:
            raise _unavailable("this system's keychain does not keep what it is given")
        return kept

    def forget(self) -> None:
        """Delete the key: what it sealed can never be read again. Raises UnavailableError."""
        with _mapped():
            if self._found().get_password(SERVICE, self._account) is not None:
                self._found().delete_password(SERVICE, self._account)

    def _found(self) -> Backend:
        if self._backend is None:
            import keyring

            self._backend = keyring.get_keyring()
        links = getattr(self._backend, "backends", (self._backend,))  # a chain is recommended whatever it is made of
        safe = next((link for link in links if link.priority >= LEAST_PRIORITY), None)
        if safe is None:
            raise _unavailable("this system has no keychain that keeps secrets safely")
        return safe


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    """Turn what a keychain can fail with into our own error; its text could name what it holds."""
    from keyring.errors import KeyringError, KeyringLocked

    try:
        yield
    except KeyringLocked:
        raise UnavailableError(
            "the keychain is locked", reason="keychain_locked", hint="unlock it, or use learn='off'"
        ) from None
    except (KeyringError, RuntimeError, OSError) as error:
        raise _unavailable(f"the keychain failed: {type(error).__name__}") from None


def _unavailable(message: str) -> UnavailableError:
    return UnavailableError(
        message,
        reason="no_keychain",
        hint="sign in to a desktop with a keychain (GNOME Keyring, KWallet, macOS Keychain), or use learn='off'",
    )
