"""One turn as a state machine: what happened goes in, what to do next comes out. No I/O.

``Turn`` decides the route, folds what the route yields into
events, and says what a failure means: an error, or, where mode and label allow it, a new decision with its own reason.
A failed hand-over is never a plaintext request and never a silent answer from elsewhere; nothing shown is ever
replaced. A driver (``hybrid.aio``) performs the actions.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .compose import Ask, overflow
from .errors import (
    APIConnectionError,
    APITimeoutError,
    AttestationError,
    ContextOverflowError,
    GenerationCancelled,
    GenerationError,
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
from .events import Done, Event, Handoff, NodeVerified, PromptProgress, Retry, RouteDecided, TextDelta, UsageUpdate
from .reply import Attempt, Egress, Reply, SourceUsed, Timing
from .routing.complexity import Scorer
from .routing.decide import LabelForbids, NoRoute, decide
from .routing.decision import Decision
from .routing.labels import Labels, Outgoing, Segment, Source, outgoing
from .routing.policy import AboveCeiling, Mode, effective_mode
from .routing.signals import RouteState, Signals
from .wire.receipt import Receipt
from .wire.types import Chunk, EngineTiming, FinishReason, GenerateRequest, Route, Usage

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


def node_failure(error: HybridError) -> str | None:
    """Return the word for a failure of the node, None for an error that says nothing about it."""
    return next((NODE_FAILURES[kind] for kind in type(error).__mro__ if kind in NODE_FAILURES), None)


def mode_of_call(configured: Mode, asked: Mode | None, *, allow_relax: bool) -> Mode:
    """Return the mode of one call. Raises PolicyError when it goes above the client's ceiling."""
    try:
        return effective_mode(configured, asked, allow_relax=allow_relax)
    except AboveCeiling as error:
        raise PolicyError(
            f"the policy {error.asked} goes above the ceiling {error.ceiling} this client was given",
            hint="ask under the ceiling, or give the client another policy",
        ) from None


def decide_route(ask: Ask, signals: Signals, scorer: Scorer) -> Decision:
    """Decide who answers. Raises the public error where nobody may or can."""
    signals = dataclasses.replace(signals, current_route=ask.current_route)
    try:
        return decide(ask.request, ask.labels, signals, ask.mode, scorer, threshold=ask.threshold)
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
    wanted = [(route, code) for route, code in error.per_route.items() if code != "mode"]
    reasons = ", ".join(f"{route.replace('_', ' ')}: {code.replace('_', ' ')}" for route, code in wanted)
    kept = f"; {error.source} is limited to the device" if error.source else ""
    fixes = (signals.availability.of(Route(route)).fix for route, _ in wanted)
    return NoRouteError(
        f"nobody can answer ({reasons}){kept}",
        per_route=error.per_route,
        hint=next((fix for fix in fixes if fix), "hybrid doctor says what is missing"),
    )


# --- what a driver is told ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Hand this event to the caller."""

    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHere:
    """Run this on the device. wished: the sampling fields the caller named."""

    request: GenerateRequest = field(repr=False)
    wished: frozenset[str]
    partition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerThere:
    """Clear this at the gate, seal it, send it. request: without the turns in ``withheld``, which are names."""

    request: GenerateRequest = field(repr=False)
    labels: Labels = field(repr=False)
    withheld: tuple[str, ...]
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Raise this; nothing follows."""

    error: HybridError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The turn is over."""

    reply: Reply


