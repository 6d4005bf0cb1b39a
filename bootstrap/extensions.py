"""The extensions that the app's objects use, made on the target in the schemas where the source has them."""

from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple

import psycopg
import structlog
from psycopg import sql
from psycopg.rows import class_row

from bootstrap.making import make_schema
from replicator.errors import Side, TargetError
from replicator.postgres import Connection, describe, translate

log = structlog.get_logger(__name__)

_EXTENSIONS: Final[LiteralString] = """
WITH schemas AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = ANY (%s)),
app AS (
  SELECT 'pg_class'::regclass AS classid, oid FROM pg_class WHERE relnamespace IN (TABLE schemas)
  UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace IN (TABLE schemas)
  UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace IN (TABLE schemas)
  UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprnamespace IN (TABLE schemas)
  UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass WHERE opcnamespace IN (TABLE schemas)
  UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE connamespace IN (TABLE schemas)
  UNION ALL SELECT 'pg_attrdef'::regclass, a.oid FROM pg_attrdef a JOIN pg_class c ON c.oid = a.adrelid
             WHERE c.relnamespace IN (TABLE schemas)
  UNION ALL SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
             WHERE c.relnamespace IN (TABLE schemas)
  UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
             WHERE c.relnamespace IN (TABLE schemas)),
member AS (SELECT classid, objid, refobjid AS extension FROM pg_depend
            WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'),
used AS (SELECT DISTINCT m.extension
           FROM app
           JOIN pg_depend d ON (d.classid, d.objid) = (app.classid, app.oid)
           JOIN member m ON (m.classid, m.objid) = (d.refclassid, d.refobjid)
          WHERE NOT EXISTS (SELECT FROM member o WHERE (o.classid, o.objid) = (app.classid, app.oid)))
SELECT e.extname AS name, n.nspname AS schema, e.oid IN (TABLE used) AS used
  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
 ORDER BY e.oid
"""
"""In the order in which they were made, so that one comes after those that it requires."""

_AVAILABLE: Final[LiteralString] = """
SELECT a.name, n.nspname AS schema, v.schema AS fixed_schema
  FROM pg_catalog.pg_available_extensions a
  LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
  LEFT JOIN pg_catalog.pg_extension e ON e.extname = a.name
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
"""


class Extension(NamedTuple):
    """An extension of the source. ``used``: an object of the app depends on it, a function's body aside."""

    name: str
    schema: str
    used: bool


class _Available(NamedTuple):
    """An extension that the target offers; ``schema`` is where it is installed, ``fixed_schema`` where it must be."""

    name: str
    schema: str | None
    fixed_schema: str | None


async def read_extensions(source: Connection, schemas: Sequence[str]) -> list[Extension]:
    """The source's extensions, and which of them the objects in these schemas use."""
    cursor = source.cursor(row_factory=class_row(Extension))
    return await (await cursor.execute(_EXTENSIONS, [list(schemas)])).fetchall()


async def make_extensions(target: Connection, extensions: Sequence[Extension]) -> None:
    """Make them within the caller's transaction; one that is not known to be used is made if that is possible.

    Raises TargetError when one that is used is not available, is not allowed, or lies in another schema.
    """
    cursor = await target.cursor(row_factory=class_row(_Available)).execute(_AVAILABLE)
    available = {row.name: row for row in await cursor.fetchall()}
    for extension in extensions:
        offer = available.get(extension.name)
        if offer is None:
            _miss(extension, "the target does not offer it")
        elif offer.schema is None:
            await _make(target, extension, offer)
        elif extension.used and offer.schema != extension.schema and offer.fixed_schema is None:
            raise TargetError(
                f"extension {extension.name} is in schema {offer.schema}, on the source in {extension.schema}",
                hint=f"Run ALTER EXTENSION {extension.name} SET SCHEMA {extension.schema} on the target.",
            )


async def _make(target: Connection, extension: Extension, offer: _Available) -> None:
    statement = sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(extension.name))
    try:
        async with target.transaction():
            if offer.fixed_schema is None:
                await make_schema(target, extension.schema)
                statement += sql.SQL(" SCHEMA {}").format(sql.Identifier(extension.schema))
            await target.execute(statement + sql.SQL(" CASCADE"))
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise translate(error, Side.TARGET, f"making extension {extension.name}") from None
        _miss(extension, describe(error))


def _miss(extension: Extension, reason: str) -> None:
    if extension.used:
        raise TargetError(
            f"extension {extension.name}, which the app's objects use, cannot be made: {reason}",
            hint="Install it on the target as an administrator, or remove what uses it from the source.",
        )
    log.warning("extension left out", extension=extension.name, reason=reason)
