"""Comparing two quiet databases row by row: nothing may write to either side meanwhile.

Both servers print every row under the same settings, sorted by the text of the key, and the two streams are merged: no
value is parsed, and memory holds one key's rows at a time. A key that prints differently (numeric 1.0 and 1.00) counts
as a row lost and a row extra.
"""

import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from replicator import control
from replicator.catalog import source_tables
from replicator.errors import ReplicatorError, SchemaMismatchError, Side
from replicator.model import Row, TableName
from replicator.postgres import Connection, connect, qualified, translate


@dataclass(frozen=True, slots=True)
class TableDifference:
    """What the comparison of one table found, in rows.

    ``lost`` are on the source alone, ``extra`` on the target alone; ``different`` have the same key on both sides and
    another value in some column. A table without a key has no ``different`` rows: one is lost, another is extra.
    """

    table: TableName
    source_rows: int = 0
    target_rows: int = 0
    lost: int = 0
    extra: int = 0
    different: int = 0

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same rows."""
        return not (self.lost or self.extra or self.different)


@asynccontextmanager
async def _sessions(source_dsn: str, target_dsn: str) -> AsyncIterator[tuple[Connection, Connection]]:
    async with (
        await connect(source_dsn, Side.SOURCE, "verify") as source,
        await connect(target_dsn, Side.TARGET, "verify") as target,
    ):
        # names of types, tables and functions inside of values print the same only under the same search_path
        await target.execute("SET search_path = pg_catalog")
        yield source, target


async def compare(
    source_dsn: str, target_dsn: str, tables: Collection[TableName] | None = None
) -> list[TableDifference]:
    """Compare the app's tables, or ``tables`` of them, and return one result a table, equal or not.

    Partitions are compared through their root, so each side may cut them differently. Generated columns count, columns
    of the target alone do not. Raises SchemaMismatchError if the target lacks a column, and the errors of connecting.
    """
    async with _sessions(source_dsn, target_dsn) as (source, target):
        shapes = await _shapes(source, tables)
        return [await _compare_table(source, target, shape) for shape in shapes]


# --- what to compare --------------------------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """A table with its columns in the source's order; ``key`` is empty for a table without one."""

    schema: str
    name: str
    partitioned: bool
    columns: list[str]
    key: list[str]

    @property
    def table(self) -> TableName:
        return TableName(self.schema, self.name)

    def copy_statement(self, encoding: str | None) -> sql.Composed:
        """Each row's key as text, then all its columns, in the order of the key's bytes, which are UTF-8's.

        ``encoding`` is the server's, whose own order may be another one.
        """
        place = sql.SQL('({})::text COLLATE "C"' if encoding == "UTF8" else "convert_to(({})::text, 'UTF8')")
        columns: list[sql.Composable] = [sql.Identifier(name) for name in self.columns]
        whole = sql.SQL("ROW({})").format(sql.SQL(", ").join(columns))
        keys: list[sql.Composable] = [sql.Identifier(name) for name in self.key] or [whole]
        return sql.SQL("COPY (SELECT {} FROM {}{} ORDER BY {}) TO STDOUT").format(
            sql.SQL(", ").join([*(sql.SQL("({})::text").format(key) for key in keys), *columns]),
            sql.SQL("" if self.partitioned else "ONLY "),
            qualified(self.table),
            sql.SQL(", ").join(place.format(key) for key in keys),
        )


_SHAPES: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned,
       ARRAY(SELECT attname::text FROM pg_attribute
              WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum) AS columns,
       ARRAY(SELECT attname::text FROM pg_attribute a
               JOIN unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place) USING (attnum)
              WHERE attrelid = c.oid AND k.place <= i.indnkeyatts ORDER BY k.place) AS key
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (SELECT indkey, indnkeyatts FROM pg_index
                      WHERE indrelid = c.oid AND (indisprimary OR indisreplident)
                      ORDER BY indisprimary DESC LIMIT 1) i ON true
 WHERE c.oid = ANY (%s)
 ORDER BY n.nspname, c.relname
