"""Who answers a call: the decision by the rules of one client, and what a route's failure means for the next. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from .compose import Ask, overflow
from .errors import (
    APIConnectionError,
    APITimeoutError,
    AttestationError,
    ContextOverflowError,
    HandoffDeclined,
    HybridError,
    KeyExpiredError,
    NodeAuthError,
    NoRouteError,
    OverloadedError,
    PolicyError,
    RateLimitError,
    ServerError,
    UnavailableError,
)
from .routing.cascade import AfterModel
from .routing.complexity import Scorer
from .routing.decide import LabelForbids, NoRoute, decide
from .routing.decision import Decision
from .routing.policy import AboveCeiling, Mode, effective_mode
from .routing.signals import RouteState, Signals
from .wire.types import Route

# What a node's failure makes of its route, for the new decision. What is missing here never leads to another answer:
# a forged, cut or malformed exchange, a refusal, an overflow.
NODE_FAILURES: Mapping[type[HybridError], str] = {
    AttestationError: "attestation_failed",
    KeyExpiredError: "key_expired",
    NodeAuthError: "node_auth",
    OverloadedError: "node_overloaded",
    RateLimitError: "quota_reached",
    APITimeoutError: "node_timeout",
    APIConnectionError: "node_unreachable",
    ServerError: "node_error",
    HandoffDeclined: "declined",
}


NO_MODEL = "model_not_downloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a turn is decided by, besides its text, labels and signals.

    after: the model of the cascade, None where no answer is looked at.  cascade: what a doubt leads to.
    budget: the rank below which nothing is sent for its difficulty alone.  budget_share, budget_used: what may go and
    what went, 0..1, for showing.  explore, rng: as `decide` takes them.
    """

    scorer: Scorer = field(repr=False)
    after: AfterModel | None = field(default=None, repr=False)
    cascade: Literal["auto", "offer", "off"] = "auto"
    budget: float | None = None
    budget_share: float | None = None
    budget_used: float | None = None
    explore: float = 0.0
    rng: Callable[[], float] | None = field(default=None, repr=False)

    @property
    def settled(self) -> "Rules":
        """The same without exploring: for saying what would happen, and for deciding a turn again."""
        return replace(self, explore=0.0, rng=None)


def node_failure(error: HybridError) -> str | None:
    """Return the word for a failure of the node, None for an error that says nothing about it."""
    return next((NODE_FAILURES[kind] for kind in type(error).__mro__ if kind in NODE_FAILURES), None)


def failure_word(error: HybridError) -> str:
    """Return the word for a failure of either route."""
    if isinstance(error, UnavailableError):
        return error.reason
    if isinstance(error, ContextOverflowError):
        return "does_not_fit"
    return node_failure(error) or "node_error"


def without(signals: Signals, route: Route, error: HybridError) -> Signals | None:
    """Return the signals with a failed route closed; None where the failure must stay a failure."""
    here = route is Route.ON_DEVICE
    if here and not isinstance(error, UnavailableError | ContextOverflowError):
        return None
    if not here and node_failure(error) is None:
        return None
    state = RouteState(available=False, reason=failure_word(error), fix=error.hint)
    availability = replace(signals.availability, **{"on_device" if here else "private_cloud": state})
    return replace(signals, availability=availability)


def with_model(error: NoRouteError, signals: Signals) -> tuple[str, Signals]:
    """Return the command that gets a model, and the signals as if it were there. Raises what something else caused."""
    here = signals.availability.on_device
    if error.per_route.get(Route.ON_DEVICE) != NO_MODEL:
        raise error
    there = replace(signals.availability, on_device=RouteState())
    return here.fix, replace(signals, availability=there)


def mode_of_call(configured: Mode, asked: Mode | None, *, allow_relax: bool) -> Mode:
    """Return the mode of one call. Raises PolicyError when it goes above the client's ceiling."""
    try:
        return effective_mode(configured, asked, allow_relax=allow_relax)
    except AboveCeiling as error:
        raise PolicyError(
            f"the policy {error.asked} goes above the ceiling {error.ceiling} this client was given",
            hint="ask under the ceiling, or give the client another policy",
        ) from None


def decide_route(ask: Ask, signals: Signals, rules: Rules) -> Decision:
    """Decide who answers. Raises the public error where nobody may or can."""
    signals = replace(
        signals,
        current_route=ask.current_route,
        conversation=ask.conversation,
        person=ask.person,
        doubt=signals.doubt or ask.doubt,
        budget_share=rules.budget_share,
        budget_used=rules.budget_used,
    )
    try:
        return decide(
            ask.request, ask.labels, signals, ask.mode, rules.scorer,
            threshold=ask.threshold, budget=rules.budget, explore=rules.explore, rng=rules.rng,
        )  # fmt: skip
    except NoRoute as error:
        raise no_route_error(error, signals) from None


def no_route_error(error: NoRoute, signals: Signals) -> HybridError:
    """Say why no route is left: a label against the mode, the context, or what is missing."""
    if isinstance(error, LabelForbids):
        return PolicyError(
            f"{error.source} may not leave the device, and only the private cloud was to answer",
            source=error.source,
            label=error.label,
            hint="ask without that source, or let the device answer",
        )
    windows = [w for r in Route if error.per_route.get(r) == "does_not_fit" and (w := signals.window(r))]
    if windows:
        return overflow(needed=error.needed_tokens, limit=max(windows))
    wanted = [(route, code) for route, code in error.per_route.items() if code not in {"mode", "pinned", "overridden"}]
    reasons = ", ".join(f"{route.replace('_', ' ')}: {code.replace('_', ' ')}" for route, code in wanted)
    kept = f"; {error.source} is limited to the device" if error.source else ""
    fixes = (signals.availability.of(Route(route)).fix for route, _ in wanted)
    return NoRouteError(
        f"nobody can answer ({reasons}){kept}",
        per_route=error.per_route,
        hint=next((fix for fix in fixes if fix), "hybrid doctor says what is missing"),
    )
