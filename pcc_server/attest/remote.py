"""The worker's side of collection: asks the launcher over the control socket and awaits the answer.

One message a line: ``{"collect": {"id", "format", "challenge", "event", "extend"}}`` up, byte strings in hex;
``{"collected": {"id", "parts": {name: base64}}}`` or ``{"collected": {"id", "error": sentence}}`` down.
"""

import asyncio
import base64
import itertools
import socket
from dataclasses import asdict
from typing import Any

from hybrid.wire.evidence import EvidenceItem
from hybrid.wire.tpm2 import TpmEvent
from pcc_server import control

from .collector import Ask, CollectFailure, Parts
from .items import ask_for, make_item

TIMEOUT_S = 150.0  # longer than the slowest device takes to give up


class Remote:
    """Evidence from the launcher. Give every control message to ``hear``."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Parts]] = {}

    async def collect(self, format_name: str, binding: bytes, event: TpmEvent | None = None) -> EvidenceItem:
        """Return evidence in a format that signs the binding (64 bytes, SPEC 3). Raises CollectFailure.

        event: what the node's runtime log must end with; ``tpm2`` only.
        """
        return make_item(format_name, await self._ask(ask_for(format_name, binding, event)))

    def hear(self, message: dict[str, Any]) -> None:
        """Take one message of the launcher; those that are no answer are left alone."""
        answer = message.get("collected")
        if not isinstance(answer, dict) or not (waiting := self._waiting.get(answer["id"])) or waiting.done():
            return
        if "error" in answer:
            waiting.set_exception(CollectFailure(str(answer["error"])))
        else:
            waiting.set_result({name: base64.b64decode(part) for name, part in answer["parts"].items()})

    async def _ask(self, ask: Ask) -> Parts:
        number = next(self._ids)
        waiting: asyncio.Future[Parts] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            words = {name: part.hex() if isinstance(part, bytes) else part for name, part in asdict(ask).items()}
            control.write(self._end, collect={"id": number, **words})
            async with asyncio.timeout(TIMEOUT_S):
                return await waiting
        except TimeoutError:
            raise CollectFailure("the device that collects evidence does not answer") from None
        finally:
            del self._waiting[number]
