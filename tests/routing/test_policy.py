import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.routing.decision import Layer, Reason
from hybrid.routing.policy import ALL_ROUTES, AboveCeiling, Allowed, Mode, Widened, effective_mode
from hybrid.wire.types import Route

MODES = st.sampled_from(list(Mode))


def reason(code: str = "label") -> Reason:
    return Reason(code=code, layer=Layer.PRIVACY, text="")


def test_modes_are_ordered_by_how_much_may_leave() -> None:
    ordered = sorted(Mode, key=lambda m: m.egress_order)
    assert ordered == ["only_on_device", "prefer_on_device", "auto", "prefer_private_cloud", "only_private_cloud"]


@given(MODES, MODES)
def test_no_call_goes_above_a_ceiling(configured: Mode, asked: Mode) -> None:
    above = configured.is_ceiling and asked.egress_order > configured.egress_order
    if above:
        with pytest.raises(AboveCeiling):
            effective_mode(configured, asked)
    else:
        assert effective_mode(configured, asked) is asked
    assert effective_mode(configured, asked, allow_relax=True) is asked
    assert effective_mode(configured, None) is configured


def test_only_the_two_on_device_modes_are_ceilings() -> None:
    assert {m for m in Mode if m.is_ceiling} == {Mode.ONLY_ON_DEVICE, Mode.PREFER_ON_DEVICE}


@given(st.lists(st.sampled_from(ALL_ROUTES)))
def test_allowed_only_ever_narrows(removals: list[Route]) -> None:
    allowed = Allowed()
    for route in removals:
        after = allowed.without(route, reason())
        assert set(after.routes) == set(allowed.routes) - {route}
        allowed = after


def test_the_first_reason_against_a_route_is_the_one_that_counts() -> None:
    allowed = Allowed().without(Route.PRIVATE_CLOUD, reason("label")).without(Route.PRIVATE_CLOUD, reason("offline"))
    against = allowed.reason_against(Route.PRIVATE_CLOUD)
    assert against is not None
    assert against.code == "label"


def test_a_layer_that_returns_a_wider_set_is_refused() -> None:
    narrowed = Allowed().without(Route.PRIVATE_CLOUD, reason())
    with pytest.raises(Widened):
        narrowed.through(lambda _: Allowed())


def test_a_layer_that_trades_one_route_for_the_other_is_refused() -> None:
    narrowed = Allowed().without(Route.PRIVATE_CLOUD, reason())
    with pytest.raises(Widened):
        narrowed.through(lambda _: Allowed().without(Route.ON_DEVICE, reason()))


def test_allowed_has_no_method_that_adds_a_route() -> None:
    public = {name for name in dir(Allowed) if not name.startswith("_")}
    assert public == {"removed", "routes", "reason_against", "without", "through"}
