"""Checks that compare the two servers: the same database, versions, extensions, an empty target, pg_dump."""

from collections.abc import Mapping, Sequence
from typing import Final, LiteralString, NamedTuple

from psycopg.rows import class_row

from bootstrap.endpoint import connect_arguments
from bootstrap.pgdump import find_pg_dump
from replicator.check.context import Pair
from replicator.check.finding import Finding, blocked, from_error, listed, warning
from replicator.errors import ConfigurationError, Side
from replicator.model import SchemaMode
from replicator.postgres import Connection

_DATABASE: Final[LiteralString] = """
SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system_identifier, oid
  FROM pg_catalog.pg_database
 WHERE datname = current_database()
"""

# what depends on a member of an extension, and lies in a schema of the app
_USED_EXTENSIONS: Final[LiteralString] = """
WITH member AS (
  SELECT e.extname, d.classid, d.objid
    FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
   WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
), object AS (
  SELECT 'pg_catalog.pg_class'::regclass AS classid, oid AS objid, relnamespace AS namespace FROM pg_catalog.pg_class
  UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, oid, pronamespace FROM pg_catalog.pg_proc
  UNION ALL SELECT 'pg_catalog.pg_type'::regclass, oid, typnamespace FROM pg_catalog.pg_type
  UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, oid, connamespace FROM pg_catalog.pg_constraint
  UNION ALL SELECT p.classid, p.oid, c.relnamespace
    FROM (SELECT 'pg_catalog.pg_attrdef'::regclass AS classid, oid, adrelid AS relation FROM pg_catalog.pg_attrdef
          UNION ALL SELECT 'pg_catalog.pg_rewrite'::regclass, oid, ev_class FROM pg_catalog.pg_rewrite
          UNION ALL SELECT 'pg_catalog.pg_trigger'::regclass, oid, tgrelid FROM pg_catalog.pg_trigger
          UNION ALL SELECT 'pg_catalog.pg_policy'::regclass, oid, polrelid FROM pg_catalog.pg_policy) p
    JOIN pg_catalog.pg_class c ON c.oid = p.relation
)
SELECT e.extname AS name, bool_or(n.nspname IS NOT NULL) AS used
  FROM pg_catalog.pg_extension e
  LEFT JOIN (
         member m JOIN pg_catalog.pg_depend d ON d.refclassid = m.classid AND d.refobjid = m.objid
         JOIN object o ON o.classid = d.classid AND o.objid = d.objid
         JOIN pg_catalog.pg_namespace n ON n.oid = o.namespace AND n.nspname = ANY (%s)
          AND NOT EXISTS (SELECT FROM member x WHERE x.classid = o.classid AND x.objid = o.objid)
       ) ON m.extname = e.extname
 GROUP BY e.extname
 ORDER BY e.extname
"""

_AVAILABLE_EXTENSIONS: Final[LiteralString] = "SELECT name FROM pg_catalog.pg_available_extensions"

_OBJECTS: Final[LiteralString] = """
SELECT n.nspname || '.' || c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname
"""


_FOREIGN_TABLES: Final[LiteralString] = """
SELECT n.nspname || '.' || c.relname, s.srvname
  FROM pg_catalog.pg_foreign_table f
  JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
 WHERE n.nspname = ANY (%s)
 ORDER BY 1
"""


class DatabaseFacts(NamedTuple):
    """Which database of which server it is."""

    system_identifier: str
    oid: int


async def same_database(pair: Pair) -> list[Finding]:
    """Whether both URLs lead to one database; then no other comparison means anything."""
    return same_database_verdict(await _database(pair.source.connection), await _database(pair.target.connection))


async def versions(pair: Pair) -> list[Finding]:
    """Versions that go together."""
    source, target = pair.source.connection.info, pair.target.connection.info
    return version_verdict(source.server_version, target.server_version)


async def _database(connection: Connection) -> DatabaseFacts:
    cursor = await connection.cursor(row_factory=class_row(DatabaseFacts)).execute(_DATABASE)
    (facts,) = await cursor.fetchall()
    return facts


def same_database_verdict(source: DatabaseFacts, target: DatabaseFacts) -> list[Finding]:
    """The URLs may differ and still name one database."""
    if (source.system_identifier, source.oid) != (target.system_identifier, target.oid):
        return []
    return [
        blocked(
            Side.CONFIGURATION,
            "both URLs lead to the same database",
            "Correct SOURCE_DATABASE_URL or TARGET_DATABASE_URL.",
        )
    ]


