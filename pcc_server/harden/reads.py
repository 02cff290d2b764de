"""What each process of the node may read, run and reach: everything else is closed to it (node design 3.2)."""

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from pcc_server.attest.desk import events_folder
from pcc_server.config import Settings, split_address
from pcc_server.events import Program

from .landlock import DEVICE, KEEP, READ, RUN, Right, Rules

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_SYSTEM = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",
    "/usr/share/zoneinfo",
    "/dev/null",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/self",  # of the process that closes the sandbox, not of its children
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/fs/cgroup",
)
_NAMES = ("hosts", "host.conf", "resolv.conf", "nsswitch.conf", "gai.conf", "services", "protocols")  # under /etc
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
_SWTPM = "swtpm:"
_OURS = ("hybrid", "device", "pcc_server")
# Too much lies in these to be opened for the sake of one file: there a file is allowed as it stands at the start.
_WIDE = frozenset(map(Path, ("/", "/etc", "/home", "/root", "/tmp", "/var", "/run", "/usr", "/opt", "/srv", "/mnt")))  # noqa: S108 - not used


def rules_for(program: Program, settings: Settings, *, also: tuple[str, ...] = ()) -> Rules:
    """Return what a program may do. also: files it reads again while it runs.

    The launcher's rules bind its children too, so they hold all of theirs.
    """
    if program is Program.LAUNCHER:
        return _launcher(settings, also)
    paths = (*_libraries(), *_readable(_SYSTEM), *_own_files(program, settings))
    if program is Program.WORKER:
        return Rules(paths=paths)
    names = _readable(f"/etc/{name}" for name in _NAMES)  # to bind a name such as localhost
    return Rules(paths=(*paths, *names), bind=_ports(settings))


def prepare(settings: Settings) -> None:
    """Make the folder that the launcher will write to, while it may still make one. What fails is told on writing."""
    if settings.attester == "tpm2":
        with contextlib.suppress(OSError):
            events_folder().mkdir(mode=0o700, parents=True, exist_ok=True)


def _launcher(settings: Settings, also: tuple[str, ...]) -> Rules:
    children = (rules_for(program, settings) for program in (Program.GATEWAY, Program.WORKER))
    paths = [rule for rules in children for rule in rules.paths]
    paths += [("/proc", READ), ("/dev/null", Right.READ_FILE | Right.WRITE_FILE)]
    paths += [(str(path), RUN) for path in (sys.executable, os.path.realpath(sys.executable), *_loaders())]
    paths += [place for file in also for place in _places(file)]
    return Rules(
        paths=(*paths, *_devices(settings)),
        bind=_ports(settings),
        connect=tuple(_dialled(settings)),
    )


def _readable(paths: Iterable[str]) -> tuple[tuple[str, Right], ...]:
    return tuple((path, READ) for path in paths)


def _libraries() -> Iterator[tuple[str, Right]]:
    """Yield the interpreter's folders and the libraries; of other folders on the import path only our packages."""
    named = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots = {f"{prefix}/lib" for prefix in (sys.prefix, sys.base_prefix)}
    yield from _readable(sorted({*named, *roots, *_LIBRARIES, f"{sys.prefix}/pyvenv.cfg"}))
    for entry in filter(None, sys.path):
        if Path(entry).is_relative_to(sys.prefix) or Path(entry).is_relative_to(sys.base_prefix):
            yield entry, READ
        else:
            yield entry, Right.READ_DIR
            yield from _readable(f"{entry}/{package}" for package in _OURS)


def _own_files(program: Program, settings: Settings) -> Iterator[tuple[str, Right]]:
    """Yield what the settings name. Files that are replaced while the node runs come with their folder."""
    if program is Program.WORKER:
        yield from _readable(filter(None, (settings.model, settings.store, settings.release)))
        return
    replaced = (settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.access_keys, settings.admin_token)
    for file in filter(None, replaced):
        yield from _places(file)
    yield from _readable(filter(None, (settings.log, settings.event_log)))


def _places(file: str) -> Iterator[tuple[str, Right]]:
    """Yield the folder of a file, and of what it links to; the file alone where its folder holds more than its kind."""
    for path in {Path(file).absolute(), Path(file).resolve()}:
        wide = path.parent in _WIDE
        yield (str(path), Right.READ_FILE) if wide else (str(path.parent), READ)


def _loaders() -> set[str]:
    """Return the loader of this interpreter, which the kernel executes with it."""
    with Path("/proc/self/maps").open() as maps:
        mapped = {line.split(maxsplit=5)[-1].strip() for line in maps if "/ld-" in line}
    return {*mapped, *_LOADERS}


def _devices(settings: Settings) -> Iterator[tuple[str, Right]]:
    if settings.attester == "tpm2":
        yield str(events_folder()), KEEP
        if settings.tpm.startswith("/"):
            yield settings.tpm, DEVICE
    if settings.attester == "sev-snp":
        from pcc_server.attest import snp

        yield from ((str(snp.DEVICE), DEVICE), (str(snp.TSM), KEEP), (str(snp.CERTIFICATES), READ))


def _dialled(settings: Settings) -> Iterator[int]:
    """Ports of this machine that the launcher connects to: Landlock knows no addresses, only ports."""
    if settings.engine_port:
        yield settings.engine_port
    if settings.attester == "tpm2" and settings.tpm.startswith(_SWTPM):
        yield int(settings.tpm.removeprefix(_SWTPM))


def _ports(settings: Settings) -> tuple[int, ...] | None:
    """Return the gateway's ports, and 0, with which grpc asks what the machine can.

    ``None`` (any) where a port is left to the kernel: which one it gives, a second gateway asks for by its number.
    """
    ports = ports_of(settings)
    return None if 0 in ports else (0, *sorted(ports))


def ports_of(settings: Settings) -> set[int]:
    """Return the ports the node listens on; 0: one that the kernel picks."""
    return {split_address(address)[1] for address in (settings.listen, settings.admin) if address}
