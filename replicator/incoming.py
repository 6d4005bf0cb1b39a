"""Opening the replication stream where the target's progress stands, with what the pulse needs to confirm it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from replicator import control
from replicator.config import Settings
from replicator.control import Migration
from replicator.errors import Side
from replicator.lease import Lease
from replicator.lsn import Lsn
from replicator.postgres import Connection, connect
from replicator.pulse import Pulse
from replicator.source.confirmation import Confirmation
from replicator.source.slot import Slot, check_resumable, identify, read_keep_bytes, read_slot
from replicator.source.stream import ReplicationStream


@dataclass(frozen=True, slots=True)
class Incoming:
    """What opens streams for one session, one at a time: a slot serves one reader."""

    settings: Settings
    lease: Lease
    source: Connection
    pulse: Pulse

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
            buffer_bytes=settings.buffer_bytes // 2,
            status_interval=settings.status_interval,
        )
        try:
            confirmation = Confirmation(slot.confirmed_flush or start, settings.confirm_delay)
            self.pulse.confirm_to(stream, confirmation, await read_keep_bytes(self.source), durable)
            yield stream
        finally:
            self.pulse.stop_confirming()
            await stream.close()

    async def _resumable_slot(self, migration: Migration) -> Slot:
        """Read the slot, and raise unless the stream may go on at the target's progress."""
        replication = await connect(self.settings.source, Side.SOURCE, "identity", replication=True)
        try:
            identity = await identify(replication)
        finally:
            await replication.close()
        progress = await control.read_progress(self.lease.connection)
        return check_resumable(await read_slot(self.source, migration.slot), identity, migration, progress)
