"""Writing what happened to one table: staged and set-based, every row count checked against the plan (law 4)."""

from collections.abc import Iterable
from typing import Final

import psycopg
from psycopg import AsyncRawCursor, sql
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow

from replicator.apply.again import copy_again
from replicator.apply.keyed import KeyedChanges
from replicator.apply.keyless import KeylessChanges
from replicator.apply.lines import Groups, Rows, chunks, counted, grouped, staged
from replicator.apply.pipeline import Pipeline, Statement
from replicator.apply.row_statements import RowStatements
from replicator.apply.rows import values
from replicator.apply.single import SingleRows, Values
from replicator.apply.stages import Stages
from replicator.apply.statements import DELETE_GROUP, Statements, TargetTable
from replicator.errors import ApplyError, DivergenceError, ReplicatorError, Side
from replicator.model import Key, Row
from replicator.postgres import Connection, has_no_place, translate

_FEW: Final = 1000
"""Rows of a table up to which they go as parameters of prepared statements, which need no answer before the next one is
sent: filling, joining and emptying a staging table takes five round trips."""

_FEW_VALUES: Final = 10_000
"""Values in them up to which they do. Measured, of the target's processor, for 41 values: 30 µs as parameters, 10 by
COPY."""

_LITTLE: Final = 256 * 1024
"""Bytes of them up to which they do: parameters are copied as a whole several times, COPY's lines in parts."""

_LONG: Final = 2048
_LONG_BY_COLUMN: Final = 128
"""Bytes from which on an inserted row has a statement of its own in large batches, and more for each column. Measured,
of the target's processor, where COPY and a statement a row cost the same: below 2 kB with 4 columns, 4 with 11, 5 with
21, 7 with 41. A row of 4 columns and 8 kB costs 53 to 72 µs by COPY, and 37 to 40 so."""

_NO_PLACE_REMEDY: Final = (
    "Correct the text on the source (reading it fails there after SET client_encoding = 'UTF8'). {again}"
)
"""What has been sent stays as it is; a new copy of the table leaves it out."""


