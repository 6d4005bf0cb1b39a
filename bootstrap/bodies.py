"""Functions, procedures and views that the app's deploys have replaced since the target got them.

The new ones wait for the cutover: what the target computes until then belongs to rows from before. Where two versions
of PostgreSQL print the same function otherwise, it is made again as it is.
Source: PostgreSQL documentation, "System Catalogs" (pg_proc), "System Information Functions", CREATE VIEW.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, LiteralString, NamedTuple
from uuid import UUID

import psycopg
import structlog
from psycopg import sql

from bootstrap.entries import Entry, Plan, header_name
from replicator import control
from replicator.catalog.query import fetch
from replicator.errors import SchemaMismatchError, Side
from replicator.model import TableName
from replicator.postgres import Connection, qualified, translate

log = structlog.get_logger(__name__)

_FUNCTIONS: Final[LiteralString] = """
SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind, n.nspname AS schema,
       p.proname || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')' AS name,
       pg_catalog.pg_get_functiondef(p.oid) AS body, NULL::text[] AS options
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.prokind IN ('f', 'p', 'w') AND n.nspname = ANY (%s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                                                        AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
 ORDER BY p.oid
"""
_VIEWS: Final[LiteralString] = """
SELECT CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END AS kind, n.nspname AS schema,
       c.relname::text AS name, pg_catalog.pg_get_viewdef(c.oid) AS body, c.reloptions AS options
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('v', 'm') AND n.nspname = ANY (%s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                                        AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY c.oid
"""

_VIEW_NAMES: Final[LiteralString] = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('v', 'm') AND n.nspname = ANY (%s)
"""


class _Body(NamedTuple):
    kind: str
    schema: str
    name: str
    body: str
    options: list[str] | None

    @property
    def header(self) -> tuple[str, str, str]:
        """As a dump names it."""
        return self.kind, header_name(self.schema), header_name(self.name)

    def entry(self) -> Entry:
        """What makes it, or puts it in the place of another one, as a dump would have it."""
        if self.kind == "VIEW":
            options = f" WITH ({', '.join(self.options)})" if self.options else ""
            view = sql.SQL("CREATE OR REPLACE VIEW {}{} AS {}").format(
                sql.Identifier(self.schema, self.name), sql.SQL(options), sql.SQL(self.body)
            )
            return Entry(*self.header, view.as_string())
        return Entry(*self.header, f"SET LOCAL check_function_bodies = off;\n{self.body.rstrip()};")


async def replaced_bodies(source: Connection, target: Connection, schemas: Sequence[str], plan: Plan) -> list[Entry]:
    """What the cutover has to replace, or to make, for the functions, procedures and views of these schemas."""
    theirs = {body.header: body for body in await _read(target, _FUNCTIONS, schemas)}
    functions = [
        ours.entry()
        for ours in await _read(source, _FUNCTIONS, schemas)
        if ours.header not in theirs or ours.body != theirs[ours.header].body
    ]
    places = {
        (entry.kind, entry.schema, entry.name): n for n, entry in enumerate((*plan.before_data, *plan.after_data))
    }
    views = [view for view in await _other_views(source, target, schemas) if view.kind == "VIEW"]
    # one may select from another
    return [*functions, *(view.entry() for view in sorted(views, key=lambda view: places.get(view.header, 0)))]


async def replaced_materialized_views(
    source: Connection, target: Connection, schemas: Sequence[str]
) -> Mapping[TableName, str]:
    """Those of both sides that have another query on the source, which none can get: each with what drops it."""
    there = {body.header for body in await _read(target, _VIEWS, schemas)}
    names = [
        TableName(view.schema, view.name)
        for view in await _other_views(source, target, schemas)
        if view.kind == "MATERIALIZED VIEW" and view.header in there
    ]
    drop = sql.SQL("DROP MATERIALIZED VIEW IF EXISTS {};\n")
    return {name: drop.format(qualified(name)).as_string() for name in names}


async def rename_views(source: Connection, target: Connection, epoch: UUID, schemas: Sequence[str]) -> None:
    """Give views the names that they have on the source: the only one of its query whose name one side does not know.

    A materialized view's indexes, whose names stay, would be in the way of a new one. Raises SchemaMismatchError.
    """
    here, there = await _view_names(source, schemas), await _view_names(target, schemas)
    if not (here - there and there - here):
        return  # printing a view's query waits for locks on its tables
    ours, theirs = await _read(source, _VIEWS, schemas), await _read(target, _VIEWS, schemas)
    names = [{view.header for view in side} for side in (ours, theirs)]
    new, old = _by_body(ours, names[1]), _by_body(theirs, names[0])
    try:
        async with control.under_epoch(target, epoch):
            for body, (view, *others) in old.items():
                if not others and len(new.get(body, ())) == 1:
                    await _rename(target, view, new[body][0])
    except psycopg.Error as error:
        raise translate(error, Side.TARGET, "renaming views", otherwise=SchemaMismatchError) from None


async def _view_names(connection: Connection, schemas: Sequence[str]) -> set[tuple[str, str]]:
    return set(await (await connection.execute(_VIEW_NAMES, [list(schemas)])).fetchall())


def _by_body(views: Sequence[_Body], known: set[tuple[str, str, str]]) -> dict[tuple[str, str], list[_Body]]:
    found: dict[tuple[str, str], list[_Body]] = defaultdict(list)
    for view in views:
        if view.header not in known:
            found[view.kind, view.body].append(view)
    return found


async def _rename(target: Connection, old: _Body, new: _Body) -> None:
    alter = sql.SQL("ALTER MATERIALIZED VIEW" if old.kind == "MATERIALIZED VIEW" else "ALTER VIEW")
    if old.name != new.name:
        rename = sql.SQL("{} {} RENAME TO {}")
        await target.execute(rename.format(alter, sql.Identifier(old.schema, old.name), sql.Identifier(new.name)))
    if old.schema != new.schema:
        move = sql.SQL("{} {} SET SCHEMA {}")
        await target.execute(move.format(alter, sql.Identifier(old.schema, new.name), sql.Identifier(new.schema)))
    log.info("renamed a view", view=f"{old.schema}.{old.name}", now=f"{new.schema}.{new.name}")


async def _other_views(source: Connection, target: Connection, schemas: Sequence[str]) -> list[_Body]:
    theirs = {body.header: body for body in await _read(target, _VIEWS, schemas)}
    return [
        ours
        for ours in await _read(source, _VIEWS, schemas)
        if (their := theirs.get(ours.header)) is None
        or (ours.options or []) != (their.options or [])
        or (ours.body != their.body and await _as_printed_by(target, ours.body) != their.body)
    ]


async def _as_printed_by(target: Connection, query: str) -> str | None:
    """A view's query in the words of the target's version; None if the target does not take it."""
    async with target.transaction(force_rollback=True):
        await target.execute("SET LOCAL search_path = ''")
        try:
            await target.execute(f"CREATE TEMPORARY VIEW replicator_view AS {query}".encode())
        except psycopg.DatabaseError as error:
            if error.sqlstate is None:
                raise
            return None
        cursor = await target.execute("SELECT pg_catalog.pg_get_viewdef('pg_temp.replicator_view'::regclass)")
        row = await cursor.fetchone()
        return str(row and row[0])


async def _read(connection: Connection, query: LiteralString, schemas: Sequence[str]) -> list[_Body]:
    """With names that say their schema, whatever the session's search_path is."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = ''")
        return await fetch(connection, _Body, query, schemas)
