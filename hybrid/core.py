"""One turn as a state machine: what happened goes in, what to do next comes out. No I/O.

``Turn`` decides the route, folds what the route yields into events, watches an answer of the device, and says what a
failure or a doubt means: an error, or, where mode and label allow it, a new decision with its own reason.
A failed hand-over is never a plaintext request and never a silent answer from elsewhere; nothing shown is ever
replaced. A driver (``hybrid.runner``) performs the actions.
"""

import dataclasses
import time
from collections.abc import Callable

from .actions import Action, AnswerHere, AnswerThere, Fail, Finish, Outcome, Show
from .choice import Rules, decide_route, failure_word, without
from .compose import Ask
from .errors import GenerationCancelled, GenerationError, HybridError
from .events import Done, Handoff, NodeVerified, PromptProgress, Retry, RouteDecided, TextDelta, UsageUpdate
from .reply import Attempt, Egress, Reply, SourceUsed, Timing
from .routing.cascade import After, Finding, Offer, check
from .routing.complexity import NEAR, Score
from .routing.decision import Decision
from .routing.labels import Labels, Segment, Source
from .routing.log import eligible
from .routing.outgoing import Outgoing, outgoing
from .routing.signals import Doubt, Signals
from .watch import Watch
from .wire.types import Chunk, EngineTiming, FinishReason, Route, Usage


