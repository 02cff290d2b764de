"""``decide()``: privacy, availability, device state, complexity, in that order. The only maker of decisions."""

from functools import partial
from typing import Any

from hybrid.wire.types import GenerateRequest, Role, Route

from .complexity import Score, Scorer
from .counterfactual import find
from .decision import Decision, Layer, Reason
from .features import extract
from .labels import OPEN_KINDS, PERSONAL_KINDS, LabelReason, Labels, Outgoing, Segment, outgoing
from .layers import MAX_THRESHOLD, Facts, choose, narrow
from .policy import Allowed, Mode
from .signals import Signals

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
) -> Decision:
    """Choose a route and say why. Same inputs, same decision; nothing is sent or read.

    threshold: 0..1.01, used as it is: prices and the conversation's side do not move it. None leaves it to the scorer.
    Raises NoRoute, or its kind LabelForbids naming the source; ValueError for a threshold out of range.
    """
    if threshold is not None and not 0.0 <= threshold <= MAX_THRESHOLD:
        raise ValueError(f"threshold must lie between 0 and {MAX_THRESHOLD}, got {threshold}")
    leaving, blocking, block = _label(request, labels)
    tokens = signals.needed_tokens or _estimate(request)
    rescore = partial(_score, model, _asked(request, leaving), signals)
    score = rescore(tokens)
    facts = Facts(
        block=block,
        kind=_kind(blocking) if blocking and blocking.why is LabelReason.SOURCE else "",
        mode=Mode(mode),
        signals=signals,
        score=score or UNSCORED,
        rescore=lambda needed: rescore(needed) or UNSCORED,
        scorer=model,
        fixed_threshold=threshold,
        needed_tokens=tokens,
        size_bytes=sum(len(m.content) for m in request.messages),
    )
    allowed = narrow(facts)
    if not allowed.routes:
        raise _refusal(facts, allowed, blocking)
    choice = choose(facts, allowed)
    return Decision(
        route=choice.route,
        score=facts.score.value,
        threshold=facts.threshold,
        reasons=choice.reasons if score else (*choice.reasons, _SCORE_FAILED),
        signals=_shown(facts, blocking),
        counterfactual=find(facts, choice.route),
    )


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
    """Score the turn; None when the scorer raises or leaves 0..1: it then counts as simple."""
    try:
        score = model.score(extract(text, context_tokens=tokens, window=signals.device_window))
    except Exception:  # noqa: BLE001 - weights come from outside; failing means staying on the device
        return None
    return score if 0.0 <= score.value <= 1.0 else None


def _estimate(request: GenerateRequest) -> int:
    """Estimate tokens of prompt and template, and one for an answer. Callers count when this comes near a limit."""
    return sum(len(m.content) // CHARS_PER_TOKEN + TOKENS_PER_MESSAGE for m in request.messages) + 1


def _shown(facts: Facts, blocking: Segment | None) -> dict[str, Any]:
    signals, score = facts.signals, facts.score
    return {
        "privacy": {
            "max_route": str(Route.ON_DEVICE if facts.block else Route.PRIVATE_CLOUD),
            "by": str(blocking.why) if blocking else facts.block.code if facts.block else "",
            "source": blocking.source if blocking else "",
            "types": list(blocking.types) if blocking else [],
        },
        "mode": str(facts.mode),
        "p_ok": score.p_ok,
        "gain": score.gain,
        "calibrated": facts.scorer.calibrated,
        "novelty": score.novelty,
        "price": {"device": round(facts.prices.device_total, 4), "cloud": round(facts.prices.cloud_total, 4)},
        "top": [list(pair) for pair in score.top],
        "battery": signals.battery,
        "thermal": str(signals.thermal),
        "memory": str(signals.memory),
        "offline": signals.offline,
        "needed_tokens": facts.needed_tokens,
        "evidence_age_s": signals.evidence_age_s,
        "model": facts.scorer.name,
        "propensity": 1.0,
    }