"""


async def _shapes(source: Connection, wanted: Collection[TableName] | None) -> list[_Shape]:
    tables = await source_tables(source, (control.SCHEMA,))
    oids = [item.oid for item in tables if item.root is None and (wanted is None or item.table in wanted)]
    cursor = await source.cursor(row_factory=class_row(_Shape)).execute(_SHAPES, [oids])
    return await cursor.fetchall()


# --- comparing --------------------------------------------------------------------------------------------------------

_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


class _Group(NamedTuple):
    """The rows of one key on one side: one row, or several equal ones where there is no key."""

    key: tuple[bytes, ...]
    rows: Sequence[Row]


async def _compare_table(source: Connection, target: Connection, shape: _Shape) -> TableDifference:
    source_rows = target_rows = lost = extra = different = 0
    async with (
        aclosing(_groups(source, Side.SOURCE, shape)) as ours,
        aclosing(_groups(target, Side.TARGET, shape)) as theirs,
    ):
        async for left, right in _pairs(ours, theirs):
            source_rows += len(left)
            target_rows += len(right)
            if left == right:
                continue
            missing = (Counter(left) - Counter(right)).total()
            surplus = (Counter(right) - Counter(left)).total()
            changed = min(missing, surplus)
            lost, extra, different = lost + missing - changed, extra + surplus - changed, different + changed
    return TableDifference(shape.table, source_rows, target_rows, lost, extra, different)


async def _pairs(
    ours: AsyncIterator[_Group], theirs: AsyncIterator[_Group]
) -> AsyncIterator[tuple[Sequence[Row], Sequence[Row]]]:
    """Merge two sides that are sorted by key; a key of one side alone comes with no rows of the other."""
    left, right = await anext(ours, None), await anext(theirs, None)
    while left is not None or right is not None:
        take_left = left is not None and (right is None or left.key <= right.key)
        take_right = right is not None and (left is None or right.key <= left.key)
        yield left.rows if left and take_left else (), right.rows if right and take_right else ()
        if take_left:
            left = await anext(ours, None)
        if take_right:
            right = await anext(theirs, None)


async def _groups(connection: Connection, side: Side, shape: _Shape) -> AsyncGenerator[_Group]:
    if not await _exists(connection, shape.table):
        return
    key: tuple[bytes, ...] | None = None
    rows: list[Row] = []
    async for next_key, row in _rows(connection, side, shape):
        if next_key != key:
            if key is not None:
                yield _Group(key, rows)
            key, rows = next_key, []
        rows.append(row)
    if key is not None:
        yield _Group(key, rows)


async def _exists(connection: Connection, table: TableName) -> bool:
    query = "SELECT to_regclass(format('%%I.%%I', %s::text, %s::text)) IS NOT NULL"
    row = await (await connection.execute(query, table)).fetchone()
    return bool(row and row[0])


async def _rows(connection: Connection, side: Side, shape: _Shape) -> AsyncIterator[tuple[tuple[bytes, ...], Row]]:
    width = len(shape.key) or 1
    statement = shape.copy_statement(connection.info.parameter_status("server_encoding"))
    try:
        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            # the server sends one message a row (PostgreSQL documentation, "Message Flow", COPY Operations)
            async for message in copy:
                *key, row = bytes(message).split(b"\t", width)
                yield tuple(map(_unescape, key)), row
    except psycopg.Error as error:
        raise _error(error, side, shape.table) from None


def _unescape(field: bytes) -> bytes:
    """The server sorts what is meant, not what is printed."""
    if b"\\" not in field:
        return field
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), field)


def _error(error: psycopg.Error, side: Side, table: TableName) -> ReplicatorError:
    return translate(error, side, f"comparing {table}", otherwise=SchemaMismatchError)


# --- sequences --------------------------------------------------------------------------------------------------------

_SEQUENCES: Final[LiteralString] = """
SELECT schemaname, sequencename, last_value * sign(increment_by)::bigint
  FROM pg_sequences WHERE last_value IS NOT NULL
"""


async def sequences_behind(source_dsn: str, target_dsn: str) -> list[TableName]:
    """The source's sequences whose counterpart on the target would hand out values that were used already."""
    async with _sessions(source_dsn, target_dsn) as (source, target):
        reached = {TableName(row[0], row[1]): row[2] async for row in await target.execute(_SEQUENCES)}
        used = {TableName(row[0], row[1]): row[2] async for row in await source.execute(_SEQUENCES)}
    return sorted(name for name, value in used.items() if name not in reached or reached[name] < value)
