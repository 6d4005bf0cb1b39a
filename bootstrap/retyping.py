"""Columns whose type is another one on the source: of tables that come again, and so are empty meanwhile."""

from collections.abc import Container, Iterable, Mapping
from typing import Final, LiteralString

import psycopg
import structlog
from psycopg import sql

from bootstrap.columns import declaring_table, read_target_columns
from replicator.catalog import PublishedTable
from replicator.control import TableRecord
from replicator.errors import SchemaMismatchError, Side
from replicator.model import TableName
from replicator.postgres import Connection, qualified, reporting, translate
from replicator.shape import Shape, ShapeColumn

log = structlog.get_logger(__name__)


def altering(table: TableName, action: LiteralString, *parts: sql.Composable) -> str:
    """ALTER TABLE with that action."""
    composed = sql.SQL(action).format(*parts)
    return sql.SQL("ALTER TABLE {} {}").format(qualified(table), composed).as_string()


def goes_by_text(was: str, kind: str) -> bool:
    """Whether no cast may lead to it: types of the app's, which alone have a schema, from one another or from text."""
    return "." in kind and ("." in was or was == "text")


def retyping(table: TableName, column: ShapeColumn, was: str, *, keeps_default: bool) -> str:
    """The statement that gives a column its type, after it was another."""
    name, kind = sql.Identifier(column.name), sql.SQL(column.type)
    if not goes_by_text(was, column.type):
        return altering(table, "ALTER COLUMN {} TYPE {}", name, kind)
    by_text = sql.SQL("ALTER COLUMN {} TYPE {} USING {}::text::{}").format(name, kind, name, kind)
    if keeps_default:
        return altering(table, "{}", by_text)
    # a default has no cast either: where every row comes with a value, it may wait for the cutover
    return altering(table, "ALTER COLUMN {} DROP DEFAULT, {}", name, by_text)


async def fit_types(
    target: Connection,
    tables: Iterable[PublishedTable],
    records: Mapping[TableName, TableRecord],
    shapes: Mapping[int, Shape],
    looser: Mapping[TableName, Iterable[str]],
) -> None:
    """Give columns the type that they have on the source now, within the caller's transaction; the tables are empty.

    Rows that are cast to the old type would be changed silently: numerics would be rounded. A column that is inherited
    is changed where it was declared, for all that inherit it, as on the source. ``looser`` columns, and those that the
    source has no more, may be NULL from now on. Raises SchemaMismatchError.
    """
    begun = [table for table in tables if table.table in records and table.oid in shapes]
    there = await read_target_columns(target, [table.table for table in begun])
    done: set[tuple[TableName, str]] = set()
    for table in begun:
        record, now, columns = records[table.table], shapes[table.oid], there.get(table.table, {})
        known = {column.name for column in record.shape.columns.values()} if record.shape is not None else set()
        gone = known & columns.keys() - {column.name for column in now.columns.values()}
        await _release(target, table.table, gone, {name for name in gone if columns[name].required})
        nullable = set(looser.get(table.table, ()))
        await _release(target, table.table, nullable, nullable)
        before = record.shape if record.source_oid == table.oid else None
        for column in before.retyped(now) if before is not None else now.columns.values():
            if column.name in columns and columns[column.name].type != column.type:
                declared = await declaring_table(target, table.table, column.name)
                if (declared, column.name) not in done:
                    keeps = column.name not in table.columns
                    await _retype(target, declared, column, columns[column.name].type, keeps_default=keeps)
                done.add((declared, column.name))


_IDENTITY_OVER: Final[LiteralString] = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
 WHERE i.indisreplident AND (n.nspname, c.relname) IN ((%s, %s), (%s, %s)) AND a.attname = %s
"""
_KEYS_OVER: Final[LiteralString] = """
SELECT n.nspname, c.relname, k.conname
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (k.conkey)
 WHERE k.contype = 'p' AND k.coninhcount = 0 AND (n.nspname, c.relname) IN ((%s, %s), (%s, %s)) AND a.attname = %s
"""


async def _release(
    target: Connection,
    table: TableName,
    names: Iterable[str],
    required: Container[str],
) -> None:
    """Let rows come without a value of these columns: keys of the target may hold them, some are ``required``."""
    for name in sorted(names):
        declared = await declaring_table(target, table, name)
        with reporting(Side.TARGET, f"letting rows of {table} come without a value of {name}", SchemaMismatchError):
            for schema, relation in await (await target.execute(_IDENTITY_OVER, [*table, *declared, name])).fetchall():
                await target.execute(altering(TableName(schema, relation), "REPLICA IDENTITY DEFAULT").encode())
            cursor = await target.execute(_KEYS_OVER, [*table, *declared, name])
            for schema, relation, key in await cursor.fetchall():
                drop = altering(TableName(schema, relation), "DROP CONSTRAINT {}", sql.Identifier(key))
                await target.execute(drop.encode())
            if name in required:
                await target.execute(altering(declared, "ALTER COLUMN {} DROP NOT NULL", sql.Identifier(name)).encode())


async def _retype(target: Connection, table: TableName, column: ShapeColumn, was: str, *, keeps_default: bool) -> None:
    name, kind = sql.Identifier(column.name), sql.SQL(column.type)
    # by way of text there is a conversion between any two types
    by_text = altering(table, "ALTER COLUMN {} TYPE {} USING {}::text::{}", name, kind, name, kind)
    statement = retyping(table, column, was, keeps_default=keeps_default)
    try:
        await target.execute((statement if goes_by_text(was, column.type) else by_text).encode())
    except psycopg.Error as error:
        doing = f"giving column {column.name} of {table} the type {column.type} that it has on the source now"
        failure = translate(error, Side.TARGET, doing, otherwise=SchemaMismatchError)
        if isinstance(failure, SchemaMismatchError):
            failure.hint = f"Run on the target: {statement}; then start `replicator run` again if it has ended."
        raise failure from None
    log.info("a column has another type", table=str(table), column=column.name, type=column.type)
