"""A keychain in memory, through the real ``keyring`` library, and ones that fail as real ones do."""

from keyring.backend import KeyringBackend
from keyring.backends.chainer import ChainerBackend
from keyring.errors import KeyringLocked, PasswordDeleteError


class MemoryKeyring(KeyringBackend):
    """Keeps secrets for this process."""

    priority = 5.0  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if (service, username) not in self.held:
            raise PasswordDeleteError
        del self.held[service, username]


class LockedKeyring(MemoryKeyring):
    """Nobody has unlocked it."""

    def get_password(self, service: str, username: str) -> str | None:
        raise KeyringLocked("locked: the name of a secret")


class ForgetfulKeyring(MemoryKeyring):
    """Takes a secret and keeps nothing."""

    def set_password(self, service: str, username: str, password: str) -> None:
        pass


class PlainFileKeyring(MemoryKeyring):
    """As the plain files of ``keyrings.alt``: not recommended."""

    priority = 0.5  # type: ignore[assignment]


class Chained(ChainerBackend):
    """The ``keyring`` library's chain of every keychain it found, which it recommends whatever they are."""

    priority = 10.0  # type: ignore[assignment]
    backends = ()  # type: ignore[assignment]

    def __init__(self, *links: MemoryKeyring) -> None:
        super().__init__()
        self.backends = links  # type: ignore[assignment]


class PlainFilesKeyring(Chained):
    """Two kinds of plain files."""

    def __init__(self) -> None:
        super().__init__(PlainFileKeyring(), PlainFileKeyring())
