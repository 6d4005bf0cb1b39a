"""The flow of changes while the stream is open.

    source WAL → stream → batch → target → progress

"Drain what is there, then commit": while a batch is being applied, the next one accumulates in the stream; when the
apply returns, all of it goes at once. So an idle source's transaction is applied alone, at once, and a backlog makes
the batches grow by themselves.
"""

import asyncio
import time
from typing import Final, Protocol

from monitoring.metrics import Metrics
from replicator.apply.batch import Batch
from replicator.apply.target import Target
from replicator.errors import SchemaMismatchError
from replicator.lag import LagTracker
from replicator.lsn import Lsn
from replicator.model import POSTGRES_EPOCH, Transaction
from replicator.pulse import Counters
from replicator.source.stream import Received

_MAX_TABLES: Final = 200
"""Tables that one batch may touch, unless one transaction did: each takes locks, also for its indexes and its staging
table, and the target's lock table has room for 6,400 by default (documentation: max_locks_per_transaction)."""


class Changes(Protocol):
    """Where transactions come from: the stream, or a test's script."""

    @property
    def received(self) -> Lsn:
        """Everything that the source committed before it has arrived."""

    async def next(self) -> Received:
        """Wait for something, and take everything that has arrived."""


class Flow:
    """Moves what the stream receives to the target, and counts it."""

    def __init__(self, stream: Changes, target: Target, metrics: Metrics, counters: Counters, lag: LagTracker) -> None:
        self._stream = stream
        self._target = target
        self._metrics = metrics
        self._counters = counters
        self._lag = lag
        self._batch = Batch(target.rule)
        self._touched: set[int] = set()
        self._idle_lsn: Lsn | None = None
        self._advanced_at = 0.0
        self.taken = target.progress
        """The commit record of the newest transaction that was received: once applied, progress lies beyond it."""

    @property
    def progress(self) -> Lsn:
        """Where the target's progress stands."""
        return self._target.progress

    async def run(self, idle_interval: float) -> None:
        """Apply until an error ends it. Idle advances are persisted once in ``idle_interval`` seconds at most."""
        self._counters.progress = self._target.progress
        while True:
            # passed on at once: rows that were applied must not be held while the next ones come
            await self._pass_on(await self._receive(idle_interval))
            await self._advance(idle_interval)
            self._counters.progress = self._target.progress

    async def _pass_on(self, received: Received) -> None:
        self._counters.received = self._stream.received
        self._sample_lag(received)
        transactions, added = received.transactions, 0
        if transactions:
            self.taken = transactions[-1].commit_lsn
        while (added := self._batch.add_familiar(transactions, added)) < len(transactions):
            await self._take(transactions[added])
            added += 1
        if self._batch.transactions:
            await self._commit()
        self._idle_lsn = received.idle_lsn or self._idle_lsn

    async def _receive(self, idle_interval: float) -> Received:
        """Wait for the source, but no longer than an idle advance may wait to be persisted."""
        due = None
        if self._idle_lsn is not None and not self._target.in_transaction:
            due = max(0.0, self._advanced_at + idle_interval - time.monotonic())
        try:
            async with asyncio.timeout(due):
                return await self._stream.next()
        except TimeoutError:
            return Received([], None)

    def _sample_lag(self, received: Received) -> None:
        """The oldest commit's own time tells the lag that a worker which has just started could not have sampled."""
        if received.transactions:
            oldest = received.transactions[0]
            self._lag.sample(oldest.committed_at / 1_000_000 + POSTGRES_EPOCH, Lsn(oldest.commit_lsn + 1))

    async def _take(self, transaction: Transaction) -> None:
        """Fold a transaction into the batch; a piece of a large one goes to the target without a commit."""
        try:
            for relation in self._batch.unfamiliar(transaction):
                await self._target.prepare(relation, transaction.commit_lsn)
                self._touched.add(relation.oid)
        except SchemaMismatchError:
            if self._batch.transactions:  # what came before does fit, and may not fit any more once the target follows
                await self._commit()
            raise
        if not transaction.complete and self._batch.transactions:
            await self._commit()
        self._batch.add(transaction)
        if not transaction.complete:
            await self._target.run(self._batch)
            self._count(self._new_batch())
        elif len(self._touched) > _MAX_TABLES:
            await self._commit()

    async def _commit(self) -> None:
        began = time.monotonic()
        await self._target.apply(self._batch)
        self._metrics.apply_seconds.observe(time.monotonic() - began)
        batch = self._new_batch()
        self._metrics.batch_changes.observe(batch.changes)
        self._count(batch)

    def _new_batch(self) -> Batch:
        done, self._batch, self._touched = self._batch, Batch(self._target.rule), set()
        return done

    def _count(self, batch: Batch) -> None:
        self._metrics.applied_transactions.inc(batch.transactions)
        self._counters.transactions += batch.transactions
        self._count_changes(batch)

    def _count_changes(self, batch: Batch) -> None:
        for operation, count in batch.operations.items():
            self._metrics.applied_changes.labels(operation=operation).inc(count)
        self._counters.changes += batch.changes

    async def _advance(self, idle_interval: float) -> None:
        """Persist an idle advance (law 3), unless one was persisted just now."""
        if self._idle_lsn is None or self._target.in_transaction:
            return
        now = time.monotonic()
        if self._idle_lsn > self._target.progress:
            if now - self._advanced_at < idle_interval:
                return
            await self._target.advance(self._idle_lsn)
            self._advanced_at = now
        self._idle_lsn = None
