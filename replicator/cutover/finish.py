"""What remains when the target is open: validating, comments, materialized views, statistics. The app is at work.

Each part goes on after a failure and returns what failed; nothing here is undone, and a rerun tries again.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from bootstrap.entries import REFRESH
from replicator import control
from replicator.catalog.query import fetch
from replicator.control import Deferred
from replicator.cutover.foreign_keys import ForeignKey
from replicator.cutover.schema import AFTERWARDS, foreign_keys, leaves_of, table_text, title
from replicator.model import TableName
from replicator.postgres import Connection, describe

_TRIES: Final = 10
_PAUSE: Final = 1.0
_BRIEF: Final[LiteralString] = "SET LOCAL lock_timeout = '500ms'"
"""The app must not queue behind us for long: VALIDATE takes SHARE UPDATE EXCLUSIVE, adding takes more."""

_CONSTRAINTS: Final[LiteralString] = """
SELECT t.name AS table, c.conname AS name, c.convalidated AS validated,
       ARRAY (SELECT pg_catalog.format('%%I.%%I', n.nspname, f.relname)
                FROM pg_catalog.pg_class f JOIN pg_catalog.pg_namespace n ON n.oid = f.relnamespace
               WHERE f.relrowsecurity AND f.relforcerowsecurity
                 AND (f.oid IN (c.conrelid, c.confrelid)
                      OR EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(f.oid) a
                                  WHERE a.relid::oid IN (c.conrelid, c.confrelid)))
               ORDER BY n.nspname, f.relname) AS forced
  FROM unnest(%s::text[]) t(name)
  JOIN pg_catalog.pg_constraint c ON c.conrelid = pg_catalog.to_regclass(t.name) AND c.contype = 'f'
"""

_ROOTS: Final[LiteralString] = """
SELECT DISTINCT n.nspname AS schema, c.relname AS name
  FROM unnest(%s::text[]) t(name)
 CROSS JOIN LATERAL (SELECT pg_catalog.to_regclass(t.name)::oid AS oid) r
  JOIN pg_catalog.pg_class c ON c.oid = coalesce(pg_catalog.pg_partition_root(r.oid)::oid, r.oid)
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY n.nspname, c.relname
"""

# a view that needs more of them, directly or through others, comes later
_MATERIALIZED: Final[LiteralString] = """
WITH RECURSIVE direct AS (
  SELECT DISTINCT w.ev_class AS view, d.refobjid AS needs
    FROM pg_catalog.pg_rewrite w
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid
   WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> w.ev_class
), needed AS (
  SELECT view, needs FROM direct
  UNION SELECT n.view, d.needs FROM needed n JOIN direct d ON d.view = n.needs
)
SELECT n.nspname AS schema, c.relname AS name, c.relispopulated AS populated,
       ARRAY (SELECT pg_catalog.format('%%I.%%I', fn.nspname, f.relname)
                FROM needed d JOIN pg_catalog.pg_class f ON f.oid = d.needs
                JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
               WHERE d.view = c.oid AND f.relrowsecurity AND f.relforcerowsecurity
               ORDER BY fn.nspname, f.relname) AS forced
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'm' AND pg_catalog.pg_has_role(c.relowner, 'USAGE') AND n.nspname <> ALL (%s)
 ORDER BY (SELECT count(*) FROM needed d JOIN pg_catalog.pg_class m ON m.oid = d.needs AND m.relkind = 'm'
            WHERE d.view = c.oid), n.nspname, c.relname
