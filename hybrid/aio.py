"""The asynchronous client, and ``run``: performs what the core asks for.

Construction loads nothing and connects nowhere. Use one client from one event loop.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import config
from .conversation import AsyncSession, Transcript
from .core import Ask, Fail, Finish, Outcome, Show, Turn, compose, decide_route, mode_of_call, system_text
from .driver import Driver, Settings, as_timeout
from .errors import ConfigurationError, GenerationCancelled, HybridError
from .events import Done, Event, Handoff, RouteDecided, TextDelta
from .routing.complexity import Scorer, StructuralScorer
from .routing.labels import Source
from .routing.policy import Mode
from .wire.types import Engine, Message, Route, Sampling

if TYPE_CHECKING:
    from .driver import NodeAddress
    from .exchange import Timeout, Transport
    from .gate import Consent
    from .reply import Reply
    from .routing.decision import Decision
    from .routing.signals import Availability
    from .trust.policy import Policy

FORKED = "this client was made before the process forked"
Prompt = str | Sequence[Message]


async def run(turn: Turn, driver: Driver, timeout: "Timeout | float | None" = None) -> AsyncIterator[Event]:
    """Perform one turn and yield its events. Raises the error the core settles on; closing it stops the turn."""
    actions = turn.begin(await driver.signals(turn.ask))
    while True:
        for action in actions:
            if isinstance(action, Show):
                yield action.event
        last = actions[-1]
        if isinstance(last, Fail):
            raise last.error
        if isinstance(last, Finish | Show):
            return
        outcome: Outcome | None = None
        try:
            async with contextlib.aclosing(driver.answer(last, turn, timeout)) as items:
                async for item in items:
                    if isinstance(item, Outcome):
                        outcome = item
                        continue
                    for shown in turn.take(item):
                        yield shown.event
        except HybridError as error:
            actions = turn.failed(error)
        else:
            actions = turn.ended(outcome or Outcome(model=""))


class AsyncClient:
    """Answers on the device, hands over sealed to a node when it must, and says why.

    model: a catalogue id; None is the store's default.  node: ``host:port``, or a running ``OwnNode``; None means
    device only.  policy: a ``Mode`` or its name; ``only_on_device`` and ``prefer_on_device`` are ceilings for every
    call unless ``allow_relax``.  trust: what the node must prove.  threshold: score from which the node is asked; None
    is the router's own.  on_handoff: ``always``, ``never``, ``ask``, or a callable that gets the ``HandoffPlan``.
    timeout: seconds for a whole turn.  max_retries: further attempts at the node before the first token.
    offline: no connection beyond loopback; ``HYBRID_OFFLINE=1`` has the same effect and cannot be undone here.
    engine: anything with the ``Engine`` protocol, instead of the on-device model.  on_event: sees every event.
    models: folder of the model store.  scorer: another router.  transport: carries sealed bytes instead of gRPC. Raises ConfigurationError for a value that means nothing.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        node: "str | NodeAddress | None" = None,
        policy: Mode | str = Mode.AUTO,
        allow_relax: bool = False,
        trust: "Policy | None" = None,
        threshold: float | None = None,
        on_handoff: "Consent" = "always",
        timeout: "Timeout | float | None" = None,
        max_retries: int = 2,
        offline: bool | None = None,
        engine: Engine | None = None,
        on_event: Callable[[Event], None] | None = None,
        models: str | Path | None = None,
        scorer: Scorer | None = None,
        transport: "Transport | None" = None,
    ) -> None:
        self._mode = config.read_mode(policy)
        self._allow_relax = allow_relax
        self._threshold = _threshold(threshold)
        self._scorer = scorer or StructuralScorer()
        self._on_event = on_event
        self._pid = os.getpid()
        self._closed = False
        self._driver = Driver(
            Settings(
                model=model,
                models=None if models is None else Path(models),
                node=node,
                trust=trust,
                on_handoff=on_handoff,
                timeout=timeout,
                max_retries=max_retries,
                offline=bool(offline) or config.offline_by_environment(),
                transport=transport,
            ),
            engine,
        )

    @classmethod
    def from_env(cls, **given: Any) -> Self:
        """Make a client from files and environment (``hybrid.config``); ``given`` wins over both."""
        return cls(**from_config(config.load(), given))

    async def ask(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        sources: Sequence[Source] = (),
        policy: Mode | str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        timeout: "Timeout | float | None" = None,
    ) -> "Reply":
        """Answer once, when the whole reply has passed every check.

        The text of the sources goes before the prompt, in the order given. Raises a ``HybridError``; see its tree.
        """
        stream = self.stream(
            prompt,
            system=system,
            sources=sources,
            policy=policy,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            stop=stop,
            timeout=timeout,
        )
        async with stream:
            return await stream.final()

    def stream(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        sources: Sequence[Source] = (),
        policy: Mode | str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        timeout: "Timeout | float | None" = None,
    ) -> "AsyncStream":
        """Return the events of one turn, as an iterator and a context manager; leaving the block stops the turn."""
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "stop": stop}
        return self._stream(prompt, sources=sources, policy=policy, timeout=timeout, **sampling, **one_turn(system))

    def session(self, *, system: str | None = None, policy: Mode | str | None = None) -> AsyncSession:
        """Start a conversation."""
        return AsyncSession(self, system=system, policy=policy)

    async def explain(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        sources: Sequence[Source] = (),
        policy: Mode | str | None = None,
        max_tokens: int | None = None,
    ) -> "Decision":
        """Say who would answer, and why. Sends nothing, loads no model, opens no socket."""
        transcript = Transcript(system=system)
        return await self._explain(prompt, sources=sources, policy=policy, transcript=transcript, max_tokens=max_tokens)

    async def availability(self) -> "Availability":
        """Say of each route whether it can answer, as last known, and what would make it."""
        self._check_usable()
        return await self._driver.availability()

    async def count_tokens(self, prompt: Prompt, *, route: Route | str = Route.ON_DEVICE) -> int:
        """Count the framed request as the model of a route reads it; loads the model on the device.

        Raises UnavailableError where the node's model is not on this device, as its tokenizer is needed.
        """
        self._check_usable()
        request = Ask(turn=compose(_messages(prompt), ())).request
        return await self._driver.count_tokens(request, read_route(route))

    async def context_size(self, route: Route | str = Route.ON_DEVICE) -> int:
        """Tokens of context on a route; asks and verifies the node for its own."""
        self._check_usable()
        return await self._driver.context_size(read_route(route))

    async def close(self) -> None:
        """Stop what runs and let go of model and connection. Calling it again is harmless."""
        if not self._closed:
            self._closed = True
            await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _stream(self, prompt: Prompt, **call: Any) -> "AsyncStream":
        return AsyncStream(lambda: self._turn(prompt, **call))

    def _turn(self, prompt: Prompt, *, transcript: Transcript, keep: bool = True, **call: Any) -> "Running":
        self._check_usable()
        timeout = call.pop("timeout", None)
        as_timeout(timeout)
        turn = Turn(self._ask(prompt, transcript, **call), scorer=self._scorer, request_id=secrets.token_hex(8))
        on_end = transcript.record if keep else lambda _: self._driver.forget(transcript.partition)
        return Running(turn, run(turn, self._driver, timeout), on_event=self._on_event, on_end=on_end)

    async def _explain(self, prompt: Prompt, *, transcript: Transcript, **call: Any) -> "Decision":
        self._check_usable()
        ask = self._ask(prompt, transcript, **call)
        return decide_route(ask, await self._driver.signals(ask), self._scorer)

    def _ask(
        self,
        prompt: Prompt,
        transcript: Transcript,
        *,
        sources: Sequence[Source] = (),
        policy: Mode | str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Ask:
        mode = mode_of_call(self._mode, read_mode_or_none(policy), allow_relax=self._allow_relax)
        wishes = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "stop": tuple(stop) or None}
        wished = {name: value for name, value in wishes.items() if value is not None}
        return Ask(
            turn=compose(_messages(prompt), tuple(sources)),
            history=(*system_text(transcript.system), *transcript.history),
            sources=tuple(sources),
            mode=mode,
            sampling=_sampling(wished),
            wished=frozenset(wished),
            threshold=self._threshold,
            current_route=transcript.current_route,
            partition=transcript.partition,
        )

    def _pinnable(self, route: Route | str | None) -> Route | None:
        if route is None:
            return None
        wanted = read_route(route)
        only = Mode.ONLY_ON_DEVICE if wanted is Route.ON_DEVICE else Mode.ONLY_PRIVATE_CLOUD
        mode_of_call(self._mode, only, allow_relax=self._allow_relax)
        return wanted

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ConfigurationError(FORKED, hint="make a new client in the child process")
        if self._closed:
            raise ConfigurationError("this client was closed", hint="make a new one")


