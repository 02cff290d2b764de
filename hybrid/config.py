"""Settings from files and environment, as one frozen value. Read by the command line and ``Client.from_env`` only.

Later wins: default, user file, project ``hybrid.toml``, ``HYBRID_*``, flag. A project file may choose a model and
tighten; it can never name a node, a key or a folder, nor answer for the person. Unknown keys are errors.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .routing.policy import Mode
from .values import READERS, read_boolean, unknown

if TYPE_CHECKING:
    from .routing.budget import Budget

PROJECT_FILE = "hybrid.toml"
USER_FILE = "config.toml"
LAYERS = ("user", "project", "environment", "flag")
TIGHTER = {
    "cascade": ("auto", "offer", "off"),
    "detect": ("off", "standard", "strict"),
    "decisions": ("keep", "off"),
    "learn": ("keep", "off"),
}
"""Words from the loosest to the tightest: what leaves less and keeps less. A project file may only go up."""

# key -> (field of Config, environment name, whether a project file may set it)
KEYS: Mapping[str, tuple[str, str, bool]] = {
    "model": ("model", "HYBRID_MODEL", True),
    "models": ("models", "HYBRID_MODELS", False),
    "node.address": ("node", "HYBRID_NODE", False),
    "node.key": ("node_key", "HYBRID_NODE_KEY", False),
    "node.token_file": ("node_token_file", "HYBRID_NODE_TOKEN_FILE", False),
    "node.ca_file": ("node_ca_file", "HYBRID_NODE_CA_FILE", False),
    "trust": ("trust", "HYBRID_TRUST", False),
    "policy": ("policy", "HYBRID_POLICY", True),
    "threshold": ("threshold", "HYBRID_THRESHOLD", True),
    "on_handoff": ("on_handoff", "HYBRID_ON_HANDOFF", False),
    "timeout": ("timeout", "HYBRID_TIMEOUT", False),
    "offline": ("offline", "HYBRID_OFFLINE", True),
    "receipts": ("receipts", "HYBRID_RECEIPTS", False),
    "state": ("state", "HYBRID_STATE", False),
    "cascade": ("cascade", "HYBRID_CASCADE", True),
    "detect": ("detect", "HYBRID_DETECT", True),
    "deny": ("deny", "HYBRID_DENY", True),
    "budget": ("budget", "HYBRID_BUDGET", True),
    "explore": ("explore", "HYBRID_EXPLORE", False),
    "price": ("price", "HYBRID_PRICE", False),
    "decisions": ("decisions", "HYBRID_DECISIONS", True),
    "learn": ("learn", "HYBRID_LEARN", True),
}

ROUTING = ("cascade", "detect", "deny", "budget", "explore", "price", "decisions", "learn")
"""What the router takes, under the same names as the arguments of a client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What files, environment and flags add up to. None means: not set anywhere.

    models: folder of the model store.  node: ``host:port``.  node_key: the key the node printed.  timeout: seconds.
    node_token_file: holds the access key of a node that asks for one.  trust: a trust file in place of the usual one.
    node_ca_file: PEM of the authority that vouches for the node's TLS certificate, in place of the public ones.
    receipts: ``keep`` or ``off``.  state: folder in which receipts, decisions and log checkpoints are kept.
    cascade: ``auto``, ``offer`` or ``off``.  detect: ``standard``, ``strict`` or ``off``.  deny: words that never
    leave the device; every layer adds.  budget: share of requests that may go to the node, or money, ``20/month``, in
    the unit of the price.  explore: share of close calls answered on the device to learn from.  price: of 1,000 tokens
    on the node.  decisions, learn: ``keep`` or ``off``.
    origin: who set each value: ``user``, ``project``, ``environment`` or ``flag``.
    """

    model: str | None = None
    models: Path | None = None
    node: str | None = None
    node_key: str | None = field(default=None, repr=False)
    node_token_file: Path | None = None
    node_ca_file: Path | None = None
    trust: Path | None = None
    policy: Mode = Mode.AUTO
    threshold: float | None = None
    on_handoff: str = "always"
    timeout: float | None = None
    offline: bool = False
    receipts: str = "keep"
    state: Path | None = None
    cascade: str = "auto"
    detect: str = "standard"
    deny: tuple[str, ...] = field(default=(), repr=False)
    budget: "float | Budget | None" = None
    explore: float = 0.0
    price: float | None = None
    decisions: str = "keep"
    learn: str = "off"
    origin: Mapping[str, str] = field(default_factory=dict)


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    user_file: Path | None = None,
) -> Config:
    """Read every layer and return the settings.

    flags: fields of ``Config`` by name; None means not given.  environ, folder, user_file: default to the process's.
    Raises ConfigurationError naming the file or variable, and the nearest known key.
    """
    environ = os.environ if environ is None else environ
    config = _from_file(Config(), user_file or default_user_file(), "user")
    config = _from_file(config, (folder or Path.cwd()) / PROJECT_FILE, "project")
    config = _from_environment(config, environ)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    for name, value in given.items():
        config = _set(config, name, value, "flag", name)
    return config


def layer_of(config: Config, name: str | None) -> int:
    """Return how late a field was set, -1 for one that was not; None is the command line itself."""
    origin = config.origin.get(name) if name else LAYERS[-1]
    return LAYERS.index(origin) if origin else -1


def told_by(config: Config, name: str) -> str:
    """Say in words which layer set a field, after a blank; empty where none did."""
    here = f"{PROJECT_FILE} in this folder"
    names = {"user": USER_FILE, "project": here, "environment": "a variable", "flag": "a flag"}
    origin = config.origin.get(name)
    return f" (set by {names[origin]})" if origin else ""


def offline_by_environment(environ: Mapping[str, str] | None = None) -> bool:
    """Whether ``HYBRID_OFFLINE`` is on: the one variable every client honours, since it can only tighten."""
    return read_boolean((os.environ if environ is None else environ).get("HYBRID_OFFLINE", ""), "HYBRID_OFFLINE")


def default_user_file() -> Path:
    """Where the user's own settings are on this platform."""
    import platformdirs

    return platformdirs.user_config_path("hybrid-pcc") / USER_FILE


