"""Taking over what the app's deploys changed on the source, before the stream goes on.

What only adds is made on the target, and logged as what it was. The rest is the operator's: `remedies` tells the
statements. A shape is recorded anew once the target fits it; where rows changed unseen by the stream, the table gets a
round of its own. The catalog is read as of now, and the stream may be behind: so a new column keeps the value that old
rows have as its default until the cutover, and the target is only ever wider than the changes that are on their way.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import psycopg
import structlog
from psycopg import sql

from bootstrap.columns import (
    Column,
    TargetColumn,
    declaring_table,
    read_source_columns,
    read_target_columns,
)
from bootstrap.labels import Label, Relabelling, different_labels
from bootstrap.making import refused
from bootstrap.retyping import altering, goes_by_text, retyping
from bootstrap.schema import app_schemas
from replicator import control
from replicator.catalog import PublishedTable, read_shapes
from replicator.config import Settings
from replicator.control import TableRecord
from replicator.errors import SentTable, Side, SourceError
from replicator.model import SchemaMode, TableName, TableState
from replicator.postgres import Connection, reporting
from replicator.shape import Shape

log = structlog.get_logger(__name__)


class Changed(NamedTuple):
    """A table that is ready, as it is published now and as it was recorded, with both shapes."""

    table: PublishedTable
    record: TableRecord
    before: Shape
    now: Shape


@dataclass(frozen=True, slots=True)
class Deploy:
    """What is different on the two sides.

    ``outdated`` tables fit, but have other files or altered columns than were recorded. ``on_target``: the columns of
    the tables that are there; ``declared``: the tables that those are inherited from which have to change; ``surplus``:
    by oid of the source, the target's tables and columns that only the source could give a value, and does not;
    ``held``: the columns that the source computes, and the target holds values of, which nobody sends.
    """

    mode: SchemaMode
    changed: Sequence[Changed]
    outdated: Sequence[Changed]
    columns: Sequence[Column]
    labels: Sequence[Relabelling | Label]
    on_target: Mapping[TableName, Mapping[str, TargetColumn]]
    declared: Mapping[tuple[TableName, str], TableName]
    surplus: Mapping[int, Sequence[tuple[TableName, str]]]
    held: Sequence[Column]

    def fits(self, item: Changed) -> bool:
        """Whether the target has what the table is now, or gets it when the rows come again."""
        there = self.on_target.get(item.table.table)
        if there is not None and item.before.reused(item.now) and self.mode is SchemaMode.COPY:
            return True
        if there is None or not all(name in there for name in item.table.columns):
            return False
        if item.before.reused(item.now):
            return True
        if item.before.relabelled(item.now) and self.labels:
            return False
        if any(name in there for name, _ in item.before.renamed(item.now)):
            return False
        comes_again = self.mode is SchemaMode.COPY and item.before.must_come_again(item.now)
        return all(
            there[column.name].type == column.type
            or (comes_again and goes_by_text(there[column.name].type, column.type))
            for column in item.before.retyped(item.now)
        )

    def has_moved(self, item: Changed) -> bool:
        """Whether the table has its new name on both sides."""
        before, after = item.record.table, item.table.table
        return before != after and after in self.on_target and before not in self.on_target

    def may_settle(self, item: Changed) -> bool:
        """Whether the target has followed, so that the shape may be recorded."""
        return self.fits(item) and (item.record.table == item.table.table or self.has_moved(item))

    def is_due(self) -> bool:
        """Whether there is something that the bootstrap can do."""
        adds = self.mode is SchemaMode.COPY and bool(self.columns or self.labels)
        return adds or any(self.may_settle(item) for item in self.changed)

    def shape_of(self, item: Changed) -> Shape:
        """The shape to record when the target has followed."""
        return item.before.followed_by(item.now).on(self.on_target.get(item.table.table, ()))

    def remedies(self, oid: int | None, sent: SentTable | None = None) -> list[str]:
        """The statements that make the target fit: for one table, by its oid on the source, or for values of enums.

        With ``sent``, only what fits the table as the stream describes it, which may be behind the catalog.
        """
        found = [
            statement for item in self.changed if item.table.oid == oid for statement in self._to_change(item, sent)
        ]
        found += [column.statement() for column in self.columns if oid in column.units]
        found += [
            self._drop(table, name)
            for table, name in self.surplus.get(oid or 0, ())
            if sent is None or name not in sent.columns
        ]
        return list(dict.fromkeys(found)) or [each for label in self.labels for each in label.statements()]

    def _to_change(self, item: Changed, sent: SentTable | None) -> Iterator[str]:
        name, there = item.record.table, self.on_target.get(item.record.table, {})
        known = None if sent is None else sent.columns
        if not item.before.reused(item.now):
            for before, after in item.before.renamed(item.now):
                if before in there and after not in there and (known is None or after in known):
                    names = sql.Identifier(before), sql.Identifier(after)
                    yield altering(self._declaring(name, before), "RENAME COLUMN {} TO {}", *names)
            for column in item.before.retyped(item.now):
                if known is not None and known.get(column.name) not in column.kinds:
                    continue
                if column.name not in there or there[column.name].type != column.type:
                    was = there[column.name].type if column.name in there else ""
                    keeps = self.mode is not SchemaMode.COPY or column.name not in item.table.columns
                    yield retyping(self._declaring(name, column.name), column, was, keeps_default=keeps)
        for dropped in item.before.dropped(item.now):
            if dropped in there and dropped not in item.table.columns and (known is None or dropped not in known):
                yield self._drop(name, dropped)
        now = item.table.table if sent is None else TableName(sent.schema, sent.name)
        if name.name != now.name:
            yield altering(name, "RENAME TO {}", sql.Identifier(now.name))
        if name.schema != now.schema:
            yield altering(TableName(name.schema, now.name), "SET SCHEMA {}", sql.Identifier(now.schema))

    def _drop(self, table: TableName, column: str) -> str:
        return altering(self._declaring(table, column), "DROP COLUMN {}", sql.Identifier(column))

    def _declaring(self, table: TableName, column: str) -> TableName:
        return self.declared.get((table, column), table)


async def look(
    settings: Settings,
    source: Connection,
    target: Connection,
    tables: Sequence[PublishedTable],
    publications: Sequence[str],
) -> Deploy:
    """Read both sides, and hold what was recorded against the source."""
    records = {record.source_oid: record for record in (await control.read_tables(target)).values()}
    with reporting(Side.SOURCE, "reading the shapes of tables", SourceError):
        shapes = await read_shapes(source, tables, publications)
        columns = await read_source_columns(source, [table.oid for table in tables])
        former = _former_labels(records.values())
        labels = await different_labels(source, target, await app_schemas(source, settings), former)
    known = list(_known(tables, records, shapes))
    changed = [item for item in known if item.record.table != item.table.table or not item.before.covers(item.now)]
    names = {*(t.table for t in tables), *(r.table for r in records.values()), *(c.table for c in columns)}
    there = await read_target_columns(target, names)
    surplus = {table.oid: list(_surplus(table, there.get(table.table, {}), changed)) for table in tables}
    placed = list(_placed(columns, there, changed))
    return Deploy(
        settings.schema_mode,
        changed,
        # a TRUNCATE that is not published is found by the cutover, by the files that were copied
        [i for i in known if i not in changed and i.table.publishes_truncate and i.before.is_outdated(i.now)],
        _lacking(placed, there, changed),
        labels,
        there,
        await _declared(target, changed, surplus),
        surplus,
        [c for c in placed if c.generated and (at := there.get(c.table, {}).get(c.name)) and not at.computed],
    )


def _former_labels(records: Iterable[TableRecord]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for record in records:
        for oid, label in record.shape.labels.items() if record.shape is not None else ():
            found.setdefault(oid, set()).add(label)
    return found


def _known(
    tables: Iterable[PublishedTable], records: Mapping[int, TableRecord], shapes: Mapping[int, Shape]
) -> Iterator[Changed]:
    """The tables that are ready."""
    for table in tables:
        record, now = records.get(table.oid), shapes.get(table.oid)
        if record is not None and record.shape is not None and record.state is TableState.READY and now is not None:
            yield Changed(table, record, record.shape, now)


def _placed(
    columns: Iterable[Column], there: Mapping[TableName, object], changed: Iterable[Changed]
) -> Iterator[Column]:
    """The columns where the target has their tables: under the old name, until the stream has come to the new one."""
    old = {item.table.table: item.record.table for item in changed if item.record.table in there}
    for column in columns:
        table = column.table if column.table in there else old.get(column.table, column.table)
        yield column._replace(schema=table.schema, relation=table.name)


def _lacking(
    columns: Iterable[Column], there: Mapping[TableName, Mapping[str, object]], changed: Iterable[Changed]
) -> list[Column]:
    """The columns to add: one that was only renamed is on the target under its old name."""
    renamed = {(item.table.oid, after) for item in changed for _, after in item.before.renamed(item.now)}
    return [
        column
        for column in columns
        if column.table in there
        and column.name not in there[column.table]
        and not any((oid, column.name) in renamed for oid in column.units)
    ]


def _surplus(
    table: PublishedTable, there: Mapping[str, TargetColumn], changed: Iterable[Changed]
) -> Iterator[tuple[TableName, str]]:
    renamed = {name for item in changed if item.table is table for name, _ in item.before.renamed(item.now)}
    for name, column in there.items():
        if column.required and name not in table.columns and name not in renamed:
            yield table.table, name


async def _declared(
    target: Connection, changed: Iterable[Changed], surplus: Mapping[int, Sequence[tuple[TableName, str]]]
) -> dict[tuple[TableName, str], TableName]:
    """Where the columns of the target were declared that have other names or types on the source, or none."""
    columns = {column for columns in surplus.values() for column in columns}
    for item in changed:
        names = {
            *(before for before, _ in item.before.renamed(item.now)),
            *(column.name for column in item.before.retyped(item.now)),
            *item.before.dropped(item.now),
        }
        columns |= {(item.record.table, name) for name in names}
    return {(table, name): await declaring_table(target, table, name) for table, name in sorted(columns)}


# --- what the worker does itself --------------------------------------------------------------------------------------


async def add(target: Connection, epoch: UUID, deploy: Deploy) -> None:
    """Add and rename values of enums, and add the columns that the target lacks.

    Raises SchemaMismatchError with the statement.
    """
    for label in deploy.labels:
        await _run(target, epoch, *label.statements())
        enum = f"{label.schema}.{label.name}"
        if isinstance(label, Relabelling):
            log.info("renamed values of an enum", type=enum, values=label.labels)
        else:
            log.info("added a value to an enum", type=enum, value=label.label)
    for column in deploy.columns:
        await _run(target, epoch, column.statement())
        log.info("added a column", table=str(column.table), column=column.name, type=column.type)


async def loosen(target: Connection, epoch: UUID, looser: Mapping[TableName, Iterable[str]]) -> None:
    """Let columns be NULL that may be so on the source; those of a key or an identity stay as they are here."""
    for table, names in looser.items():
        for name in names:
            declared = await declaring_table(target, table, name)
            with contextlib.suppress(psycopg.errors.InvalidTableDefinition, psycopg.errors.SyntaxError):
                async with control.under_epoch(target, epoch):
                    await target.execute(
                        altering(declared, "ALTER COLUMN {} DROP NOT NULL", sql.Identifier(name)).encode()
                    )
                log.info("a column may be NULL, as on the source", table=str(declared), column=name)


async def _run(target: Connection, epoch: UUID, *statements: str) -> None:
    try:
        async with control.under_epoch(target, epoch):
            # under the application's search_path: what fills the rows may be a function that relies on it
            for statement in statements:
                await target.execute(statement.encode())
    except psycopg.Error as error:
        raise refused(error, "following the source's schema", *statements) from None


async def settle(target: Connection, epoch: UUID, deploy: Deploy) -> None:
    """Record the shapes that the target fits, and let the tables come again whose rows changed unseen."""
    for item in deploy.changed:
        if deploy.may_settle(item):
            with reporting(Side.TARGET, "recording the shape of a table"):
                async with control.under_epoch(target, epoch):
                    await _settle(target, item, deploy.shape_of(item))
    for item in deploy.outdated:
        with reporting(Side.TARGET, "recording the shape of a table"):
            async with control.under_epoch(target, epoch):
                await control.set_shape(target, item.table.table, deploy.shape_of(item))


async def _settle(target: Connection, item: Changed, shape: Shape) -> None:
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
        await control.set_shape(target, table, shape)
