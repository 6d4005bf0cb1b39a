"""How far each table has come."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from sqlalchemy.dialects import postgresql

from replicator.control.schema import NOW, TABLES, run, run_many
from replicator.errors import FencedError
from replicator.lsn import Lsn, format_lsn, parse_lsn
from replicator.model import TableName, TableState
from replicator.postgres import Connection
from replicator.shape import Shape


@dataclass(frozen=True, slots=True)
class TableRecord:
    """How far one table has come. ``snapshot_lsn`` is its round's L: earlier transactions are in its snapshot."""

    table: TableName
    source_oid: int
    state: TableState
    insert_only: bool = False
    snapshot_lsn: Lsn | None = None
    rows: int | None = None
    bytes: int | None = None
    shape: Shape | None = None


async def read_tables(connection: Connection) -> dict[TableName, TableRecord]:
    """Every table of the migration with its state."""
    cursor = await run(connection, sa.select(TABLES).order_by(TABLES.c.schema, TABLES.c.name))
    return {record.table: record for record in map(_table_record, await cursor.fetchall())}


async def read_more_ready(connection: Connection, known: Collection[int]) -> list[TableRecord]:
    """The tables that are *ready*, but for those with the ``known`` source oids."""
    ready = (TABLES.c.state == TableState.READY.value) & TABLES.c.source_oid.not_in(list(known))
    cursor = await run(connection, sa.select(TABLES).where(ready))
    return [_table_record(row) for row in await cursor.fetchall()]


def _table_record(row: DictRow) -> TableRecord:
    lsn = row["snapshot_lsn"]
    return TableRecord(
        TableName(row["schema"], row["name"]),
        row["source_oid"],
        TableState(row["state"]),
        row["insert_only"],
        None if lsn is None else parse_lsn(lsn),
        row["rows"],
        row["bytes"],
        None if row["shape"] is None else Shape.from_json(row["shape"]),
    )


async def add_tables(connection: Connection, records: Iterable[TableRecord]) -> None:
    """Add tables, or begin known ones anew (a new source oid, or a new round)."""
    rows = [
        {
            "schema": record.table.schema,
            "name": record.table.name,
            "source_oid": record.source_oid,
            "state": record.state.value,
            "insert_only": record.insert_only,
            "snapshot_lsn": None if record.snapshot_lsn is None else format_lsn(record.snapshot_lsn),
            "rows": record.rows,
            "bytes": record.bytes,
            "shape": None if record.shape is None else Jsonb(record.shape.to_json()),
        }
        for record in records
    ]
    insert = postgresql.insert(TABLES)
    changed = {column.name: column for column in insert.excluded if column.name != "updated_at"} | {"updated_at": NOW}
    await run_many(connection, insert.on_conflict_do_update(index_elements=["schema", "name"], set_=changed), rows)


async def set_table_states(connection: Connection, names: Sequence[TableName], state: TableState) -> None:
    """Record one state for several tables. Raises FencedError unless all of them are known."""
    chosen = sa.tuple_(TABLES.c.schema, TABLES.c.name).in_(list(names))
    cursor = await run(connection, TABLES.update().where(chosen).values(state=state.value, updated_at=NOW))
    if cursor.rowcount != len(names):
        raise FencedError("another worker has changed the list of tables")


async def set_shape(connection: Connection, table: TableName, shape: Shape) -> None:
    """Record the shape that a table has on the source from now on."""
    chosen = (TABLES.c.schema == table.schema) & (TABLES.c.name == table.name)
    await run(connection, TABLES.update().where(chosen).values(shape=shape.to_json(), updated_at=NOW))


async def rename_table(connection: Connection, before: TableName, after: TableName) -> None:
    """Record another name of a table."""
    chosen = (TABLES.c.schema == before.schema) & (TABLES.c.name == before.name)
    await run(connection, TABLES.update().where(chosen).values(schema=after.schema, name=after.name, updated_at=NOW))


async def remove_tables(connection: Connection, names: Sequence[TableName]) -> None:
    """Forget tables that do not exist or are not published any more."""
    for name in names:
        await run(connection, TABLES.delete().where(TABLES.c.schema == name.schema, TABLES.c.name == name.name))
