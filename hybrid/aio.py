"""The asynchronous client.

Construction loads nothing and connects nowhere. Use one client from one event loop.
"""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import config
from .arguments import read_mode_or_none, read_route, read_sampling, read_threshold
from .choice import decide_route, mode_of_call, with_model
from .compose import Ask, LabelledMessage, compose
from .conversation import AsyncSession, Transcript
from .core import Turn
from .credentials import read_token
from .driver import Driver
from .errors import ConfigurationError, NoRouteError
from .events import Event
from .loop import FORKED
from .router import Router
from .routing.complexity import Scorer
from .routing.labels import Source
from .routing.policy import Mode
from .routing.signals import Person
from .runner import run
from .settings import Settings, as_timeout
from .streaming import AsyncStream, Running
from .values import read_mode
from .wire.types import Engine, Message, Route

if TYPE_CHECKING:
    from .exchange import Timeout, Transport
    from .gate import Consent
    from .preview import Preview
    from .reply import Reply
    from .routing.budget import Budget
    from .routing.decision import Decision
    from .routing.log import Verdict
    from .routing.signals import Availability, Signals
    from .settings import Cascade, Detect, Keep, NodeAddress, Receipts
    from .trust.policy import Policy

Prompt = str | Sequence[Message | LabelledMessage]


class AsyncClient:
    """Answers on the device, hands over sealed to a node when it must, and says why.

    model: a catalogue id; None is the store's default.  node: ``host:port``, a running ``OwnNode``, or the name of a
    deployment in the trust file; None means device only.  policy: a ``Mode`` or its name; ``only_on_device`` and
    ``prefer_on_device`` are ceilings for every call unless ``allow_relax``.
    trust: what the node must prove, or a trust file; None looks the node up in the user's own.
    node_token: the access key of a node that asks for one.
    node_ca: the authority of the node's TLS certificate, a PEM file or its bytes, in place of the public ones; with it,
    TLS is spoken on loopback too.  threshold: score from which the node is asked; None is the router's own.
    on_handoff: ``always``, ``never``, ``ask``, or a callable that gets the ``HandoffPlan``.
    timeout: seconds for a whole turn.  max_retries: further attempts at the node before the first token.
    offline: no connection beyond loopback; ``HYBRID_OFFLINE=1`` has the same effect and cannot be undone here.
    engine: anything with the ``Engine`` protocol, instead of the on-device model.  on_event: sees every event.
    models: folder of the model store.  scorer: another router.  transport: carries sealed bytes instead of gRPC.
    receipts: ``keep`` writes one file per private answer, without content, for ``hybrid verify``; ``off`` writes none.
    state: folder for receipts, decisions and what is remembered of the transparency log, instead of the platform's.
    cascade: what a doubtful start of an answer on the device leads to: ``auto`` asks the node instead, before anything
    was shown; ``offer`` only hints; ``off`` does not look.
    detect: recognisers of personal data: ``standard``, ``strict`` (names, addresses and dates too), ``off``.
    deny: words and phrases that never leave, whatever ``detect`` says.
    budget: largest share of requests that may go to the node, or a ``Budget``.  explore: share (at most 0.02) of close
    calls that are answered on the device to learn from; it never sends anything.  price: of 1,000 tokens on the node,
    read or written, in your own unit; for estimates and for a budget of money.
    decisions: ``keep`` logs every decision without content; ``off`` logs none.  learn: ``keep`` also stores questions,
    encrypted, for 30 days, never those limited to the device.
    Raises ConfigurationError for a value that means nothing.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        node: "str | NodeAddress | None" = None,
        policy: Mode | str = Mode.AUTO,
        allow_relax: bool = False,
        trust: "Policy | str | Path | None" = None,
        node_token: "str | bytes" = b"",
        node_ca: "str | Path | bytes | None" = None,
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
        receipts: "Receipts" = "keep",
        state: str | Path | None = None,
        cascade: "Cascade" = "auto",
        detect: "Detect" = "standard",
        deny: Sequence[str] = (),
        budget: "float | Budget | None" = None,
        explore: float = 0.0,
        price: float | None = None,
        decisions: "Keep" = "keep",
        learn: "Keep" = "off",
    ) -> None:
        self._mode = read_mode(policy)
        self._allow_relax = allow_relax
        self._threshold = read_threshold(threshold)
        self._on_event = on_event
        self._pid = os.getpid()
        self._closed = False
        settings = Settings(
            model=model,
            models=None if models is None else Path(models),
            node=node,
            trust=Path(trust).expanduser() if isinstance(trust, str) else trust,
            node_token=node_token.encode() if isinstance(node_token, str) else node_token,
            node_ca=Path(node_ca).expanduser() if isinstance(node_ca, str) else node_ca,
            on_handoff=on_handoff,
            timeout=timeout,
            max_retries=max_retries,
            offline=bool(offline) or config.offline_by_environment(),
            transport=transport,
            receipts=receipts,
            state=None if state is None else Path(state).expanduser(),
            cascade=cascade,
            detect=detect,
            deny=deny,  # type: ignore[arg-type]  # settled there
            budget=budget,
            explore=explore,
            price=price,
            decisions=decisions,
            learn=learn,
        )
        self._router = Router(settings, scorer)
        self._driver = Driver(settings, engine, screener=self._router.screener)

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
        timeout: "Timeout | float | None" = None,  # noqa: ASYNC109 - the same name as everywhere else
        cleared: Sequence[str] = (),
    ) -> "Reply":
        """Answer once, when the whole reply has passed every check.

        The text of the sources goes before the prompt, in the order given. cleared: names of sources, ``prompt`` for
        what was typed, whose recognised labels a person lifted for this call; no other label can be lifted.
        Raises a ``HybridError``; see its tree.
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
            cleared=cleared,
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
        cleared: Sequence[str] = (),
    ) -> "AsyncStream":
        """Return the events of one turn, as an iterator and a context manager; leaving the block stops the turn."""
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "stop": stop}
        more = {"sources": sources, "policy": policy, "timeout": timeout, "cleared": cleared}
        return self._stream(prompt, **more, **sampling, **one_turn(system))

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
        cleared: Sequence[str] = (),
    ) -> "Decision":
        """Say who would answer, and why. Sends nothing, loads no model, opens no socket."""
        more = {"sources": sources, "policy": policy, "max_tokens": max_tokens, "cleared": cleared}
        return await self._explain(prompt, transcript=Transcript(system=system), **more)

    async def preview(self, prompt: Prompt, *, system: str | None = None, **call: Any) -> "Preview":
        """Say what ``explain`` says, what would be sent, and what each route would take. Takes what ``explain`` takes.

        Before any model is downloaded it says what would be with one; the preview's ``lacks`` then says so.
        Sends nothing, loads no model, opens no socket.
        """
        transcript = one_turn(system)["transcript"]
        ask, signals = await self._asked(prompt, transcript=transcript, **call)
        lacks, rules = "", self._router.rules().settled
        try:
            decision = decide_route(ask, signals, rules)
        except NoRouteError as error:
            lacks, signals = with_model(error, signals)
            decision = decide_route(ask, signals, rules)
        return self._driver.preview(ask, decision, signals, lacks=lacks)

    async def availability(self) -> "Availability":
        """Say of each route whether it can answer, as last known, and what would make it."""
        self._check_usable()
        return self._driver.availability()

    async def feedback(self, request_id: str, verdict: "Verdict") -> bool:
        """Say of an answer, by its ``reply.request_id``, that it was ``good`` or ``bad``; kept in the decision log.

        False where its decision is not in the log. Raises ConfigurationError for another word.
        """
        self._check_usable()
        return self._router.feedback(request_id, verdict)

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
            self._router.close()

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
        ask = self._ask(prompt, transcript, **call)
        turn = Turn(ask, rules=self._router.rules(), request_id=secrets.token_hex(8))

        def ended(turn: Turn) -> None:
            self._router.ended(turn, transcript)
            if not keep:
                self._driver.forget(transcript.partition)

        return Running(turn, run(turn, self._driver, timeout), on_event=self._on_event, on_end=ended)

    async def _explain(self, prompt: Prompt, *, transcript: Transcript, **call: Any) -> "Decision":
        ask, signals = await self._asked(prompt, transcript=transcript, **call)
        return decide_route(ask, signals, self._router.rules().settled)

    async def _asked(self, prompt: Prompt, *, transcript: Transcript, **call: Any) -> "tuple[Ask, Signals]":
        self._check_usable()
        ask = self._ask(prompt, transcript, **call)
        return ask, await self._driver.signals(ask)

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
        cleared: Sequence[str] = (),
        person: Person = "",
        again: bool = False,
    ) -> Ask:
        mode = mode_of_call(self._mode, read_mode_or_none(policy), allow_relax=self._allow_relax)
        wishes = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "stop": tuple(stop) or None}
        wished = {name: value for name, value in wishes.items() if value is not None}
        ask = Ask(
            turn=compose(_messages(prompt), tuple(sources)),
            history=(*transcript.instructions, *transcript.history),
            sources=tuple(sources),
            mode=mode,
            sampling=read_sampling(wished),
            wished=frozenset(wished),
            threshold=self._threshold,
            current_route=transcript.current_route,
            partition=transcript.partition,
            cache_salt=transcript.cache_salt,
            doubt=transcript.doubt,
            person=person,
            again=again,
        )
        bad = transcript.asked is not None and self._router.rejected(transcript.asked.request_id)
        around = transcript.around(ask.question, rejected=again or bad)
        if cleared:  # asked again because a label kept it here, not because its answer would not do
            around = replace(around, reask=0.0)
        return replace(ask, conversation=around).screened(self._router.screener, frozenset(cleared))

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


