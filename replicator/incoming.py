"""Opening the replication stream where the target's progress stands, with what the pulse needs to confirm it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from replicator import control
from replicator.config import Settings
from replicator.control import Migration
from replicator.errors import DecodingError, LocalDiskError, ReplicatorError, Side, SourceError, UntoldRollbackError
from replicator.lease import Lease
from replicator.lsn import Lsn
from replicator.postgres import Connection, reporting
from replicator.pulse import Pulse
from replicator.source.confirmation import Confirmation
from replicator.source.resumable import check_resumable
from replicator.source.rollbacks import rolled_back
from replicator.source.slot import Slot, read_identity, read_keep_bytes, read_slot
from replicator.source.stream import ReplicationStream

log = structlog.get_logger(__name__)

_LOOKS: Final = 40
_PAUSE: Final = 0.05
"""Seconds between looks at a slot that is in use."""


@dataclass(slots=True)
class Incoming:
    """What opens streams for one session, one at a time: a slot serves one reader.

    ``streaming``: whether the source sends large transactions before they commit. What was durable when is remembered
    from stream to stream: else one that begins anew every minute, for the app's deploys, would never confirm anything.
    """

    settings: Settings
    lease: Lease
    source: Connection
    pulse: Pulse
    streaming: bool = True
    _confirmation: Confirmation | None = None

    @contextlib.asynccontextmanager
    async def open(self, migration: Migration, durable: Callable[[], Lsn]) -> AsyncIterator[ReplicationStream]:
        """Stream from ``durable()`` on: what lies before it is on the target, now and whenever the pulse asks again.

        Raises what `check_resumable` and `ReplicationStream.open` raise.
        """
        settings, start = self.settings, durable()
        slot = await self._resumable_slot(migration)
        stream = await ReplicationStream.open(
            settings.source,
            migration.slot,
            migration.publications,
            start,
            confirmed=slot.confirmed_flush,
            rolled_back=partial(rolled_back, self.source),
            buffer_bytes=settings.buffer_bytes // 2,
            status_interval=settings.status_interval,
            streaming=self.streaming,
        )
        try:
            if self._confirmation is None or not self._confirmation.covers(start):
                self._confirmation = Confirmation(slot.confirmed_flush or start, settings.confirm_delay)
            with reporting(Side.SOURCE, "reading max_slot_wal_keep_size", SourceError):
                keep_bytes = await read_keep_bytes(self.source)
            self.pulse.confirm_to(stream, self._confirmation, keep_bytes, durable)
            yield stream
        finally:
            self.pulse.stop_confirming()
            await stream.close()

    def may_go_on_after(self, error: ReplicatorError) -> bool:
        """Whether the same may come without an error if large transactions are sent after their commit only.

        There may be no room for them here; 18 fails at times to decode what was rolled back in them; and what was
        rolled back may not be told.
        """
        if not self.streaming or not isinstance(error, DecodingError | LocalDiskError | UntoldRollbackError):
            return False
        self.streaming = False
        log.warning("large transactions are received after their commit from now on", reason=error.message)
        return True

    async def _resumable_slot(self, migration: Migration) -> Slot:
        """Read the slot, and raise unless the stream may go on at the target's progress."""
        identity = await read_identity(self.settings.source, "identity")
        progress = await control.read_progress(self.lease.connection)
        with reporting(Side.SOURCE, "reading the slot"):
            slot = await self._free_slot(migration)
        return check_resumable(slot, identity, migration, progress)

    async def _free_slot(self, migration: Migration) -> Slot | None:
        """Read the slot; a stream of ours that has just been closed may hold it for a moment."""
        slot = await read_slot(self.source, migration.slot)
        for _ in range(_LOOKS):
            if slot is None or slot.active_pid is None:
                break
            await asyncio.sleep(_PAUSE)
            slot = await read_slot(self.source, migration.slot)
        return slot
