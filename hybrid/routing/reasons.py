"""Why a route: the reasons of a decision in their order, the binding one first."""

from collections.abc import Iterator

from hybrid.wire.types import Route

from .decision import Layer, Reason
from .layers import Facts, explores, of_mode, wanted
from .policy import Allowed, Mode
from .signals import LEAVING
from .wording import DOUBTS, TERMS, beside, features, listed, percent

NOVEL = 0.5
"""Novelty from which a decision says that the router has seen little like this."""


def reasons(facts: Facts, allowed: Allowed, route: Route) -> tuple[Reason, ...]:
    """Return every reason for the chosen route: what bound, what the score says, and what goes with it."""
    other = Route.ON_DEVICE if route is Route.PRIVATE_CLOUD else Route.PRIVATE_CLOUD
    bar = allowed.reason_against(other)
    binding = _barred(facts, bar, route) if bar else _free(facts, allowed)
    return (*binding, _complexity(facts), *_besides(facts, barred=bar is not None, said={r.code for r in binding}))


def _barred(facts: Facts, bar: Reason, route: Route) -> tuple[Reason, ...]:
    away = bar.layer is Layer.AVAILABILITY or bar.code == "declined"
    if not away or wanted(facts) is route:
        return (bar,)
    text = "quality may be lower" if route is Route.ON_DEVICE else "answered by the private cloud instead"
    return bar, Reason(code="degraded", layer=Layer.AVAILABILITY, text=text)


def _free(facts: Facts, allowed: Allowed) -> tuple[Reason, ...]:
    """Return what bound where both routes were open; nothing where the plain comparison did."""
    if facts.mode.preferred:
        return (of_mode(facts),)
    if facts.drawn and explores(facts, allowed):
        text = f"one of the {percent(facts.explore)} of close calls that the device answers so that the router learns"
        return (Reason(code="explore", layer=Layer.COMPLEXITY, text=text),)
    if facts.budget_binds:
        return (_budget(facts),)
    doubt = facts.signals.doubt
    if doubt and facts.complex and doubt.score is not None:
        return (_doubt(doubt.code),)
    return _price(facts)


def _budget(facts: Facts) -> Reason:
    share, used, score = facts.signals.budget_share, facts.signals.budget_used, facts.score.value
    of = f" of {percent(share)}" if share is not None else ""
    sent = f" ({percent(used)} went to the private cloud)" if used is not None else ""
    text = f"the budget{of} binds{sent}: it asks for a score of {beside(facts.threshold, score)}"
    return Reason(code="budget", layer=Layer.COMPLEXITY, text=text)


def _doubt(code: str) -> Reason:
    return Reason(code=code, layer=Layer.CASCADE, text=DOUBTS.get(code, DOUBTS["doubt"]))


def _price(facts: Facts) -> tuple[Reason, ...]:
    """Name the dearest term when prices or the conversation's side turned the comparison round."""
    if facts.fixed_threshold is not None:
        return ()
    neutral = facts.scorer.threshold(LEAVING)
    if facts.complex == (facts.score.value >= neutral):
        return ()
    terms = facts.prices.device if facts.complex else facts.prices.cloud
    code, price = max((t for t in terms if t[0] != "leaving"), key=lambda term: term[1])
    code = code if price > 0 else "conversation"
    text = f"{TERMS[code]} moved the threshold from {neutral:.2f} to {facts.threshold:.2f}"
    return (Reason(code=code, layer=Layer.DEVICE, text=text),)


def _complexity(facts: Facts) -> Reason:
    """Say on which side of the threshold the score lies, and which features put it there."""
    score, threshold = facts.score.value, facts.threshold
    sign = 1 if facts.complex else -1
    names = features(name for name, part in facts.score.top if sign * part > 0)
    code, what, relation = ("complex", "demanding", "≥") if facts.complex else ("simple", "simple", "<")
    text = f"a {what} request{names}; score {beside(score, threshold)} {relation} {beside(threshold, score)}"
    return Reason(code=code, layer=Layer.COMPLEXITY, text=text)


def _besides(facts: Facts, *, barred: bool, said: set[str]) -> Iterator[Reason]:
    if not barred and facts.mode is Mode.AUTO and facts.close:
        yield Reason(code="near_threshold", layer=Layer.COMPLEXITY, text="a close call")
    novelty = facts.score.novelty
    if novelty is not None and novelty >= NOVEL:
        text = f"the router has seen little like it (novelty {novelty:.2f}), so its length counts for more"
        yield Reason(code="novel", layer=Layer.COMPLEXITY, text=text)
    if facts.signals.doubt and facts.signals.doubt.code not in said:
        yield _doubt(facts.signals.doubt.code)
    if facts.cleared:
        found = f" ({listed(list(facts.cleared))})"
        yield Reason(code="user_cleared", layer=Layer.PRIVACY, text=f"a person let go what was found in it{found}")
