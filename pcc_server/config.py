"""Settings of one node: flags and defaults become frozen values here, nothing else reads them.

``config_digest`` covers the effective security configuration and goes into the Statement (SPEC 3).
"""

import hashlib
import ipaddress
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, Self

from hybrid.wire.constants import FRAMES_PER_MESSAGE

from . import harden
from .environment import environment
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
    "die_before_head",
    "abort",
    "hang",
)
ENGINES = ("mlx", "openai", "fake")
ENGINE_KINDS = ("vllm", "sglang", "llama.cpp", "llama-cpp-python", "ollama")
ACCESS = ("open", "keys", "router")
PREFIX_CACHES = ("off", "salted")
PROTECT = ("auto", "require", "available")  # auto: require above tier 0 and off loopback
ATTESTERS = ("software", "tpm2", "sev-snp")
MAX_NEW_LIMIT = 16_384  # one token is one frame at least, and a reply has 65,536 of them
RUNNING = {
    "mlx": 4,
    "openai": 64,
    "fake": 256,
}  # rows of one batch on a CPU; the fake engine only has to keep a loop busy
FAKE_MODEL = "fake"
EPOCH_RANGE_S = (1, 900)  # clients accept 180 to 900; shorter is for tests, with the fake engine


class Door(Protocol):
    """What a port is opened with."""

    @property
    def listen(self) -> str:
        """HOST:PORT."""

    @property
    def tls_cert(self) -> str:
        """Certificate chain, PEM; empty: no TLS."""

    @property
    def tls_key(self) -> str:
        """Its private key, PEM."""

    @property
    def tls_client_ca(self) -> str:
        """Who may connect: certificates of this authority alone, PEM; empty: anybody."""

    @property
    def streams(self) -> int:
        """How many requests may be inside at once."""


