"""``run``: performs what the core asks for."""

import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from .actions import Action, AnswerHere, AnswerThere, Fail, Outcome, Show
from .core import Turn
from .driver import Driver
from .errors import HybridError
from .events import Event
from .handover import Item
from .paced import paced

if TYPE_CHECKING:
    from .exchange import Timeout


async def run(turn: Turn, driver: Driver, limits: "Timeout | float | None" = None) -> AsyncGenerator[Event, None]:
    """Perform one turn and yield its events. Raises the error the core settles on; closing it stops the turn."""
    actions = turn.begin(await driver.signals(turn.ask))
    while True:
        for event in _events(actions):
            yield event
        route = _route_of(actions)
        if route is None:
            return
        try:
            async with contextlib.aclosing(_followed(turn, driver.answer(route, turn, limits))) as steps:
                async for actions in steps:
                    if _goes_on(actions):
                        break  # closing it cancels the route
                    for event in _events(actions):
                        yield event
        except HybridError as error:
            actions = turn.failed(error)


async def _followed(turn: Turn, items: AsyncGenerator[Item, None]) -> AsyncGenerator[tuple[Action, ...], None]:
    """Feed the turn with what a route yields, and with the time that passes; yield what it wants done."""
    outcome = Outcome(model="")
    async with contextlib.aclosing(paced(items, lambda: turn.patience)) as paced_items:
        async for item in paced_items:
            if isinstance(item, Outcome):
                outcome = item
            else:
                yield turn.look() if item is None else turn.take(item)
    yield turn.ended(outcome)


def _events(actions: tuple[Action, ...]) -> list[Event]:
    return [action.event for action in actions if isinstance(action, Show)]


def _goes_on(actions: tuple[Action, ...]) -> bool:
    """Tell whether these end the route that is running."""
    return bool(actions) and not isinstance(actions[-1], Show)


def _route_of(actions: tuple[Action, ...]) -> AnswerHere | AnswerThere | None:
    """Return what is to be run next, None when the turn is over. Raises what it failed with."""
    last = actions[-1]
    if isinstance(last, Fail):
        raise last.error
    return last if isinstance(last, AnswerHere | AnswerThere) else None
