"""Performs what the core asks for: runs the device's engine, clears and streams a sealed exchange, reads signals.

Everything is made on first use. No decision is taken here; what a failure means is the core's business.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .compose import Ask, estimate_tokens, overflow, settle_tokens
from .core import AnswerHere, AnswerThere, Outcome, Turn
from .errors import APITimeoutError, ConfigurationError, UnavailableError
from .events import NodeVerified, Retry
from .exchange import Timeout
from .gate import Cleared, Consent, Gate, HandoffPlan
from .local import DeviceModel, machine_signals, mapped
from .reply import Egress, Segment
from .routing.signals import Availability, RouteState, Signals
from .trust.policy import Policy
from .trust.verify import Verifier
from .wire.types import Chunk, Engine, GenerateRequest, Route, Sampling

if TYPE_CHECKING:
    from .exchange import Transport
    from .remote import CloudEngine, CloudResult
    from .trust.verify import VerifiedNode

NO_NODE = RouteState(
    available=False, reason="no_node", fix="start one of your own: pcc-server serve, or hybrid chat --local-node"
)
OFFLINE = RouteState(available=False, reason="offline", fix="unset HYBRID_OFFLINE, or use a node on this machine")
NEVER = RouteState(available=False, reason="policy_forbids", fix="set on_handoff to 'always' or 'ask'")
Item = Chunk | NodeVerified | Retry | Outcome
NEAR_LIMIT = 0.25  # of a window: nearer than this an estimate is replaced by a count, where one is to be had


class NodeAddress(Protocol):
    """A node that knows its own address and key, such as ``OwnNode``."""

    @property
    def address(self) -> str:
        """``host:port``."""

    @property
    def key(self) -> str:
        """The key it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a client was given, settled. transport: carries bytes instead of gRPC, for tests."""

    model: str | None = None
    models: Path | None = None
    node: str | NodeAddress | None = None
    trust: Policy | None = None
    on_handoff: Consent = "always"
    timeout: Timeout | float | None = None
    max_retries: int = 2
    offline: bool = False
    transport: "Transport | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a node without a key, and values that mean nothing. Raises ConfigurationError."""
        if self.max_retries < 0:
            raise ConfigurationError(f"max_retries must be 0 or more, got {self.max_retries}")
        as_timeout(self.timeout)
        if self.has_node and self.policy is None:
            raise ConfigurationError(
                f"the key of node {self.address} is not known, so nothing may be sealed to it",
                hint="pass trust=Policy.pinned(KEY) with the key the node printed at its start",
            )

    @property
    def has_node(self) -> bool:
        """Whether there is a node to hand over to."""
        return self.node is not None or self.transport is not None

    @property
    def address(self) -> str:
        """The node as the user named it; empty without one."""
        if isinstance(self.node, str):
            return self.node
        return self.node.address if self.node else self.transport.address if self.transport else ""

    @property
    def policy(self) -> Policy | None:
        """What the node must prove: as given, or the key of a node that knows its own."""
        if self.trust is not None or self.node is None or isinstance(self.node, str):
            return self.trust
        return Policy.pinned(self.node.key)


def as_timeout(value: Timeout | float | None) -> Timeout:
    """Return the limits of a turn; a plain number is the whole turn's. Raises ConfigurationError."""
    if value is None:
        return Timeout()
    if isinstance(value, Timeout):
        return value
    try:
        total = float(value)
    except (TypeError, ValueError):
        raise ConfigurationError("timeout must be a number of seconds or a Timeout") from None
    usual = Timeout()
    shorter = {n: min(getattr(usual, n), total) for n in ("connect", "attest", "first_token", "idle")}
    return Timeout(**shorter, total=total)


