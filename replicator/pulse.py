"""The worker's pulse: renews the lease, samples the source, and shows both in metrics, health and control tables.

The heartbeat says that the worker lives and reaches the target. A source that does not answer does not stop it: another
worker would take over what would do it no good, and `status` would look for the fault at the wrong place.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog

from monitoring.health import Health
from monitoring.metrics import Metrics
from replicator import control
from replicator.errors import MigrationRemovedError, Side, SlotLostError
from replicator.lag import LagTracker
from replicator.lease import Lease
from replicator.lsn import INVALID, Lsn, format_lsn
from replicator.model import Phase
from replicator.postgres import Connection, translate
from replicator.source.confirmation import Confirmation
from replicator.source.slot import Slot, read_slot
from replicator.source.stream import ReplicationStream

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Counters:
    """What the worker has done since it began to stream; ``progress`` is durable, ``received`` may not be applied."""

    progress: Lsn = INVALID
    received: Lsn = INVALID
    transactions: int = 0
    changes: int = 0


@dataclass(slots=True)
class Pulse:
    """Beats once an interval until it is cancelled. An error of it ends the session, as one of the stream does."""

    lease: Lease
    source: Connection
    metrics: Metrics
    health: Health
    counters: Counters
    finished: asyncio.Event
    lag: LagTracker
    _slot: Slot | None = None
    _sampling: asyncio.Task[None] | None = None
    _migration: control.Migration | None = None
    _confirming: tuple[ReplicationStream, Confirmation, int | None, Callable[[], Lsn]] | None = None

    def confirm_to(
        self, stream: ReplicationStream, confirmation: Confirmation, keep_bytes: int | None, durable: Callable[[], Lsn]
    ) -> None:
        """From now on, tell the stream with every beat what may be confirmed: what is ``durable()`` (law 3)."""
        self._confirming = (stream, confirmation, keep_bytes, durable)

    def stop_confirming(self) -> None:
        """The stream is closed."""
        self._confirming = None

    async def run(self, interval: float) -> None:
        """Beat every ``interval`` seconds. Sets ``finished`` once the migration is done."""
        try:
            while True:
                await self._renew()
                if self._migration is not None and not self.finished.is_set():
                    await self._sample_within(interval, self._migration.slot)
                self._confirm()
                await asyncio.sleep(interval)
        finally:
            await self._stop_sampling()

    async def _renew(self) -> None:
        migration = await self.lease.beat(self._statistics())
        if migration is None and self._migration is not None:
            raise MigrationRemovedError("the migration was cleaned up while the worker ran")
        self.metrics.set_target_connections(await self.lease.count_connections())
        self.health.renew(time.monotonic())
        self._migration = migration
        if migration is None:
            return
        self.health.phase = migration.phase
        self.metrics.set_phase(migration.phase)
        if migration.phase is Phase.DONE:
            self.finished.set()

    async def _sample_within(self, seconds: float, slot_name: str) -> None:
        """Go on after ``seconds`` without an answer; the lag is unknown until it comes."""
        if self._sampling is None:
            self._sampling = asyncio.create_task(self._sample(slot_name))
        await asyncio.wait([self._sampling], timeout=seconds)
        if self._sampling.done():
            sampled, self._sampling = self._sampling, None
            sampled.result()
        else:
            self.metrics.set_lag(None, None)

    async def _stop_sampling(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)

    async def _sample(self, slot_name: str) -> None:
        """Read the slot and the end of the source's WAL; the lag's clock is the source's."""
        slot = await self._read_slot(slot_name)
        if slot is None and self._slot is not None and await self._is_lost(slot_name):
            raise SlotLostError(f"replication slot {slot_name} does not exist any more")
        self._slot = slot
        if slot is None:
            return
        now = slot.now.timestamp()
        self.lag.sample(now, slot.wal_lsn)
        self.metrics.set_slot(
            active=slot.active_pid is not None, retained_bytes=slot.retained_bytes, safe_bytes=slot.safe_bytes
        )
        if self.counters.progress != INVALID:
            self.metrics.set_lag(self._lag_bytes(slot), self.lag.seconds(self.counters.progress, now))

    async def _read_slot(self, name: str) -> Slot | None:
        try:
            return await read_slot(self.source, name)
        except psycopg.Error as error:
            raise translate(error, Side.SOURCE, "reading the slot") from None

    async def _is_lost(self, slot_name: str) -> bool:
        """Before progress is recorded, the bootstrap itself drops a slot that a crash has left, and makes it anew."""
        recorded = await control.read_progress(self.lease.connection) is not None
        return recorded and await self._read_slot(slot_name) is None

    def _confirm(self) -> None:
        if self._confirming is None:
            return
        stream, confirmation, keep_bytes, durable = self._confirming
        now = time.monotonic()
        confirmation.record(durable(), now)
        stream.confirm(confirmation.due(now, keep_bytes))

    def _lag_bytes(self, slot: Slot) -> int:
        return max(0, slot.wal_lsn - self.counters.progress)

    def _statistics(self) -> dict[str, Any]:
        slot, counters = self._slot, self.counters
        known = slot is not None and self._sampling is None and counters.progress != INVALID
        return {
            "lag_bytes": self._lag_bytes(slot) if slot is not None and known else None,
            "lag_seconds": self.lag.seconds(counters.progress, slot.now.timestamp()) if slot and known else None,
            "received_lsn": format_lsn(counters.received) if counters.received else None,
            "source_lsn": format_lsn(slot.wal_lsn) if slot else None,
            "transactions": counters.transactions,
            "changes": counters.changes,
        }
