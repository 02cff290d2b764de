"""Performs what the core asks for: runs the device's engine or hands over, and reads signals.

Everything is made on first use. No decision is taken here; what a failure means is the core's business.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING

from .actions import AnswerHere, AnswerThere, Outcome
from .compose import Ask, estimate_tokens, settle_tokens
from .core import Turn
from .errors import APITimeoutError, UnavailableError
from .estimate import Estimate, Load, estimate, waits
from .exchange import Timeout
from .handover import Handover, Item
from .local import DeviceModel, mapped
from .machine import machine_signals
from .preview import Preview, would_send
from .routing.decision import Decision
from .routing.signals import Availability, RouteState, Signals
from .settings import Settings, as_timeout, is_loopback
from .speeds import SpeedBook, Stopwatch
from .wire.types import Chunk, Engine, GenerateRequest, Route, Sampling

if TYPE_CHECKING:
    from .routing.screen import Screener

NEAR_LIMIT = 0.25  # of a window: nearer than this an estimate is replaced by a count, where one is to be had


class Driver:
    """The two routes of one client, made on first use."""

    def __init__(self, settings: Settings, engine: Engine | None = None, *, screener: "Screener | None" = None) -> None:
        self.settings = settings
        self._given = engine
        self._device: DeviceModel | None = None
        self.handover = Handover(settings, screener=screener)
        self.speeds = SpeedBook(settings.folder if engine is None else settings.state)

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
        availability = self.availability(demanded=ask.mode.only is Route.PRIVATE_CLOUD)
        here = availability.on_device.available
        windows = (self.engine().context_size if here else None, self.handover.window)
        known = [window for window in windows if window]
        counted = await self._count(ask.request, known)
        tokens = settle_tokens(estimate_tokens(ask.request), known, counted)
        waiting = waits(self.estimates(ask, tokens, availability)) if self._given is None else (None, None)
        return dataclasses.replace(
            self._machine(),
            availability=availability,
            device_window=windows[0],
            cloud_window=windows[1],
            needed_tokens=tokens,
            tokens_counted=counted is not None,
            device_wait_s=waiting[0],
            cloud_wait_s=waiting[1],
            evidence_age_s=self.handover.evidence_age_s,
        )

    def estimates(
        self, ask: Ask, tokens: int, availability: Availability, *, wire_bytes: int = 0
    ) -> tuple[Estimate, ...]:
        """Say what each route that is set up would take, from what was seen of who answers there."""
        load = Load(prompt_tokens=tokens, most_tokens=ask.sampling.max_tokens, wire_bytes=wire_bytes)
        known = {route: self._answerer(route) for route in Route if availability.of(route).configured}
        return tuple(
            estimate(route, load, self.speeds.of(route, name), ready=ready, price=self.settings.price)
            for route, (name, ready) in known.items()
        )

    def preview(self, ask: Ask, decision: Decision, signals: Signals, *, lacks: str = "") -> Preview:
        """Put together what is known before anything is generated. lacks: the command that gets what is missing."""
        there = decision.route is Route.PRIVATE_CLOUD
        send = would_send(ask, leaves=there, node=self.settings.address, candidates=self.handover.candidates)
        tokens = signals.needed_tokens or estimate_tokens(ask.request)
        estimates = self.estimates(ask, tokens, signals.availability, wire_bytes=send.bytes_wire)
        return Preview(decision=decision, would_send=send, estimates=estimates, lacks=lacks)

    def _answerer(self, route: Route) -> tuple[str, bool]:
        """Return the name under which a route's speed is kept, and whether it could answer without getting ready."""
        if route is Route.PRIVATE_CLOUD:
            return self.settings.address, self.handover.window is not None
        try:
            engine = self.engine()
        except UnavailableError:
            return "", False
        return engine.model_id, bool(getattr(engine, "loaded", True))

    def availability(self, *, demanded: bool = False) -> Availability:
        """Say of each route whether it can answer, as last known. demanded: nothing but the node may answer."""
        try:
            self.engine()
            here = RouteState()
        except UnavailableError as error:
            here = RouteState(available=False, reason=error.reason, fix=error.hint)
        return Availability(on_device=here, private_cloud=self.handover.state(demanded=demanded))

    def _machine(self) -> Signals:
        if self._given is not None:
            return Signals()
        signals = machine_signals()
        offline = signals.offline and not is_loopback(self.settings.address)
        return dataclasses.replace(signals, offline=offline)

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
        if isinstance(action, AnswerHere):
            route = self._here(action, limit)
        else:
            route = self.handover.answer(action, turn, limit)
        where = Route.ON_DEVICE if isinstance(action, AnswerHere) else Route.PRIVATE_CLOUD
        name, ready = self._answerer(where)
        watch = Stopwatch(where, ready=ready, now=time.monotonic)
        async with contextlib.aclosing(route) as items:
            async for item in items:
                watch.saw(item)
                if isinstance(item, Outcome):
                    await asyncio.to_thread(self.speeds.note, where, name, watch.speed(item))
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

    # --- questions about a route ---

    async def count_tokens(self, request: GenerateRequest, route: Route) -> int:
        """Count the framed request as a route's model reads it."""
        if route is Route.PRIVATE_CLOUD:
            nodes = await self.handover.nodes()
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
        return (await self.handover.nodes())[0].model.context_tokens

    def forget(self, partition: str) -> None:
        """Drop the context the device kept for one conversation."""
        if self._device is not None:
            self._device.release(partition)

    async def close(self) -> None:
        """Let go of model and connection. An engine that was passed in stays its owner's."""
        device, self._device = self._device, None
        if device is not None:
            await device.close()
        await self.handover.close()


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
