"""The target while some tables wait: each transaction applies what can be, and spools the rest (laws 1 and 2)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

import psycopg
from psycopg import sql

from replicator import control
from replicator.apply.batch import Batch, marker_of
from replicator.apply.stages import Stages
from replicator.apply.statements import TargetTable, truncate
from replicator.apply.target import Target
from replicator.control import NO_TABLE, TableRecord
from replicator.errors import ApplyError, SchemaMismatchError, Side, TargetError
from replicator.lsn import INVALID, Lsn
from replicator.model import (
    Change,
    Delete,
    Insert,
    LogicalMessage,
    Relation,
    TableState,
    Transaction,
    Truncate,
    Update,
)
from replicator.postgres import Connection, reporting, translate
from replicator.spool.lines import Reader, encode
from replicator.spool.split import part

_CHUNK_BYTES: Final = 1024 * 1024
"""Changes of one table are put together up to this size: few rows, and each is read with little memory."""

_READ_BYTES: Final = 4 * 1024 * 1024
"""Chunks that are folded into one batch."""

_TABLES_AT_ONCE: Final = 100
"""Tables that are drained in one transaction: each takes locks (see `Flow`)."""


class HoldingTarget(Target):
    """A target that spools the changes of tables that do not stream. Its progress is the end of the spool.

    A table *streams* if it is *ready* and has nothing in the spool; nothing streams before `look` was called.
    """

    _advance = control.ADVANCE_SPOOL

    def __init__(
        self, connection: Connection, epoch: UUID, progress: Lsn, records: dict[int, TableRecord], known_at: Lsn
    ) -> None:
        super().__init__(connection, epoch, progress, records, known_at)
        self._streaming: set[int] = set()
        self._spooled: set[int] = set()
        self.due: set[int] = set()
        """Tables that are ready, and have something in the spool."""
        self._waiting: list[tuple[int, Transaction]] = []
        self._adding: set[int] = set()
        self._number = 0
        self._lines = Reader()
        self._draining = False

    async def begin(self) -> None:
        """Go on where the spool ends, or begin it where progress stands. Raises FencedError."""
        with reporting(Side.TARGET, "beginning the spool", TargetError):
            self.progress = await control.begin_spool(self._connection, self._epoch)
            self._number = await control.last_chunk(self._connection)
            self._spooled = await control.spooled_tables(self._connection)

    def hold_all(self) -> None:
        """Let no table stream from here on. Not within a transaction."""
        self._streaming.clear()
        self.due.clear()

    async def renew(self) -> None:
        """Forget what is known of tables, which may be others now. Not within a transaction."""
        self.hold_all()
        for known in (self._records, self._prepared, self._rules, self._writers):
            known.clear()
        self._stages = Stages()
        await self._execute("DISCARD TEMP")

    async def look(self) -> None:
        """Let tables that have become *ready* stream from here on; those with something in the spool are due first.

        Not within a transaction: what was received before must be applied or spooled.
        """
        with reporting(Side.TARGET, "looking for tables that are ready", TargetError):
            records = await control.read_more_ready(self._connection, self._streaming | self.due)
        for record in records:
            self._records[record.source_oid] = record
            (self.due if record.source_oid in self._spooled else self._streaming).add(record.source_oid)

    @property
    def spooled(self) -> set[int]:
        """The tables that have something in the spool."""
        return self._spooled - {NO_TABLE}

    @property
    def is_drained(self) -> bool:
        """Whether no table has anything in the spool, so that it may end."""
        return not self.in_transaction and not self.spooled

    # --- transactions -------------------------------------------------------------------------------------------------

    def keep(self, transaction: Transaction) -> Transaction:
        """Keep what has to wait, for the transaction that commits this one; return what is to be applied now."""
        now, later = part(transaction, self._streaming.__contains__)
        self._waiting += [(oid, replace(transaction, changes=changes)) for oid, changes in later.items()]
        return now

    async def apply(self, batch: Batch) -> None:
        """As `Target.apply`; what has to wait is spooled in the same transaction."""
        if self._waiting:
            await self.run(batch)
            await self.commit(batch)
        else:
            await super().apply(batch)

    async def run(self, batch: Batch) -> None:
        """As `Target.run`; what has to wait is spooled in the same transaction."""
        await super().run(batch)
        # what comes after this batch is kept already; a piece of a transaction has no end yet
        end = batch.end_lsn if batch.end_lsn != INVALID else Lsn(batch.first_lsn + 1)
        adding = [(oid, item) for oid, item in self._waiting if item.commit_lsn < end]
        self._waiting = self._waiting[len(adding) :]
        await self._spool(adding)

    async def _spool(self, parts: Sequence[tuple[int, Transaction]]) -> None:
        by_table: defaultdict[int, list[Transaction]] = defaultdict(list)
        for oid, item in parts:
            by_table[oid].append(item)
        rows = [(oid, encode(chunk)) for oid, items in by_table.items() for chunk in _chunks(items)]
        with reporting(Side.TARGET, "writing to the spool", TargetError):
            await control.add_chunks(
                self._connection, [(oid, self._number + n, data) for n, (oid, data) in enumerate(rows, 1)]
            )
        self._number += len(rows)
        self._adding |= set(by_table)

    def _ended(self, progress: Lsn) -> None:
        super()._ended(progress)
        self._spooled |= self._adding
        self._adding.clear()

    def _check_follows(self, batch: Batch) -> None:
        if not self._draining:  # what was spooled is older than progress by its nature
            super()._check_follows(batch)

    async def _truncate(self, change: Truncate) -> None:
        """One that was parted may leave out tables with a foreign key to these, which the target has and disregards."""
        if not change.cascade:
            await super()._truncate(change)
            return
        tables = [self._writers[relation].statements.table for relation in change.relations]
        try:
            try:
                async with self._connection.transaction():
                    await self._connection.execute(truncate(tables, restart_identity=change.restart_identity))
            except psycopg.errors.FeatureNotSupported:
                for table in tables:
                    await self._connection.execute(_delete_all(table))
        except psycopg.Error as error:
            names = ", ".join(str(table.name) for table in tables)
            raise translate(error, Side.TARGET, f"truncate of {names}", otherwise=ApplyError) from None

    # --- applying what was spooled ------------------------------------------------------------------------------------

    async def drain(self, tables: Iterable[int], size: int) -> list[Batch]:
        """Apply and drop what was spooled of these tables, about ``size`` bytes, in one transaction.

        A table that has nothing left in the spool streams from here on. Raises SchemaMismatchError for a chunk that the
        target cannot take, once what lies before it is applied: that does fit, and may not once the target follows.
        """
        batches: list[Batch] = []
        emptied: list[int] = []
        self._draining = True
        await super().run(Batch(self.rule))
        for oid in list(tables)[:_TABLES_AT_ONCE]:
            last = 0
            while size > 0 and (chunks := await self._read(oid, last)):
                batch = Batch(self.rule)
                batches.append(batch)
                try:
                    for chunk in chunks:
                        await self._fold(chunk.data, batch)
                        last, size = chunk.number, size - len(chunk.data)
                except SchemaMismatchError:
                    if not any(done.transactions for done in batches):
                        raise
                    size = 0
                await super().run(batch)
            if size > 0:
                emptied.append(oid)
            with reporting(Side.TARGET, "dropping what was applied", TargetError):
                await control.forget_chunks(self._connection, oid, last)
        end = Batch(self.rule)
        end.end_lsn = self.progress
        await self.commit(end)
        self._draining = False
        self._spooled -= set(emptied)
        self.due -= set(emptied)
        self._streaming |= {oid for oid in emptied if self._is_ready(oid)}
        return batches

    async def _read(self, oid: int, after: int) -> list[control.Chunk]:
        with reporting(Side.TARGET, "reading the spool", TargetError):
            return await control.read_chunks(self._connection, oid, after, _READ_BYTES)

    async def _fold(self, chunk: bytes, batch: Batch) -> None:
        """All of a chunk or, where SchemaMismatchError is raised, nothing of it."""
        transactions = list(self._lines.decode(chunk))
        for transaction in transactions:
            for relation in batch.unfamiliar(transaction):
                await self.prepare(relation, transaction.commit_lsn)
        for transaction in transactions:
            batch.add(transaction)

    def _is_ready(self, oid: int) -> bool:
        record = self._records.get(oid)
        return record is not None and record.state is TableState.READY

    async def end(self) -> None:
        """Nothing is spooled any more: progress is where the spool ended, a cutover's marker included."""
        with reporting(Side.TARGET, "ending the spool", TargetError):
            chunks = await control.read_chunks(self._connection, NO_TABLE, 0, _READ_BYTES)
            markers = [marker_of(item) for chunk in chunks for item in self._lines.decode(chunk.data)]
            await control.end_spool(self._connection, self._epoch, self.progress, markers[-1] if markers else None)


def _delete_all(table: TargetTable) -> sql.Composed:
    only = sql.SQL("" if table.partitioned else "ONLY ")
    return sql.SQL("DELETE FROM {}{}").format(only, sql.Identifier(table.name.schema, table.name.name))


def _chunks(transactions: Sequence[Transaction]) -> Iterator[list[Transaction]]:
    """Put small ones of a table together, as long as it has one shape; one that is larger is a chunk of its own."""
    chunk: list[Transaction] = []
    size = 0
    relation: Relation | None = None
    for item in transactions:
        added = sum(map(_size, item.changes))
        if chunk and (size + added > _CHUNK_BYTES or _relation(item.changes[0]) != relation):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += added
        relation = _relation(item.changes[-1])
    yield chunk


def _relation(change: Change) -> Relation | None:
    """Of a change that was parted: it is about one table, or none."""
    match change:
        case LogicalMessage():
            return None
        case Truncate():
            return change.relations[0]
        case _:
            return change.relation


def _size(change: Change) -> int:
    match change:
        case Insert():
            return len(change.new)
        case Update():
            return len(change.new) + len(change.old or b"")
        case Delete():
            return len(change.old)
        case LogicalMessage():
            return len(change.content)
        case Truncate():
            return 0
