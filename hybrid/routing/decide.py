"""``decide()``: privacy, availability, device state, complexity, in that order. The only maker of decisions."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from hybrid.wire.types import GenerateRequest, Role, Route

from .complexity import Score, Scorer
from .counterfactual import find
from .decision import Decision, Layer, Reason
from .features import extract
from .labels import OPEN_KINDS, PERSONAL_KINDS, LabelReason, Labels, Segment
from .layers import MAX_THRESHOLD, Facts, choose, narrow, propensity
from .outgoing import Outgoing, outgoing
from .policy import Allowed, Mode
from .reasons import reasons
from .signals import TABLE, Signals

POLICY = "policy-1"
"""Version of the rules in these layers, as decisions name it."""

MOST_EXPLORED = 0.02
CHARS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
UNSCORED = Score(value=0.0)


class NoRoute(Exception):
    """No route may and can answer. Nothing was sent.

    per_route: for each route the code that took it away.  source: the name of the source whose label bound, if one did.
    label: that label.  needed_tokens: what the request needs, for ``does_not_fit``.
    """

    def __init__(
        self, per_route: dict[str, str], *, source: str = "", label: str = "", needed_tokens: int = 0, mode: str = ""
    ) -> None:
        """Keep one code for each route."""
        super().__init__("no route: " + ", ".join(f"{route} {code}" for route, code in per_route.items()))
        self.per_route = per_route
        self.source = source
        self.label = label
        self.needed_tokens = needed_tokens
        self.mode = mode


class LabelForbids(NoRoute):
    """The mode wants the private cloud and nothing else, and the label of ``source`` keeps it on the device."""


def decide(
    request: GenerateRequest,
    labels: Labels,
    signals: Signals,
    mode: Mode,
    model: Scorer,
    *,
    threshold: float | None = None,
    budget: float | None = None,
    explore: float = 0.0,
    rng: Callable[[], float] | None = None,
) -> Decision:
    """Choose a route and say why. Same inputs, same decision; nothing is sent or read.

    threshold: 0..1.01, used as it is: prices and the conversation's side do not move it. None leaves it to the scorer.
    budget: 0..1.01, the rank below which nothing may be sent for its difficulty alone; None is no budget.
    explore: 0..0.02, share of the close calls for the node that the device answers instead, to learn from.  rng: draws
    from [0, 1), called once at most; without it nothing is explored.
    Raises NoRoute, or its kind LabelForbids naming the source; ValueError for a number out of range.
    """
    _check_numbers(threshold, budget, explore)
    leaving, blocking, block = _label(request, labels)
    tokens = signals.needed_tokens or _estimate(request)
    rescore = partial(_score, model, _asked(request, leaving), signals)
    score = rescore(tokens)
    explore = explore if rng else 0.0
    facts = Facts(
        block=block,
        kind=_kind(blocking) if blocking and blocking.why is LabelReason.SOURCE else "",
        cleared=_cleared(leaving),
        mode=Mode(mode),
        signals=signals,
        score=score or UNSCORED,
        rescore=lambda needed: rescore(needed) or UNSCORED,
        scorer=model,
        fixed_threshold=threshold,
        budget=budget,
        explore=explore,
        drawn=bool(explore and rng and rng() < explore),
        needed_tokens=tokens,
        size_bytes=sum(len(m.content) for m in request.messages),
    )
    allowed = narrow(facts)
    if not allowed.routes:
        raise _refusal(facts, allowed, blocking)
    route = choose(facts, allowed)
    why = reasons(facts, allowed, route)
    return Decision(
        route=route,
        score=facts.score.value,
        threshold=facts.threshold,
        reasons=why if score else (*why, _SCORE_FAILED),
        signals={**_shown(facts, blocking), "propensity": propensity(facts, allowed)},
        counterfactual=find(facts, route),
    )


def _check_numbers(threshold: float | None, budget: float | None, explore: float) -> None:
    for name, value, most in (
        ("threshold", threshold, MAX_THRESHOLD),
        ("budget", budget, MAX_THRESHOLD),
        ("explore", explore, MOST_EXPLORED),
    ):
        if value is not None and not 0.0 <= value <= most:  # also refuses NaN
            raise ValueError(f"{name} must lie between 0 and {most}, got {value}")


# --- layer 1, the part that reads labels ------------------------------------------------------------------------------


def _label(request: GenerateRequest, labels: Labels) -> tuple[Outgoing | None, Segment | None, Reason | None]:
    """Find what keeps this turn on the device. Whatever fails here, fails to the device."""
    try:
        leaving = outgoing(request, labels)
    except Exception:  # noqa: BLE001 - a privacy check that breaks must never let text out
        text = "the privacy check failed, so the text stays on the device"
        return None, None, Reason(code="privacy_error", layer=Layer.PRIVACY, text=text)
    segment = leaving.blocking
    return leaving, segment, _block(segment) if segment else None


_DETECTED = {
    LabelReason.RECOGNISED: "personal data found in the text keeps it on the device",
    LabelReason.PRIVACY_ERROR: "a privacy check failed, so the text stays on the device",
    LabelReason.PRIVACY_TIMEOUT: "a privacy check took too long, so the text stays on the device",
}
_PROVENANCE = {
    LabelReason.DERIVED: "an answer made from text that is limited to the device is limited, too",
    LabelReason.UNLABELLED: "text without a label stays on the device",
    LabelReason.UNKNOWN_LABEL: "text with an unknown label stays on the device",
}


def _block(segment: Segment) -> Reason:
    if segment.why in _DETECTED:
        return Reason(code=str(segment.why), layer=Layer.PRIVACY, text=_DETECTED[segment.why])
    text = _PROVENANCE.get(segment.why, f"{_kind(segment)} in this turn is limited to the device")
    return Reason(code="label", layer=Layer.PRIVACY, text=text)


def _cleared(leaving: Outgoing | None) -> tuple[str, ...]:
    """Return the types of what was found in this request and a person let go; empty where nothing was."""
    segments = leaving.segments if leaving else ()
    found = {kind for s in segments if s.why is LabelReason.USER_CLEARED for kind in s.types}
    return tuple(sorted(found))


def _kind(segment: Segment) -> str:
    """Return the kind of a source if it is one of ours: a kind nobody knows could be anything."""
    return segment.kind if segment.kind in PERSONAL_KINDS | OPEN_KINDS else "text"


def _refusal(facts: Facts, allowed: Allowed, blocking: Segment | None) -> NoRoute:
    per_route = {str(route): reason.code for route, reason in sorted(allowed.removed, key=lambda pair: pair[0])}
    kind = LabelForbids if facts.block and facts.mode is Mode.ONLY_PRIVATE_CLOUD else NoRoute
    return kind(
        per_route,
        source=blocking.source if blocking else "",
        label=str(Route.ON_DEVICE) if facts.block else "",
        needed_tokens=facts.needed_tokens,
        mode=str(facts.mode),
    )


# --- layer 4, the part that reads text --------------------------------------------------------------------------------

_SCORE_FAILED = Reason(
    code="score_error", layer=Layer.COMPLEXITY, text="the request could not be scored and counts as simple"
)


def _asked(request: GenerateRequest, leaving: Outgoing | None) -> str:
    """Return what was asked in this turn. Mail, calendars and the like count as context, not as the question."""
    if leaving is None:
        return next((m.content for m in reversed(request.messages) if m.role is Role.USER), "")
    return "\n".join(s.text for s in leaving.turn if s.kind not in PERSONAL_KINDS)


def _score(model: Scorer, text: str, signals: Signals, tokens: int) -> Score | None:
    """Score the turn; None when the scorer raises or leaves 0..1: it then counts as simple.

    What part of an answer has shown counts for more than what the question had led to expect.
    """
    window, doubt = signals.device_window, signals.doubt
    try:
        features = extract(text, context_tokens=tokens, window=window, conversation=signals.conversation)
        score = model.score(features)
    except Exception:  # noqa: BLE001 - weights come from outside; failing means staying on the device
        return None
    if doubt and doubt.score is not None:
        score = replace(score, value=doubt.score)
    return score if 0.0 <= score.value <= 1.0 else None


def _estimate(request: GenerateRequest) -> int:
    """Estimate tokens of prompt and template, and one for an answer. Callers count when this comes near a limit."""
    return sum(len(m.content) // CHARS_PER_TOKEN + TOKENS_PER_MESSAGE for m in request.messages) + 1


def _shown(facts: Facts, blocking: Segment | None) -> dict[str, Any]:
    signals, score, prices = facts.signals, facts.score, facts.prices
    return {
        "privacy": {
            "max_route": str(Route.ON_DEVICE if facts.block else Route.PRIVATE_CLOUD),
            "by": str(blocking.why) if blocking else facts.block.code if facts.block else "",
            "source": blocking.source if blocking else "",
            "types": list(blocking.types) if blocking else [],
            "cleared": list(facts.cleared),
        },
        "mode": str(facts.mode),
        "p_ok": score.p_ok,
        "gain": score.gain,
        "calibrated": facts.scorer.calibrated,
        "novelty": score.novelty,
        "floor": facts.floor,
        "price": {"device": round(prices.device_total, 4), "cloud": round(prices.cloud_total, 4)},
        "terms": {"device": _terms(prices.device), "cloud": _terms(prices.cloud)},
        "budget": _budget(facts),
        "top": [list(pair) for pair in score.top],
        "battery": signals.battery,
        "thermal": str(signals.thermal),
        "memory": str(signals.memory),
        "offline": signals.offline,
        "needed_tokens": facts.needed_tokens,
        "tokens_counted": signals.tokens_counted,
        "evidence_age_s": signals.evidence_age_s,
        "model": facts.scorer.name,
        "versions": {
            "policy": POLICY,
            "model": facts.scorer.version,
            "calibrator": "local" if facts.scorer.calibrated else "shipped",
            "table": TABLE,
        },
    }


def _terms(terms: tuple[tuple[str, float], ...]) -> dict[str, float]:
    """Return the terms of a price that cost something."""
    return {name: round(value, 4) for name, value in terms if value}


def _budget(facts: Facts) -> dict[str, float | None] | None:
    if facts.budget is None:
        return None
    return {"threshold": facts.budget, "share": facts.signals.budget_share, "used": facts.signals.budget_used}
