"""What belongs to the app but to no schema of it, so that neither a dump of its schemas nor the stream carries it.

Source: PostgreSQL documentation, "System Catalogs" (pg_cast, pg_db_role_setting, pg_extension: extconfig), pg_dump
("--schema").
"""

from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from replicator.catalog import managed_schemas
from replicator.check.context import Source
from replicator.check.finding import Finding, warning
from replicator.errors import Side
from replicator.model import TableName
from replicator.postgres import qualified

_FIRST_OF_USERS: Final = 16384
"""The first oid that no object of the system itself has (transam.h, FirstNormalObjectId)."""

_CASTS: Final[LiteralString] = """
SELECT pg_catalog.format('CREATE CAST (%%s AS %%s) %%s%%s', k.castsource::regtype, k.casttarget::regtype,
         CASE k.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || k.castfunc::regprocedure
                           WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END,
         CASE k.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' ELSE '' END)
  FROM pg_catalog.pg_cast k
 WHERE k.oid >= %s
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_cast'::regclass AND d.objid = k.oid AND d.deptype = 'e')
 ORDER BY 1
"""
_SETTINGS: Final[LiteralString] = """
SELECT pg_catalog.split_part(s.setting, '=', 1)
  FROM pg_catalog.pg_db_role_setting r CROSS JOIN LATERAL pg_catalog.unnest(r.setconfig) s(setting)
 WHERE r.setrole = 0
   AND r.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
   AND NOT starts_with(s.setting, 'extra_float_digits=') AND NOT starts_with(s.setting, 'app.settings.jwt_')
 ORDER BY 1
"""
"""Without what Supabase gives every project."""

_KEPT: Final[LiteralString] = """
SELECT e.extname::text AS extension, n.nspname AS schema, c.relname AS name, t.condition
  FROM pg_catalog.pg_extension e
 CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(e.extconfig), pg_catalog.unnest(e.extcondition)) t(oid, condition)
  JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname <> ALL (%s) AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
 ORDER BY 1, 2, 3
"""

_EVENT_TRIGGERS: Final[LiteralString] = """
SELECT pg_catalog.quote_ident(e.evtname)
  FROM pg_catalog.pg_event_trigger e
  JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE e.evtenabled <> 'D' AND n.nspname = ANY (%s) AND e.evtevent IN ('ddl_command_start', 'ddl_command_end')
   AND (e.evttags IS NULL OR e.evttags && '{CREATE SCHEMA,CREATE FUNCTION,CREATE TRIGGER,ALTER TABLE}')
 ORDER BY 1
"""
"""With functions of the app that the fence's own statements call."""


class _Kept(NamedTuple):
    """A table of an extension whose rows a dump would carry, those that meet the ``condition`` (with its WHERE)."""

    extension: str
    schema: str
    name: str
    condition: str


async def casts(source: Source) -> list[Finding]:
    """Casts of the app's own."""
    rows = await (await source.connection.execute(_CASTS, [_FIRST_OF_USERS])).fetchall()
    if not rows:
        return []
    return [
        warning(
            Side.SOURCE,
            "casts are not moved, and the app's statements may need them",
            f"Make them on the target before the cutover: {'; '.join(str(row[0]) for row in rows)}.",
        )
    ]


async def settings(source: Source) -> list[Finding]:
    """Settings of the database. Their values may be secrets, so only their names are told."""
    rows = await (await source.connection.execute(_SETTINGS)).fetchall()
    if not rows:
        return []
    names = ", ".join(str(row[0]) for row in rows)
    return [
        warning(
            Side.SOURCE,
            f"settings of the database are not moved: {names}",
            "ALTER DATABASE … SET them on the target, where the app relies on them.",
        )
    ]


async def event_triggers(source: Source) -> list[Finding]:
    """Event triggers of the app: one that logs to a table writes while the fence refuses writes, and so fails it."""
    rows = await (await source.connection.execute(_EVENT_TRIGGERS, [list(source.schemas)])).fetchall()
    if not rows:
        return []
    disable = "; ".join(f"ALTER EVENT TRIGGER {name} DISABLE" for (name,) in rows)
    return [
        warning(
            Side.SOURCE,
            f"event triggers are called by the cutover's own statements: {', '.join(name for (name,) in rows)}",
            f"If they write to a table that is moved, run before the cutover: {disable}; else the fence refuses that.",
        )
    ]


async def extension_rows(source: Source) -> list[Finding]:
    """Rows that users have put into tables of extensions."""
    excluded = [*source.settings.exclude_schemas, *await managed_schemas(source.connection)]
    kept = await source.connection.cursor(row_factory=class_row(_Kept)).execute(_KEPT, [excluded])
    found = [item for item in await kept.fetchall() if await _holds_rows(source, item)]
    return [
        warning(
            Side.SOURCE,
            f"rows of {item.schema}.{item.name} are not moved: the table belongs to extension {item.extension}",
            "Copy them yourself when the extension is on the target (pg_dump --data-only --table).",
        )
        for item in found
    ]


async def _holds_rows(source: Source, item: _Kept) -> bool:
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} ").format(qualified(TableName(item.schema, item.name))).as_string()
    try:
        async with source.connection.transaction():
            row = await (await source.connection.execute(f"{query}{item.condition})".encode())).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return False
    return bool(row and row[0])
