"""What may be said: events without text, errors by name, settings as values."""

import json
import os

import pytest

from hybrid.wire import errors as wire_errors
from hybrid.wire.errors import ErrorCode, Malformed, SealedCode, WireError
from pcc_server import errors, events
from pcc_server.config import Settings, config_digest, environment, profile
from pcc_server.errors import Busy, Limit, NodeError, Sealed, StartFailure
from pcc_server.events import Event, Phase
from pcc_server.outlet import Cut
from pcc_server.rate import Rate


def spoken(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return capfd.readouterr().err.splitlines()


# --- events ----------------------------------------------------------------------------------------


def test_an_event_is_one_json_line_that_the_launcher_accepts(capfd: pytest.CaptureFixture[str]) -> None:
    events.emit(Event.REFUSED, code=ErrorCode.BUSY, n=7)
    events.emit(Event.PHASE, phase=Phase.LOAD)
    lines = spoken(capfd)
    assert [json.loads(line) for line in lines] == [
        {"event": "refused", "code": "BUSY", "n": 7},
        {"event": "phase", "phase": "LOAD"},
    ]
    assert all(events.parse(line.encode()) for line in lines)


def test_a_fault_names_class_module_and_line_and_never_the_message(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        Settings(listen="secret words")
    except StartFailure as error:
        events.fault(error)
    (line,) = spoken(capfd)
    told = json.loads(line)
    assert (told["kind"], told["module"]) == ("foreign", "pcc_server.config")
    assert told["line"] > 0
    assert "secret" not in line
    assert events.parse(line.encode())


def test_numbers_are_bounded(capfd: pytest.CaptureFixture[str]) -> None:
    events.emit(Event.REQUEST, n=10**30)
    assert json.loads(spoken(capfd)[0])["n"] == 2**53


@pytest.mark.parametrize(
    "line",
    [
        b"the prompt was: hello",
        b'{"event":"request","text":"hello"}',
        b'{"event":"fault","kind":"hello","module":"pcc_server.worker","line":1}',
        b'{"event":"fault","kind":"ValueError","module":"pcc_server.worker hello","line":1}',
        b'{"event":"hello"}',
        b'{"event":"request","Text":1}',
        b'{"event":"request","n":1.5}',
        b'{"event":"request","n":true}',
        b'{"event":"request","n":99999999999999999999}',
        b'{"event":"request","n":{"a":1}}',
        b'["event"]',
        b'{"event":"request"' + b" " * 2000 + b"}",
        b'{"event":"request","n":"secret words","n":1}',
        b'{"event":"request","\\u006e":1}',
        b'{"event": "request"}',
        b'{"event":"request"}\r',
        b'{"event":[]}',
        b'{"event":"request","n":NaN}',
        b'\xef\xbb\xbf{"event":"request"}',
        '{"event":"request"}'.encode("utf-16-le"),
        b"[" * 1024,
        b'{"event":"refused","code":"request"}',
        b'{"event":"request",' + b",".join(b'"n%s":1' % (b"x" * n) for n in range(13)) + b"}",
    ],
)
def test_a_line_of_any_other_form_is_not_repeated(line: bytes) -> None:
    assert not events.parse(line)


def test_a_closed_stderr_stops_nobody() -> None:
    saved = os.dup(2)
    try:
        os.close(2)
        events.emit(Event.REQUEST, n=1)
    finally:
        os.dup2(saved, 2)
        os.close(saved)


# --- errors ----------------------------------------------------------------------------------------


def leaves(root: type[Exception]) -> set[type[Exception]]:
    found = {root}
    for kind in root.__subclasses__():
        found |= leaves(kind)
    return {kind for kind in found if not kind.__module__.startswith("tests")}


def test_every_error_of_the_wire_and_of_the_node_has_a_row_of_its_own_kind() -> None:
    roots, carried = {WireError, NodeError}, {errors.Refused, errors.PassedOn, Cut}  # these never meet the table
    named = set(errors.CODES) - roots - {Exception}
    kinds = (leaves(WireError) | leaves(NodeError)) - roots - carried
    assert wire_errors.Rejected in kinds
    assert not [kind for kind in kinds if not named & set(kind.__mro__)]


def test_every_code_has_a_status() -> None:
    grpc = pytest.importorskip("grpc")
    assert set(errors.STATUS) == set(ErrorCode)
    assert all(hasattr(grpc.StatusCode, name) for name in errors.STATUS.values())


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (wire_errors.Rejected(), ErrorCode.REJECTED, 0),
        (wire_errors.Oversized(2, 1), ErrorCode.MALFORMED, 0),
        (wire_errors.StaleKey(), ErrorCode.STALE_KEY, 0),
        (wire_errors.Replay(), ErrorCode.REPLAY, 0),
        (Busy(250), ErrorCode.BUSY, 250),
        (Limit(10**9), ErrorCode.LIMIT, 30_000),
        (KeyError("secret"), ErrorCode.FAULT, 0),
        (Sealed(SealedCode.REFUSAL), ErrorCode.FAULT, 0),
    ],
)
def test_an_error_becomes_a_code_and_a_hint(error: Exception, code: ErrorCode, retry: int) -> None:
    refusal = errors.refusal(error)
    assert (refusal.code, refusal.retry_ms) == (code, retry)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Malformed("x"), SealedCode.BAD_REQUEST),
        (TimeoutError(), SealedCode.DEADLINE),
        (Sealed(SealedCode.OVERLOADED), SealedCode.OVERLOADED),
        (RuntimeError("secret"), SealedCode.ENGINE_FAILED),
    ],
)
def test_after_the_seal_is_open_an_error_is_told_inside(error: Exception, code: SealedCode) -> None:
    assert errors.sealed(error).code is code


