"""Asking a person before a hand-over, on the thread that runs the turn, while the gate waits on another."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .gate import HandoffPlan


class Question:
    """A hand-off plan that waits for somebody's yes or no."""

    def __init__(self, ask: "Callable[[HandoffPlan], bool]", plan: "HandoffPlan") -> None:
        self._ask = ask
        self._plan = plan
        self.said: Future[bool] = Future()

    def answer(self) -> None:
        """Ask on this thread. What the callback raises goes on up here, and counts as a no there."""
        try:
            said = self._ask(self._plan) is True
            with contextlib.suppress(InvalidStateError):  # the turn has ended meanwhile
                self.said.set_result(said)
        except BaseException:
            self.refuse()
            raise

    def refuse(self) -> None:
        """Answer no."""
        with contextlib.suppress(InvalidStateError):
            self.said.set_result(False)


class CallersConsent:
    """Carries a plan from the gate to the thread that runs the turn, and its answer back."""

    def __init__(self, ask: "Callable[[HandoffPlan], bool]") -> None:
        self._ask = ask
        self._open: ContextVar[Callable[[Question], None]] = ContextVar("asker")

    def __call__(self, plan: "HandoffPlan") -> bool:
        """Hand the plan over and wait for the answer; the gate calls this on a thread of its own."""
        question = Question(self._ask, plan)
        self._open.get()(question)
        return question.said.result()

    @contextlib.contextmanager
    def asking(self, put: "Callable[[Question], None]") -> Iterator[None]:
        """Send this turn's questions to ``put``; whatever is unanswered when the turn ends counts as a no."""
        asked: list[Question] = []

        def forward(question: Question) -> None:
            asked.append(question)
            put(question)

        token = self._open.set(forward)
        try:
            yield
        finally:
            self._open.reset(token)
            for question in asked:
                question.refuse()
