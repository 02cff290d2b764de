"""Settings of one node: flags and defaults become frozen values here, nothing else reads them.

``config_digest`` covers the effective security configuration and goes into the Statement (SPEC 3).
"""

import hashlib
import ipaddress
import sys
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from .errors import CONFIG_EXIT, StartFailure

FAULTS = (
    "cut_stream",
    "reorder",
    "flip_bit",
    "duplicate",
    "stale_key",
    "replay",
    "overload",
    "rate_limit",
    "slow_first_token",
    "unavailable",
    "die_midstream",
    "wrong_receipt",
)
ENGINES = ("mlx", "fake")
MAX_NEW_LIMIT = 16_384  # one token is one frame at least, and a reply has 65,536 of them
RUNNING = {"mlx": 4, "fake": 256}  # rows of one batch on a CPU; the fake engine only has to keep a loop busy
FAKE_MODEL = "fake"
EPOCH_RANGE_S = (1, 900)  # clients accept 180 to 900; shorter is for tests, with the fake engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one node runs with. Times carry their unit; a path is a string because it crosses the control socket."""

    listen: str = "127.0.0.1:8443"
    engine: str = "mlx"
    model: str = ""  # catalogue id or folder; empty: the store's default
    deployment: str = "localhost"
    store: str = ""  # folder of the model store
    tls_cert: str = ""
    tls_key: str = ""
    allow_software: bool = False
    epoch_s: int = 300
    max_running: int = 4
    max_queue: int = 32
    max_new: int = 2048
    drain_timeout_s: float = 120.0
    fake_delay_ms: float = 0.0
    fault: str = ""

    def __post_init__(self) -> None:
        """Refuse settings that do not fit together. Raises StartFailure with exit code 2."""
        host, _ = split_address(self.listen)
        if not is_loopback(host):
            self._check_exposed()
        self._check_ranges()
        if self.engine not in ENGINES:
            raise _bad(f"--engine is one of {', '.join(ENGINES)}, not {self.engine!r}")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise _bad("--tls-cert and --tls-key go together")
        self._check_test_switches(loopback=is_loopback(host))

    def _check_exposed(self) -> None:
        if not self.allow_software:
            raise _bad(
                f"{self.listen} is not loopback and this node is tier 0, whose operator can read every prompt; "
                "add --allow-software if clients know that"
            )
        if not (self.tls_cert and self.tls_key):
            raise _bad(f"{self.listen} is not loopback: --tls-cert and --tls-key are required there")

    def _check_ranges(self) -> None:
        checks = {
            "--epoch-s": (self.epoch_s, *EPOCH_RANGE_S),
            "--max-running": (self.max_running, 1, 4096),
            "--max-queue": (self.max_queue, 0, 65_536),
            "--max-new": (self.max_new, 1, MAX_NEW_LIMIT),
            "--drain-timeout": (self.drain_timeout_s, 0, 3600),
            "--fake-delay-ms": (self.fake_delay_ms, 0, 60_000),
        }
        for name, (value, low, high) in checks.items():
            if not low <= value <= high:
                raise _bad(f"{name} must lie between {low} and {high}, got {value}")

    def _check_test_switches(self, *, loopback: bool) -> None:
        if self.fault and self.fault not in FAULTS:
            raise _bad(f"unknown fault {self.fault!r}; there are {', '.join(FAULTS)}")
        if self.fault and not (self.engine == "fake" and loopback):
            raise _bad("--fault is for tests: it needs --engine fake and a loopback address")
        if self.engine == "fake" and self.model not in ("", FAKE_MODEL):
            raise _bad("--model needs --engine mlx; the fake engine runs no model")
        if self.fake_delay_ms and self.engine != "fake":
            raise _bad("--fake-delay-ms needs --engine fake")
        if self.epoch_s < 180 and self.engine != "fake":  # noqa: PLR2004 - SPEC 9
            raise _bad("epochs under 180 s are for tests: they need --engine fake")

    @property
    def streams(self) -> int:
        """How many requests may be in the node at once, running and queued."""
        return self.max_running + self.max_queue

    def to_json(self) -> dict[str, Any]:
        """Values for the control socket."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Rebuild what ``to_json`` gave."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def _bad(message: str) -> StartFailure:
    return StartFailure(message, CONFIG_EXIT)


def split_address(listen: str) -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 host stands in brackets. Raises StartFailure with exit code 2."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:  # noqa: PLR2004 - a port
        raise _bad(f"--listen takes HOST:PORT, not {listen!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def environment(program: str) -> dict[str, str]:
    """Build a child's environment from nothing (node design 3.1): what is not here does not reach it."""
    shared = {"LC_ALL": "C.UTF-8"}
    if program == "gateway":
        return {**shared, "GRPC_VERBOSITY": "NONE"}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "critical"}
    # On a CPU, compiling writes C++ source into the shared temporary folder and runs a compiler on it.
    compiling = {} if sys.platform == "darwin" else {"MLX_DISABLE_COMPILE": "1"}
    return {**shared, **offline, **quiet, **compiling}


def profile(settings: Settings) -> dict[str, Any]:
    """Return the effective security configuration: what the node may do, log, cache or keep."""
    return {
        "allocator": "default",
        "engine": settings.engine,
        "environment": {program: environment(program) for program in ("gateway", "worker")},
        "epoch_s": settings.epoch_s,
        "fault": settings.fault,
        "logging": "events",
        "max_new": settings.max_new,
        "padding": "frame",
        "prefix_cache": "off",
        "sandbox": "none",
        "tokens": "off",
    }


def config_digest(settings: Settings) -> bytes:
    """SHA-256 of the canonical JSON of ``profile``; 32 bytes."""
    from hybrid.wire.codec import canonical_json  # protobuf: the launcher never needs it

    return hashlib.sha256(canonical_json(profile(settings))).digest()
