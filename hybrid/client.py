"""The synchronous client: the same names over one loop thread. No logic of its own.

Events cross from the loop thread to the caller's by a queue; consent is asked on the caller's thread, so that a person
can be asked there and Ctrl-C works. Ctrl-C stops the turn, waits until the engine has let it go, and goes on up.
"""

import contextlib
import queue
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import config
from .aio import AsyncClient, Prompt, from_config, one_turn
from .consent import CallersConsent, Question
from .conversation import Session
from .events import Event, TextDelta
from .loop import LOOK_S, STOP_WAIT_S, LoopThread
from .routing.labels import Source
from .routing.policy import Mode
from .streaming import Folded, Running, finished
from .wire.types import Engine, Route

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .exchange import Timeout, Transport
    from .gate import Consent
    from .preview import Preview
    from .reply import Reply
    from .routing.budget import Budget
    from .routing.complexity import Scorer
    from .routing.decision import Decision
    from .routing.log import Verdict
    from .routing.signals import Availability
    from .settings import Cascade, Detect, Keep, NodeAddress, Receipts
    from .trust.policy import Policy


class Client:
    """Answers on the device, hands over sealed to a node when it must, and says why.

    Takes what ``AsyncClient`` takes. Thread-safe; construction loads nothing, connects nowhere and starts no thread.
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
        scorer: "Scorer | None" = None,
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
        self._consent = CallersConsent(on_handoff) if callable(on_handoff) else None
        self._on_event = on_event
        self._async = AsyncClient(
            model=model,
            node=node,
            policy=policy,
            allow_relax=allow_relax,
            trust=trust,
            node_token=node_token,
            node_ca=node_ca,
            threshold=threshold,
            on_handoff=self._consent or on_handoff,
            timeout=timeout,
            max_retries=max_retries,
            offline=offline,
            engine=engine,
            models=models,
            scorer=scorer,
            transport=transport,
            receipts=receipts,
            state=state,
            cascade=cascade,
            detect=detect,
            deny=deny,
            budget=budget,
            explore=explore,
            price=price,
            decisions=decisions,
            learn=learn,
        )
        self._loop = LoopThread()
        self._end = weakref.finalize(self, _close, self._async, self._loop)  # also at interpreter exit

    @classmethod
    def from_env(cls, **given: Any) -> Self:
        """Make a client from files and environment (``hybrid.config``); ``given`` wins over both."""
        return cls(**from_config(config.load(), given))

    def ask(
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
        with stream:
            return stream.final()

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
    ) -> "Stream":
        """Return the events of one turn, as an iterator and a context manager; leaving the block stops the turn."""
        call = one_turn(system)
        return self._stream(
            prompt,
            sources=sources,
            policy=policy,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            stop=stop,
            timeout=timeout,
            cleared=cleared,
            **call,
        )

    def session(self, *, system: str | None = None, policy: Mode | str | None = None) -> Session:
        """Start a conversation."""
        return Session(self, system=system, policy=policy)

    def explain(
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
        more: dict[str, Any] = {"sources": sources, "policy": policy, "max_tokens": max_tokens, "cleared": cleared}
        return self._loop.run(self._async.explain(prompt, system=system, **more))

    def preview(self, prompt: Prompt, *, system: str | None = None, **call: Any) -> "Preview":
        """Say what ``explain`` says, what would be sent, and what each route would take. Takes what ``explain`` takes.

        Sends nothing, loads no model, opens no socket.
        """
        return self._loop.run(self._async.preview(prompt, system=system, **call))

    def availability(self) -> "Availability":
        """Say of each route whether it can answer, as last known, and what would make it."""
        return self._loop.run(self._async.availability())

    def feedback(self, request_id: str, verdict: "Verdict") -> bool:
        """Say of an answer, by its ``reply.request_id``, that it was ``good`` or ``bad``; kept in the decision log.

        False where its decision is not in the log. Raises ConfigurationError for another word.
        """
        return self._loop.run(self._async.feedback(request_id, verdict))

    def count_tokens(self, prompt: Prompt, *, route: Route | str = Route.ON_DEVICE) -> int:
        """Count the framed request as the model of a route reads it; loads the model on the device."""
        return self._loop.run(self._async.count_tokens(prompt, route=route))

    def context_size(self, route: Route | str = Route.ON_DEVICE) -> int:
        """Tokens of context on a route; asks and verifies the node for its own."""
        return self._loop.run(self._async.context_size(route))

    def close(self) -> None:
        """Stop what runs and let go of model and connection. Calling it again is harmless."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(self, prompt: Prompt, **call: Any) -> "Stream":
        return Stream(self._loop, lambda: self._async._turn(prompt, **call), self._on_event, self._consent)  # noqa: SLF001

    def _explain(self, prompt: Prompt, **call: Any) -> "Decision":
        return self._loop.run(self._async._explain(prompt, **call))  # noqa: SLF001


class Stream(Folded):
    """The events of one turn. Iterate it, or use it as a context manager; leaving the block stops the turn.

    text: what was shown so far.  route, decision: once decided.  reply: at the end; after a stop, the partial one.
    """

    def __init__(
        self,
        loop: "LoopThread",
        start: Callable[[], Running],
        on_event: Callable[[Event], None] | None,
        consent: "CallersConsent | None",
    ) -> None:
        super().__init__()
        self._loop = loop
        self._start = start
        self._on_event = on_event
        self._consent = consent
        self._queue: queue.SimpleQueue[Event | BaseException | Question | None] = queue.SimpleQueue()
        self._running: Running | None = None
        self._job: Future[None] | None = None
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while True:
            if self._over:
                raise StopIteration
            item = self._next()
            if isinstance(item, Question):
                item.answer()
                continue
            if item is None:
                self._over = True
                raise StopIteration
            if isinstance(item, BaseException):
                self._over = True
                raise item
            self._fold(item)
            if self._on_event is not None:
                self._on_event(item)
            return item

    def text_deltas(self) -> Iterator[str]:
        """Yield the text alone, as it comes."""
        for event in self:
            if isinstance(event, TextDelta):
                yield event.text

    def final(self) -> "Reply":
        """Run to the end and return the reply. Raises what the turn raises."""
        for _ in self:
            pass
        return finished(self)

    def cancel(self) -> None:
        """Stop the turn and wait until the engine has let it go. What was shown stays in ``text`` and ``reply``."""
        if self._job is not None and not self._over:
            self._job.cancel()
            self._drain()
        self._over = True
        if self._running is not None and self.reply is None:
            self.reply = self._running.turn.reply

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        if self._job is not None:
            self._job.cancel()  # a stream nobody holds any more must not keep the engine busy

    def _next(self) -> "Event | BaseException | Question | None":
        if self._job is None:
            self._running = self._start()
            self._job = self._loop.submit(_pump(self._running, self._queue, self._consent))
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    return self._queue.get(timeout=LOOK_S)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def _drain(self) -> None:
        """Wait for the turn's last word; refuse what it asks meanwhile."""
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get(timeout=STOP_WAIT_S)
                if isinstance(item, Question):
                    item.refuse()
                elif item is None or isinstance(item, BaseException):
                    return


async def _pump(
    running: Running,
    events: "queue.SimpleQueue[Event | BaseException | Question | None]",
    consent: "CallersConsent | None",
) -> None:
    with contextlib.nullcontext() if consent is None else consent.asking(events.put):
        await running.pump(events.put)


def _close(client: AsyncClient, loop: LoopThread) -> None:
    loop.stop(client.close)