Action = Show | AnswerHere | AnswerThere | Fail | Finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a driver knows when a route has ended well. Seconds; ``receipt`` on the private route only."""

    model: str
    receipt: Receipt | None = None
    attest_s: float = 0.0
    network_s: float = 0.0


class Turn:
    """One turn from its decision to its reply. Call ``begin`` once, then feed it until ``Finish`` or ``Fail``."""

    def __init__(self, ask: Ask, *, scorer: Scorer, request_id: str, now: Callable[[], float] = time.monotonic) -> None:
        self.ask = ask
        self.request_id = request_id
        self._scorer = scorer
        self._now = now
        self._started = self._route_started = now()
        self._first: float | None = None
        self._signals = Signals()
        self._text: list[str] = []
        self._chunk = Chunk()
        self._egress: Egress | None = None
        self._attempts: tuple[Attempt, ...] = ()
        self.decision: Decision | None = None
        self.reply: Reply | None = None

    @property
    def text(self) -> str:
        """What has been shown so far."""
        return "".join(self._text)

    def begin(self, signals: Signals) -> tuple[Action, ...]:
        """Decide, and say what to do first."""
        self._signals = signals
        try:
            decision = decide_route(self.ask, signals, self._scorer)
        except HybridError as error:
            return self._fail(error)
        shown = Show(event=RouteDecided(decision=decision))
        return (shown, *self._switch(decision), *self._go(decision))

    def take(self, item: Chunk | NodeVerified | Retry) -> tuple[Show, ...]:
        """Fold one item of the answering route into events."""
        if not isinstance(item, Chunk):
            return (Show(event=item),)
        actions: tuple[Show, ...] = ()
        if item.progress is not None:
            actions += (Show(event=PromptProgress(done=item.progress[0], total=item.progress[1])),)
        if item.text:
            self._first = self._now() if self._first is None else self._first
            self._text.append(item.text)
            actions += (Show(event=TextDelta(text=item.text)),)
        if item.finish_reason is not None or item.usage is not None:
            self._chunk = item
        return actions

    def left(self, egress: Egress) -> None:
        """Note what has left the device. It stays in the reply whoever answers in the end."""
        self._egress = egress

    def ended(self, outcome: Outcome) -> tuple[Action, ...]:
        """Close the turn after a route ended well."""
        if self._chunk.finish_reason is None:
            return self.failed(GenerationError("the model stopped without saying why; the answer may be cut"))
        self._close("")
        self.reply = self._make_reply(self._chunk.finish_reason, outcome)
        usage = UsageUpdate(usage=self.reply.usage, timing=self.reply.timing)
        return Show(event=usage), Show(event=Done(reply=self.reply)), Finish(reply=self.reply)

    def failed(self, error: HybridError) -> tuple[Action, ...]:
        """Say what a route's failure means: a new decision for the other route, or the error."""
        self._close(type(error).__name__, str(error))
        again = None if self._text else self._without_failed_route(error)
        if again is None:
            return self._fail(error)
        try:
            decision = decide_route(self.ask, again, self._scorer)
        except HybridError:
            return self._fail(error)  # the first failure says more than the empty choice after it
        return self._redirect(again, decision, error)

    def cancelled(self) -> GenerationCancelled:
        """Close the turn because its caller stopped it; the partial text stays readable."""
        self._close("GenerationCancelled")
        if self.decision is not None:
            self.reply = self._make_reply(FinishReason.CANCELLED, Outcome(model=""))
        error = GenerationCancelled("stopped")
        self._annotate(error)
        return error

    # --- inside ---

    def _switch(self, decision: Decision) -> tuple[Action, ...]:
        """Announce that a conversation changes sides."""
        before = self.ask.current_route
        if before is None or before is decision.route:
            return ()
        out = self._outgoing()
        there = decision.route is Route.PRIVATE_CLOUD
        event = Handoff(
            from_=str(before),
            to=str(decision.route),
            reason=decision.reasons[0].code,
            sent=_names(out.segments) if there else (),
            withheld=_names(out.withheld) if there else (),
        )
        return (Show(event=event),)

    def _redirect(self, signals: Signals, decision: Decision, error: HybridError) -> tuple[Action, ...]:
        failed = self.decision
        self._signals = signals
        event = Handoff(
            from_=str(failed.route) if failed else "",
            to=str(decision.route),
            reason=_reason_of(error),
            sent=_names(self._outgoing().segments) if decision.route is Route.PRIVATE_CLOUD else (),
            decision=decision,
        )
        return (Show(event=event), *self._go(decision))

    def _go(self, decision: Decision) -> tuple[Action, ...]:
        self.decision = decision
        self._route_started = self._now()
        if decision.route is Route.ON_DEVICE:
            return (AnswerHere(request=self.ask.request, wished=self.ask.wished, partition=self.ask.partition),)
        out = self._outgoing()
        there = AnswerThere(request=out.request, labels=out.labels, withheld=_names(out.withheld), decision=decision)
        return (there,)

    def _outgoing(self) -> Outgoing:
        return outgoing(self.ask.request, self.ask.labels)

    def _without_failed_route(self, error: HybridError) -> Signals | None:
        """Return the signals with the failed route closed; None where the failure must stay a failure."""
        if self.decision is None or self.ask.mode.only is not None:
            return None
        here = self.decision.route is Route.ON_DEVICE
        if here and not isinstance(error, UnavailableError | ContextOverflowError):
            return None
        if not here and node_failure(error) is None:
            return None
        state = RouteState(available=False, reason=_reason_of(error), fix=error.hint)
        availability = dataclasses.replace(
            self._signals.availability, **{"on_device" if here else "private_cloud": state}
        )
        return dataclasses.replace(self._signals, availability=availability)

    def _close(self, error: str, message: str = "") -> None:
        if self.decision is None:
            return
        seconds = self._now() - self._route_started
        attempt = Attempt(route=str(self.decision.route), error=error, message=message, seconds=round(seconds, 4))
        self._attempts = (*self._attempts, attempt)

    def _fail(self, error: HybridError) -> tuple[Action, ...]:
        self._annotate(error)
        return (Fail(error=error),)

    def _annotate(self, error: HybridError) -> None:
        error.request_id = self.request_id
        error.route = str(self.decision.route) if self.decision else None
        error.partial = self.text
        if self._egress is not None and error.left_device == "no":
            error.left_device = "ciphertext"

    def _make_reply(self, finish: FinishReason, outcome: Outcome) -> Reply:
        decision = self.decision
        assert decision is not None  # noqa: S101 - a reply comes after its decision
        return Reply(
            text=self.text,
            route=decision.route,
            model=outcome.model,
            finish_reason=finish,
            request_id=self.request_id,
            decision=decision,
            usage=self._chunk.usage or Usage(),
            timing=self._timing(outcome),
            egress=self._egress,
            attempts=self._attempts,
            sources=tuple(_used(source) for source in self.ask.sources),
            max_route=self.context().strictest(),
            receipt=outcome.receipt,
        )

    def context(self) -> Labels:
        """Return the labels of everything the answering model read: the answer carries the strictest of them."""
        there = self.decision is not None and self.decision.route is Route.PRIVATE_CLOUD
        return self._outgoing().labels if there else self.ask.labels

    def _timing(self, outcome: Outcome) -> Timing:
        engine = self._chunk.timing or EngineTiming()
        return Timing(
            ttft=None if self._first is None else self._first - self._started,
            total=self._now() - self._started,
            decode_tps=engine.decode_tps,
            queue=engine.queue_s,
            prefill_tps=engine.prefill_tps,
            attest=outcome.attest_s,
            network=outcome.network_s,
        )


def _reason_of(error: HybridError) -> str:
    if isinstance(error, UnavailableError):
        return error.reason
    if isinstance(error, ContextOverflowError):
        return "does_not_fit"
    return node_failure(error) or "node_error"


def _names(segments: tuple[Segment, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(segment.source for segment in segments if segment.kind != "frame"))


def _used(source: Source) -> SourceUsed:
    return SourceUsed(label=source.label, kind=source.kind, max_route=str(source.limit), path=source.path)
