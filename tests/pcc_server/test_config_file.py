"""One file, one environment, flags: which of them wins, what is refused, and what of it is attested (X3)."""

import json
import os
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pcc_server import config, settings_check
from pcc_server.config import SITE, Settings, config_digest, profile
from pcc_server.errors import StartFailure
from pcc_server.settings_file import (
    DEFAULT,
    KEY_OF,
    TABLES,
    Effective,
    Given,
    effective,
    from_environment,
    from_file,
    from_flags,
    to_toml,
)
from tests.pcc_server.node_client import COMMAND
from tests.pcc_server.sandboxes import as_user

FIELDS = [field.name for field in fields(Settings)]
FAKE = {"model": {"engine": "fake"}}


def serve(*options: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **(environ or {})}
    words = [*COMMAND, "serve", *options]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=env)


def read(tables: dict[str, Any], environ: dict[str, str] | None = None, **flags: Any) -> Effective:
    named = from_file(tables, "node.toml")
    return effective(from_flags(flags, {}), from_environment(environ or {}), named, store="/models")


def refusal(tables: dict[str, Any], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(StartFailure) as refused:
        read(tables, environ)
    assert refused.value.exit_code == 2
    return refused.value.message


# --- names -----------------------------------------------------------------------------------------


def test_every_setting_has_one_key() -> None:
    named = [field for table in TABLES.values() for field in table.values()]
    assert sorted(named) == sorted(FIELDS)
    assert set(KEY_OF) == set(FIELDS)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"limits": {"max_que": 1}}, ("limits.max_que in node.toml", "limits.max_queue")),
        ({"limit": {"chunk": 1}}, ("[limit] in node.toml", "[limits]")),
        ({"node": {"store": "x"}}, ("node.store in node.toml", "model.store")),
        ({"listen": "x"}, ("listen in node.toml", "node.listen", "[node]")),
        ({"node": "x"}, ("node in node.toml", "[node]")),
        ({"limits": [1]}, ("limits in node.toml",)),
        ({"node": {"LISTEN": "x"}}, ("node.LISTEN in node.toml",)),
        ({"tokens": {}}, ("[tokens] in node.toml",)),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_one_named(tables: dict[str, Any], words: tuple[str, ...]) -> None:
    said = refusal(tables)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("PCC_LIMIT_CHUNK", "PCC_LIMITS_CHUNK"),
        ("PCC_LISTEN", "PCC_NODE_LISTEN"),
        ("PCC_", "PCC_"),
        ("PCC_node_listen", "PCC_NODE_LISTEN"),
        ("PCC_DEBUG", "PCC_"),
        ("PCC_SERVICE_HOST", "enableServiceLinks: false"),
        ("PCC_SERVICE_PORT_GRPC", "enableServiceLinks: false"),
        ("PCC_NODE_PORT_8443_TCP_ADDR", "enableServiceLinks: false"),
    ],
)
def test_an_unknown_variable_is_refused_also_when_it_is_empty(name: str, nearest: str) -> None:
    for value in ("1", ""):
        said = refusal({}, {name: value})
        assert name in said
        assert nearest in said


def test_a_variable_of_another_program_is_none_of_ours() -> None:
    assert read(FAKE, {"PATH": "x", "MYPCC_NODE": "y", "HYBRID_NODE": "z"}).settings.engine == "fake"


# --- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "place"),
    [
        ({"limits": {"chunk": "256"}}, "limits.chunk in node.toml takes a whole number"),
        ({"limits": {"chunk": 256.0}}, "limits.chunk in node.toml takes a whole number"),
        ({"limits": {"chunk": True}}, "limits.chunk in node.toml takes a whole number"),
        ({"limits": {"soft": True}}, "limits.soft in node.toml takes a number"),
        ({"limits": {"soft": float("nan")}}, "limits.soft in node.toml takes a number"),
        ({"drain": {"timeout_s": float("inf")}}, "drain.timeout_s in node.toml takes a number"),
        ({"node": {"allow_software": 1}}, "node.allow_software in node.toml takes true or false"),
        ({"node": {"allow_software": "true"}}, "node.allow_software in node.toml takes true or false"),
        ({"node": {"listen": 8443}}, "node.listen in node.toml takes a text"),
        ({"node": {"listen": ["a"]}}, "node.listen in node.toml takes a text"),
        ({"node": {"deployment": "a\x1b[2J"}}, "node.deployment in node.toml holds characters that cannot be shown"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_place(tables: dict[str, Any], place: str) -> None:
    assert place in refusal(tables)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PCC_LIMITS_CHUNK", "many"),
        ("PCC_LIMITS_SOFT", "nan"),
        ("PCC_LIMITS_CHUNK", "2.5"),
        ("PCC_NODE_ALLOW_SOFTWARE", "yes"),
    ],
)
def test_a_variable_of_the_wrong_type_is_named(name: str, text: str) -> None:
    said = refusal({}, {name: text})
    assert said.startswith(f"{name} takes ")
    assert text not in said.removeprefix(name)


