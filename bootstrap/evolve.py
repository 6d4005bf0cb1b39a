"""Taking over what the app's deploys changed on the source, before the stream goes on.

What only adds is made on the target, and logged as what it was. The rest is the operator's: `remedies` tells the
statements. A shape is recorded anew once the target fits it; where rows changed unseen by the stream, the table gets a
round of its own. The catalog is read as of now, and the stream may be behind: so a new column keeps the value that old
rows have as its default until the cutover, and the target is only ever wider than the changes that are on their way.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString, NamedTuple
from uuid import UUID

import psycopg
import structlog
from psycopg import sql

from bootstrap.columns import Column, Label, declaring_table, missing_labels, read_source_columns, read_target_columns
from replicator import control
from replicator.catalog import PublishedTable, read_shapes
from replicator.control import TableRecord
from replicator.errors import SchemaMismatchError, Side, SourceError
from replicator.model import SchemaMode, TableName, TableState
from replicator.postgres import Connection, qualified, reporting, translate
from replicator.shape import Shape, ShapeColumn

log = structlog.get_logger(__name__)


class Changed(NamedTuple):
    """A table that is ready, as it is published now and as it was recorded, with both shapes."""

    table: PublishedTable
    record: TableRecord
    before: Shape
    now: Shape


@dataclass(frozen=True, slots=True)
class Deploy:
    """What is different on the two sides. ``on_target``: the types of the columns of the tables that are there."""

    changed: Sequence[Changed]
    columns: Sequence[Column]
    labels: Sequence[Label]
    on_target: Mapping[TableName, Mapping[str, str]]

    def fits(self, item: Changed) -> bool:
        """Whether the target has what the table is now."""
        there = self.on_target.get(item.table.table)
        if there is None:
            return False
        retyped = {column.name: column.type for column in item.before.retyped(item.now)}
        if any(name in there for name, _ in item.before.renamed(item.now)):
            return False
        return all(name in there for name in item.table.columns) and all(there[n] == t for n, t in retyped.items())

    def has_moved(self, item: Changed) -> bool:
        """Whether the table has its new name on both sides."""
        before, after = item.record.table, item.table.table
        return before != after and after in self.on_target and before not in self.on_target

    def may_settle(self, item: Changed) -> bool:
        """Whether the target has followed, so that the shape may be recorded."""
        return self.fits(item) and (item.record.table == item.table.table or self.has_moved(item))

    def is_due(self, mode: SchemaMode) -> bool:
        """Whether there is something that the bootstrap can do."""
        adds = mode is SchemaMode.COPY and bool(self.columns or self.labels)
        return adds or any(self.may_settle(item) for item in self.changed)

    def remedies(self, oid: int | None) -> list[str]:
        """The statements that make the target fit: for one table, by its oid on the source, or for values of enums."""
        found = [statement for item in self.changed if item.table.oid == oid for statement in self._to_change(item)]
        found += [column.statement() for column in self.columns if oid in column.units]
        return found or [label.statement() for label in self.labels]

    def _to_change(self, item: Changed) -> Iterator[str]:
        name, there = item.record.table, self.on_target.get(item.record.table, {})
        for before, after in item.before.renamed(item.now):
            if before in there and after not in there:
                yield _alter(name, "RENAME COLUMN {} TO {}", sql.Identifier(before), sql.Identifier(after))
        for column in item.before.retyped(item.now):
            if there.get(column.name) != column.type:
                yield _alter(name, "ALTER COLUMN {} TYPE {}", sql.Identifier(column.name), sql.SQL(column.type))
        for dropped in item.before.dropped(item.now):
            if dropped in there:
                yield _alter(name, "DROP COLUMN {}", sql.Identifier(dropped))
        now = item.table.table
        if name.name != now.name:
            yield _alter(name, "RENAME TO {}", sql.Identifier(now.name))
        if name.schema != now.schema:
            yield _alter(TableName(name.schema, now.name), "SET SCHEMA {}", sql.Identifier(now.schema))


def _alter(table: TableName, action: LiteralString, *parts: sql.Composable) -> str:
    composed = sql.SQL(action).format(*parts)
    return sql.SQL("ALTER TABLE {} {}").format(qualified(table), composed).as_string()


async def look(
    source: Connection, target: Connection, tables: Sequence[PublishedTable], publications: Sequence[str]
) -> Deploy:
    """Read both sides, and hold what was recorded against the source."""
    records = {record.source_oid: record for record in (await control.read_tables(target)).values()}
    with reporting(Side.SOURCE, "reading the shapes of tables", SourceError):
        shapes = await read_shapes(source, tables, publications)
        columns = await read_source_columns(source, [table.oid for table in tables])
        labels = await missing_labels(source, target)
    changed = list(_changed(tables, records, shapes))
    names = {*(t.table for t in tables), *(r.table for r in records.values()), *(c.table for c in columns)}
    there = await read_target_columns(target, names)
    renamed = {(item.table.oid, after) for item in changed for _, after in item.before.renamed(item.now)}
    new = [
        column
        for column in columns
        if column.table in there
        and column.name not in there[column.table]
        and not any((oid, column.name) in renamed for oid in column.units)
    ]
    return Deploy(changed, new, labels, there)


def _changed(
    tables: Iterable[PublishedTable], records: Mapping[int, TableRecord], shapes: Mapping[int, Shape]
) -> Iterator[Changed]:
    for table in tables:
        record, now = records.get(table.oid), shapes.get(table.oid)
        if record is None or record.shape is None or record.state is not TableState.READY or now is None:
            continue
        if record.table != table.table or not record.shape.covers(now):
            yield Changed(table, record, record.shape, now)


# --- what the worker does itself --------------------------------------------------------------------------------------


async def add(target: Connection, epoch: UUID, deploy: Deploy) -> None:
    """Add the values of enums and the columns that the target lacks. Raises SchemaMismatchError with the statement."""
    for label in deploy.labels:
        await _run(target, epoch, label.statement())
        log.info("added a value to an enum", type=f"{label.schema}.{label.name}", value=label.label)
    for column in deploy.columns:
        await _run(target, epoch, column.statement())
        log.info("added a column", table=str(column.table), column=column.name, type=column.type)


async def _run(target: Connection, epoch: UUID, statement: str) -> None:
    try:
        async with control.under_epoch(target, epoch):
            # under the application's search_path: what fills the rows may be a function that relies on it
            await target.execute(statement.encode())
    except psycopg.Error as error:
        failure = translate(error, Side.TARGET, "following the source's schema", otherwise=SchemaMismatchError)
        if isinstance(failure, SchemaMismatchError):
            failure.hint = f"Run on the target: {statement}; the worker goes on by itself then."
        raise failure from None


async def settle(target: Connection, epoch: UUID, deploy: Deploy) -> None:
    """Record the shapes that the target fits, and let the tables come again whose rows changed unseen."""
    for item in deploy.changed:
        if deploy.may_settle(item):
            with reporting(Side.TARGET, "recording the shape of a table"):
                async with control.under_epoch(target, epoch):
                    await _settle(target, item)


async def _settle(target: Connection, item: Changed) -> None:
    table = item.table.table
    if item.record.table != table:
        log.info("a table was renamed", table=str(item.record.table), now=str(table))
        await control.rename_table(target, item.record.table, table)
    if dropped := item.before.dropped(item.now):
        log.info("columns were dropped on the source; the target's stay", table=str(table), columns=dropped)
    if item.before.must_come_again(item.now):
        log.info("rows changed unseen by the stream: the table comes again", table=str(table))
        await control.set_table_states(target, [table], TableState.COPYING)
    else:
        await control.set_shape(target, table, item.before.followed_by(item.now))


# --- tables that come again -------------------------------------------------------------------------------------------


async def fit_types(
    target: Connection,
    tables: Iterable[PublishedTable],
    records: Mapping[TableName, TableRecord],
    shapes: Mapping[int, Shape],
) -> None:
    """Give columns the type that they have on the source now, within the caller's transaction; the tables are empty.

    Rows that are cast to the old type would be changed silently: numerics would be rounded. A column that is inherited
    is changed where it was declared, for all that inherit it, as on the source. Raises SchemaMismatchError.
    """
    begun = [table for table in tables if table.table in records and table.oid in shapes]
    there = await read_target_columns(target, [table.table for table in begun])
    done: set[tuple[TableName, str]] = set()
    for table in begun:
        await _release_dropped(target, table.table, records[table.table], shapes[table.oid], there)
        record, now = records[table.table], shapes[table.oid]
        before = record.shape if record.source_oid == table.oid else None
        columns = before.retyped(now) if before is not None else list(now.columns.values())
        for column in columns:
            if there.get(table.table, {}).get(column.name, column.type) != column.type:
                declared = await declaring_table(target, table.table, column.name)
                if (declared, column.name) not in done:
                    await _retype(target, declared, column)
                done.add((declared, column.name))


async def _release_dropped(
    target: Connection,
    table: TableName,
    record: TableRecord,
    now: Shape,
    there: Mapping[TableName, Mapping[str, str]],
) -> None:
    """Let rows come without the columns that were dropped on the source since."""
    dropped = record.shape.dropped(now) if record.shape is not None else []
    for name in (name for name in dropped if name in there.get(table, {})):
        declared = await declaring_table(target, table, name)
        statement = _alter(declared, "ALTER COLUMN {} DROP NOT NULL", sql.Identifier(name))
        doing = f"letting rows of {table} come without column {name}, which was dropped on the source"
        with reporting(Side.TARGET, doing, SchemaMismatchError):
            await target.execute(statement.encode())


async def _retype(target: Connection, table: TableName, column: ShapeColumn) -> None:
    name, kind = sql.Identifier(column.name), sql.SQL(column.type)
    try:
        # by way of text there is a conversion between any two types
        await target.execute(
            _alter(table, "ALTER COLUMN {} TYPE {} USING {}::text::{}", name, kind, name, kind).encode()
        )
    except psycopg.Error as error:
        doing = f"giving column {column.name} of {table} the type {column.type} that it has on the source now"
        failure = translate(error, Side.TARGET, doing, otherwise=SchemaMismatchError)
        if isinstance(failure, SchemaMismatchError):
            statement = _alter(table, "ALTER COLUMN {} TYPE {}", name, kind)
            failure.hint = f"Run on the target: {statement}; then start `replicator run` again if it has ended."
        raise failure from None
    log.info("a column has another type", table=str(table), column=column.name, type=column.type)