def _from_file(config: Config, path: Path, origin: str) -> Config:
    try:
        values = _flat(tomllib.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return config
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", hint="correct or remove the file") from None
    except RecursionError:
        raise ConfigurationError(f"{path} is nested too deeply", hint="correct or remove the file") from None
    for key, value in values.items():
        if key not in KEYS:
            raise unknown(f"{path}: unknown key {key!r}", key, list(KEYS))
        name, _, project_may = KEYS[key]
        if origin == "project" and not project_may:
            raise ConfigurationError(
                f"{path}: a project file may not set {key!r}", hint=f"set it in {USER_FILE}, by environment or by flag"
            )
        config = _set(config, name, value, origin, f"{path}: {key}")
    return config


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _from_environment(config: Config, environ: Mapping[str, str]) -> Config:
    names = {env: name for name, env, _ in KEYS.values()}
    for env in environ:
        if env.startswith("HYBRID_") and env not in names and difflib.get_close_matches(env, names, n=1, cutoff=0.85):
            raise unknown(f"unknown environment variable {env}", env, list(names))
    for env, name in names.items():
        if environ.get(env):
            config = _set(config, name, environ[env], "environment", env)
    return config


def _set(config: Config, name: str, value: Any, origin: str, where: str) -> Config:
    value = READERS[name](value, where)
    if origin == "project":
        value = _tightened(config, name, value, where)
    elif name == "offline":
        value = value or config.offline  # any layer suffices, none undoes another
    if name == "deny":
        value = tuple(dict.fromkeys((*config.deny, *value)))  # every layer adds, none takes away
    origins = {**config.origin, name: origin}
    return replace(config, **{name: value, "origin": origins})


def _tightened(config: Config, name: str, value: Any, where: str) -> Any:
    """Refuse a project value under which more could leave the device than without it."""
    if name == "policy" and value.egress_order > config.policy.egress_order:
        raise ConfigurationError(
            f"{where}: a project file may only tighten; {config.policy} is set and {value} is wider"
        )
    if name in TIGHTER and TIGHTER[name].index(value) < TIGHTER[name].index(getattr(config, name)):
        raise ConfigurationError(
            f"{where}: a project file may only tighten; {getattr(config, name)} is set and {value} is looser"
        )
    if name == "threshold":
        if config.threshold is None:
            raise ConfigurationError(
                f"{where}: a project file may only tighten, and the router's own threshold may be higher",
                hint=f"set one in {USER_FILE}, which a project file may then raise",
            )
        return max(value, config.threshold)
    if name == "budget" and config.budget is not None:
        return _smaller(value, config.budget, where)
    if name == "offline":
        return value or config.offline
    return value


def _smaller(one: "float | Budget", other: "float | Budget", where: str) -> "float | Budget":
    """Return the tighter of two budgets; money and shares can't be compared."""
    if isinstance(one, float) and isinstance(other, float):
        return min(one, other)
    if isinstance(one, float) or isinstance(other, float):
        raise ConfigurationError(f"{where}: a share of requests and money a month are both set, and only one can hold")
    return min(one, other, key=lambda budget: budget.money_per_month or 0.0)


if set(READERS) != {f.name for f in fields(Config)} - {"origin"}:  # pragma: no cover - a field without a reader
    raise AssertionError("every setting needs a reader")