@pytest.mark.parametrize("key", ["tls_key", "admin_token"])
def test_a_secret_stands_in_a_file_and_is_never_shown(key: str) -> None:
    secret = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0"
    said = refusal({"node": {key: secret}})
    assert "takes the path of a file" in said
    assert "c2VjcmV0" not in said
    assert "c2VjcmV0" not in refusal({}, {f"PCC_NODE_{key.upper()}": secret})


def test_a_whole_number_is_a_number_too() -> None:
    settings = read({**FAKE, "limits": {"max_queue_s": 5}, "drain": {"timeout_s": 7}}).settings
    assert (settings.max_queue_s, settings.drain_timeout_s) == (5.0, 7.0)
    assert isinstance(settings.max_queue_s, float)


# --- who wins --------------------------------------------------------------------------------------


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default() -> None:
    file = {"limits": {"max_queue": 1, "max_new": 1, "batch": 1}}
    environ = {"PCC_LIMITS_MAX_QUEUE": "2", "PCC_LIMITS_MAX_NEW": "2"}
    found = read(file, environ, max_queue=3)
    settings = found.settings
    assert (settings.max_queue, settings.max_new, settings.batch, settings.chunk) == (3, 2, 1, 256)
    assert [found.places.get(name) for name in ("max_queue", "max_new", "batch", "chunk")] == [
        "--max-queue",
        "PCC_LIMITS_MAX_NEW",
        "limits.batch in node.toml",
        None,
    ]


def test_an_empty_variable_is_not_given() -> None:
    assert read(FAKE, {"PCC_MODEL_ENGINE": "", "PCC_LIMITS_CHUNK": ""}).settings.engine == "fake"


def test_the_store_of_the_sdk_goes_before_the_file_and_behind_our_own_variable() -> None:
    file = {"model": {"store": "/file"}}
    assert read(file).settings.store == "/file"
    assert read(file, {"HYBRID_MODELS": "/shared"}).settings.store == "/shared"
    assert read(file, {"HYBRID_MODELS": "/shared", "PCC_MODEL_STORE": "/ours"}).settings.store == "/ours"
    assert read({}).settings.store == "/models"


def test_defaults_follow_the_engine_and_where_the_node_listens() -> None:
    assert read(FAKE).settings.max_running == 256
    assert read({}).settings.max_running == 4
    assert read({}).settings.drain_grace_s == 0
    far = {"node": {"listen": "0.0.0.0:1", "allow_software": True, "tls_cert": "a", "tls_key": "b"}}
    assert read(far).settings.drain_grace_s == 3
    assert read({**far, "drain": {"grace_s": 1}}).settings.drain_grace_s == 1


@pytest.mark.parametrize(
    "tables",
    [
        {"limits": {"soft": 0.9, "hard": 0.8}},
        {"limits": {"chunk": 1}},
        {"limits": {"max_queue_s": -1}},
        {"drain": {"grace_s": -1}},
        {"model": {"engine": "openai"}},
        {"model": {"engine": "openai"}, "engine": {"kind": "vllm"}},
        {"model": {"engine": "openai"}, "engine": {"kind": "vllm", "port": 8000, "uds": "/run/x"}},
        {"model": {"engine": "openai"}, "engine": {"kind": "other", "port": 8000}},
        {"engine": {"port": 8000}},
        {"model": {"engine": "other"}},
        {"cache": {"prefix": "on"}},
        {"node": {"protect": "no"}},
        {"node": {"listen": "nowhere"}},
    ],
)
def test_values_that_do_not_fit_together_are_refused(tables: dict[str, Any]) -> None:
    assert refusal(tables)


# --- print and check -------------------------------------------------------------------------------


