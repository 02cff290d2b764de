"""What callers pass: read, or refused with a word on what it should have been."""

from collections.abc import Mapping
from typing import Any

from .errors import ConfigurationError
from .routing.policy import Mode
from .values import read_mode
from .wire.types import Route, Sampling


def read_route(route: Route | str) -> Route:
    """Return the route of that name. Raises ConfigurationError."""
    try:
        return Route(route)
    except ValueError:
        raise ConfigurationError(f"there is no route {route!r}", hint="on_device or private_cloud") from None


def read_mode_or_none(policy: Mode | str | None) -> Mode | None:
    """Return the mode of that name, None for None. Raises ConfigurationError naming the nearest one."""
    return None if policy is None else read_mode(policy)


def read_sampling(wished: Mapping[str, Any]) -> Sampling:
    """Return the sampling of these values, by name. Raises ConfigurationError."""
    try:
        return Sampling(**wished)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def read_threshold(value: float | None) -> float | None:
    """Return the threshold, 0..1.01; None is the router's own. Raises ConfigurationError."""
    if value is not None and not 0 <= value <= 1.01:  # noqa: PLR2004 - above every score: never ask the node
        raise ConfigurationError(f"threshold must lie between 0 and 1.01, got {value}")
    return value
