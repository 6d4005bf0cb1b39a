"""The target's apply session: batches in, one transaction each, with progress and epoch in it (laws 1 and 2)."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, Self
from uuid import UUID

import psycopg

from replicator import control
from replicator.apply.batch import NEVER, Batch, Rule, Segment, TableChanges
from replicator.apply.pipeline import Pipeline, Statement
from replicator.apply.stages import Stages
from replicator.apply.statements import truncate
from replicator.apply.tables import read_deferred_constraints, read_target_table, require_shape
from replicator.apply.values import register
from replicator.apply.writer import TableWriter
from replicator.errors import (
    ApplyError,
    ProtocolError,
    ReplicatorError,
    SchemaMismatchError,
    SentTable,
    Side,
    UnknownTableError,
)
from replicator.lsn import INVALID, Lsn, format_lsn
from replicator.model import Relation, TableState, Truncate
from replicator.postgres import Connection, connect, translate

_ON_REQUEST: Final = 2**31
"""The driver prepares what is asked for, and nothing by itself: a staging table's size decides how to join it, and the
plan of a prepared statement would be one that was made for another size."""

_PREPARED_BYTES: Final = 8 * 1024 * 1024
"""Bytes of rows in one batch that go as parameters of statements: they are copied as a whole."""

_BEGIN_PIECES: Final = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0"
"""The source may be busy for minutes between two pieces of a transaction, with what is not published: a session that
ended there would begin anew and end there again. What a worker that is gone left behind, the next one ends."""


class Target:
    """Applies batches. One instance a session: after any error it is closed, and the next one reads progress anew."""

    _advance: ClassVar[control.Advance] = control.ADVANCE

    def __init__(
        self,
        connection: Connection,
        epoch: UUID,
        progress: Lsn,
        records: dict[int, control.TableRecord],
        known_at: Lsn,
    ) -> None:
        self._connection = connection
        self._epoch = epoch
        self._records = records
        self._known_at = known_at
        # by identity, which the values keep alive: hashing a relation for every transaction would cost more than it
        self._prepared: dict[int, Relation] = {}
        self._rules: dict[Relation, Rule] = {}
        self._writers: dict[Relation, TableWriter] = {}
        self._stages = Stages()
        self._pipeline = Pipeline(connection)
        self.in_transaction = False
        self.progress = progress

    @classmethod
    async def open(cls, dsn: str, epoch: UUID, known_at: Lsn = INVALID) -> Self:
        """Connect and read progress. The bootstrap must have recorded it.

        At ``known_at`` or later the bootstrap saw which tables are published, and recorded them all.
        """
        connection = await connect(dsn, Side.TARGET, "worker apply")
        try:
            register(connection)
            connection.prepare_threshold, connection.prepared_max = _ON_REQUEST, 1000
            await _enter_replica_mode(connection)
            progress = await control.read_progress(connection)
            if progress is None:
                raise ApplyError("no progress is recorded")
            tables = await control.read_tables(connection)
        except BaseException:
            await connection.close()
            raise
        return cls(connection, epoch, progress.lsn, {record.source_oid: record for record in tables.values()}, known_at)

    async def close(self) -> None:
        """End the session; what was not committed is rolled back by the server."""
        await self._connection.close()

    # --- relations ----------------------------------------------------------------------------------------------------

    def rule(self, relation: Relation) -> Rule:
        """The rule of a relation that was prepared."""
        return self._rules[relation]

    async def prepare(self, relation: Relation, commit_lsn: Lsn) -> None:
        """Learn how to take a relation's changes at ``commit_lsn``, when it is new or has changed its shape.

        Raises UnknownTableError for a table without a snapshot, SchemaMismatchError if it has no place on the target.
        """
        if id(relation) in self._prepared:
            return
        record = self._records.get(relation.oid)
        if commit_lsn < (left_out := self._left_out_below(record)):
            # in the snapshot already, or of a table that is published no more; its shape may be of the past
            if relation not in self._writers:  # else its rule leaves it out as well
                self._rules[relation] = Rule(None, left_out)
            return
        if relation not in self._writers:
            self._rules[relation] = await self._rule(relation, record)
        self._prepared[id(relation)] = relation

    def _left_out_below(self, record: control.TableRecord | None) -> Lsn:
        """What lies before it is none of ours. A table that was published at ``known_at`` has a record."""
        if record is None:
            return self._known_at
        ready = record.state is TableState.READY and record.snapshot_lsn is not None
        return record.snapshot_lsn if ready and record.snapshot_lsn else INVALID

    async def _rule(self, relation: Relation, record: control.TableRecord | None) -> Rule:
        if record is None and await self._is_root_of_leaves(relation):
            return Rule(None, NEVER)
        if record is None or record.state is not TableState.READY or record.snapshot_lsn is None:
            raise UnknownTableError(f"table {relation.table} has no snapshot yet")
        try:
            require_shape(relation, record)
            table = await read_target_table(self._connection, relation)
        except SchemaMismatchError as error:
            columns = {column.name: (column.type_oid, column.type_modifier) for column in relation.columns}
            error.sent = SentTable(relation.oid, *relation.table, columns)
            raise
        # a temporary table lasts as long as its session: a new shape needs a new name
        stage = f"replicator_stage_{relation.oid}_{len(self._writers)}"
        self._writers[relation] = TableWriter(self._connection, self._pipeline, table, stage, self._stages)
        return Rule(table.key, record.snapshot_lsn)

    async def _is_root_of_leaves(self, relation: Relation) -> bool:
        """A TRUNCATE of a partitioned table lists its root beside the leaves, though changes travel by leaf."""
        cursor = await self._connection.execute(
            "SELECT c.relkind = 'p' FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
            " ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
            relation.table,
        )
        row = await cursor.fetchone()
        return bool(row and row[0])

    # --- transactions -------------------------------------------------------------------------------------------------

    async def apply(self, batch: Batch) -> None:
        """Apply a whole batch and move progress to its end, in one transaction."""
        self._check_follows(batch)
        if not self.in_transaction and await self._apply_small(batch):
            return
        await self.run(batch)
        await self.commit(batch)

    async def run(self, batch: Batch) -> None:
        """Apply a batch without committing: a piece of a transaction that is larger than memory."""
        self._check_follows(batch)
        if not self.in_transaction:
            await self._execute("BEGIN" if batch.end_lsn != INVALID else _BEGIN_PIECES)
            self.in_transaction = True
            await self._thin_out()
        await self._write(batch.segments, batch)

    async def _thin_out(self) -> None:
        if (statement := self._stages.thin_out()) is not None:
            await self._execute(statement.as_string())

    async def _write(self, segments: Iterable[Segment], batch: Batch) -> None:
        for segment in segments:
            try:
                if isinstance(segment, Truncate):
                    await self._truncate(segment)
                else:
                    for changes in segment:
                        await self._writers[changes.relation].write(changes)
            except ReplicatorError as error:
                raise error.located(position(batch)) from None

    async def commit(self, batch: Batch) -> None:
        """Move progress to the batch's end and commit. Raises FencedError if progress is not ours any more (law 1)."""
        try:
            await self._move(batch.end_lsn, batch.marker)
            await self._connection.execute("COMMIT")
        except psycopg.Error as error:
            refused = translate(error, Side.TARGET, "committing a batch", otherwise=ApplyError)
            raise refused.located(position(batch)) from None
        self._ended(batch.end_lsn)

    async def advance(self, lsn: Lsn) -> None:
        """Persist an idle advance: everything before ``lsn`` is applied, or was nothing of ours (law 3)."""
        try:
            await self._move(lsn, None)
        except psycopg.Error as error:
            raise translate(error, Side.TARGET, "recording progress", otherwise=ApplyError) from None
        self.progress = lsn

    async def _move(self, lsn: Lsn, marker: str | None) -> None:
        await control.advance(self._connection, self._epoch, self.progress, lsn, marker, how=self._advance)

    def _check_follows(self, batch: Batch) -> None:
        """A table without a key would take a transaction twice, and nothing would tell."""
        if batch.first_lsn < self.progress:
            came = f"transaction {format_lsn(batch.first_lsn)} came again"
            raise ProtocolError(f"{came}, though progress is {format_lsn(self.progress)}")

    def _ended(self, progress: Lsn) -> None:
        self.in_transaction = False
        self.progress = progress
        self._stages.committed()

    # --- segments -----------------------------------------------------------------------------------------------------

    async def _truncate(self, change: Truncate) -> None:
        tables = [self._writers[relation].statements.table for relation in change.relations]
        statement = truncate(tables, restart_identity=change.restart_identity)
        names = ", ".join(str(table.name) for table in tables)
        try:
            # no table is truncated while checks of it wait for the commit
            constraints = await read_deferred_constraints(self._connection, tables)
            listed = ", ".join(constraints)
            if constraints:
                await self._connection.execute(f"SET CONSTRAINTS {listed} IMMEDIATE".encode())
            await self._connection.execute(statement)
            if constraints:  # not ALL: others may be checked at once, and a later TRUNCATE looks at these alone
                await self._connection.execute(f"SET CONSTRAINTS {listed} DEFERRED".encode())
        except psycopg.Error as error:
            raise translate(error, Side.TARGET, f"truncate of {names}", otherwise=ApplyError) from None

    # --- prepared statements ------------------------------------------------------------------------------------------

    async def _apply_small(self, batch: Batch) -> bool:
        """Apply tables of which there is little in a round trip, others after them. False, with nothing done, in vain.

        What is refused for good is tried again through the staging tables, which tell which table objects and why, and
        untangle unique values that change hands.
        """
        divided = self._divided(batch.segments)
        if divided is None:
            return False
        statements, writers, others = divided
        try:
            done = await self._run_prepared(batch, statements, commits=not others)
        except psycopg.Error as error:
            refused = translate(error, Side.TARGET, "applying a batch", otherwise=ApplyError)
            if refused.retryable:
                raise refused.located(position(batch)) from None
            done = False
            for writer in writers:
                writer.refused(error.diag.schema_name, error.diag.table_name)
        if not done:
            await self._execute("ROLLBACK")
        elif others:
            self.in_transaction = True
            await self._thin_out()
            await self._write([others], batch)
            await self.commit(batch)
        else:
            self._ended(batch.end_lsn)
        return done

    def _divided(
        self, segments: Sequence[Segment]
    ) -> tuple[list[Statement], list[TableWriter], list[TableChanges]] | None:
        """The statements for some tables, the writers of these, and what needs staging; None if all of it does."""
        found, writers, others, room = list[Statement](), list[TableWriter](), list[TableChanges](), _PREPARED_BYTES
        if len(segments) > 1:
            return None
        for segment in segments:
            if isinstance(segment, Truncate):
                return None
            for changes in segment:
                writer = self._writers[changes.relation]
                if room < 0 or (statements := writer.prepared(changes)) is None:
                    others.append(changes)
                else:
                    found += statements
                    writers.append(writer)
                    room -= changes.size
        return None if others and not found else (found, writers, others)

    async def _run_prepared(self, batch: Batch, statements: Sequence[Statement], *, commits: bool) -> bool:
        """Run them in a new transaction; commit it if asked to. False unless each changed as many rows as meant."""
        planned = [statement.rows for statement in statements]
        if not commits:
            return await self._pipeline.begin(statements) == planned
        moved = self._advance.parameters(self._epoch, self.progress, batch.end_lsn, batch.marker)
        values = [None if text is None else text.encode() for text in moved]
        *changed, advanced = await self._pipeline.begin(
            [*statements, Statement(self._advance.statement.encode(), values)]
        )
        if changed != planned:
            return False
        control.assert_advanced(advanced, self.progress)
        await self._connection.execute("COMMIT")
        return True

    async def _execute(self, statement: str) -> None:
        try:
            await self._connection.execute(statement.encode())
        except psycopg.Error as error:
            raise translate(error, Side.TARGET, statement.lower(), otherwise=ApplyError) from None


def position(batch: Batch) -> str:
    """Where in the source's WAL a batch lies: its first commit and its end; a piece of a transaction has no end."""
    if batch.end_lsn == INVALID:
        return f"in transaction {format_lsn(batch.first_lsn)}"
    return f"in transactions {format_lsn(batch.first_lsn)} to {format_lsn(batch.end_lsn)}"


async def _enter_replica_mode(connection: Connection) -> None:
    """Keep the target's triggers and foreign keys from firing on applied rows, where the role may (a probe tells)."""
    try:
        await connection.execute("SET session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return