"""


class _Constraint(NamedTuple):
    """``forced`` are those of its two tables, and their partitions, whose policies bind their owner, too."""

    table: str
    name: str
    validated: bool
    forced: list[str]


class _Name(NamedTuple):
    schema: str
    name: str


class View(NamedTuple):
    """A materialized view of the target; one that is not ``populated`` cannot be read. ``forced``: as for a key."""

    schema: str
    name: str
    populated: bool
    forced: list[str]


async def validate(target: Connection, items: Iterable[Deferred]) -> list[str]:
    """Validate the foreign keys that were added unchecked; return what the rows on the target contradict."""
    keys = [key for key in foreign_keys(item for item in items if item.done).values() if key.checked]
    leaves = await leaves_of(target, keys)
    tables = {key.table for key in keys} | {table_text(leaf) for below in leaves.values() for leaf in below}
    known = {(row.table, row.name): row for row in await fetch(target, _Constraint, _CONSTRAINTS, list(tables))}
    failures = []
    for key in keys:
        for statement in _validation(key, leaves.get(key.table), known):
            if reason := await _try(target, statement):
                failures.append(f"foreign key {key.name} of {key.table}: {reason}")
                break
    return failures


def _validation(
    key: ForeignKey, leaves: Sequence[TableName] | None, known: Mapping[tuple[str, str], _Constraint]
) -> list[str]:
    """The statements that make one foreign key complete; none for what is complete, or was dropped meanwhile."""
    name = key.unquoted_name
    tables = [key.table] if leaves is None else [table_text(leaf) for leaf in leaves]
    there = [known[table, name] for table in tables if (table, name) in known]
    checks = [_seeing_all(key.validate(item.table), item.forced) for item in there if not item.validated]
    if leaves is None:
        return checks
    dropped = bool(tables) and not there
    return [] if dropped or (key.table, name) in known else [*checks, key.add()]


def _seeing_all(statement: str, forced: Sequence[str]) -> str:
    """With the rows that policies hide from the owner: nobody else comes in between, for they hold again after it."""
    off = [f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY" for table in forced]
    on = [f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY" for table in forced]
    return ";\n".join([*off, statement, *on])


async def comment(target: Connection, items: Iterable[Deferred]) -> list[str]:
    """Run the comments and labels on what the cutover has made."""
    return await _run_all(target, [item for item in items if item.kind in AFTERWARDS and not item.done])


async def refresh(target: Connection, items: Iterable[Deferred]) -> list[str]:
    """Fill the materialized views anew, in the order in which they depend on each other."""
    failures = await fill(target, await fetch(target, View, _MATERIALIZED, [control.SCHEMA]))
    if not failures:
        await control.mark_deferred(target, [item.position for item in items if item.kind == REFRESH])
    return failures


async def empty_views(target: Connection) -> list[View]:
    """The materialized views that nobody could read yet: filled, the app can from its first query on."""
    return [view for view in await fetch(target, View, _MATERIALIZED, [control.SCHEMA]) if not view.populated]


async def fill(target: Connection, views: Iterable[View]) -> list[str]:
    """Fill views in this order, which is that of their needs; return what failed."""
    failures = []
    for view in views:
        statement = sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(view.schema, view.name))
        if reason := await _try(target, _seeing_all(statement.as_string(), view.forced)):
            failures.append(f"materialized view {view.schema}.{view.name}: {reason}")
    return failures


async def analyze(target: Connection, tables: Iterable[TableName]) -> list[str]:
    """ANALYZE each table, partitioned ones from their root, so that the first queries have statistics."""
    failures = []
    for row in await fetch(target, _Name, _ROOTS, [table_text(table) for table in tables]):
        try:
            await target.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(row.schema, row.name)))
        except psycopg.DatabaseError as error:
            if error.sqlstate is None:
                raise
            failures.append(f"statistics of {row.schema}.{row.name}: {describe(error)}")
    return failures


async def _run_all(target: Connection, items: Sequence[Deferred]) -> list[str]:
    reasons = [(item, await _try(target, item.statement, item.position)) for item in items]
    return [f"{title(item)}: {reason}" for item, reason in reasons if reason]


async def _try(target: Connection, statement: str, position: int | None = None) -> str | None:
    """Run a statement in a transaction of its own, again while the app has the locks; return why it failed."""
    for attempt in range(_TRIES):
        if attempt:
            await asyncio.sleep(_PAUSE)
        try:
            async with target.transaction():
                await target.execute(_BRIEF)
                await target.execute(statement.encode())
                if position is not None:
                    await control.mark_deferred(target, [position])
            return None
        except psycopg.DatabaseError as error:
            if error.sqlstate is None:
                raise
            reason = describe(error)
            if not isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
                return reason
    return reason
