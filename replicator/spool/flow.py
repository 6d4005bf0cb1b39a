"""The flow while some tables cannot take their changes yet.

    source WAL → stream → part ┬→ batch → target          tables that stream
                               └→ spool (a control table)  the others, each by itself

One transaction on the target applies the changes of tables that stream, adds those of the others to the spool, and
moves the spool's end, which is where the stream goes on. A table begins to stream in the transaction that empties its
part of the spool, once it is *ready*: so after a crash the state and the spool's rows tell all that there is to know.
"""

import asyncio
import time
from collections.abc import Collection
from typing import Final

from monitoring.metrics import Metrics
from replicator.flow import Changes, Flow
from replicator.lag import LagTracker
from replicator.pulse import Counters
from replicator.source.stream import Received
from replicator.spool.target import HoldingTarget

_DRAIN_BYTES: Final = 8 * 1024 * 1024
"""What is drained between two looks at the stream, at least; more than has come since, so that it has an end."""


class HoldingFlow(Flow):
    """Moves what the stream receives to the target or into the spool, and from there to the target."""

    def __init__(
        self, stream: Changes, target: HoldingTarget, metrics: Metrics, counters: Counters, lag: LagTracker
    ) -> None:
        super().__init__(stream, target, metrics, counters, lag)
        self._holding = target
        self._looked_at = 0.0

    async def hold(self, idle_interval: float, interrupt: asyncio.Event) -> None:
        """Spool everything, until ``interrupt`` is set."""
        self._holding.hold_all()
        while not interrupt.is_set():
            await self._move_on(await self._next(idle_interval, interrupt), idle_interval)

    async def stream_ready(self, idle_interval: float, interrupt: asyncio.Event) -> None:
        """Apply the changes of tables that are ready, and spool the others', until ``interrupt`` is set."""
        await self._holding.renew()
        while not interrupt.is_set():
            await self._look(idle_interval)
            received = await self._next(0 if self._can_drain(self._holding.due) else idle_interval, interrupt)
            await self._move_on(received, idle_interval)
            await self._drain(self._holding.due, received)

    async def drain(self, idle_interval: float) -> None:
        """Apply everything, when all tables are ready, and end the spool."""
        uninterrupted = asyncio.Event()
        await self._holding.look()
        while not self._holding.is_drained:
            received = await self._next(idle_interval if self._target.in_transaction else 0, uninterrupted)
            await self._move_on(received, idle_interval)
            await self._drain(self._holding.spooled, received)
        await self._holding.end()

    @property
    def is_cut(self) -> bool:
        """Whether a part of a transaction is not committed: this flow can only go on as it did, or be closed."""
        return self._target.in_transaction

    async def _look(self, interval: float) -> None:
        """See which tables have become ready meanwhile, between two transactions, once in ``interval`` seconds."""
        if time.monotonic() - self._looked_at >= interval and not self._target.in_transaction:
            await self._holding.look()
            self._looked_at = time.monotonic()

    def _can_drain(self, tables: Collection[int]) -> bool:
        return bool(tables) and not self._target.in_transaction

    async def _drain(self, tables: Collection[int], received: Received) -> None:
        if self._can_drain(tables):
            size = max(_DRAIN_BYTES, 2 * sum(transaction.size for transaction in received.transactions))
            for batch in await self._holding.drain(sorted(tables), size):
                self.taken = max(self.taken, batch.first_lsn)
                self._count_changes(batch)

    async def _move_on(self, received: Received, idle_interval: float) -> None:
        """Apply what can be, spool the rest."""
        now = [self._holding.keep(transaction) for transaction in received.transactions]
        await self._pass_on(Received(now, received.idle_lsn))
        await self._advance(idle_interval)

    async def _next(self, patience: float, interrupt: asyncio.Event) -> Received:
        """What the stream has received, waiting for ``patience`` seconds at most, or until ``interrupt`` is set."""
        arriving, stopping = asyncio.create_task(self._stream.next()), asyncio.create_task(interrupt.wait())
        try:
            await asyncio.wait((arriving, stopping), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            return arriving.result() if arriving.done() else Received([], None)
        finally:
            arriving.cancel()
            stopping.cancel()
            await asyncio.gather(arriving, stopping, return_exceptions=True)