class Running:
    """A turn under way: its state, its events, and who wants to know when it ends."""

    def __init__(
        self,
        turn: Turn,
        events: AsyncIterator[Event],
        *,
        on_event: Callable[[Event], None] | None,
        on_end: Callable[[Turn], None] | None,
    ) -> None:
        self.turn = turn
        self.on_event = on_event
        self._events = events
        self._on_end = on_end

    async def pump(self, put: Callable[[Event | BaseException | None], None]) -> None:
        """Drive the turn to its end: every event, then None or the failure. Cancelling this task stops the turn."""
        try:
            async with contextlib.aclosing(self._events) as events:  # type: ignore[type-var]
                async for event in events:
                    put(event)
            end: BaseException | None = None
        except asyncio.CancelledError:
            end = self.turn.cancelled()
        except Exception as error:  # noqa: BLE001 - carried to the caller, who raises it
            end = error
        if self._on_end is not None:
            self._on_end(self.turn)
        put(end)


class Folded:
    """What a stream's events add up to so far."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.decision: Decision | None = None
        self.reply: Reply | None = None

    @property
    def text(self) -> str:
        """The text shown so far; it stays readable after a failure or a stop."""
        return "".join(self._parts)

    @property
    def route(self) -> Route | None:
        """Who answers; None before the decision."""
        return self.decision.route if self.decision else None

    def _fold(self, event: Event) -> None:
        match event:
            case RouteDecided():
                self.decision = event.decision
            case TextDelta():
                self._parts.append(event.text)
            case Handoff():
                self.decision = event.decision or self.decision
                if event.restart:
                    self._parts.clear()
            case Done():
                self.reply = event.reply


class AsyncStream(Folded):
    """The events of one turn. Iterate it, or use it as a context manager; leaving the block stops the turn."""

    def __init__(self, start: "Callable[[], Running]") -> None:
        super().__init__()
        self._start = start
        self._queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._running: Running | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        item = await self._next()
        if item is None:
            self._over = True
            raise StopAsyncIteration
        if isinstance(item, BaseException):
            self._over = True
            raise item
        self._fold(item)
        if self._running is not None and self._running.on_event is not None:
            self._running.on_event(item)
        return item

    async def _next(self) -> "Event | BaseException | None":
        if self._task is None:
            self._begin()
        return await self._queue.get()

    def _begin(self) -> None:
        self._running = self._start()
        self._task = asyncio.get_running_loop().create_task(self._running.pump(self._queue.put_nowait))

    async def text_deltas(self) -> AsyncIterator[str]:
        """Yield the text alone, as it comes."""
        async for event in self:
            if isinstance(event, TextDelta):
                yield event.text

    async def final(self) -> "Reply":
        """Run to the end and return the reply. Raises what the turn raises."""
        async for _ in self:
            pass
        return finished(self)

    async def cancel(self) -> None:
        """Stop the turn and wait until the engine has let it go. What was shown stays in ``text`` and ``reply``."""
        if self._task is None or self._over:
            self._over = True
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._over = True
        if self._running is not None:
            self.reply = self._running.turn.reply

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cancel()


def one_turn(system: str | None) -> dict[str, Any]:
    """Return what a call outside any conversation runs in: a transcript of its own, forgotten afterwards."""
    return {"transcript": Transcript(system=system), "keep": False}


def finished(stream: Folded) -> "Reply":
    """Return the reply of a stream that ran to its end. Raises GenerationCancelled when it was stopped before."""
    if stream.reply is None or stream.reply.finish_reason == "cancelled":
        error = GenerationCancelled("this turn was stopped")
        error.partial = stream.text
        raise error
    return stream.reply


def from_config(settings: config.Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn settings into constructor arguments; ``given`` wins. ``node_key`` becomes a pinned trust policy."""
    from .trust.policy import Policy

    key = given.get("node_key", settings.node_key)
    named = {
        "model": settings.model,
        "models": settings.models,
        "node": settings.node,
        "policy": settings.policy,
        "trust": Policy.pinned(key) if key else None,
        "threshold": settings.threshold,
        "on_handoff": settings.on_handoff,
        "timeout": settings.timeout,
        "offline": settings.offline or None,
    }
    return {**named, **{name: value for name, value in given.items() if name != "node_key"}}


def read_route(route: Route | str) -> Route:
    """Return the route of that name. Raises ConfigurationError."""
    try:
        return Route(route)
    except ValueError:
        raise ConfigurationError(f"there is no route {route!r}", hint="on_device or private_cloud") from None


def read_mode_or_none(policy: Mode | str | None) -> Mode | None:
    """Return the mode of that name, None for None. Raises ConfigurationError naming the nearest one."""
    return None if policy is None else config.read_mode(policy)


def _messages(prompt: Prompt) -> str | tuple[Message, ...]:
    return prompt if isinstance(prompt, str) else tuple(prompt)


def _sampling(wished: Mapping[str, Any]) -> Sampling:
    try:
        return Sampling(**wished)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def _threshold(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1.01:  # noqa: PLR2004 - above every score: never ask the node
        raise ConfigurationError(f"threshold must lie between 0 and 1.01, got {value}")
    return value
