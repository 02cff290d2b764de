"""``serve --check-config``: everything that would keep a node from starting, as far as that shows without serving."""

import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from .config import Settings, bad, split_address, why_not_bound
from .errors import StartFailure


def problems(settings: Settings) -> list[StartFailure]:
    """Try every file and device that the settings name; return what does not do, each in one sentence."""
    return [failure for check in _CHECKS for failure in _tried(check, settings)]


def _tried(check: Callable[[Settings], None], settings: Settings) -> Iterator[StartFailure]:
    try:
        check(settings)
    except StartFailure as failure:
        yield failure


def _check_listen(settings: Settings) -> None:
    """Try the addresses, on any port: a node that runs has the ports themselves."""
    for option, address in (("--listen", settings.listen), ("--admin", settings.admin)):
        if address:
            host, _ = split_address(address, option)
            try:
                socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
            except OSError as error:
                words = f"cannot listen on {option} {address}: {why_not_bound(error)}"
                raise StartFailure(f"{words}; is the address this machine's?") from None


def _check_tls_files(settings: Settings) -> None:
    from .tls import read_pair

    if settings.tls_cert:
        read_pair(settings)


def _check_admin_token(settings: Settings) -> None:
    from .admin import read_token

    read_token(settings.admin_token)


def _check_access_keys(settings: Settings) -> None:
    from .access import read_keys

    if settings.access_keys:
        read_keys(Path(settings.access_keys))


def _check_release(settings: Settings) -> None:
    from .config import config_digest
    from .release import release_leaf

    release_leaf(settings.release, config_digest(settings))


def _check_log(settings: Settings) -> None:
    if settings.log and not Path(settings.log).is_dir():
        raise bad(f"--log {settings.log} is no folder")
    if settings.event_log:
        _readable(settings.event_log, "--event-log")


def _check_deployment(settings: Settings) -> None:
    from hybrid.wire.encoding import deployment_name
    from hybrid.wire.errors import Malformed

    try:
        deployment_name(settings.deployment)
    except Malformed:
        raise bad(f"--deployment takes a lower-case DNS name, not {settings.deployment!r}") from None


def _check_model(settings: Settings) -> None:
    if settings.engine == "mlx":
        from .engines.mlx import find_model

        find_model(settings)


def _check_engine_socket(settings: Settings) -> None:
    if settings.engine_uds and not _is_socket(Path(settings.engine_uds)):
        raise StartFailure(f"engine.uds {settings.engine_uds} is no socket: start the engine first")


def _check_attester(settings: Settings) -> None:
    if settings.attester == "tpm2" and not settings.tpm.startswith("swtpm:"):
        _present(settings.tpm, "--tpm")
    if settings.attester == "sev-snp":
        _present("/sys/kernel/config/tsm/report", "--attester sev-snp needs")


def _present(path: str, option: str) -> None:
    if not Path(path).exists():
        raise StartFailure(f"{option} {path}: there is no such device on this machine")


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _readable(path: str, option: str) -> None:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise bad(f"cannot read {option} {path}: {error.strerror}") from None


_CHECKS: tuple[Callable[[Settings], None], ...] = (
    _check_listen,
    _check_deployment,
    _check_tls_files,
    _check_admin_token,
    _check_access_keys,
    _check_log,
    _check_release,
    _check_model,
    _check_engine_socket,
    _check_attester,
)
