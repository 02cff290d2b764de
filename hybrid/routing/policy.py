"""Modes, ceilings, and narrowing as a type.

A mode says what the person wants; labels say what may be. `Allowed` is the set of routes still open: layers can only
take routes away from it, so no later layer can undo an earlier one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from hybrid.wire.types import Route

from .decision import Reason

ALL_ROUTES = (Route.ON_DEVICE, Route.PRIVATE_CLOUD)


class Mode(StrEnum):
    """Who should answer. In the order of how much may leave the device: see `egress_order`."""

    AUTO = "auto"
    PREFER_ON_DEVICE = "prefer_on_device"
    PREFER_PRIVATE_CLOUD = "prefer_private_cloud"
    ONLY_ON_DEVICE = "only_on_device"
    ONLY_PRIVATE_CLOUD = "only_private_cloud"

    @property
    def egress_order(self) -> int:
        """0 for the mode that sends nothing, 4 for the one that always sends."""
        return _EGRESS[self]

    @property
    def is_ceiling(self) -> bool:
        """Whether no single call may go above this mode in egress order."""
        return self in {Mode.ONLY_ON_DEVICE, Mode.PREFER_ON_DEVICE}

    @property
    def only(self) -> Route | None:
        """The single route this mode leaves open, if it leaves one only."""
        return {Mode.ONLY_ON_DEVICE: Route.ON_DEVICE, Mode.ONLY_PRIVATE_CLOUD: Route.PRIVATE_CLOUD}.get(self)

    @property
    def preferred(self) -> Route | None:
        """The route this mode takes where both are open; None where the score decides."""
        return self.only or {
            Mode.PREFER_ON_DEVICE: Route.ON_DEVICE,
            Mode.PREFER_PRIVATE_CLOUD: Route.PRIVATE_CLOUD,
        }.get(self)


_EGRESS = {
    Mode.ONLY_ON_DEVICE: 0,
    Mode.PREFER_ON_DEVICE: 1,
    Mode.AUTO: 2,
    Mode.PREFER_PRIVATE_CLOUD: 3,
    Mode.ONLY_PRIVATE_CLOUD: 4,
}


class AboveCeiling(Exception):
    """A call asked for a mode above the ceiling its client was given. Nothing was sent."""

    def __init__(self, asked: Mode, ceiling: Mode) -> None:
        """Name both modes."""
        super().__init__(f"mode {asked} goes above the ceiling {ceiling}")
        self.asked = asked
        self.ceiling = ceiling


def effective_mode(configured: Mode, asked: Mode | None, *, allow_relax: bool = False) -> Mode:
    """Return the mode of one call. ``allow_relax`` is the author's: it lifts a ceiling, never a label.

    Raises AboveCeiling when the configured mode is a ceiling and the call asks for more.
    """
    if asked is None:
        return configured
    if configured.is_ceiling and not allow_relax and asked.egress_order > configured.egress_order:
        raise AboveCeiling(asked, configured)
    return asked


class Widened(Exception):
    """A layer returned a route that an earlier layer had taken away: a defect, never obeyed."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The routes still open, and for each one taken away the first reason. Starts with both open."""

    removed: tuple[tuple[Route, Reason], ...] = ()

    @property
    def routes(self) -> tuple[Route, ...]:
        """The open routes, the device first."""
        gone = {route for route, _ in self.removed}
        return tuple(r for r in ALL_ROUTES if r not in gone)

    def __contains__(self, route: object) -> bool:
        return route in self.routes

    def reason_against(self, route: Route) -> Reason | None:
        """Return why a route was taken away; None while it is open."""
        return next((reason for gone, reason in self.removed if gone is route), None)

    def without(self, route: Route, reason: Reason) -> "Allowed":
        """Take a route away. The first reason stays when it is already gone."""
        return self if route not in self else Allowed((*self.removed, (route, reason)))

    def through(self, layer: Callable[["Allowed"], "Allowed"]) -> "Allowed":
        """Run a layer over this set. Raises Widened when the result is wider or forgets a reason."""
        after = layer(self)
        if after.removed[: len(self.removed)] != self.removed:
            raise Widened
        return after
