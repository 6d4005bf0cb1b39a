"""Names that changed on the source before the rows under them were copied: the target's empty tables get them, too.

Once a table is copied, its changes come under the old names first, so it waits for the stream to get there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

import structlog
from psycopg import sql

from bootstrap.columns import declaring_table, read_target_columns
from bootstrap.refresh import made_already
from bootstrap.schema import dump_app, key_statements, owners_of
from replicator import control
from replicator.catalog import PublishedTable, read_shapes
from replicator.config import Settings
from replicator.control import TableRecord
from replicator.errors import SchemaMismatchError, Side, SourceError
from replicator.model import TableName, TableState
from replicator.postgres import Connection, qualified, reporting
from replicator.shape import Shape

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Renamed:
    """A table with its record, and what has to happen to its columns: gone ones have left their names to others."""

    table: PublishedTable
    record: TableRecord
    shape: Shape
    gone: Sequence[str]
    columns: Sequence[tuple[str, str]]


async def follow_names(
    settings: Settings,
    source: Connection,
    target: Connection,
    epoch: UUID,
    *,
    published: Sequence[PublishedTable],
    publications: Sequence[str],
) -> None:
    """Rename tables and columns that are not copied yet, or come again, and renew the keys that wait for their rows.

    A column whose name is another one's now is dropped, if it is not renamed: the other one is added with the rows.

    Raises SchemaMismatchError for a name that the target refuses.
    """
    renamed = await _renamed(source, target, published, publications)
    if not renamed:
        return
    plan, owners = await dump_app(settings, source, None), await owners_of(source)
    tables = {item.table.table for item in renamed}
    async with control.under_epoch(target, epoch):
        with reporting(Side.TARGET, "following new names of the source", SchemaMismatchError):
            for item in renamed:
                await _rename(target, item)
        waiting = {(item.kind, item.schema, item.name) for item in await control.read_keys(target)}
        await control.forget_keys(target)
        # a table that comes again has its keys
        made = await made_already(target)
        statements = [
            item
            for item in key_statements(plan.after_data, owners, await control.next_position(target))
            if (name := (item.kind, item.schema, item.name)) in waiting or (item.table in tables and name not in made)
        ]
        await control.add_keys(target, statements)
    log.info("names on the source have changed before their rows were copied", tables=[str(name) for name in tables])


async def _renamed(
    source: Connection, target: Connection, published: Iterable[PublishedTable], publications: Sequence[str]
) -> list[_Renamed]:
    waits = {
        record.source_oid: record
        for record in (await control.read_tables(target)).values()
        if record.state in (TableState.PENDING, TableState.COPYING)
    }
    tables = [table for table in published if table.oid in waits]
    there = await read_target_columns(target, [*(r.table for r in waits.values()), *(t.table for t in tables)])
    with reporting(Side.SOURCE, "reading the shapes of tables", SourceError):
        shapes = await read_shapes(source, tables, publications)
    found = []
    for table in tables:
        record, now = waits[table.oid], shapes.get(table.oid)
        if record.shape is None or now is None or record.table not in there:
            continue
        on_target = there[record.table]
        gone = [name for name in record.shape.left_to_others(now) if name in on_target]
        columns = [(a, b) for a, b in record.shape.renamed(now) if a in on_target and a not in gone]
        if gone or columns or (record.table != table.table and table.table not in there):
            found.append(_Renamed(table, record, record.shape.named_as(now), gone, columns))
    return found


async def _rename(target: Connection, item: _Renamed) -> None:
    """Columns first, by way of names that nothing has: they may have exchanged theirs. Recorded, so that it is once."""
    old, new = item.record.table, item.table.table
    steps = [(name, f"replicator_renamed_{number}") for number, (name, _) in enumerate(item.columns)]
    for name in item.gone:
        await _alter_column(target, old, "DROP COLUMN {}", name)
    for name, temporary in steps:
        await _alter_column(target, old, "RENAME COLUMN {} TO {}", name, temporary)
    for (_, temporary), (_, name) in zip(steps, item.columns, strict=True):
        await _alter_column(target, old, "RENAME COLUMN {} TO {}", temporary, name)
    await control.set_shape(target, old, item.shape)
    if old.name != new.name:
        await _alter(target, old, "RENAME TO {}", new.name)
    if old.schema != new.schema:
        await _alter(target, TableName(old.schema, new.name), "SET SCHEMA {}", new.schema)
    if old != new:
        await control.rename_table(target, old, new)


async def _alter_column(target: Connection, table: TableName, action: LiteralString, *names: str) -> None:
    """Change a column where it was declared, unless another leaf's turn has done it."""
    declared = await declaring_table(target, table, names[0])
    if names[0] in (await read_target_columns(target, [declared])).get(declared, {}):
        await _alter(target, declared, action, *names)


async def _alter(target: Connection, table: TableName, action: LiteralString, *names: str) -> None:
    statement = sql.SQL("ALTER TABLE {} {}").format(
        qualified(table), sql.SQL(action).format(*map(sql.Identifier, names))
    )
    await target.execute(statement)