class Guarded(Protocol):
    """What says who is let in."""

    @property
    def access(self) -> str:
        """One of ACCESS."""

    @property
    def access_keys(self) -> str:
        """The file of keys; empty: none."""


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
    tls_client_ca: str = ""
    allow_software: bool = False
    epoch_s: int = 300
    engine_port: int = 0  # loopback port of an engine of others, with engine "openai"
    engine_uds: str = ""  # or its Unix socket
    engine_kind: str = ""  # vllm, sglang, llama.cpp, ollama
    max_running: int = 4
    max_queue: int = 32  # requests; the queue is bounded by time too
    max_queue_s: float = 8.0
    max_new: int = 2048
    context: int = 0  # tokens; 0 is the model's own
    max_stall_ms: int = 200  # a prompt that is read holds running streams up for so long at most
    chunk: int = 256  # tokens of one prompt in one step, at most
    soft: float = 0.85  # of the room: nothing new is admitted beyond it
    hard: float = 0.95  # of the room: the youngest are shed
    prefix_cache: str = "off"
    protect: str = "auto"
    require_audit: bool = False
    drain_grace_s: float = 0.0  # after SIGTERM still accept for so long: balancers learn late
    drain_timeout_s: float = 120.0
    batch: int = FRAMES_PER_MESSAGE  # frames of one message, at most, while an answer pours
    access: str = "open"
    access_keys: str = ""  # file: one key per line, by its hash
    log: str = ""  # folder of the transparency log, read only
    release: str = ""  # file: a signed RELEASE entry
    attester: str = "software"
    tpm: str = "/dev/tpmrm0"  # or swtpm:PORT
    event_log: str = ""  # file: the firmware's event log
    admin: str = ""  # HOST:PORT of the admin port; empty: none
    admin_token: str = ""  # file: who sends its content may use the admin port
    fake_delay_ms: float = 0.0
    fault: str = ""

    def __post_init__(self) -> None:
        """Refuse settings that do not fit together. Raises StartFailure with exit code 2."""
        host, _ = split_address(self.listen)
        if not is_loopback(host):
            self._check_exposed()
        self._check_ranges()
        one_of("--engine", self.engine, ENGINES)
        one_of("--attester", self.attester, ATTESTERS)
        one_of("--access", self.access, ACCESS)
        one_of("cache.prefix", self.prefix_cache, PREFIX_CACHES)
        one_of("node.protect", self.protect, PROTECT)
        check_tls(self)
        check_access(self)
        self._check_router(loopback=is_loopback(host))
        self._check_trust()
        self._check_admin()
        self._check_engine()
        self._check_test_switches(loopback=is_loopback(host))

    def _check_exposed(self) -> None:
        if self.attester == "software" and not self.allow_software:
            raise bad(
                f"{self.listen} is not loopback and this node is tier 0, whose operator can read every prompt; "
                "add --allow-software if clients know that"
            )
        need_tls(self)

    def _check_router(self, *, loopback: bool) -> None:
        if self.access == "router" and not loopback and not self.tls_client_ca:
            raise bad(
                "--access router lets in whoever connects: off loopback add --tls-client-ca FILE, "
                "so that only your router can"
            )

    def _check_trust(self) -> None:
        if self.release and not self.log:
            raise bad("--release names an entry of a log: add --log DIR")
        if self.attester != "software" and not self.release:
            raise bad(f"--attester {self.attester} proves which release runs: add --release FILE and --log DIR")

    def _check_admin(self) -> None:
        if self.admin_token and not self.admin:
            raise bad("--admin-token needs --admin HOST:PORT")
        if (
            self.admin
            and not is_loopback(split_address(self.admin, "--admin")[0])
            and not (self.admin_token and self.tls_cert)
        ):
            raise bad(
                f"--admin {self.admin} is not loopback: --admin-token, --tls-cert and --tls-key are required there"
            )

    def _check_engine(self) -> None:
        named = bool(self.engine_port) + bool(self.engine_uds)
        if self.engine != "openai":
            if named or self.engine_kind:
                raise bad('[engine] describes an engine of others: it needs model.engine = "openai"')
            return
        one_of("engine.kind", self.engine_kind, ENGINE_KINDS)
        if named != 1:
            raise bad('model.engine = "openai" needs where that engine listens: engine.port or engine.uds')

    def _check_ranges(self) -> None:
        checks = {
            "--epoch-s": (self.epoch_s, *EPOCH_RANGE_S),
            "--max-running": (self.max_running, 1, 4096),
            "--max-queue": (self.max_queue, 0, 65_536),
            "--max-new": (self.max_new, 1, MAX_NEW_LIMIT),
            "--batch": (self.batch, 1, FRAMES_PER_MESSAGE),
            "--drain-timeout": (self.drain_timeout_s, 0, 3600),
            "drain.grace_s": (self.drain_grace_s, 0, 600),
            "limits.max_queue_s": (self.max_queue_s, 0, 600),
            "limits.context": (self.context, 0, 2**24),
            "limits.max_stall_ms": (self.max_stall_ms, 1, 60_000),
            "limits.chunk": (self.chunk, 32, 8192),
            "limits.soft": (self.soft, 0.1, 1),
            "limits.hard": (self.hard, self.soft, 1),
            "engine.port": (self.engine_port, 0, 65_535),
            "--fake-delay-ms": (self.fake_delay_ms, 0, 60_000),
        }
        for name, (value, low, high) in checks.items():
            check_range(name, value, low, high)

    def _check_test_switches(self, *, loopback: bool) -> None:
        if self.fault and self.fault not in FAULTS:
            raise bad(f"unknown fault {self.fault!r}; there are {', '.join(FAULTS)}")
        if self.fault and not (self.engine == "fake" and loopback):
            raise bad("--fault is for tests: it needs --engine fake and a loopback address")
        if self.engine == "fake" and self.model not in ("", FAKE_MODEL):
            raise bad("--model needs --engine mlx; the fake engine runs no model")
        if self.fake_delay_ms and self.engine != "fake":
            raise bad("--fake-delay-ms needs --engine fake")
        if self.epoch_s < 180 and self.engine != "fake":  # noqa: PLR2004 - SPEC 9
            raise bad("epochs under 180 s are for tests: they need --engine fake")

    @property
    def protection(self) -> str:
        """What ``protect`` comes to: a node that says more than tier 0, or is reached from elsewhere, requires all."""
        if self.protect != "auto":
            return self.protect
        here = self.attester == "software" and is_loopback(split_address(self.listen)[0])
        return "available" if here else "require"

    @property
    def streams(self) -> int:
        """How many requests may be in the node at once, running and queued; one who fills the queue leaves room."""
        return self.max_running + 2 * self.max_queue

    def to_json(self) -> dict[str, Any]:
        """Values for the control socket."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Rebuild what ``to_json`` gave."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def bad(message: str) -> StartFailure:
    """Return what ends the start over a bad option: one sentence that says what to do."""
    return StartFailure(message, CONFIG_EXIT)


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that an option does not have. Raises StartFailure with exit code 2."""
    if value not in allowed:
        raise bad(f"{option} is one of {', '.join(allowed)}, not {value!r}")


