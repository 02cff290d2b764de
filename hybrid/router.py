"""What one client decides with: weights, detectors, budget and decision log.

Constructing it opens no file. What goes wrong beside an answer, such as a log that can't be written, fails no answer.
"""

import contextlib
import random
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from .choice import Rules
from .conversation import Transcript
from .decision_log import DecisionLog
from .errors import ConfigurationError, HybridError
from .estimate import cost
from .learning import EXAMPLES, REVIEWED
from .routing import budget as controller
from .routing.budget import Budget
from .routing.complexity import Scorer
from .routing.decision import Decision
from .routing.features import CONVERSATION, extract
from .routing.log import DecisionRecord, Outcome, Verdict, eligible
from .routing.screen import Screener
from .settings import Settings
from .wire.types import Route

if TYPE_CHECKING:
    from .core import Turn
    from .examples_store import ExampleStore
    from .routing.cascade import AfterModel

VERDICTS = ("good", "bad")
MOST_REJECTED = 256  # answers called bad that are remembered, the newest
SOON_S = 120.0  # how soon after an answer its question asked again says that it was bad (routing design C10)
ALIKE = 0.8  # how like the question before a question is that asks it again


class LearningWarning(UserWarning):
    """Questions cannot be kept to learn from; answers come all the same."""


class Router:
    """Weights, detectors, budget and log of one client.

    scorer: another one than the shipped; the cascade then goes by it, too.  now: Unix seconds.
    screener: what examines every text, before it is decided on and again at the gate.
    """

    def __init__(
        self,
        settings: Settings,
        scorer: Scorer | None = None,
        *,
        now: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._given = scorer
        self._now = now
        self._rng = rng
        self._loaded: tuple[Scorer, AfterModel] | None = None
        self.screener = Screener(detect=settings.detect, deny=settings.deny)
        self._log: DecisionLog | None = None
        self._store: ExampleStore | None = None
        self._rejected: dict[str, None] = {}
        self._warned = self._expired = False
        self._turns = 0

    @property
    def log(self) -> DecisionLog:
        """Where decisions are kept, without content; in memory alone where none are to be written."""
        if self._log is None:
            self._log = DecisionLog(self._settings.folder if self._settings.decisions == "keep" else None)
        return self._log

    def rules(self) -> Rules:
        """Return what the next turn is decided by. Loads the weights the first time."""
        if self._loaded is None:
            self._loaded = self._load()
        scorer, after = self._loaded
        given, used = self._budget, None
        standing = given and self.log.budget(given)
        if standing:
            with contextlib.suppress(ConfigurationError):
                used = self.log.share()
        return Rules(
            scorer=scorer,
            after=after,
            cascade=self._settings.cascade,
            budget=controller.threshold(standing) if standing else None,
            budget_share=standing.share if standing else None,
            budget_used=used,
            explore=self._settings.explore,
            rng=self._rng,
        )

    def ended(self, turn: "Turn", transcript: Transcript) -> None:
        """Keep what a turn came to: its decision, and what it says of the answer before it."""
        before, decision = transcript.asked, turn.decision
        transcript.record(turn, at=self._now())
        self._turns += 1
        if self._turns % REVIEWED == 0:
            self._loaded = None  # the weights are read anew: a correction may have come, or have to go
        if decision is None:
            return
        self.log.add(self._record(turn, decision))
        self._step(decision)
        self._keep(turn, decision)
        if before is not None and (said := self._said_of(before.at, turn)) is not None:
            self.log.outcome(before.request_id, said)

    def feedback(self, request_id: str, verdict: Verdict) -> bool:
        """Note what a person said of an answer; False where its decision is not in the log.

        Raises ConfigurationError for a word that is no verdict.
        """
        if verdict not in VERDICTS:
            raise ConfigurationError(f"a verdict is 'good' or 'bad', not {verdict!r}")
        if verdict == "bad":
            self._rejected = dict.fromkeys([*self._rejected, request_id][-MOST_REJECTED:])
        return self.log.outcome(request_id, Outcome(verdict=verdict))

    def rejected(self, request_id: str) -> bool:
        """Whether a person called that answer bad."""
        return request_id in self._rejected

    def close(self) -> None:
        """Write what still waits."""
        if self._log is not None:
            self._log.close()

    # --- inside ---

    @property
    def _budget(self) -> Budget | None:
        return controller.as_budget(self._settings.budget)

    def _load(self) -> "tuple[Scorer, AfterModel]":
        from . import learning, weights
        from .routing.cascade import after_model_of

        folder = self._settings.folder
        if self._given is None and folder is not None:
            with contextlib.suppress(ConfigurationError):  # a correction under which overrides rose goes by itself
                learning.review(folder, self.log.rows)
        scorer = self._given or weights.load_scorer(self._settings.folder)
        personal = getattr(scorer, "personal", None)
        return scorer, after_model_of(weights.shipped(), personal.after if personal else {})

    def _record(self, turn: "Turn", decision: Decision) -> DecisionRecord:
        timing, there = turn.reply.timing if turn.reply else None, decision.route is Route.PRIVATE_CLOUD
        outcome = Outcome(
            route=decision.route if turn.text else None,
            seconds=timing.total if timing else None,
            first_s=timing.ttft if timing else None,
            tokens=turn.reply.usage.output if turn.reply else None,
            money=cost(turn.reply.usage, self._settings.price) if turn.reply and there else None,
        )
        return DecisionRecord.of(
            decision,
            id=turn.request_id,
            at=self._now(),
            chars=sum(len(message.content) for message in turn.ask.request.messages),
            after=turn.found.score if turn.found else None,
            outcome=outcome,
        )

    def _step(self, decision: Decision) -> None:
        given = self._budget
        if given is not None and eligible(decision):
            sent = decision.route is Route.PRIVATE_CLOUD
            self.log.step(given, score=decision.score, floor=decision.signals["floor"], sent=sent)

    def _keep(self, turn: "Turn", decision: Decision) -> None:
        """Keep the question to learn from, where a person chose that; a store that can't be used is said once."""
        self._expire()
        folder = self._settings.folder
        if self._settings.learn != "keep" or folder is None or not turn.text:
            return
        from .examples_store import Example, ExampleStore

        there = decision.route is Route.PRIVATE_CLOUD
        around = extract("", conversation=turn.ask.conversation).values
        example = Example(
            request_id=turn.request_id,
            route=decision.route,
            text=turn.asked,
            around={name: around[name] for name in CONVERSATION},
            after=turn.after.to_dict() if turn.after and not there else None,
            answer=turn.text if there else None,
        )
        try:
            self._store = self._store or ExampleStore(folder)
            self._store.keep(example, turn.ask.labels)
        except HybridError as error:
            self._warn_once(error)

    def _expire(self) -> None:
        """Let what was kept before go when its time is over, once a process."""
        folder = self._settings.folder
        if folder is None or self._expired:
            return
        self._expired = True
        if (folder / EXAMPLES).exists():
            from .examples_store import ExampleStore

            with contextlib.suppress(ConfigurationError):  # retraining says what is wrong with it
                ExampleStore(folder).expire()

    def _warn_once(self, error: HybridError) -> None:
        if not self._warned:
            self._warned = True
            with contextlib.suppress(LearningWarning):  # also where warnings are errors: no answer fails for it
                warnings.warn(f"{error}; {error.hint}", LearningWarning, stacklevel=2)

    def _said_of(self, at: float, turn: "Turn") -> Outcome | None:
        """Return what asking this says of the answer before; None where it says nothing."""
        ask = turn.ask
        took = turn.decision.route if turn.decision and ask.person == "overridden" else None
        if ask.again:
            return Outcome(regenerated=True, overridden=took)
        soon = self._now() - at <= SOON_S
        return Outcome(reasked=True) if soon and ask.conversation.reask >= ALIKE else None
