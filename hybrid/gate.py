"""The egress gate: the one way for bytes made from a request to leave this device.

``plan`` says what would leave, ``clear`` judges labels, decision and consent over the very words to be sent and
makes the record, ``send`` counts. Only ``clear`` makes a ``Cleared``, and sealing accepts nothing else.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from .errors import ConfigurationError, ContextOverflowError, HandoffDeclined, PolicyError
from .plan import LENGTH_PREFIX_BYTES, EgressRecord, HandoffPlan, SentSegment, wire_estimate
from .routing.decision import Decision
from .routing.labels import Labels, Segment, unlabelled
from .routing.outgoing import cover, stop_strings
from .routing.taint import examined
from .trust.verify import VerifiedNode
from .wire.codec import encode_request
from .wire.constants import MAX_BODY_PLAIN_BYTES, MAX_INVOKE_BYTES
from .wire.errors import Malformed, Oversized
from .wire.types import GenerateRequest, Route

if TYPE_CHECKING:
    from .routing.screen import Screener

__all__ = ["Cleared", "Consent", "Gate", "HandoffPlan"]

KEPT_RECORDS = 1024  # in memory, until the durable record of the report exists
BYTES_PER_TOKEN = 4  # what a token of text takes on average; only for sizing a prompt that can't be sent anyway
LARGEST_REQUEST = MAX_BODY_PLAIN_BYTES - LENGTH_PREFIX_BYTES

_ONLY_HERE = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """A request whose every segment may leave, for exactly these nodes, once. Made by ``Gate.clear`` alone."""

    request: GenerateRequest = field(repr=False)
    labels: Labels = field(repr=False)
    nodes: tuple[VerifiedNode, ...]
    plan: HandoffPlan
    record: EgressRecord
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        """Refuse every maker but the gate. Raises TypeError."""
        if token is not _ONLY_HERE:
            msg = "Cleared is made by Gate.clear and nowhere else"
            raise TypeError(msg)


Consent = Literal["always", "ask", "never"] | Callable[[HandoffPlan], bool]


class Gate:
    """Judges and counts everything that leaves. One per client; not for use from several threads at once.

    on_handoff: ``always`` (configuring a node was the consent), ``never``, ``ask``, or a callback that gets the plan.
    ask: who is asked under ``ask``; nobody to ask means no.
    screener: what examined the text before it was decided on, and examines it here again; None where labels are all.
    """

    def __init__(
        self,
        on_handoff: Consent = "always",
        *,
        ask: Callable[[HandoffPlan], bool] | None = None,
        screener: "Screener | None" = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raise ConfigurationError for a consent that is none of the four."""
        if on_handoff not in ("always", "ask", "never") and not callable(on_handoff):
            raise ConfigurationError("on_handoff accepts 'always', 'ask', 'never' or a callable, and nothing else")
        self._on_handoff = on_handoff
        self._ask = ask
        self._screener = screener
        self._now = now
        self._key = secrets.token_bytes(32)
        self._open: set[str] = set()
        self._records: dict[str, EgressRecord] = {}
        self._bytes_sent = 0

    @property
    def bytes_sent(self) -> int:
        """Bytes made from requests that were handed to a transport since this gate exists."""
        return self._bytes_sent

    @property
    def records(self) -> tuple[EgressRecord, ...]:
        """The newest records, oldest first."""
        return tuple(self._records.values())

    def plan(
        self,
        request: GenerateRequest,
        labels: Labels,
        decision: Decision,
        nodes: Sequence[VerifiedNode],
        *,
        address: str = "",
        withheld: Sequence[str] = (),
    ) -> HandoffPlan:
        """Say what would leave if this request went to these nodes. Sends nothing.

        address: the node as the user named it.  withheld: names of what was already taken out of the request.
        Raises PolicyError when a label forbids it, ContextOverflowError when it is larger than any sealed request.
        """
        weakest = _weakest(nodes)
        segments = self._judged(request, labels, decision)
        encoded = _sized(request, weakest)
        return HandoffPlan(
            id=secrets.token_hex(8),
            reason=decision.reasons[0].code if decision.reasons else "",
            decision=decision,
            node=address or weakest.node_id.hex()[:16],
            tier=weakest.tier,
            tier_words=weakest.tier_words,
            model=weakest.model.model_id,
            segments=tuple(self._described(segment) for segment in segments),
            withheld=tuple(withheld),
            bytes_plain=len(encoded),
            bytes_wire_estimate=wire_estimate(len(encoded), len(nodes)),
            binding=self._keyed(encoded),
        )

    def clear(
        self,
        request: GenerateRequest,
        labels: Labels,
        decision: Decision,
        nodes: Sequence[VerifiedNode],
        *,
        plan: HandoffPlan | None = None,
    ) -> Cleared:
        """Judge the very messages to be sent, ask for consent, make the record; nothing has left yet.

        plan: what was shown, if something was; it must describe this very request.
        Raises PolicyError, HandoffDeclined, ContextOverflowError; after any of them zero bytes have left.
        """
        fresh = self.plan(request, labels, decision, nodes, address=plan.node if plan else "")
        if plan is not None:
            if not hmac.compare_digest(plan.binding, fresh.binding) or plan.tier > fresh.tier:
                raise PolicyError("the request or its nodes are not the ones the hand-off plan was made for")
            fresh = _continued(fresh, plan)
        self._consent(fresh)
        return self._cleared(request, labels, nodes, fresh)

    def renew(self, cleared: Cleared, nodes: Sequence[VerifiedNode]) -> Cleared:
        """Clear the same request again for a further attempt: every label is judged anew, a new record is made.

        What was agreed to holds for as many nodes and none weaker. Raises PolicyError for others.
        """
        plan = cleared.plan
        again = self.plan(cleared.request, cleared.labels, plan.decision, nodes, address=plan.node)
        fresh = _continued(again, plan)
        if fresh.tier < plan.tier or len(nodes) > len(cleared.nodes):
            raise PolicyError("a further attempt may go neither to weaker nodes nor to more of them")
        return self._cleared(cleared.request, cleared.labels, nodes, fresh)

    def send(self, cleared: Cleared, data: bytes) -> bytes:
        """Count the sealed bytes of one cleared request and let them pass; one clearance is good for one sending.

        Raises PolicyError when they were not cleared, or have been sent before.
        """
        record = cleared.record
        if record.id not in self._open or len(data) > MAX_INVOKE_BYTES:
            raise PolicyError("these bytes were not cleared for leaving the device, or have left it before")
        if not hmac.compare_digest(cleared.plan.binding, self._keyed(encode_request(cleared.request))):
            raise PolicyError("the request was changed after it was cleared, so nothing was sent")
        self._open.discard(record.id)
        self._records[record.id] = replace(record, bytes_wire=len(data))
        self._bytes_sent += len(data)
        return data

    def _judged(self, request: GenerateRequest, labels: Labels, decision: Decision) -> tuple[Segment, ...]:
        """Return the segments these very words are made of. Raises PolicyError unless every one of them may leave."""
        segments = tuple(self._examined(segment) for segment in _covered(request, labels, decision))
        for segment in segments:
            if not segment.may_leave:
                raise _may_not_leave(segment)
        return segments

    def _examined(self, segment: Segment) -> Segment:
        """Examine the text again. Text that is not what was labelled stays, whatever is found in it."""
        if _digest(segment.text) != segment.digest:
            return unlabelled(segment.text)
        return segment if self._screener is None else examined(segment, self._screener)

    def _consent(self, plan: HandoffPlan) -> None:
        if self._on_handoff == "always":
            return
        if self._on_handoff == "never":
            raise HandoffDeclined(
                "handing over is switched off, so nothing was sent",
                by="configuration",
                hint="set on_handoff to 'always' or 'ask' to allow it",
            )
        asked = self._ask if self._on_handoff == "ask" else self._on_handoff
        if asked is None or isinstance(asked, str):
            raise HandoffDeclined(
                "there is nobody to ask whether this may be handed over, so nothing was sent",
                by="nobody",
                hint="run it on a terminal, or set on_handoff to 'always'",
            )
        if asked(plan) is not True:  # an awaitable, or any other truthy thing, is no consent
            raise HandoffDeclined("the hand-over was declined, so nothing was sent", by="person")

    def _cleared(
        self, request: GenerateRequest, labels: Labels, nodes: Sequence[VerifiedNode], plan: HandoffPlan
    ) -> Cleared:
        weakest = _weakest(nodes)
        record = EgressRecord(
            id=secrets.token_hex(8),
            plan_id=plan.id,
            at=self._now(),
            node=plan.node,
            node_ids=tuple(node.node_id.hex() for node in nodes),
            tier=weakest.tier,
            tier_words=weakest.tier_words,
            measurement=weakest.measurement,
            segments=plan.segments,
            withheld=plan.withheld,
            bytes_plain=plan.bytes_plain,
        )
        self._remember(record)
        return Cleared(request=request, labels=labels, nodes=tuple(nodes), plan=plan, record=record, token=_ONLY_HERE)

    def _remember(self, record: EgressRecord) -> None:
        self._open.add(record.id)
        self._records[record.id] = record
        while len(self._records) > KEPT_RECORDS:
            oldest = next(iter(self._records))
            del self._records[oldest]
            self._open.discard(oldest)

    def _described(self, segment: Segment) -> SentSegment:
        return SentSegment(
            source=segment.source,
            kind=segment.kind,
            max_route=segment.max_route,
            chars=len(segment.text),
            digest=self._keyed(segment.digest).hex(),
        )

    def _keyed(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, "sha256")