# --- settings --------------------------------------------------------------------------------------


def test_settings_cross_the_control_socket_unchanged() -> None:
    settings = Settings(engine="fake", fake_delay_ms=2.5, fault="reorder")
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"engine": "fake"}, True),
        ({"engine": "fake", "fault": "reorder"}, True),
        ({"max_new": 7}, True),
        ({"epoch_s": 600}, True),
        ({"listen": "127.0.0.1:1"}, False),
        ({"deployment": "a.example"}, False),
    ],
)
def test_what_the_node_may_do_is_in_the_configuration_digest(changed: dict[str, object], differs: bool) -> None:
    assert (config_digest(Settings(**changed)) != config_digest(Settings())) is differs  # type: ignore[arg-type]


def test_the_environment_of_both_children_is_attested(monkeypatch: pytest.MonkeyPatch) -> None:
    before = config_digest(Settings())
    assert profile(Settings())["environment"]["worker"] == environment("worker")
    monkeypatch.setattr("pcc_server.config.environment", lambda program: {**environment(program), "X": "1"})
    assert config_digest(Settings()) != before


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:8443", "localhost:1", "127.1.2.3:65535"])
def test_loopback_needs_no_leave(listen: str) -> None:
    assert Settings(listen=listen)


@pytest.mark.parametrize(
    "changed",
    [
        {"listen": "10.0.0.1:1"},
        {"listen": "[::]:1"},
        {"listen": "example.com:1", "allow_software": True},
        {"listen": "127.0.0.1"},
        {"listen": "127.0.0.1:99999"},
        {"listen": "127.0.0.1:²"},
        {"engine": "other"},
        {"max_new": 0},
        {"epoch_s": 100},
        {"fake_delay_ms": 1.0},
        {"fault": "reorder"},
        {
            "engine": "fake",
            "fault": "reorder",
            "listen": "0.0.0.0:1",
            "allow_software": True,
            "tls_cert": "a",
            "tls_key": "b",
        },
    ],
)
def test_settings_that_do_not_fit_are_refused_with_exit_code_two(changed: dict[str, object]) -> None:
    with pytest.raises(StartFailure) as refused:
        Settings(**changed)  # type: ignore[arg-type]
    assert refused.value.exit_code == 2


# --- rate ------------------------------------------------------------------------------------------


def test_a_rate_lets_a_burst_through_then_refuses_then_recovers() -> None:
    now = [0.0]
    rate = Rate(60, clock=lambda: now[0])
    for _ in range(60):
        rate.take("a")
    with pytest.raises(Limit) as refused:
        rate.take("a")
    assert 0 < refused.value.retry_ms <= 1001
    rate.take("b")
    now[0] += 1.01
    rate.take("a")


def test_a_rate_remembers_a_bounded_number_of_addresses() -> None:
    rate = Rate(60)
    for number in range(10_000):
        rate.take(str(number))
    assert len(rate._buckets) <= 4096