def test_what_is_printed_says_the_same_when_it_is_fed_back() -> None:
    odd = 'a "quoted" \\ name é 語'
    tables = {"node": {"admin_token": odd, "admin": "127.0.0.1:1"}, "limits": {"soft": 0.5}, **FAKE}
    found = read(tables, {"PCC_DRAIN_GRACE_S": "1e-3"}, max_new=7)
    printed = to_toml(found)
    again = read(tomllib.loads(printed))
    assert again.settings == found.settings
    assert to_toml(Effective(settings=again.settings, places=found.places)) == printed
    assert f"admin_token = {json.dumps(odd, ensure_ascii=False)}  # node.admin_token in node.toml" in printed
    assert "grace_s = 0.001  # PCC_DRAIN_GRACE_S" in printed
    assert "max_new = 7  # --max-new" in printed
    assert f"chunk = 256  # {DEFAULT}" in printed


def test_the_command_prints_its_settings_and_takes_them_back(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[model]\nengine = "fake"\n[limits]\nmax_queue = 9\n')
    environ = {"PCC_LIMITS_CHUNK": "64"}
    first = serve("--config", str(file), "--max-new", "8", "--print-config", environ=environ)
    assert first.returncode == 0, first.stderr
    (tmp_path / "again.toml").write_text(first.stdout)
    second = serve("--config", str(tmp_path / "again.toml"), "--print-config")
    assert tomllib.loads(second.stdout) == tomllib.loads(first.stdout)
    assert f"max_queue = 9  # limits.max_queue in {file}" in first.stdout
    assert "chunk = 64  # PCC_LIMITS_CHUNK" in first.stdout


def test_a_check_says_that_settings_are_good_and_every_thing_that_is_not(tmp_path: Path) -> None:
    assert serve("--engine", "fake", "--check-config").returncode == 0
    bad = serve("--engine", "fake", "--tls-cert", "/no/cert", "--tls-key", "/no/key", "--event-log", "/no/log",
                "--access", "keys", "--access-keys", "/no/keys", "--check-config")  # fmt: skip
    assert bad.returncode == 2
    assert [line.split()[0] for line in bad.stderr.splitlines()] == ["pcc-server:"] * 3
    assert all(name in bad.stderr for name in ("/no/key:", "/no/log", "/no/keys"))
    missing = serve("--store", str(tmp_path), "--check-config")
    assert (missing.returncode, "hybrid pull starter" in missing.stderr) == (4, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[node", "is no TOML"),
        ("[node]\nlisten = 1\nlisten = 2\n", "is no TOML"),
        ("[node]\nlisen = 'x'\n", "the nearest is node.listen"),
    ],
)
def test_a_file_of_no_use_ends_the_start_with_exit_code_two(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    ended = serve("--config", str(file))
    assert ended.returncode == 2
    assert words in ended.stderr
    assert str(file) in ended.stderr


def test_a_file_that_cannot_be_read_and_a_variable_that_is_none_end_the_start(tmp_path: Path) -> None:
    assert "No such file" in serve("--config", str(tmp_path / "none.toml")).stderr
    ended = serve("--engine", "fake", environ={"PCC_NODE_LISTN": "x"})
    assert (ended.returncode, "the nearest is PCC_NODE_LISTEN" in ended.stderr) == (2, True)


def test_a_user_without_a_home_needs_no_store_for_what_has_no_model() -> None:
    """As in a container: no entry in /etc/passwd, no HOME."""
    if os.geteuid() != 0:
        pytest.fail("this test becomes another user, which needs root")
    words = as_user(4712, "env", "-u", "HOME", *COMMAND, "serve", "--check-config")
    done = subprocess.run([*words, "--engine", "fake"], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout) == (0, "the settings are good\n"), done.stderr
    done = subprocess.run([*words, "--model", "starter"], capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, "name one with --store, model.store or HYBRID_MODELS" in done.stderr) == (2, True)


def test_every_check_of_the_settings_has_something_to_refuse(tmp_path: Path) -> None:
    base = {"engine": "fake", "model": "fake"}
    token = tmp_path / "token"
    token.write_text("short")
    wrong = (
        {"admin": "127.0.0.1.example.invalid:1", "admin_token": str(token), "tls_cert": "/no/c", "tls_key": "/no/k"},
        {"deployment": "Not A Name"},
        {"tls_cert": "/no/cert", "tls_key": "/no/key"},
        {"admin": "127.0.0.1:1", "admin_token": str(token)},
        {"access": "keys", "access_keys": "/no/keys"},
        {"log": "/no/log"},
        {"log": str(tmp_path), "release": "/no/release"},
        {"engine": "mlx", "model": "no-such-model", "store": str(tmp_path)},
        {"engine": "openai", "engine_kind": "vllm", "engine_uds": str(token)},
        {"attester": "tpm2", "tpm": "/no/tpm", "release": str(token), "log": str(tmp_path)},
    )
    assert len(wrong) == len(settings_check._CHECKS)
    assert not settings_check.problems(Settings(**base))  # type: ignore[arg-type]
    for changed in wrong:
        assert settings_check.problems(Settings(**{**base, **changed})), changed  # type: ignore[arg-type]
    first, *_ = settings_check.problems(Settings(**{**base, **wrong[0]}))  # type: ignore[arg-type]
    assert first.message.startswith("cannot listen on --admin 127.0.0.1.example.invalid:1: ")


# --- the digest ------------------------------------------------------------------------------------

_PATHS = {"tls_cert": "a", "tls_key": "b"}
OTHER: dict[str, dict[str, Any]] = {  # field -> settings that differ from the base in nothing but it
    "listen": {"listen": "127.0.0.1:1"},
    "engine": {"engine": "openai"},
    "engine_kind": {"engine_kind": "sglang"},
    "access": {"access": "router"},
    "attester": {"attester": "tpm2", "release": "r", "log": "l"},
    "prefix_cache": {"prefix_cache": "salted"},
    "protect": {"protect": "require"},
    "require_audit": {"require_audit": True},
    "epoch_s": {"epoch_s": 600},
    "max_new": {"max_new": 7},
    "fault": {"fault": "reorder"},
    "tls_cert": {"tls_cert": "c"},
    "tls_key": {"tls_key": "c"},
    "tls_client_ca": {"tls_client_ca": "c"},
    "model": {"model": "another"},
    "engine_uds": {"engine_uds": "/run/other"},
    "engine_port": {"engine_port": 9},
    "allow_software": {"allow_software": True},
    "access_keys": {"access_keys": "other"},
    "release": {"release": "other"},
    "admin": {"admin": "127.0.0.1:7"},
    "admin_token": {"admin_token": "other"},
    "batch": {"batch": 15},
    "fake_delay_ms": {"fake_delay_ms": 3.0},
}
BASES: dict[str, dict[str, Any]] = {
    "fault": {"engine": "fake"},
    "fake_delay_ms": {"engine": "fake"},
    "engine": {"engine": "openai", "engine_kind": "vllm", "engine_port": 8},
    "engine_kind": {"engine": "openai", "engine_kind": "vllm", "engine_port": 8},
    "engine_port": {"engine": "openai", "engine_kind": "vllm", "engine_port": 8},
    "engine_uds": {"engine": "openai", "engine_kind": "vllm", "engine_uds": "/run/x"},
    "tls_cert": _PATHS,
    "tls_key": _PATHS,
    "tls_client_ca": _PATHS,
    "access_keys": {"access": "keys", "access_keys": "k"},
    "release": {"log": "l", "release": "r"},
    "admin_token": {"admin": "127.0.0.1:7"},
}


def variation(name: str) -> tuple[Settings, Settings]:
    base = BASES.get(name, {})
    if name == "engine":
        return Settings(), Settings(**base)
    changed = OTHER.get(name)
    if changed is None:
        value = getattr(Settings(), name)
        changed = {name: "other" if isinstance(value, str) else value + (0.01 if isinstance(value, float) else 1)}
    return Settings(**base), Settings(**{**base, **changed})


@pytest.mark.parametrize("name", FIELDS)
def test_what_touches_what_the_node_may_do_alters_the_digest_and_a_matter_of_the_site_does_not(name: str) -> None:
    before, after = variation(name)
    assert getattr(before, name) != getattr(after, name)
    assert (config_digest(before) == config_digest(after)) is (name in SITE)
    assert len(SITE.get(name, "a reason")) > 3


def test_a_field_that_stands_nowhere_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "profile", lambda settings: {**profile(settings), "max_new": 0})
    before, after = variation("max_new")
    assert config_digest(before) == config_digest(after)  # the test above would be red
    assert "max_new" not in SITE


def test_whether_protection_is_required_is_attested_wherever_the_wish_comes_from() -> None:
    far = Settings(listen="0.0.0.0:1", allow_software=True, **_PATHS)
    assert profile(Settings())["protect"] == "available"
    assert profile(far)["protect"] == "require"
    assert profile(Settings(protect="require")) == profile(far)


def test_flags_that_were_not_given_say_nothing() -> None:
    assert from_flags({"listen": None, "max_new": 3}, {}) == {"max_new": Given(3, "--max-new")}