def _continued(fresh: HandoffPlan, plan: HandoffPlan) -> HandoffPlan:
    """Return what was judged just now as part of the hand-off that was shown: of that, only its names are kept."""
    return replace(fresh, id=plan.id, withheld=plan.withheld)


def _weakest(nodes: Sequence[VerifiedNode]) -> VerifiedNode:
    if not nodes or not all(isinstance(node, VerifiedNode) for node in nodes):
        raise PolicyError("there is no verified node to send to")
    return min(nodes, key=lambda node: node.tier)


def _covered(request: GenerateRequest, labels: Labels, decision: Decision) -> tuple[Segment, ...]:
    """Return the segments these very words are made of. Raises PolicyError for a decision that keeps them here."""
    if decision.route is not Route.PRIVATE_CLOUD:
        raise PolicyError("the decision keeps this request on the device")
    return (*(s for parts in cover(request, labels) for s in parts), *stop_strings(request, labels))


def _may_not_leave(segment: Segment) -> PolicyError:
    return PolicyError(
        f"{segment.source} may not leave the device",
        source=segment.source,
        label=str(segment.max_route),
        hint="answer it on the device, or leave that source out",
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _sized(request: GenerateRequest, node: VerifiedNode) -> bytes:
    try:
        encoded = encode_request(request)
    except Oversized as error:
        raise _overflow(error.size, node) from None
    except Malformed:
        raise ConfigurationError("the prompt holds characters that are not Unicode text") from None
    if len(encoded) > LARGEST_REQUEST:
        raise _overflow(len(encoded), node)
    return encoded


def _overflow(size: int, node: VerifiedNode) -> ContextOverflowError:
    return ContextOverflowError(
        f"the prompt has {size} bytes and a sealed request takes {LARGEST_REQUEST}; nothing was sent",
        limit=min(node.model.context_tokens, LARGEST_REQUEST // BYTES_PER_TOKEN),
        needed=-(-size // BYTES_PER_TOKEN),
        hint="send a shorter text, or a part of it",
    )
