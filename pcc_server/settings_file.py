"""Settings by name: which key of the TOML file and which ``PCC_*`` variable stands for which field, and who wins.

Pure: a parsed file, an environment and flags go in, ``Settings`` come out; ``settings_source`` does the reading.
"""

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, get_type_hints

from .config import FAKE_MODEL, RUNNING, Settings, bad, is_loopback, one_of, split_address
from .errors import StartFailure

PREFIX = "PCC_"
STORE_VARIABLE = "HYBRID_MODELS"  # shared with the SDK; PCC_MODEL_STORE goes before it
DEFAULT = "default"
GRACE_S = 3.0  # off loopback: balancers learn late that a node drains
_PEM = "-----BEGIN"
_SERVICE = re.compile(r"_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")

TABLES: dict[str, dict[str, str]] = {
    "node": {
        name: name
        for name in (
            *("listen", "admin", "admin_token", "tls_cert", "tls_key", "tls_client_ca"),
            *("deployment", "allow_software", "protect"),
        )
    },
    "model": {"id": "model", "store": "store", "engine": "engine"},
    "engine": {"port": "engine_port", "uds": "engine_uds", "kind": "engine_kind"},
    "limits": {
        name: name
        for name in (
            *("max_running", "max_queue", "max_queue_s", "max_new", "context"),
            *("max_stall_ms", "chunk", "soft", "hard", "batch"),
        )
    },
    "keys": {"epoch_s": "epoch_s"},
    "trust": {name: name for name in ("attester", "require_audit", "log", "release", "tpm", "event_log")},
    "access": {"mode": "access", "keys": "access_keys"},
    "cache": {"prefix": "prefix_cache"},
    "drain": {"grace_s": "drain_grace_s", "timeout_s": "drain_timeout_s"},
    "test": {"fault": "fault", "fake_delay_ms": "fake_delay_ms"},
}
FILES = frozenset(
    ("admin_token", "tls_cert", "tls_key", "tls_client_ca", "access_keys", "log", "release", "event_log", "store")
)  # values that are paths: what a secret is, is never a value

Value = str | int | float | bool


class Given(NamedTuple):
    """A value and where it was said, in the words of whoever said it."""

    value: Value
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What a node runs with. places: field -> where its value came from."""

    settings: Settings
    places: dict[str, str]


_FIELD_OF = {f"{table}.{name}": field for table, names in TABLES.items() for name, field in names.items()}
KEY_OF = {field: key for key, field in _FIELD_OF.items()}
_VARIABLE_OF = {PREFIX + key.replace(".", "_").upper(): key for key in _FIELD_OF}
_TYPES: dict[str, type] = get_type_hints(Settings)
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Settings)}
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def from_file(tables: Mapping[str, Any], name: str) -> dict[str, Given]:
    """Read a parsed TOML file. name: of the file, for people. Raises StartFailure with exit code 2."""
    found: dict[str, Given] = {}
    for table, values in tables.items():
        if not isinstance(values, dict):
            raise bad(f"{table} in {name} {_unknown(table)}; settings stand in tables such as [node]")
        if table not in TABLES:
            raise bad(f"[{table}] in {name} is no table of settings; the nearest is [{_nearest(table, TABLES)}]")
        for key, value in values.items():
            field = _FIELD_OF.get(f"{table}.{key}")
            if field is None:
                raise bad(f"{table}.{key} in {name} {_unknown(f'{table}.{key}')}")
            place = f"{table}.{key} in {name}"
            found[field] = Given(_typed(field, value, place), place)
    return found


def from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """Read ``PCC_*``. A variable that is empty is not given. Raises StartFailure with exit code 2."""
    store = environ.get(STORE_VARIABLE, "")
    found = {"store": Given(store, STORE_VARIABLE)} if store else {}
    for name, text in environ.items():
        if not name.startswith(PREFIX):
            continue
        if name not in _VARIABLE_OF:
            raise bad(f"{name} in the environment is no setting; {_variable_hint(name)}")
        if text:
            field = _FIELD_OF[_VARIABLE_OF[name]]
            found[field] = Given(_typed(field, _read(field, text, name), name), name)
    return found


def from_flags(flags: Mapping[str, Value | None], options: Mapping[str, str]) -> dict[str, Given]:
    """Take the flags that were given. options: field -> its flag, where that is not the field's name."""
    return {
        field: Given(value, options.get(field, "--" + field.replace("_", "-")))
        for field, value in flags.items()
        if value is not None
    }