class Driver:
    """The two routes of one client, made on first use."""

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self.settings = settings
        self._given = engine
        self._device: DeviceModel | None = None
        self._cloud: CloudEngine | None = None
        self.gate = Gate(settings.on_handoff)  # the one gate every byte made from a request passes
        self._clearing = asyncio.Lock()

    def engine(self) -> Engine:
        """Return what answers on the device. Raises UnavailableError or ConfigurationError."""
        if self._given is not None:
            return self._given
        if self._device is None:
            self._device = DeviceModel.find(self.settings.model, self.settings.models)
        return self._device

    # --- what the router looks at ---

    async def signals(self, ask: Ask) -> Signals:
        """Read what a decision looks at. Loads no model and opens no socket."""
        availability = await self.availability()
        here = availability.on_device.available
        windows = (self.engine().context_size if here else None, self._cloud_window())
        tokens = settle_tokens(
            estimate_tokens(ask.request),
            [w for w in windows if w],
            await self._count(ask.request, [w for w in windows if w]),
        )
        return dataclasses.replace(
            self._machine(),
            availability=availability,
            device_window=windows[0],
            cloud_window=windows[1],
            needed_tokens=tokens,
        )

    async def availability(self) -> Availability:
        """Say of each route whether it can answer, as last known."""
        try:
            self.engine()
            here = RouteState()
        except UnavailableError as error:
            here = RouteState(available=False, reason=error.reason, fix=error.hint)
        return Availability(on_device=here, private_cloud=self._node_state())

    def _node_state(self) -> RouteState:
        if not self.settings.has_node:
            return NO_NODE
        if self.settings.offline and not is_loopback(self.settings.address):
            return OFFLINE
        return NEVER if self.settings.on_handoff == "never" else RouteState()

    def _machine(self) -> Signals:
        if self._given is not None:
            return Signals()
        signals = machine_signals()
        offline = signals.offline and not is_loopback(self.settings.address)
        return dataclasses.replace(signals, offline=offline)

    def _cloud_window(self) -> int | None:
        held = self._cloud.directory.held if self._cloud else None
        return held.nodes[0].model.context_tokens if held else None

    async def _count(self, request: GenerateRequest, windows: Sequence[int]) -> int | None:
        """Count where it matters and costs no load: the estimate is near a limit and a tokenizer is in memory."""
        estimate = estimate_tokens(request)
        near = any(abs(estimate - window) <= NEAR_LIMIT * window for window in windows)
        loaded = self._given is not None or (self._device is not None and self._device.loaded)
        return await self.engine().count_tokens(request) if near and loaded else None

    # --- the two routes ---

    async def answer(
        self, action: AnswerHere | AnswerThere, turn: Turn, limits: Timeout | float | None = None
    ) -> AsyncGenerator[Item, None]:
        """Run one route to its end: what it yields, then an ``Outcome``. Closing it cancels the route."""
        limit = self.settings.timeout if limits is None else limits
        route = self._here(action, limit) if isinstance(action, AnswerHere) else self._there(action, turn, limit)
        async with contextlib.aclosing(route) as items:
            async for item in items:
                yield item

    async def _here(self, action: AnswerHere, limit: Timeout | float | None) -> AsyncGenerator[Item, None]:
        engine = self.engine()
        request = dataclasses.replace(action.request, sampling=await self._sampling(action))
        deadline = None if limit is None else time.monotonic() + as_timeout(limit).total
        chunks = engine.generate(request, partition=action.partition)
        with mapped():  # an engine that was passed in may be one of ours
            async with contextlib.aclosing(chunks) as running:  # type: ignore[type-var]
                while (chunk := await _within(running, deadline)) is not None:
                    yield chunk
        yield Outcome(model=engine.model_id)

    async def _sampling(self, action: AnswerHere) -> Sampling:
        """Return the caller's wishes over the model's own recommendations."""
        if self._device is None:
            return action.request.sampling
        wished = {name: getattr(action.request.sampling, name) for name in action.wished}
        return dataclasses.replace(self._device.default_sampling, **wished)

    async def _there(
        self, action: AnswerThere, turn: Turn, limit: Timeout | float | None
    ) -> AsyncGenerator[Item, None]:
        from .remote import CloudResult

        cloud = self.cloud()
        nodes = await cloud.nodes()
        self._check_fits(action.request, nodes[0])
        plan = self.gate.plan(
            action.request, action.labels, action.decision, nodes, address=cloud.address, withheld=action.withheld
        )
        cleared = await self._clear(action, nodes, plan)
        result: CloudResult | None = None
        try:
            async with contextlib.aclosing(cloud.stream(cleared, limits=as_timeout(limit))) as events:
                async for event in events:
                    if isinstance(event, CloudResult):
                        result = event
                    else:
                        yield event
        finally:
            egress = self._egress(plan, nodes[0], result)
            if egress is not None:
                turn.left(egress)
        if result is not None:
            yield Outcome(
                model=result.node.model.model_id,
                receipt=result.receipt,
                attest_s=result.attest_s,
                network_s=result.network_s,
            )

    def cloud(self) -> "CloudEngine":
        """Return the private cloud; connects nowhere yet."""
        if self._cloud is None:
            from .remote import CloudEngine

            policy = self.settings.policy
            assert policy is not None  # noqa: S101 - Settings refuses a node without one
            limits = as_timeout(self.settings.timeout)
            transport = self.settings.transport
            if transport is None:
                from .cloud import GrpcTransport

                transport = GrpcTransport(self.settings.address, timeout=limits)
            self._cloud = CloudEngine(
                transport, Verifier(policy), self.gate, timeout=limits, max_retries=self.settings.max_retries
            )
        return self._cloud

    async def _clear(self, action: AnswerThere, nodes: "Sequence[VerifiedNode]", plan: HandoffPlan) -> Cleared:
        """Pass the gate. A callback may wait for a person, so it runs beside the event loop, one at a time."""
        arguments = (action.request, action.labels, action.decision, nodes)
        if isinstance(self.settings.on_handoff, str):
            return self.gate.clear(*arguments, plan=plan)
        async with self._clearing:
            return await asyncio.to_thread(self.gate.clear, *arguments, plan=plan)

    def _check_fits(self, request: GenerateRequest, node: "VerifiedNode") -> None:
        """Refuse what cannot fit before a byte is sealed. Too close to call by estimate: the node counts."""
        window = node.model.context_tokens
        needed = settle_tokens(estimate_tokens(request), [window], None)
        if needed > window:
            raise overflow(needed=needed, limit=window)

    def _egress(self, plan: HandoffPlan, node: "VerifiedNode", result: "CloudResult | None") -> Egress | None:
        records = [r for r in self.gate.records if r.plan_id == plan.id and r.bytes_wire]
        if not records:
            return None
        answered = result.node if result else node
        return Egress(
            node=plan.node,
            tier=records[-1].tier,
            tier_words=records[-1].tier_words,
            measurement=records[-1].measurement,
            verified_at=answered.verified_at,
            bytes_plain=plan.bytes_plain,
            bytes_wire=sum(record.bytes_wire for record in records),
            segments=tuple(Segment(source=s.source, max_route=str(s.max_route), chars=s.chars) for s in plan.segments),
            withheld=plan.withheld,
            receipt_id=result.receipt_id if result else "",
        )

    # --- questions about a route ---

    async def count_tokens(self, request: GenerateRequest, route: Route) -> int:
        """Count the framed request as a route's model reads it."""
        if route is Route.PRIVATE_CLOUD:
            nodes = await self._verified()
            if nodes[0].model.model_id != self.engine().model_id:
                raise UnavailableError(
                    f"the tokenizer of {nodes[0].model.model_id} is not on this device",
                    reason="model_not_downloaded",
                    hint=f"hybrid pull {nodes[0].model.model_id}",
                )
        return await self.engine().count_tokens(request)

    async def context_size(self, route: Route) -> int:
        """Tokens of context on a route."""
        if route is Route.ON_DEVICE:
            return self.engine().context_size
        return (await self._verified())[0].model.context_tokens

    async def _verified(self) -> "Sequence[VerifiedNode]":
        state = self._node_state()
        if not state.available:
            raise UnavailableError("no node can be asked", reason=state.reason, hint=state.fix)
        return await self.cloud().nodes()

    def forget(self, partition: str) -> None:
        """Drop the context the device kept for one conversation."""
        if self._device is not None:
            self._device.release(partition)

    async def close(self) -> None:
        """Let go of model and connection. An engine that was passed in stays its owner's."""
        device, self._device = self._device, None
        cloud, self._cloud = self._cloud, None
        if device is not None:
            await device.close()
        if cloud is not None:
            await cloud.close()


async def _within(chunks: AsyncIterator[Chunk], deadline: float | None) -> Chunk | None:
    if deadline is None:
        return await anext(chunks, None)
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await anext(chunks, None)
    except TimeoutError:
        raise APITimeoutError(
            "the device did not finish its answer in time", phase="total", hint="allow more time, or a shorter answer"
        ) from None


def is_loopback(address: str) -> bool:
    """Whether an address names this machine without asking anybody: ``localhost``, a loopback IP, a Unix socket."""
    if address.startswith("unix:"):
        return True
    host = address.rsplit(":", 1)[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
