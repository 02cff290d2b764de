"""A worker's keys and what is published of them: made, renewed and destroyed on time, whether or not anybody asks."""

import asyncio
from collections.abc import Callable

from hybrid.wire.attest import NONCE_BYTES
from hybrid.wire.errors import WireError

from . import events
from .config import Settings
from .entry import Entry
from .errors import Limit, StartFailure
from .events import Event
from .keys import KeyRing
from .link import Operation

AGAIN_S = 0.1  # until the launcher takes what it must know


class Upkeep:
    """One task at a time publishes. send: hands it to the gateway.  tell: the launcher; false while it is full."""

    def __init__(
        self,
        ring: KeyRing,
        entry: Entry,
        settings: Settings,
        *,
        send: Callable[[bytes], None],
        tell: Callable[..., bool],
    ) -> None:
        self._ring = ring
        self.entry = entry
        self._epoch_s = settings.epoch_s
        self._logged = bool(settings.log)
        self._send = send
        self._tell = tell
        self._one_at_a_time = asyncio.Lock()
        self._checkpoint_came = asyncio.Event()
        self._publication = b""

    async def begin(self) -> None:
        """Publish for the first time. Where there is a log, the gateway first hands over its checkpoint."""
        if self._logged:
            await self._checkpoint_came.wait()
        async with self._one_at_a_time:
            await self._publish()

    def take_checkpoint(self, note: bytes) -> None:
        """Take over the log's newest checkpoint."""
        self.entry.note = note
        self._checkpoint_came.set()

    def say_again(self) -> None:
        """Hand what was published to a gateway that is new."""
        if self._publication:
            self._send(self._publication)

    async def _publish(self) -> None:
        self._ring.advance()
        publication = await self.entry.publish(self._epoch_s)
        # First: no number may be used twice, whatever ends this process.
        while not self._tell(published=self.entry.used):  # noqa: ASYNC110 - nobody tells of room in that socket
            await asyncio.sleep(AGAIN_S)
        self._publication = publication.encode()
        self._send(self._publication)
        events.emit(Event.PUBLISHED, epoch=self._ring.epoch, triples=len(publication.accepted))

    # --- for ever ----------------------------------------------------------------------------------

    async def keep_keys(self) -> None:
        """Make and destroy keys on time. Apart from publishing: no device that hangs may prolong a key's life."""
        while True:
            await asyncio.sleep(min(1.0, self._ring.seconds_to_change() + 0.001))
            self._ring.advance()

    async def renew(self) -> None:
        """Keep the publication current, and have the next one ready before its time."""
        while True:
            await asyncio.sleep(min(1.0, self._ring.seconds_to_change() + 0.001))
            self._ring.advance()
            if not self.entry.is_current:
                await self.renew_publication()
            elif not self.entry.is_prepared:
                await self._prepare()

    async def _prepare(self) -> None:
        """Collect the next epoch's evidence ahead of time. What fails now is done when the epoch begins."""
        try:
            async with self._one_at_a_time:
                await self.entry.prepare(self._epoch_s)
        except (StartFailure, WireError) as failure:
            events.fault(failure)

    async def renew_publication(self) -> None:
        """Publish unless that has just happened.

        Evidence that cannot be collected now is tried again: what was published holds for another epoch. An epoch
        without a sequence number left ends soon.
        """
        try:
            async with self._one_at_a_time:
                if not self.entry.is_current:
                    await self._publish()
        except Limit:
            return
        except (StartFailure, WireError) as failure:
            events.fault(failure)

    # --- when asked --------------------------------------------------------------------------------

    async def call(self, operation: Operation, payload: bytes) -> bytes:
        """Do what an operator or the gateway asks for outside any request. Raises whatever it fails with."""
        if operation is Operation.REVOKE:  # at once, whatever evidence is being collected
            self._ring.revoke(payload)
        async with self._one_at_a_time:
            if operation is Operation.ATTEST:
                nonces = [payload[at : at + NONCE_BYTES] for at in range(0, len(payload), NONCE_BYTES)]
                return (await self.entry.attest(nonces)).encode()
            if operation is Operation.ROTATE:
                self.entry.check_room()
                self._ring.rotate()
            events.emit(Event.KEYS_CHANGED, keys=len(self._ring.accepted()))
            await self._publish()  # where a key was revoked and no number is left, clients wait for the next epoch
            return b""
