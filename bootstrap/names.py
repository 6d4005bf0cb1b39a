"""Names that changed on the source before the rows under them were copied: the target's empty tables get them, too.

Once a table is copied, its changes come under the old names first, so it waits for the stream to get there.
"""

from collections.abc import Container, Iterable, Sequence
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

log = structlog.get_logger(__name__)

Renamed = list[tuple[PublishedTable, TableRecord, list[tuple[str, str]]]]
"""Tables, with their records and the old and new names of their columns."""


async def follow_names(
    settings: Settings,
    source: Connection,
    target: Connection,
    epoch: UUID,
    *,
    published: Sequence[PublishedTable],
    publications: Sequence[str],
) -> None:
    """Rename tables and columns that are not copied yet, and renew the keys that wait for their rows.

    Raises SchemaMismatchError for a name that the target refuses.
    """
    renamed = await _renamed(source, target, published, publications)
    if not renamed:
        return
    plan, owners = await dump_app(settings, source, None), await owners_of(source)
    tables = {table.table for table, _, _ in renamed}
    async with control.under_epoch(target, epoch):
        with reporting(Side.TARGET, "following new names of the source", SchemaMismatchError):
            for table, record, columns in renamed:
                await _rename(target, table, record, columns)
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
) -> Renamed:
    waits = {
        record.source_oid: record
        for record in (await control.read_tables(target)).values()
        if record.state in (TableState.PENDING, TableState.COPYING)
    }
    tables = [table for table in published if table.oid in waits]
    there = await read_target_columns(target, [*(r.table for r in waits.values()), *(t.table for t in tables)])
    with reporting(Side.SOURCE, "reading the shapes of tables", SourceError):
        shapes = await read_shapes(source, tables, publications)
    found: Renamed = []
    for table in tables:
        record, now = waits[table.oid], shapes.get(table.oid)
        if record.shape is None or now is None or record.table not in there:
            continue
        columns = [(a, b) for a, b in record.shape.renamed(now) if _may_become(a, b, there[record.table])]
        if columns or _may_become(record.table, table.table, there):
            found.append((table, record, columns))
    return found


def _may_become(before: object, after: object, there: Container[object]) -> bool:
    return before != after and before in there and after not in there


async def _rename(
    target: Connection, table: PublishedTable, record: TableRecord, columns: Iterable[tuple[str, str]]
) -> None:
    for before, after in columns:
        declared = await declaring_table(target, record.table, before)
        if before in (await read_target_columns(target, [declared])).get(declared, {}):  # else by another leaf
            await _alter(target, declared, "RENAME COLUMN {} TO {}", before, after)
    old, new = record.table, table.table
    if old.name != new.name:
        await _alter(target, old, "RENAME TO {}", new.name)
    if old.schema != new.schema:
        await _alter(target, TableName(old.schema, new.name), "SET SCHEMA {}", new.schema)
    if old != new:
        await control.rename_table(target, old, new)


async def _alter(target: Connection, table: TableName, action: LiteralString, *names: str) -> None:
    statement = sql.SQL("ALTER TABLE {} {}").format(
        qualified(table), sql.SQL(action).format(*map(sql.Identifier, names))
    )
    await target.execute(statement)
