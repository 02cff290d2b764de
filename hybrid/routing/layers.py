"""The layers of the router over one set of facts: privacy, availability, device state, complexity.

The first three take routes away; the last one chooses among what is left. Nothing here reads text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

from hybrid.wire.types import Route

from .complexity import NEAR, Score, Scorer
from .decision import Layer, Reason
from .policy import Allowed, Mode
from .signals import MemoryPressure, Prices, Signals, Thermal, prices
from .wording import MISSING, MODES, place

HYSTERESIS = 0.05
"""How much the threshold gives way to the side the conversation is on."""

MAX_THRESHOLD = 1.01
"""A threshold no score can reach."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the layers look at; text has become labels and numbers.

    block: why this turn may not leave, None when it may.  kind: the kind of the source that blocks.
    cleared: types of what was found in this turn and a person let go.
    rescore: the score had the request needed another number of tokens.
    fixed_threshold: the caller's own, used as it is.  budget: the rank below which the budget lets nothing through.
    explore: share of close calls to explore, 0 without randomness.  drawn: whether this is one, if it is a close call.
    needed_tokens: prompt plus room for an answer.
    """

    block: Reason | None
    kind: str
    cleared: tuple[str, ...] = ()
    mode: Mode
    signals: Signals
    score: Score
    rescore: Callable[[int], Score] = field(repr=False)
    scorer: Scorer = field(repr=False)
    fixed_threshold: float | None
    budget: float | None = None
    explore: float = 0.0
    drawn: bool = False
    needed_tokens: int
    size_bytes: int

    @cached_property
    def prices(self) -> Prices:
        """What each route costs now."""
        return prices(self.signals, size_bytes=self.size_bytes, context_tokens=self.needed_tokens)

    @cached_property
    def floor(self) -> float:
        """The score from which the node pays by its prices alone, or the caller's own threshold."""
        return self.scorer.threshold(self.prices.need) if self.fixed_threshold is None else self.fixed_threshold

    @cached_property
    def threshold(self) -> float:
        """The score from which the node is asked: prices or budget, then a margin for the conversation's side."""
        return self._with_margin(self.floor if self.budget is None else max(self.floor, self.budget))

    @property
    def budget_binds(self) -> bool:
        """Whether the budget alone keeps this from the node."""
        return self.mode is Mode.AUTO and self._with_margin(self.floor) <= self.score.value < self.threshold

    @property
    def margin(self) -> float:
        """How far the threshold gives way to the conversation's side. A doubted answer speaks for no side."""
        current = self.signals.current_route
        if self.fixed_threshold is not None or current is None:
            return 0.0
        if current is Route.PRIVATE_CLOUD:
            return -HYSTERESIS
        return 0.0 if self.signals.doubt else HYSTERESIS

    @property
    def complex(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.score.value >= self.threshold

    @property
    def close(self) -> bool:
        """Whether the score lies in the abstain band around the threshold."""
        return abs(self.score.value - self.threshold) <= NEAR

    @property
    def explorable(self) -> bool:
        """Whether the device may answer this to learn from it: a close call that the node would get."""
        return self.explore > 0 and self.mode is Mode.AUTO and self.complex and self.close

    def _with_margin(self, base: float) -> float:
        if self.fixed_threshold is not None:
            return base
        return round(min(MAX_THRESHOLD, max(0.0, base + self.margin)), 4)


def narrow(facts: Facts) -> Allowed:
    """Run the layers that take routes away, in their order."""
    allowed = Allowed()
    for layer in (privacy, availability, device_state):
        allowed = allowed.through(partial(layer, facts))
    return allowed


def privacy(facts: Facts, allowed: Allowed) -> Allowed:
    """Layer 1: labels, requests of the program itself, and the mode. A label comes before anything a mode says."""
    if facts.block:
        allowed = allowed.without(Route.PRIVATE_CLOUD, facts.block)
    if facts.signals.background and facts.mode is not Mode.ONLY_PRIVATE_CLOUD:
        reason = Reason(
            code="background", layer=Layer.PRIVACY, text="a request the program made by itself stays on the device"
        )
        allowed = allowed.without(Route.PRIVATE_CLOUD, reason)
    for route in Route:
        if facts.mode.only not in {None, route}:
            allowed = allowed.without(route, of_mode(facts))
    return allowed


def of_mode(facts: Facts) -> Reason:
    """Return the mode as a reason: the person's own choice of a route, or a setting."""
    only, person = facts.mode.only, facts.signals.person
    if only is None or not person:
        return Reason(code="mode", layer=Layer.PRIVACY, text=f"{facts.mode}: {MODES[facts.mode]}")
    what = "this conversation" if person == "pinned" else "this question"
    return Reason(code=person, layer=Layer.PERSON, text=f"a person chose {place(only)} for {what}")


def availability(facts: Facts, allowed: Allowed) -> Allowed:
    """Layer 2: what can answer now."""
    for route in Route:
        code = _missing(facts, route)
        if code:
            layer = Layer.PERSON if code == "declined" else Layer.AVAILABILITY
            allowed = allowed.without(route, Reason(code=code, layer=layer, text=_why(facts, route, code)))
    return allowed


def _missing(facts: Facts, route: Route) -> str:
    """Return the word for why a route cannot answer, empty when it can."""
    signals, state, window = facts.signals, facts.signals.availability.of(route), facts.signals.window(route)
    remote = route is Route.PRIVATE_CLOUD
    if not state.configured:
        return state.reason
    if remote and signals.offline:
        return "offline"
    if not state.available:
        return state.reason or "unavailable"
    if remote and signals.evidence_stale:
        return "attestation_stale"
    if remote and signals.quota_left is not None and signals.quota_left <= 0:
        return "quota_reached"
    return "does_not_fit" if window is not None and facts.needed_tokens > window else ""


def _why(facts: Facts, route: Route, code: str) -> str:
    if code == "does_not_fit":
        counted = "" if facts.signals.tokens_counted else "about "
        return f"{counted}{facts.needed_tokens:,} tokens do not fit {place(route)}'s {facts.signals.window(route):,}"
    return MISSING.get(code) or f"{place(route)} cannot answer now: {code.replace('_', ' ')}"


def device_state(facts: Facts, allowed: Allowed) -> Allowed:
    """Layer 3: the two hard rules. They yield when the device is the only route left."""
    if Route.PRIVATE_CLOUD not in allowed:
        return allowed
    if facts.signals.thermal == Thermal.CRITICAL:
        reason = Reason(code="thermal_critical", layer=Layer.DEVICE, text="the device is critically hot")
        allowed = allowed.without(Route.ON_DEVICE, reason)
    if facts.signals.memory == MemoryPressure.CRITICAL:
        reason = Reason(code="memory_critical", layer=Layer.DEVICE, text="the device is critically short of memory")
        allowed = allowed.without(Route.ON_DEVICE, reason)
    return allowed


def wanted(facts: Facts) -> Route:
    """Return the route that mode and score ask for, whatever is open."""
    return facts.mode.preferred or (Route.PRIVATE_CLOUD if facts.complex else Route.ON_DEVICE)


def explores(facts: Facts, allowed: Allowed) -> bool:
    """Tell whether the draw decides: a close call for the node, with the device open, too."""
    return facts.explorable and len(allowed.routes) == len(Route)


def choose(facts: Facts, allowed: Allowed) -> Route:
    """Layer 4: take the wanted route where it is open, else the one that is. ``allowed`` must not be empty."""
    if facts.drawn and explores(facts, allowed):
        return Route.ON_DEVICE
    best = wanted(facts)
    return best if best in allowed else allowed.routes[0]


def propensity(facts: Facts, allowed: Allowed) -> float:
    """Return the probability with which these facts lead to the route they led to."""
    if not explores(facts, allowed):
        return 1.0
    return facts.explore if facts.drawn else round(1.0 - facts.explore, 6)