def effective(*sources: Mapping[str, Given], store: str) -> Effective:
    """Merge; an earlier source wins. store: the model store where none is named. Raises StartFailure."""
    given: dict[str, Given] = {}
    for source in reversed(sources):
        given.update(source)
    values = {field: one.value for field, one in given.items()}
    settings = Settings(**{**_derived(values, store), **values})
    return Effective(settings=settings, places={field: one.place for field, one in given.items()})


def _derived(values: Mapping[str, Value], store: str) -> dict[str, Any]:
    """Return the defaults that depend on other settings. Raises StartFailure for a choice that does not exist."""
    engine = str(values.get("engine", _DEFAULTS["engine"]))
    one_of("--engine", engine, tuple(RUNNING))
    host, _ = split_address(str(values.get("listen", _DEFAULTS["listen"])))
    return {
        "store": store,
        "model": FAKE_MODEL if engine == "fake" else "",
        "max_running": RUNNING[engine],
        "drain_grace_s": 0.0 if is_loopback(host) else GRACE_S,
    }


def to_toml(found: Effective) -> str:
    """Write what is effective as a file that says the same, each line with where its value came from."""
    lines = ["# The effective settings of pcc-server serve; --config FILE takes them back."]
    for table, names in TABLES.items():
        lines += ["", f"[{table}]"]
        for name, field in names.items():
            value = _literal(getattr(found.settings, field))
            lines.append(f"{name} = {value}  # {found.places.get(field, DEFAULT)}")
    return "\n".join(lines) + "\n"


# --- one value ---------------------------------------------------------------------------------------


def _read(field: str, text: str, place: str) -> Value:
    """Turn a variable's text into the type its field has."""
    kind = _TYPES[field]
    if kind is bool:
        if text not in ("true", "false"):
            raise _wrong(field, place)
        return text == "true"
    try:
        value: Value = kind(text)
    except ValueError:
        raise _wrong(field, place) from None
    return value


def _typed(field: str, value: object, place: str) -> Value:
    """Check a value's type. A whole number is a number too, true is none. Raises StartFailure."""
    kind = _TYPES[field]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _wrong(field, place)
    if isinstance(value, str):
        _check_text(field, value, place)
    assert isinstance(value, str | int | float)  # noqa: S101 - says to the type checker what the line above found
    return value


def _check_text(field: str, value: str, place: str) -> None:
    if field in FILES and (value.lstrip().startswith(_PEM) or "\n" in value):
        raise bad(f"{place} takes the path of a file, not what stands in it")
    if not value.isprintable():
        raise bad(f"{place} holds characters that cannot be shown")


def _wrong(field: str, place: str) -> StartFailure:
    """Say what a place takes, without the value: it may be a secret in the wrong line."""
    return bad(f"{place} takes {_WORDS[_TYPES[field]]}")


def _literal(value: Value) -> str:
    """Write a TOML value; its strings are JSON's, as long as nothing in them is a control character."""
    return json.dumps(value, ensure_ascii=False)


# --- unknown names -----------------------------------------------------------------------------------


def _unknown(key: str) -> str:
    return f"is no setting; the nearest is {_nearest(key, _FIELD_OF)}"


def _variable_hint(name: str) -> str:
    if _SERVICE.search(name):
        return "Kubernetes makes such names for a Service called pcc…: give the pod enableServiceLinks: false"
    return f"the nearest is {_nearest(name.upper(), _VARIABLE_OF)}"


def _nearest(word: str, known: Iterable[str]) -> str:
    """Return the known name that looks most like a word; the same last part goes before looks."""
    names = list(known)
    leaf = word.rpartition(".")[2]
    same = [name for name in names if name.rpartition(".")[2] == leaf]
    return difflib.get_close_matches(word, same or names, n=1, cutoff=0.0)[0]
