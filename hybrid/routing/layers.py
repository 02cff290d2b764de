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
from .signals import LEAVING, MemoryPressure, Prices, Signals, Thermal, prices

HYSTERESIS = 0.05
"""How much the threshold gives way to the side the conversation is on."""

MAX_THRESHOLD = 1.01
"""A threshold no score can reach."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the layers look at; text has become labels and numbers.

    block: why this turn may not leave, None when it may.  kind: the kind of the source that blocks.
    rescore: the score had the request needed another number of tokens.
    fixed_threshold: the caller's own, used as it is.  needed_tokens: prompt plus room for an answer.
    """

    block: Reason | None
    kind: str
    mode: Mode
    signals: Signals
    score: Score
    rescore: Callable[[int], Score] = field(repr=False)
    scorer: Scorer = field(repr=False)
    fixed_threshold: float | None
    needed_tokens: int
    size_bytes: int

    @cached_property
    def prices(self) -> Prices:
        """What each route costs now."""
        return prices(self.signals, size_bytes=self.size_bytes, context_tokens=self.needed_tokens)

    @cached_property
    def threshold(self) -> float:
        """The score from which the node is asked: prices, then a margin for the side the conversation is on."""
        if self.fixed_threshold is not None:
            return self.fixed_threshold
        margin = {Route.ON_DEVICE: HYSTERESIS, Route.PRIVATE_CLOUD: -HYSTERESIS, None: 0.0}
        base = self.scorer.threshold(self.prices.need) + margin[self.signals.current_route]
        return round(min(MAX_THRESHOLD, max(0.0, base)), 4)

    @property
    def complex(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.score.value >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A route and its reasons, the binding one first."""

    route: Route
    reasons: tuple[Reason, ...]


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
            allowed = allowed.without(route, _mode_reason(facts.mode))
    return allowed


def availability(facts: Facts, allowed: Allowed) -> Allowed:
    """Layer 2: what can answer now."""
    for route in Route:
        code = _missing(facts, route)
        if code:
            allowed = allowed.without(route, Reason(code=code, layer=Layer.AVAILABILITY, text=_why(facts, route, code)))
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
    if remote and signals.quota_left is not None and signals.quota_left <= 0:
        return "quota_reached"
    return "does_not_fit" if window is not None and facts.needed_tokens > window else ""


def _why(facts: Facts, route: Route, code: str) -> str:
    place = "the device" if route is Route.ON_DEVICE else "the private cloud"
    if code == "does_not_fit":
        return f"about {facts.needed_tokens} tokens do not fit {place}'s {facts.signals.window(route)}"
    return _CODE_TEXTS.get(code) or f"{place} cannot answer now: {code.replace('_', ' ')}"


_CODE_TEXTS = {
    "no_node": "no private cloud is set up",
    "offline": "there is no network",
    "node_unreachable": "the node cannot be reached",
    "attestation_failed": "the node could not be verified",
    "attestation_stale": "the node's evidence is too old",
    "node_auth": "the node refuses this device's credentials",
    "node_overloaded": "the node is busy",
    "node_timeout": "the node took too long",
    "node_error": "the node had a fault",
    "key_expired": "the node's key had expired",
    "policy_forbids": "handing over is switched off",
    "quota_reached": "a limit of the node is reached",
    "engine_missing": "the on-device engine is not installed",
    "model_not_downloaded": "no model is on this device",
    "not_enough_memory": "this device has too little memory for its model",
    "declined": "a person declined to send this",
}


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


def choose(facts: Facts, allowed: Allowed) -> Choice:
    """Layer 4: take the preferred route where it is open, else the one that is. ``allowed`` must not be empty."""
    wanted = facts.mode.preferred or (Route.PRIVATE_CLOUD if facts.complex else Route.ON_DEVICE)
    route = wanted if wanted in allowed else allowed.routes[0]
    other = Route.ON_DEVICE if route is Route.PRIVATE_CLOUD else Route.PRIVATE_CLOUD
    binding = allowed.reason_against(other)
    reasons: list[Reason] = []
    if binding:
        reasons.append(binding)
        if binding.layer is Layer.AVAILABILITY and other is wanted:
            reasons.append(_degraded(route))
    elif facts.mode.preferred:
        reasons.append(_mode_reason(facts.mode))
    else:
        reasons.extend(_price_reason(facts))
    reasons.append(_complexity_reason(facts))
    if not binding and facts.mode is Mode.AUTO and abs(facts.score.value - facts.threshold) <= NEAR:
        reasons.append(Reason(code="near_threshold", layer=Layer.COMPLEXITY, text="a close call"))
    return Choice(route=route, reasons=tuple(reasons))


def _degraded(route: Route) -> Reason:
    text = "quality may be lower" if route is Route.ON_DEVICE else "answered by the private cloud instead"
    return Reason(code="degraded", layer=Layer.AVAILABILITY, text=text)


_MODE_TEXTS = {
    Mode.PREFER_ON_DEVICE: "the device answers unless it cannot",
    Mode.PREFER_PRIVATE_CLOUD: "the private cloud answers unless it may not or cannot",
    Mode.ONLY_ON_DEVICE: "only the device may answer",
    Mode.ONLY_PRIVATE_CLOUD: "only the private cloud may answer",
}


def _mode_reason(mode: Mode) -> Reason:
    return Reason(code="mode", layer=Layer.PRIVACY, text=f"{mode}: {_MODE_TEXTS[mode]}")


def _price_reason(facts: Facts) -> tuple[Reason, ...]:
    """Name the dearest term when prices or the conversation's side turned the comparison round."""
    if facts.fixed_threshold is not None:
        return ()
    neutral = facts.scorer.threshold(LEAVING)
    if facts.complex == (facts.score.value >= neutral):
        return ()
    terms = facts.prices.device if facts.complex else facts.prices.cloud
    code, price = max((t for t in terms if t[0] != "leaving"), key=lambda term: term[1])
    code = code if price > 0 else "conversation"
    text = f"{_TERM_TEXTS[code]} moved the threshold from {neutral:.2f} to {facts.threshold:.2f}"
    return (Reason(code=code, layer=Layer.DEVICE, text=text),)


_TERM_TEXTS = {
    "waiting": "the expected wait",
    "battery": "the battery",
    "heat": "the heat of the device",
    "memory": "the memory in use",
    "link": "the metered link",
    "cost": "the cost",
    "quota": "the quota",
    "conversation": "the side the conversation is on",
}

_TOP_TEXTS = {
    "lines": "many lines",
    "numbers": "numbers",
    "operators": "operators",
    "code_marks": "code",
    "maths_marks": "mathematics",
    "options": "options to choose from",
    "questions": "several questions",
    "asks": "several questions",
    "steps": "several steps",
    "constraints": "constraints",
    "items": "several parts",
    "output": "a long answer",
    "context": "much context",
}


def _complexity_reason(facts: Facts) -> Reason:
    score, threshold = facts.score.value, facts.threshold
    if not facts.complex:
        text = f"a simple request; score {_shown(score, threshold)} < {_shown(threshold, score)}"
        return Reason(code="simple", layer=Layer.COMPLEXITY, text=text)
    names = [_TOP_TEXTS[name] for name, _ in facts.score.top if name in _TOP_TEXTS]
    text = f"{', '.join(dict.fromkeys(names)) or 'long'}; score {_shown(score, threshold)} ≥ {_shown(threshold, score)}"
    return Reason(code="complex", layer=Layer.COMPLEXITY, text=text)


def _shown(number: float, beside: float) -> str:
    """Write with two decimals, and with four where two would hide a difference."""
    return f"{number:.2f}" if f"{number:.2f}" != f"{beside:.2f}" else f"{number:.4f}"
