"""One public door: every name resolves, is documented and annotated, and shows no protobuf type."""

import inspect
import typing
from typing import Any

import pytest

import hybrid
import hybrid.testing
import hybrid.trust

TYPES_WITHOUT_DOCS = {"Event"}  # a union


def public(name: str) -> Any:
    return getattr(hybrid, name)


def test_the_list_is_sorted_and_without_doubles() -> None:
    assert hybrid.__all__ == sorted(set(hybrid.__all__))


@pytest.mark.parametrize("name", hybrid.__all__)
def test_every_name_resolves_and_is_documented(name: str) -> None:
    value = public(name)
    if name not in TYPES_WITHOUT_DOCS:
        assert inspect.getdoc(value)
        assert value.__name__ == name


@pytest.mark.parametrize("name", hybrid.testing.__all__)
def test_every_name_of_the_test_kit_resolves_and_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(hybrid.testing, name))


@pytest.mark.parametrize("name", hybrid.trust.__all__)
def test_every_name_of_trust_resolves_and_is_documented(name: str) -> None:
    value = getattr(hybrid.trust, name)
    assert inspect.getdoc(value)
    assert value.__name__ == name


@pytest.mark.parametrize("name", sorted(set(hybrid.__all__) - TYPES_WITHOUT_DOCS))
def test_every_public_method_is_annotated_and_free_of_protobuf(name: str) -> None:
    value = public(name)
    members = [value] if inspect.isfunction(value) else [m for n, m in _own(value) if not n.startswith("_")]
    for member in members:
        signature = inspect.signature(member)
        assert signature.return_annotation is not inspect.Signature.empty, member
        shown = str(signature)
        assert "pb2" not in shown
        assert "google.protobuf" not in shown
        given = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
        assert all(p.annotation is not p.empty for p in given), member


def _own(value: Any) -> list[tuple[str, Any]]:
    found = inspect.getmembers(value, inspect.isfunction) + inspect.getmembers(value, inspect.ismethod)
    return [(name, member) for name, member in found if (member.__module__ or "").startswith("hybrid")]


def test_both_clients_have_the_same_names_and_parameters() -> None:
    sync, other = hybrid.Client, hybrid.AsyncClient
    names = {n for n in vars(sync) if not n.startswith("_")}
    assert names == {n for n in vars(other) if not n.startswith("_")}
    for name in (*names, "__init__"):
        assert list(inspect.signature(getattr(sync, name)).parameters) == list(
            inspect.signature(getattr(other, name)).parameters
        ), name


def test_both_sessions_have_the_same_names() -> None:
    assert {n for n in dir(hybrid.Session) if not n.startswith("_")} == {
        n for n in dir(hybrid.AsyncSession) if not n.startswith("_")
    }


def test_a_name_that_is_not_public_does_not_resolve() -> None:
    with pytest.raises(AttributeError):
        public("Turn")


def test_type_checkers_and_the_lazy_door_agree() -> None:
    source = inspect.getsource(hybrid)
    for name in hybrid.__all__:
        assert source.count(f'"{name}"') == 2, name  # the table and __all__
    assert typing.TYPE_CHECKING is False
