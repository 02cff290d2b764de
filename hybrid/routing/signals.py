"""What the machine, the link and the conversation look like now, as plain numbers, and what they cost.

Read outside and passed in. A sensor that does not exist is None, and neutral. For a reading that failed the caller
passes the worst value of its soft range: `WORST_BATTERY`, `WORST_THERMAL`, `WORST_MEMORY`; a link that cannot be read
is offline. ``critical`` values are for real readings only: they are hard rules.
"""

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Literal

from hybrid.wire.types import Route

from .features import Conversation

ALONE = Conversation()
TABLE = "prices-1"
"""Version of the table of prices below, as decisions name it."""


class Thermal(StrEnum):
    """How hot the machine is, in the words of macOS."""

    NOMINAL = "nominal"
    FAIR = "fair"
    SERIOUS = "serious"
    CRITICAL = "critical"


class MemoryPressure(StrEnum):
    """How short the machine is of memory."""

    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"


WORST_BATTERY = 0.05
WORST_THERMAL = Thermal.SERIOUS
WORST_MEMORY = MemoryPressure.WARNING

NOT_CONFIGURED = frozenset({"no_node"})
"""Reasons that mean a route was never set up, rather than being away just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteState:
    """Whether a route can answer now. reason: a word of ``availability()``.  fix: a command to paste."""

    available: bool = True
    reason: str = ""
    fix: str = ""

    @property
    def configured(self) -> bool:
        """Whether this route exists here at all."""
        return self.available or self.reason not in NOT_CONFIGURED


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """The state of both routes, as last known."""

    on_device: RouteState = RouteState()
    private_cloud: RouteState = RouteState()

    def of(self, route: Route) -> RouteState:
        """Return the state of one route."""
        return self.on_device if route is Route.ON_DEVICE else self.private_cloud


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """What the cascade holds against an answer of the device.

    code: ``doubt``, ``refusal_local``, ``unparseable`` or ``repeat``.  score: what the request scores now that part of
    an answer is known, 0..1, for deciding this turn again; None where the answer stands and the next turn begins.
    """

    code: str
    score: float | None = None


Person = Literal["", "pinned", "overridden"]
"""Whether a person chose the route: for the whole conversation, for this turn, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Everything besides text and labels that a decision may look at.

    battery, quota_left: 0..1.  device_wait_s, cloud_wait_s: expected seconds to the end of the answer; pass both or
    neither, None is unknown and neutral.  cost: of this request on the node, in units of one right answer.
    device_window, cloud_window: context sizes in tokens.  needed_tokens: prompt plus reserved answer; None lets the
    router estimate.  tokens_counted: whether that is a count, not an estimate.
    current_route: the side the conversation is on, None in its first turn.  conversation: what is around the question.
    doubt: what was held against the last answer of the device, or against the one under way.
    person: whether the mode is a person's choice of a route.  background: the program asked, not the person.
    evidence_age_s, evidence_limit_s: age of the verified evidence and how old it may be; None is not verified yet, or
    no limit.  budget_share, budget_used: 0..1, the share of requests that may go to the node, and that went; shown.
    """

    availability: Availability = Availability()
    battery: float | None = None
    on_mains: bool = True
    low_power: bool = False
    thermal: Thermal = Thermal.NOMINAL
    memory: MemoryPressure = MemoryPressure.NORMAL
    offline: bool = False
    metered: bool = False
    quota_left: float | None = None
    cost: float = 0.0
    device_wait_s: float | None = None
    cloud_wait_s: float | None = None
    device_window: int | None = None
    cloud_window: int | None = None
    needed_tokens: int | None = None
    tokens_counted: bool = False
    current_route: Route | None = None
    conversation: Conversation = ALONE
    doubt: Doubt | None = None
    person: Person = ""
    background: bool = False
    evidence_age_s: float | None = None
    evidence_limit_s: float | None = None
    budget_share: float | None = None
    budget_used: float | None = None

    @property
    def evidence_stale(self) -> bool:
        """Whether the verified evidence is older than it may be; an age that is no number counts as older."""
        if self.evidence_age_s is None or self.evidence_limit_s is None:
            return False
        return not self.evidence_age_s <= self.evidence_limit_s

    def window(self, route: Route) -> int | None:
        """Return the context size of a route in tokens, None when unknown."""
        return self.device_window if route is Route.ON_DEVICE else self.cloud_window


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What each route costs now, term by term; 1.0 is the worth of turning a wrong answer into a right one."""

    device: tuple[tuple[str, float], ...]
    cloud: tuple[tuple[str, float], ...]

    @property
    def device_total(self) -> float:
        """The sum of the device's terms."""
        return sum(v for _, v in self.device)

    @property
    def cloud_total(self) -> float:
        """The sum of the node's terms."""
        return sum(v for _, v in self.cloud)

    @property
    def need(self) -> float:
        """The gain in quality at which asking the node starts to pay."""
        return self.cloud_total - self.device_total


