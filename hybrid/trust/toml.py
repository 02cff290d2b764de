"""The trust file ``trust.toml`` (SPEC 11): one table per deployment, read strictly and written back.

Text in, policies out; ``hybrid.trust_file`` does the reading. Rules written in Python have no place in it.
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.errors import ConfigurationError
from hybrid.wire.errors import WireError
from hybrid.wire.log_policy import LogPolicy

from .policy import ModelTrust, Policy, ReleaseTrust
from .sev_snp import SnpTrust
from .tpm2 import Tpm2Trust

VERSION = 1
DEPLOYMENT_KEYS = (
    "endpoint",
    "min_tier",
    "allow_software",
    "candidates",
    "freshness",
    "max_evidence_age_s",
    "suites",
    "directory_signers",
    "release",
    "models",
    "log_policy",
    "tpm2",
    "sev_snp",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustFile:
    """A parsed trust file. deployments: policies by name.  digest: SHA-256 of the text, 64 hex digits."""

    deployments: Mapping[str, Policy]
    digest: str
    text: str = field(repr=False)


def parse_trust(text: str) -> TrustFile:
    """Read a trust file. Raises ConfigurationError naming the dotted key."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise ConfigurationError(f"the trust file does not parse: {error}") from None
    top = _Table(document, "", ("version", "deployment"))
    if top.integer("version", None) != VERSION:
        raise ConfigurationError(f"the trust file's version must be {VERSION}")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    tables = top.table("deployment", None)
    deployments = {name: _deployment(name, tables.value[name], digest) for name in tables.value} if tables else {}
    _apart(deployments)
    return TrustFile(deployments=deployments, digest=digest, text=text)


def _apart(deployments: Mapping[str, Policy]) -> None:
    """Refuse two deployments at one address, of which the order would decide. Raises ConfigurationError."""
    at: dict[str, str] = {}
    for name, policy in deployments.items():
        other = at.setdefault(policy.endpoint, name) if policy.endpoint else name
        if other != name:
            raise ConfigurationError(
                f"deployment.{_quoted(name)}.endpoint is also that of {_quoted(other)}, so it names neither",
                hint="leave one of the two out, or reach them at addresses of their own",
            )


def _deployment(name: str, value: Any, digest: str) -> Policy:
    path = f"deployment.{_quoted(name)}"
    table = _Table(value, path, DEPLOYMENT_KEYS)
    usual = Policy()
    try:
        return Policy(
            deployment=name,
            endpoint=table.text("endpoint", None),
            min_tier=table.integer("min_tier", usual.min_tier),
            allow_software=table.text("allow_software", usual.allow_software),
            candidates=table.integer("candidates", usual.candidates),
            freshness=table.text("freshness", usual.freshness),
            max_evidence_age_s=table.integer("max_evidence_age_s", usual.max_evidence_age_s),
            suites=table.texts("suites", usual.suites),
            directory_signers=table.texts("directory_signers"),
            release=_release(table.table("release", ("signers", "pins", "deny"))),
            models=_models(table.table("models", ("signers", "accept"))),
            log_policy=_log_policy(table),
            tpm2=_tpm2(table.table("tpm2", ("ak_names", "runtime_pcr", "pcrs", "pcr_before"))),
            sev_snp=_sev_snp(table.table("sev_snp", ("products", "vmpl", "min_tcb"))),
            text_digest=digest,
        )
    except ConfigurationError as error:
        if path in str(error):
            raise
        raise ConfigurationError(f"{path}: {error}", hint=error.hint) from None


def _release(table: "_Table | None") -> ReleaseTrust | None:
    if table is None:
        return None
    return ReleaseTrust(
        signers=table.texts("signers"),
        pins=table.texts("pins", (), empty=True),
        deny=table.texts("deny", (), empty=True),
    )


def _models(table: "_Table | None") -> ModelTrust | None:
    if table is None:
        return None
    return ModelTrust(signers=table.texts("signers"), accept=table.texts("accept", (), empty=True))


def _log_policy(table: "_Table") -> LogPolicy | None:
    text = table.text("log_policy", None)
    if text is None:
        return None
    try:
        policy = LogPolicy.parse(text)
    except WireError as error:
        raise table.wrong("log_policy", f"is no C2SP tlog-policy: {error}") from None
    if not policy.logs:
        raise table.wrong("log_policy", "names no log")
    return policy


def _tpm2(table: "_Table | None") -> Tpm2Trust:
    if table is None:
        return Tpm2Trust()
    pcrs = table.table("pcrs", None)
    return Tpm2Trust(
        ak_names=table.texts("ak_names"),
        runtime_pcr=table.integer("runtime_pcr", Tpm2Trust().runtime_pcr),
        pcrs={_pcr(pcrs, name): pcrs.texts(name) for name in pcrs.value} if pcrs else {},
        pcr_before=table.texts("pcr_before", ()),
    )