def check_range(option: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside an option's range. Raises StartFailure with exit code 2."""
    if not low <= value <= high:
        raise bad(f"{option} must lie between {low} and {high}, got {value}")


def check_tls(door: Door) -> None:
    """Refuse half of a TLS setting. Raises StartFailure with exit code 2."""
    if bool(door.tls_cert) != bool(door.tls_key):
        raise bad("--tls-cert and --tls-key go together")
    if door.tls_client_ca and not door.tls_cert:
        raise bad("--tls-client-ca needs --tls-cert and --tls-key")


def need_tls(door: Door) -> None:
    """Refuse a port that others reach without TLS. Raises StartFailure with exit code 2."""
    if not (door.tls_cert and door.tls_key):
        raise bad(f"{door.listen} is not loopback: --tls-cert and --tls-key are required there")


def check_access(settings: Guarded) -> None:
    """Refuse half of an access setting. Raises StartFailure with exit code 2."""
    if (settings.access == "keys") != bool(settings.access_keys):
        raise bad("--access keys and --access-keys FILE go together; pcc-server access add FILE makes the file")


def split_address(listen: str, option: str = "--listen") -> tuple[str, int]:
    """Split HOST:PORT; an IPv6 host stands in brackets. Raises StartFailure with exit code 2."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:  # noqa: PLR2004 - a port
        raise bad(f"{option} takes HOST:PORT, not {listen!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def why_not_bound(error: OSError) -> str:
    """Say why an address could not be listened on; Python appends to it what it was doing."""
    return (error.strerror or type(error).__name__).partition(" (while")[0]


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SITE = {
    "listen": "where it is reached; whether that is loopback is in protect",
    "model": "the statement names the model and its manifest",
    "deployment": "the statement names it",
    "store": "where weights lie; the manifest names their bytes",
    "tls_cert": "outside the seal; replaced while it runs",
    "tls_key": "the same",
    "tls_client_ca": "who may connect, not what becomes of what they send",
    "allow_software": "the operator's leave; the tier is in the evidence",
    "engine_port": "which loopback port; the kind of engine is in the profile",
    "engine_uds": "the same",
    "max_running": "how much at once",
    "max_queue": "how much may wait",
    "max_queue_s": "how long it may wait",
    "context": "how long a request may be",
    "max_stall_ms": "pace",
    "chunk": "pace",
    "soft": "how full memory may get",
    "hard": "the same",
    "batch": "pace",
    "drain_grace_s": "how it ends",
    "drain_timeout_s": "the same",
    "access_keys": "whose keys; that keys are asked for is in the profile",
    "log": "the statement names its newest checkpoint",
    "release": "the statement names it",
    "tpm": "which device; what it says is the evidence",
    "event_log": "shown to whoever asks",
    "admin": "public parts only, whoever reads it",
    "admin_token": "the same",
    "fake_delay_ms": "pace, of an engine that says it is fake",
}  # field -> why it is not in the digest: what it changes lets the node do, log, cache or keep nothing else
LIVE = frozenset(("max_queue", "max_queue_s", "soft", "hard", "drain_grace_s", "drain_timeout_s"))  # SIGHUP may change


def profile(settings: Settings) -> dict[str, Any]:
    """Return the effective security configuration: what the node may do, log, cache or keep (X3)."""
    return {
        "access": settings.access,
        "attester": settings.attester,
        "engine": f"{settings.engine}:{settings.engine_kind}" if settings.engine_kind else settings.engine,
        "environment": {program: environment(program) for program in ("gateway", "worker")},
        "epoch_s": settings.epoch_s,
        "fault": settings.fault,
        "logging": "events",
        "max_new": settings.max_new,
        "padding": "frame",
        "prefix_cache": settings.prefix_cache,
        "protect": settings.protection,
        "sandbox": harden.described(),
        "require_audit": "yes" if settings.require_audit else "no",
        "tokens": "off",
    }


def config_digest(settings: Settings) -> bytes:
    """SHA-256 of the canonical JSON of ``profile``; 32 bytes."""
    from hybrid.wire.codec import canonical_json  # protobuf: the launcher never needs it

    return hashlib.sha256(canonical_json(profile(settings))).digest()
