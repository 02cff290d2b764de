"""The way to the private cloud of one client: contact, consent, the sealed exchange, and what had left.

Everything is made on first use. No decision is taken here; what a failure means is the core's business.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from .actions import AnswerThere, Outcome
from .breaker import Breaker
from .choice import node_failure
from .compose import estimate_tokens, overflow, settle_tokens
from .core import Turn
from .errors import HandoffDeclined, HybridError, UnavailableError
from .events import NodeVerified, Retry
from .exchange import Timeout
from .gate import Cleared, Gate, HandoffPlan
from .reply import Egress, Segment
from .retries import Retries
from .routing.signals import RouteState
from .settings import Settings, as_timeout, is_loopback
from .trust.verify import VerifiedNode, Verifier
from .wire.types import Chunk, GenerateRequest

if TYPE_CHECKING:
    from .remote import CloudEngine, CloudResult
    from .routing.screen import Screener

NO_NODE = RouteState(available=False, reason="no_node", fix="hybrid chat --local-node starts one of your own")
OFFLINE = RouteState(available=False, reason="offline", fix="unset HYBRID_OFFLINE, or use a node on this machine")
NEVER = RouteState(available=False, reason="policy_forbids", fix="set on_handoff to 'always' or 'ask'")
Item = Chunk | NodeVerified | Retry | Outcome


class Handover:
    """The private route of one client."""

    def __init__(self, settings: Settings, *, screener: "Screener | None" = None) -> None:
        # the one gate every byte made from a request passes
        self.gate = Gate(settings.on_handoff, screener=screener)
        self._settings = settings
        self._cloud: CloudEngine | None = None
        self._breaker = Breaker()
        self._clearing = asyncio.Lock()

    def state(self, *, demanded: bool = False) -> RouteState:
        """Say whether the node can answer, as last known. demanded: it may be tried even while it keeps failing."""
        if not self._settings.has_node:
            return NO_NODE
        if self._settings.offline and not is_loopback(self._settings.address):
            return OFFLINE
        if self._settings.on_handoff == "never":
            return NEVER
        return RouteState() if demanded else self._breaker.state

    @property
    def window(self) -> int | None:
        """Tokens of context of the node's model, None before it was verified."""
        node = self._verified
        return node.model.context_tokens if node else None

    @property
    def evidence_age_s(self) -> float | None:
        """Seconds since the node in use made its evidence, or was verified where that says no time; None before."""
        node = self._verified
        return None if node is None else max(0.0, time.time() - (node.evidence_t0 or node.verified_at))

    @property
    def candidates(self) -> int:
        """To how many nodes a request is sealed; at most so many before the nodes were verified."""
        policy, held = self._settings.policy, self._cloud.directory.held if self._cloud else None
        most = policy.candidates if policy else 1
        return min(most, len(held.nodes)) if held else most

    @property
    def _verified(self) -> VerifiedNode | None:
        held = self._cloud.directory.held if self._cloud else None
        return held.nodes[0] if held else None

    async def nodes(self) -> Sequence[VerifiedNode]:
        """Verify the node and return what is known of it. Raises UnavailableError where it may not be asked."""
        state = self.state(demanded=True)
        if not state.available:
            raise UnavailableError("no node can be asked", reason=state.reason, hint=state.fix)
        return await self._engine().nodes()

    async def answer(
        self, action: AnswerThere, turn: Turn, limit: Timeout | float | None
    ) -> AsyncGenerator[Item, None]:
        """Hand one request over: what the node yields, then an ``Outcome``. Closing it cancels the exchange."""
        failures = 0
        try:
            async with contextlib.aclosing(self._exchange(action, turn, as_timeout(limit))) as items:
                async for item in items:
                    failures += isinstance(item, Retry)
                    yield item
        except HandoffDeclined:
            raise  # says nothing about the node
        except HybridError as error:
            reason = node_failure(error)
            if reason is not None:
                self._breaker.failed(reason, fix=error.hint, attempts=failures + 1)
            raise
        self._breaker.answered()

    async def close(self) -> None:
        """Drop the connection."""
        cloud, self._cloud = self._cloud, None
        if cloud is not None:
            await cloud.close()

    # --- inside ---

    async def _exchange(self, action: AnswerThere, turn: Turn, limits: Timeout) -> AsyncGenerator[Item, None]:
        from .remote import CloudResult

        cloud = self._engine()
        nodes: Sequence[VerifiedNode] = ()
        async for step in self._contact(cloud, limits):
            if isinstance(step, Retry):
                yield step
            else:
                nodes = step
        _check_fits(action.request, nodes[0])
        plan = self.gate.plan(
            action.request, action.labels, action.decision, nodes, address=cloud.address, withheld=action.withheld
        )
        cleared = await self._clear(action, nodes, plan)
        result: CloudResult | None = None
        try:
            async with contextlib.aclosing(cloud.stream(cleared, limits=limits)) as events:
                async for event in events:
                    if isinstance(event, CloudResult):
                        result = event
                    else:
                        yield event
        finally:
            egress = self._egress(plan, result.node if result else nodes[0], result)
            if egress is not None:
                turn.left(egress)
        if result is not None:
            yield _outcome(result)

    async def _contact(
        self, cloud: "CloudEngine", limits: Timeout
    ) -> AsyncGenerator[Retry | Sequence[VerifiedNode], None]:
        """Yield a ``Retry`` before each further try at a node that cannot be reached, then what was verified."""
        retries, deadline = Retries(1 + self._settings.max_retries), time.monotonic() + limits.total
        while True:
            try:
                yield await cloud.nodes()
            except HybridError as error:
                after_s = retries.after(error, started=False, shown=False)
                if after_s is None or time.monotonic() + after_s > deadline:
                    raise
                yield Retry(attempt=retries.made + 1, after_s=after_s, cause=type(error).__name__)
                await asyncio.sleep(after_s)
            else:
                return

    def _engine(self) -> "CloudEngine":
        """Return what talks to the node; connects nowhere yet."""
        if self._cloud is None:
            from .directory import DirectoryCache
            from .log_client import LogClient
            from .receipts import ReceiptStore
            from .remote import CloudEngine
            from .seen import LogMemory
            from .shares import ShareBook

            policy = self._settings.policy
            assert policy is not None  # noqa: S101 - Settings refuses a node without one
            limits = as_timeout(self._settings.timeout)
            transport = self._settings.transport
            if transport is None:
                from .cloud import GrpcTransport

                transport = GrpcTransport(
                    self._settings.address, timeout=limits, root_certificates=self._settings.roots
                )
            verifier, folder = Verifier(policy), self._settings.folder
            self._cloud = CloudEngine(
                transport,
                verifier,
                self.gate,
                timeout=limits,
                max_retries=self._settings.max_retries,
                directory=DirectoryCache(
                    transport,
                    verifier,
                    log=LogClient(transport, verifier, LogMemory(folder)),
                    shares=ShareBook(folder),
                ),
                token=self._settings.node_token,
                receipts=ReceiptStore(folder) if folder and self._settings.receipts == "keep" else None,
            )
        return self._cloud

    async def _clear(self, action: AnswerThere, nodes: Sequence[VerifiedNode], plan: HandoffPlan) -> Cleared:
        """Pass the gate. A callback may wait for a person, so it runs beside the event loop, one at a time."""
        arguments = (action.request, action.labels, action.decision, nodes)
        if isinstance(self._settings.on_handoff, str):
            return self.gate.clear(*arguments, plan=plan)
        async with self._clearing:
            return await asyncio.to_thread(self.gate.clear, *arguments, plan=plan)

    def _egress(self, plan: HandoffPlan, node: VerifiedNode, result: "CloudResult | None") -> Egress | None:
        records = [r for r in self.gate.records if r.plan_id == plan.id and r.bytes_wire]
        if not records:
            return None
        return Egress(
            node=plan.node,
            tier=records[-1].tier,
            tier_words=records[-1].tier_words,
            measurement=records[-1].measurement,
            verified_at=node.verified_at,
            bytes_plain=plan.bytes_plain,
            bytes_wire=sum(record.bytes_wire for record in records),
            segments=tuple(Segment(source=s.source, max_route=str(s.max_route), chars=s.chars) for s in plan.segments),
            withheld=plan.withheld,
            receipt_id=result.receipt_id if result else "",
        )


def _check_fits(request: GenerateRequest, node: VerifiedNode) -> None:
    """Refuse what cannot fit before a byte is sealed. Too close to call by estimate: the node counts."""
    window = node.model.context_tokens
    needed = settle_tokens(estimate_tokens(request), [window], None)
    if needed > window:
        raise overflow(needed=needed, limit=window)


def _outcome(result: "CloudResult") -> Outcome:
    return Outcome(
        model=result.node.model.model_id,
        receipt=result.receipt,
        attest_s=result.attest_s,
        network_s=result.network_s,
    )