# The one table of prices. Recommended starting points of the routing design, C3.5; curves are monotone.
WAIT_PER_S, WAIT_MOST = 0.01, 0.30
BATTERY_CURVE = ((0.05, 0.25), (0.20, 0.10), (0.50, 0.0))
LOW_POWER = 0.05
THERMAL_PRICE = {Thermal.NOMINAL: 0.0, Thermal.FAIR: 0.02, Thermal.SERIOUS: 0.12, Thermal.CRITICAL: 0.12}
MEMORY_PRICE = {MemoryPressure.NORMAL: 0.0, MemoryPressure.WARNING: 0.08, MemoryPressure.CRITICAL: 0.08}
METERED, METERED_PER_BYTE = 0.05, 0.02 / 100_000
QUOTA_CURVE = ((0.0, 0.20), (0.20, 0.0))
LEAVING = 0.02
SWITCH, SWITCH_PER_TOKEN = 0.03, 0.01 / 1000
HOMECOMING = LEAVING / 2  # at most: at equal merit a conversation comes back to the device


def prices(signals: Signals, *, size_bytes: int, context_tokens: int) -> Prices:
    """Price both routes for one request.

    size_bytes: what would be sent.  context_tokens: what the side that is not current would have to read again.
    """
    battery = 0.0 if signals.battery is None or signals.on_mains else curve(BATTERY_CURVE, signals.battery)
    switch = SWITCH + SWITCH_PER_TOKEN * context_tokens
    current = signals.current_route
    return Prices(
        device=(
            ("waiting", wait_price(signals.device_wait_s)),
            ("battery", battery + (LOW_POWER if signals.low_power else 0.0)),
            ("heat", THERMAL_PRICE[signals.thermal]),
            ("memory", MEMORY_PRICE[signals.memory]),
            ("conversation", min(HOMECOMING, switch) if current == Route.PRIVATE_CLOUD else 0.0),
        ),
        cloud=(
            ("leaving", LEAVING),
            ("waiting", wait_price(signals.cloud_wait_s)),
            ("link", METERED + METERED_PER_BYTE * size_bytes if signals.metered else 0.0),
            ("cost", max(0.0, signals.cost)),
            ("quota", 0.0 if signals.quota_left is None else curve(QUOTA_CURVE, signals.quota_left)),
            ("conversation", switch if current == Route.ON_DEVICE else 0.0),
        ),
    )


def wait_price(seconds: float | None) -> float:
    """Return the price of waiting; unknown is neutral."""
    return 0.0 if seconds is None else min(WAIT_MOST, WAIT_PER_S * max(0.0, seconds))


def curve(points: tuple[tuple[float, float], ...], x: float) -> float:
    """Read a piecewise linear curve at ``x``: points ascend in x; outside it stays at its end values."""
    if not x > points[0][0]:  # also catches NaN: the worst end
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]