def one_turn(system: str | None) -> dict[str, Any]:
    """Return what a call outside any conversation runs in: a transcript of its own, forgotten afterwards."""
    return {"transcript": Transcript(system=system, cache_salt=b""), "keep": False}


def from_config(settings: config.Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn settings into constructor arguments; ``given`` wins. ``node_key`` becomes a pinned trust policy."""
    from .settings import check_money, deciding
    from .trust.policy import Policy

    key = given.get("node_key")
    named = {
        "model": settings.model,
        "models": settings.models,
        "node": settings.node,
        "node_token": read_token(settings.node_token_file),
        "node_ca": settings.node_ca_file if isinstance(given.get("node", ""), str | None) else None,
        "policy": settings.policy,
        "trust": Policy.pinned(key) if key else deciding(settings),
        "threshold": settings.threshold,
        "on_handoff": settings.on_handoff,
        "timeout": settings.timeout,
        "offline": settings.offline or None,
        "receipts": settings.receipts,
        "state": settings.state,
        **{name: getattr(settings, name) for name in config.ROUTING},
    }
    merged = {**named, **{name: value for name, value in given.items() if name != "node_key"}}
    check_money(merged["budget"], merged["price"], where=config.told_by(settings, "budget"))
    return merged


def _messages(prompt: Prompt) -> str | tuple[Message | LabelledMessage, ...]:
    return prompt if isinstance(prompt, str) else tuple(prompt)