class Turn:
    """One turn from its decision to its reply. Call ``begin`` once, then feed it until ``Finish`` or ``Fail``.

    found, after: what the cascade made of the answer of the device, and what it saw, where it looked.
    """

    def __init__(self, ask: Ask, *, rules: Rules, request_id: str, now: Callable[[], float] = time.monotonic) -> None:
        self.ask = ask
        self.request_id = request_id
        self.found: Finding | None = None
        self.after: After | None = None
        self._rules = rules
        self._watch: Watch | None = None
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
    def asked(self) -> str:
        """What is asked in this turn, its sources included."""
        return "\n".join(segment.text for segment in self._outgoing().turn)

    @property
    def text(self) -> str:
        """What has been shown so far."""
        return "".join(self._text)

    def begin(self, signals: Signals) -> tuple[Action, ...]:
        """Decide, and say what to do first."""
        self._signals = signals
        try:
            decision = decide_route(self.ask, signals, self._rules)
        except HybridError as error:
            return self._fail(error)
        shown = Show(event=RouteDecided(decision=decision))
        return (shown, *self._switch(decision), *self._go(decision))

    def take(self, item: Chunk | NodeVerified | Retry) -> tuple[Action, ...]:
        """Fold one item of the answering route into events; another route at their end takes over from this one."""
        if not isinstance(item, Chunk):
            return (Show(event=item),)
        actions: tuple[Action, ...] = ()
        if item.progress is not None:
            actions += (Show(event=PromptProgress(done=item.progress[0], total=item.progress[1])),)
        if item.finish_reason is not None or item.usage is not None:
            self._chunk = item
        if self._watch is None:
            return (*actions, *self._show(item.text))
        return (*actions, *self._show(self._watch.take(item, self._now())), *self.look())

    def look(self) -> tuple[Action, ...]:
        """Look at the device's answer if that is due: show what was held back, or let the node answer instead."""
        watch = self._watch
        if watch is None or not watch.due(self._now()):
            return ()
        return self._judge(watch) or self._show(watch.release())

    @property
    def patience(self) -> float | None:
        """Seconds after which to ``look`` although nothing came; None while there is no such limit."""
        return self._watch.patience(self._now()) if self._watch else None

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
            decision = decide_route(self.ask, again, self._rules.settled)
        except HybridError:
            return self._fail(error)  # the first failure says more than the empty choice after it
        return self._redirect(again, decision, failure_word(error))

    def cancelled(self) -> GenerationCancelled:
        """Close the turn because its caller stopped it; the partial text stays readable."""
        self._close("GenerationCancelled")
        if self.decision is not None:
            self.reply = self._make_reply(FinishReason.CANCELLED, Outcome(model=""))
        error = GenerationCancelled("stopped")
        self._annotate(error)
        return error

    # --- inside ---

    def _show(self, text: str) -> tuple[Show, ...]:
        if not text:
            return ()
        self._first = self._now() if self._first is None else self._first
        self._text.append(text)
        return (Show(event=TextDelta(text=text)),)

    def _watched(self, decision: Decision) -> Watch | None:
        """Watch an answer of the device that the node might have given; a close call is held back at first."""
        rules = self._rules
        if decision.route is not Route.ON_DEVICE or rules.after is None or rules.cascade == "off":
            return None
        if not eligible(decision):
            return None
        close = abs(decision.score - decision.threshold) <= NEAR and "explore" not in decision.codes
        return Watch(self.asked, hold=close and rules.cascade == "auto")

    def _judge(self, watch: Watch) -> tuple[Action, ...]:
        """Say what a look at the answer leads to: nothing, or a new decision, from its beginning, and another route."""
        decision, model = self.decision, self._rules.after
        assert decision is not None and model is not None  # noqa: S101, PT018 - nothing is watched without them
        after = self.after = watch.after
        before = Score(value=decision.score, gain=decision.signals.get("gain"))
        result = check(decision, before, after, model, self._rules.scorer)
        doubt = Doubt(code=result.reason, score=result.score) if isinstance(result, Offer) else None
        there = self._doubted(doubt) if doubt and watch.unseen else None
        verdict = "escalated" if there else "offer" if doubt else "keep"
        self.found = Finding(
            verdict=verdict, score=result.score, reason=doubt.code if doubt else "", statistics=model.coarse(after)
        )
        if doubt is None or there is None:
            return ()
        self._close("Doubted", doubt.code)
        self._chunk = Chunk()
        return self._redirect(dataclasses.replace(self._signals, doubt=doubt), there, doubt.code)

    def _doubted(self, doubt: Doubt) -> Decision | None:
        """Decide again, from layer 1, with the same labels; None where the answer stays with the device."""
        try:
            again = decide_route(self.ask, dataclasses.replace(self._signals, doubt=doubt), self._rules.settled)
        except HybridError:
            return None
        return again if again.route is Route.PRIVATE_CLOUD else None

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

    def _redirect(self, signals: Signals, decision: Decision, reason: str) -> tuple[Action, ...]:
        before = self.decision
        self._signals = signals
        out, there = self._outgoing(), decision.route is Route.PRIVATE_CLOUD
        event = Handoff(
            from_=str(before.route) if before else "",
            to=str(decision.route),
            reason=reason,
            sent=_names(out.segments) if there else (),
            withheld=_names(out.withheld) if there else (),
            decision=decision,
        )
        return (Show(event=event), *self._go(decision))

    def _go(self, decision: Decision) -> tuple[Action, ...]:
        self.decision = decision
        self._route_started = self._now()
        self._watch = self._watched(decision)
        if decision.route is Route.ON_DEVICE:
            return (AnswerHere(request=self.ask.request, wished=self.ask.wished, partition=self.ask.partition),)
        out = self._outgoing()
        there = AnswerThere(
            request=out.request, labels=self.ask.labels, withheld=_names(out.withheld), decision=decision
        )
        return (there,)

    def _outgoing(self) -> Outgoing:
        return outgoing(self.ask.request, self.ask.labels)

    def _without_failed_route(self, error: HybridError) -> Signals | None:
        """Return the signals with the failed route closed; None where the failure must stay a failure."""
        if self.decision is None or self.ask.mode.only is not None:
            return None
        return without(self._signals, self.decision.route, error)

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
            cascade=self.found,
        )

    def context(self) -> Labels:
        """Return the labels of everything the answering model read: the answer carries the strictest of them.

        What a person let go was let go for this call: what the device answered had no need of it, and is held again.
        """
        if self.decision is not None and self.decision.route is Route.PRIVATE_CLOUD:
            return self._outgoing().labels
        return self.ask.held_again().labels

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


def _names(segments: tuple[Segment, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(segment.source for segment in segments if segment.kind != "frame"))


def _used(source: Source) -> SourceUsed:
    return SourceUsed(label=source.label, kind=source.kind, max_route=str(source.limit), path=source.path)
