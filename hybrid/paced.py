"""Waiting for the next item no longer than somebody has patience for, without losing the item."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


async def paced(items: AsyncGenerator[T, None], patience: Callable[[], float | None]) -> AsyncGenerator[T | None, None]:
    """Yield what comes, and None whenever ``patience()`` seconds went by without anything; None waits for ever.

    Closing it stops the step under way, then ``items``.
    """
    waiting: asyncio.Task[T] | None = None
    async with contextlib.aclosing(items):
        try:
            while True:
                seconds = patience()
                if seconds is None and waiting is None:
                    item = await anext(items, _END)
                else:
                    waiting = waiting or asyncio.ensure_future(_next(items))
                    if not (await asyncio.wait({waiting}, timeout=seconds))[0]:
                        yield None
                        continue
                    item, waiting = waiting.result(), None
                if item is _END:
                    return
                yield item
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.wait({waiting})


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items, _END)