def version_verdict(source: int, target: int) -> list[Finding]:
    """A schema of a newer version may not be understood by an older one."""
    if target // 10_000 >= source // 10_000:
        return []
    return [
        warning(
            Side.TARGET,
            f"PostgreSQL {target // 10_000} is older than the source's {source // 10_000}: "
            "its schema may use what the target does not know",
            "Use a target of the same version or a newer one.",
        )
    ]


async def extensions(pair: Pair) -> list[Finding]:
    """Extensions of the source that the target's server does not have."""
    cursor = await pair.source.connection.execute(_USED_EXTENSIONS, [list(pair.source.schemas)])
    used = {name: bool(is_used) for name, is_used in await cursor.fetchall()}
    cursor = await pair.target.connection.execute(_AVAILABLE_EXTENSIONS)
    return extension_verdict(used, {name for (name,) in await cursor.fetchall()})


def extension_verdict(installed: Mapping[str, bool], available: set[str]) -> list[Finding]:
    """``installed``: the source's extensions, and whether a table, type or function of the app uses them."""
    missing = {name: used for name, used in installed.items() if name not in available}
    found = [
        blocked(
            Side.TARGET,
            f"extension {name} is not available here, but the app's tables, types or functions use it",
            f"Choose a target that offers {name}, or remove its use on the source.",
        )
        for name, used in missing.items()
        if used
    ]
    if unused := [name for name, used in missing.items() if not used]:
        found.append(
            warning(
                Side.TARGET,
                f"extensions of the source are not available here: {listed(unused)}",
                "Nothing needs doing unless the app calls them from the bodies of its functions or its queries.",
            )
        )
    return found


async def foreign_tables(pair: Pair) -> list[Finding]:
    """Foreign tables are made from the dump; what they refer to, a server with its passwords, is not in it."""
    if pair.source.settings.schema_mode is SchemaMode.EXISTING:
        return []
    cursor = await pair.source.connection.execute(_FOREIGN_TABLES, [list(pair.source.schemas)])
    tables = await cursor.fetchall()
    cursor = await pair.target.connection.execute("SELECT srvname FROM pg_catalog.pg_foreign_server")
    servers = {name for (name,) in await cursor.fetchall()}
    lacking = [(table, server) for table, server in tables if server not in servers]
    if not lacking:
        return []
    return [
        blocked(
            Side.TARGET,
            f"foreign tables need servers that are not here: {listed([table for table, _ in lacking])}",
            f"CREATE SERVER {', '.join(sorted({server for _, server in lacking}))} on the target, with its user "
            "mappings; or drop the tables.",
        )
    ]


async def emptiness(pair: Pair) -> list[Finding]:
    """With REPLICATOR_SCHEMA=copy the target's schema is ours to make."""
    if pair.source.settings.schema_mode is SchemaMode.EXISTING or pair.source.under_way:
        return []
    cursor = await pair.target.connection.execute(_OBJECTS, [list(pair.source.schemas)])
    return emptiness_verdict([name for (name,) in await cursor.fetchall()])


def emptiness_verdict(objects: Sequence[str]) -> list[Finding]:
    """Whatever is there already would collide, or be mistaken for what was copied."""
    if not objects:
        return []
    return [
        blocked(
            Side.TARGET,
            f"the database is not empty: {listed(objects)}",
            "Use an empty database; or set REPLICATOR_SCHEMA=existing if your own migrations made these tables.",
        )
    ]


async def copy_connections(pair: Pair) -> list[Finding]:
    """The copy's driver must be able to be as strict as the URLs ask for."""
    settings = pair.source.settings
    findings = []
    for dsn, side in ((settings.source, Side.SOURCE), (settings.target, Side.TARGET)):
        try:
            connect_arguments(dsn, side, "check", {})
        except ConfigurationError as error:
            findings.append(from_error(error))
    return findings


async def programs(pair: Pair) -> list[Finding]:
    """The schema is copied by pg_dump, which must not be older than the source."""
    if pair.source.settings.schema_mode is SchemaMode.EXISTING:
        return []
    try:
        find_pg_dump(pair.source.settings, pair.source.connection.info.server_version)
    except ConfigurationError as error:
        return [from_error(error)]
    return []
