"""One tree of errors: every foreign error has its row, every class its exit code and what had left."""

import importlib
import inspect
from typing import Any

import pytest

import device.errors
import hybrid.errors
from hybrid.choice import NODE_FAILURES
from hybrid.local import ROWS, mapped, public_error
from hybrid.wire.errors import SealedCode, WireError

EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 75, 130}


def leaves(root: type) -> list[type]:
    below = root.__subclasses__()
    return [leaf for kind in below for leaf in leaves(kind)] if below else [root]


def made(kind: type[Exception]) -> Exception:
    """Make one instance, whatever its constructor takes."""
    values: dict[str, Any] = {"limit": 1, "needed": 2, "free": 1, "size_bytes": 5_000_000, "nearest": "starter"}
    parameters = [
        p for p in list(inspect.signature(kind.__init__).parameters.values())[1:] if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    return kind(*[values.get(p.name, "x") for p in parameters]) if parameters else kind("x")


PUBLIC = [
    kind
    for _, kind in inspect.getmembers(hybrid.errors, inspect.isclass)
    if issubclass(kind, hybrid.errors.HybridError)
]
DEVICE = leaves(device.errors.DeviceError)


@pytest.mark.parametrize("kind", DEVICE, ids=lambda kind: kind.__name__)
def test_every_error_of_the_device_floor_is_mapped_to_one_public_error(kind: type[Exception]) -> None:
    error = made(kind)
    shown = public_error(error)
    assert isinstance(shown, hybrid.errors.HybridError)
    assert shown.exit_code in EXIT_CODES - {0}
    assert shown.left_device == "no"
    with pytest.raises(type(shown)) as caught, mapped():
        raise error
    assert caught.value.__cause__ is None


def test_the_device_table_has_no_row_without_an_error() -> None:
    assert set(ROWS) == {kind.__name__ for kind in DEVICE}


def test_an_error_that_is_not_of_the_device_floor_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), mapped():
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", leaves(WireError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_wire_floor_has_its_row(kind: type[Exception]) -> None:
    table = importlib.import_module("hybrid.remote_errors").BROKEN
    assert kind in table


def test_every_sealed_code_has_its_row() -> None:
    assert set(importlib.import_module("hybrid.remote_errors").SEALED) == set(SealedCode)


def test_every_grpc_status_but_ok_has_its_row() -> None:
    import grpc

    assert set(importlib.import_module("hybrid.cloud").STATUS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_every_public_error_has_an_exit_code_and_says_what_had_left(kind: type[hybrid.errors.HybridError]) -> None:
    assert kind.exit_code in EXIT_CODES - {0}
    assert kind.left_device in {"no", "ciphertext", "yes"}
    assert inspect.getdoc(kind)


def test_what_forges_or_cuts_a_reply_never_leads_to_another_answer() -> None:
    never = {hybrid.errors.IntegrityError, hybrid.errors.ProtocolError, hybrid.errors.RefusalError}
    assert never & set(NODE_FAILURES) == set()
    remote = set(hybrid.errors.RemoteError.__subclasses__())
    assert set(NODE_FAILURES) == remote - never | {hybrid.errors.HandoffDeclined}