def _pcr(table: "_Table", name: str) -> int:
    if not name.isascii() or not name.isdigit() or str(int(name[:3])) != name:
        raise table.wrong(name, "is not the number of a PCR")
    return int(name)


def _sev_snp(table: "_Table | None") -> SnpTrust:
    if table is None:
        return SnpTrust()
    usual, floors = SnpTrust(), table.table("min_tcb", None)
    return SnpTrust(
        products=table.texts("products", usual.products),
        vmpl=table.integers("vmpl", usual.vmpl),
        min_tcb={name: _floor(floors, name) for name in floors.value} if floors else {},
    )


def _floor(floors: "_Table", product: str) -> dict[str, int]:
    floor = floors.table(product, None)
    return {name: floor.integer(name, None) for name in floor.value} if floor else {}


class _Table:
    """One table of the file: every value by type, every unknown key refused. Raises ConfigurationError."""

    __slots__ = ("_path", "value")

    def __init__(self, value: Any, path: str, known: Sequence[str] | None) -> None:
        self._path = path
        if not isinstance(value, dict):
            raise ConfigurationError(f"the trust file's {path} must be a table")
        self.value: dict[str, Any] = value
        for key in value:
            if known is not None and key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                raise ConfigurationError(f"the trust file has an unknown key {self._dotted(key)}", hint=hint)

    def wrong(self, name: str, what: str) -> ConfigurationError:
        """Return the error for a key, by its dotted name."""
        return ConfigurationError(f"the trust file's {self._dotted(name)} {what}")

    def _dotted(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def text(self, name: str, usual: Any) -> Any:
        """Return a text, or the usual value when the key is absent."""
        value = self.value.get(name, usual)
        if name in self.value and not isinstance(value, str):
            raise self.wrong(name, "must be a text")
        return value

    def integer(self, name: str, usual: int | None) -> int:
        """Return an integer; without a usual value the key must be there."""
        value = self.value.get(name, usual)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "must be an integer")
        return value

    def texts(self, name: str, usual: tuple[str, ...] | None = None, *, empty: bool = False) -> tuple[str, ...]:
        """Return a list of texts, which may be empty only where that means something."""
        return tuple(self._list(name, str, usual, empty=empty))

    def integers(self, name: str, usual: tuple[int, ...]) -> tuple[int, ...]:
        """Return a list of integers that is not empty."""
        return tuple(self._list(name, int, usual, empty=False))

    def _list(self, name: str, kind: type, usual: Any, *, empty: bool) -> Any:
        if name not in self.value and usual is not None:
            return usual
        value = self.value.get(name)
        if not isinstance(value, list) or any(type(member) is not kind for member in value):
            raise self.wrong(name, f"must be a list of {'texts' if kind is str else 'integers'}")
        if not value and not empty:
            raise self.wrong(name, "is empty, so nothing could ever be trusted by it")
        return value

    def table(self, name: str, known: Sequence[str] | None) -> "_Table | None":
        """Return a table inside this one, None when it is absent. known: its keys, or None where they are free."""
        return _Table(self.value[name], self._dotted(name), known) if name in self.value else None


# --- writing --------------------------------------------------------------------------------------


def write_trust(deployments: Mapping[str, Policy]) -> str:
    """Write policies as a trust file that ``parse_trust`` reads back as the same. ``require`` has no place in it.

    Raises ConfigurationError for two deployments at one address.
    """
    _apart(deployments)
    return "\n".join([f"version = {VERSION}\n", *(_written(name, policy) for name, policy in deployments.items())])


def _written(name: str, policy: Policy) -> str:
    lines = {key: _value(_plain(policy, key)) for key in DEPLOYMENT_KEYS if _plain(policy, key) not in (None, {})}
    return f"[deployment.{_quoted(name)}]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


def _plain(policy: Policy, key: str) -> Any:
    """Return what the file says for a key; None where it says nothing."""
    value = getattr(policy, key)
    if isinstance(value, LogPolicy):
        return value.encode()
    if isinstance(value, ReleaseTrust):
        return {"signers": value.signers, "pins": value.pins, "deny": value.deny}
    if isinstance(value, ModelTrust):
        return {"signers": value.signers, "accept": value.accept}
    if isinstance(value, Tpm2Trust):
        return _tpm2_table(value) if value.ak_names else None
    if isinstance(value, SnpTrust):
        return {"products": value.products, "vmpl": value.vmpl, "min_tcb": value.min_tcb}
    return value


def _tpm2_table(trust: Tpm2Trust) -> dict[str, Any]:
    table = {"ak_names": trust.ak_names, "runtime_pcr": trust.runtime_pcr, "pcrs": trust.pcrs}
    return {**table, "pcr_before": trust.pcr_before} if trust.pcr_before else table


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        pairs = (f"{name} = {_value(member)}" for name, member in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, tuple):
        return f"[{', '.join(_value(member) for member in value)}]"
    return str(value)


def _quoted(text: str) -> str:
    """Write a basic string; JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False)