class TableWriter:
    """Writes to one table through its staging table, inside the transaction that its caller has opened.

    ``always_stages``: rows of this table were refused one by one, so its unique values change hands; trying that again
    would be in vain each time.
    """

    def __init__(
        self, connection: Connection, pipeline: Pipeline, table: TargetTable, stage: str, stages: Stages
    ) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._table = table
        self._few = min(_FEW, _FEW_VALUES // max(1, len(table.columns)))
        self._long = _LONG + _LONG_BY_COLUMN * len(table.columns)
        self.statements = Statements(table, stage)
        self.row_statements = RowStatements(self.statements)
        self.always_stages = False
        self._singly = SingleRows(self.statements, self._run_single)
        self._stages = stages

    def refused(self, schema: str | None, name: str | None) -> None:
        """A row of that table was refused; it may be a leaf of this one."""
        table = self._table
        if table.has_other_unique and (table.partitioned or table.name == (schema, name)):
            self.always_stages = True

    def prepared(self, changes: KeyedChanges | KeylessChanges) -> list[Statement] | None:
        """Statements that apply the changes, in an order that frees unique values first.

        None where there is much, or what needs the staging table.
        """
        table, statements = self._table, self.row_statements
        if self.always_stages or len(changes) > self._few or changes.size > _LITTLE:
            return None
        if isinstance(changes, KeylessChanges):
            return None if changes.removed else statements.inserts(list(changes.inserts))
        if changes.moves or (changes.updates and (table.always_replaces or not table.settable)):
            return None
        if (updates := statements.updates(changes.updates)) is None:
            return None
        return [*statements.deletes(changes.deletes), *updates, *statements.inserts(changes.inserts)]

    async def write(self, changes: KeyedChanges | KeylessChanges) -> None:
        """Apply the changes. Raises DivergenceError, ApplyError or what `translate` makes of a passing error."""
        if isinstance(changes, KeylessChanges):
            await self._write_images(changes)
        elif self._table.has_other_unique and len(changes.rows) > 1:
            await self._write_or_replace(changes)
        else:
            await self._write_rows(changes, replace=False)

    async def _write_or_replace(self, changes: KeyedChanges) -> None:
        """Statement by statement, a unique value may meet the row that is about to give it up: then replace."""
        before = self._stages.copy()
        await self._run("begin", sql.SQL("SAVEPOINT replicator_table"))
        try:
            await self._write_rows(changes, replace=False)
        except _CollisionError:
            await self._run("begin again", sql.SQL("ROLLBACK TO SAVEPOINT replicator_table"))
            self._stages.back_to(before)
            await self._write_rows(changes, replace=True)
        await self._run("end", sql.SQL("RELEASE SAVEPOINT replicator_table"))

    async def _write_rows(self, changes: KeyedChanges, *, replace: bool) -> None:
        updates, moves, inserts = changes.updates, changes.moves, changes.inserts
        if replace or self._table.always_replaces:
            updates, moves = [], [*moves, *updates]
        if self._table.can_stage:
            await self._write_sets(changes.deletes, updates, moves)
        else:
            await self._singly.write(changes.deletes, updates, moves)
        await self._insert(inserts)

    async def _write_sets(self, deletes: list[Key], updates: Rows, moves: Rows) -> None:
        updated = grouped(updates, first=DELETE_GROUP + 1)
        moved = grouped(moves, first=DELETE_GROUP + 1 + len(updated))
        if deletes or updated or moved:
            await self._prepare_stage()
        await self._stage_keys(deletes)
        await self._stage_rows(updated | moved)
        for group, (unchanged, rows) in moved.items():
            if kept := unchanged + self._table.local_positions:
                await self._checked("update", len(rows), self.statements.fill_staged(group, kept))
        if going := len(deletes) + len(moves):
            operation = " or ".join(["delete"] * bool(deletes) + ["update"] * bool(moves))
            await self._checked(operation, going, self.statements.delete_staged([DELETE_GROUP, *moved]))
        for group, (unchanged, rows) in updated.items():
            await self._checked("update", len(rows), self.statements.update_staged(group, unchanged))
        if moves:
            await self._checked("update", len(moves), self.statements.insert_staged(moved))

    async def _write_images(self, changes: KeylessChanges) -> None:
        if not self._table.can_stage:
            for image, count in changes.removed.items():
                await self._singly.remove_image(image, count)
        elif changes.removed:
            text = (
                counted(changes.removed)
                if self._table.columns
                else chunks(map(b"%d".__mod__, changes.removed.values()))
            )
            await self._prepare_stage()
            await self._copy("delete", self.statements.copy_to_stage(), text, len(changes.removed))
            await self._checked("delete", sum(changes.removed.values()), self.statements.delete_staged_images())
        await self._insert(list(changes.inserts))

    async def _insert(self, rows: list[Row]) -> None:
        """COPY, whose server looks for the end of each line and value byte by byte; long ones are spared that."""
        long = [row for row in rows if self._long < len(row) <= _LITTLE]
        if long:
            rows = [row for row in rows if not self._long < len(row) <= _LITTLE]
            await self._repeat("insert", self.row_statements.insert, long)
        if rows:
            await self._copy("insert", self.statements.copy_inserts(), chunks(rows), len(rows))

    # --- staging ------------------------------------------------------------------------------------------------------

    async def _stage_keys(self, keys: list[Key]) -> None:
        if keys:
            lines = (b"%d\t%s" % (DELETE_GROUP, key) for key in keys)
            await self._copy("delete", self.statements.copy_keys_to_stage(), chunks(lines), len(keys))

    async def _stage_rows(self, groups: Groups) -> None:
        if groups:
            planned = sum(len(rows) for _, rows in groups.values())
            await self._copy("update", self.statements.copy_to_stage(), staged(groups), planned)

    async def _prepare_stage(self) -> None:
        if (statement := self._stages.prepare(self.statements)) is not None:
            await self._run("prepare", statement)

    # --- running ------------------------------------------------------------------------------------------------------

    async def _checked(self, operation: str, planned: int, statement: sql.Composed) -> None:
        self._expect(operation, planned, await self._run(operation, statement))

    def _expect(self, operation: str, planned: int, done: int) -> None:
        if done != planned:
            raise DivergenceError(f"{operation} of {planned} row(s) in {self._table.name} found {done}")

    async def _run(self, operation: str, statement: sql.Composed | sql.SQL) -> int:
        try:
            return (await self._connection.execute(statement)).rowcount
        except psycopg.Error as error:
            raise self._translated(error, operation) from None

    async def _run_single(self, operation: str, statement: sql.Composed, values: Values, planned: int) -> PGresult:
        cursor: AsyncRawCursor[TupleRow] = AsyncRawCursor(self._connection)
        try:
            await cursor.execute(statement, values, prepare=True)
        except psycopg.Error as error:
            raise self._translated(error, operation) from None
        self._expect(operation, planned, cursor.rowcount)
        assert cursor.pgresult is not None  # the statement was run
        return cursor.pgresult

    async def _copy(self, operation: str, statement: sql.Composed, text: Iterable[bytes], planned: int) -> None:
        cursor = self._connection.cursor()
        try:
            async with cursor.copy(statement) as copy:
                for chunk in text:
                    await copy.write(chunk)
        except psycopg.Error as error:
            raise self._translated(error, operation) from None
        self._expect(operation, planned, cursor.rowcount)

    async def _repeat(self, operation: str, statement: bytes, rows: list[Row]) -> None:
        try:
            done = await self._pipeline.repeat(statement, map(values, rows))
        except psycopg.Error as error:
            raise self._translated(error, operation) from None
        self._expect(operation, len(rows), done)

    def _translated(self, error: psycopg.Error, operation: str) -> ReplicatorError:
        doing = f"{operation} in {self._table.name}"
        if isinstance(error, psycopg.errors.UniqueViolation | psycopg.errors.ExclusionViolation):
            return _CollisionError(translate(error, Side.TARGET, f"{doing} found a row in its place").message)
        if has_no_place(error):
            hint = _NO_PLACE_REMEDY.format(again=copy_again(self._table.name))
            return ApplyError(translate(error, Side.SOURCE, doing).message, hint=hint, side=Side.SOURCE)
        return translate(error, Side.TARGET, doing, otherwise=ApplyError)


class _CollisionError(DivergenceError):
    """A unique or exclusion constraint objected: either the order of the batch's statements, or a divergence."""
