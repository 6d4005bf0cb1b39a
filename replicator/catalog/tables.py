"""The app's tables on the source, and whether each one's updates could be replicated.

Source: PostgreSQL documentation, "System Catalogs" (pg_class, pg_index, pg_attribute).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, NamedTuple

from replicator.catalog.identity import (
    UniqueIndex,
    full_problem,
    has_usable_primary_key,
    identity_problem,
    usable_index,
)
from replicator.catalog.query import fetch
from replicator.model import ReplicaIdentity, TableName
from replicator.postgres import Connection

MANAGED_SCHEMAS: Final = (
    "_analytics",
    "_realtime",
    "_supavisor",
    "auth",
    "cron",
    "extensions",
    "graphql",
    "graphql_public",
    "net",
    "pgbouncer",
    "pgmq",
    "pgmq_public",
    "pgsodium",
    "pgsodium_masks",
    "pgtle",
    "realtime",
    "storage",
    "vault",
)
"""Schemas that Supabase manages for its own services, besides supabase_*: no part of the app (design, section 7)."""

# names like "auth" are an app's own anywhere else
_MANAGED: Final[LiteralString] = """
SELECT nspname AS name
  FROM pg_catalog.pg_namespace
 WHERE (nspname = ANY (%s) OR starts_with(nspname, 'supabase_'))
   AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'supabase_admin')
 ORDER BY nspname
"""

_APP_SCHEMAS: Final[LiteralString] = """
SELECT n.nspname AS name
  FROM pg_catalog.pg_namespace n
 WHERE n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_') AND n.nspname <> ALL (%s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
 ORDER BY n.nspname
"""

_TABLES: Final[LiteralString] = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned,
       CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::oid END AS root,
       c.relpersistence = 'u' AS unlogged, c.relreplident AS identity,
       CASE c.relkind WHEN 'r' THEN coalesce(pg_catalog.pg_relation_size(c.oid), 0) ELSE 0 END AS size,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned,
       EXISTS (SELECT FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped) AS generated
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_') AND n.nspname <> ALL (%s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname
"""

_INDEXES: Final[LiteralString] = """
SELECT i.indrelid AS table, c.relname AS name, i.indisprimary AS primary, i.indisreplident AS chosen,
       i.indisvalid AS valid, i.indimmediate AS immediate, i.indpred IS NOT NULL AS partial,
       bool_or(k.attnum = 0) AS expression, bool_or(NOT a.attnotnull) IS TRUE AS nullable,
       bool_or(a.attgenerated <> '') IS TRUE AS generated
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
 WHERE i.indrelid = ANY (%s) AND i.indisunique AND k.place <= i.indnkeyatts
 GROUP BY i.indexrelid, i.indrelid, c.relname, i.indisprimary, i.indisreplident, i.indisvalid, i.indimmediate,
          i.indpred IS NOT NULL
 ORDER BY c.relname
"""


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table of the app: plain, an inheritance parent or child, a partitioned root, or a partition.

    ``root`` is the oid of the topmost partitioned table, if this is a partition. ``problem`` is why its updates could
    not be replicated, ``full_problem`` why not even under REPLICA IDENTITY FULL. ``identity_index`` is the index that
    REPLICA IDENTITY USING INDEX has named, ``usable_index`` one that it could name. ``keyed``: its primary key is
    usable. ``owned``: the role is its owner, or a member. ``size`` is bytes of its main fork.
    """

    oid: int
    table: TableName
    identity: ReplicaIdentity
    partitioned: bool = False
    root: int | None = None
    unlogged: bool = False
    size: int = 0
    owned: bool = True
    problem: str | None = None
    full_problem: str | None = None
    identity_index: str | None = None
    usable_index: str | None = None
    keyed: bool = False


class _Name(NamedTuple):
    name: str


class _Table(NamedTuple):
    oid: int
    schema: str
    name: str
    partitioned: bool
    root: int | None
    unlogged: bool
    identity: str
    size: int
    owned: bool
    generated: bool


async def managed_schemas(connection: Connection) -> tuple[str, ...]:
    """The schemas of this server that Supabase manages; none where the server is not Supabase's."""
    return tuple(row.name for row in await fetch(connection, _Name, _MANAGED, list(MANAGED_SCHEMAS)))


async def app_schemas(connection: Connection, exclude_schemas: Iterable[str]) -> tuple[str, ...]:
    """The schemas of the app, by the same rule as `source_tables`."""
    excluded = [*exclude_schemas, *await managed_schemas(connection)]
    return tuple(row.name for row in await fetch(connection, _Name, _APP_SCHEMAS, excluded))


async def source_tables(connection: Connection, exclude_schemas: Iterable[str]) -> list[SourceTable]:
    """Every table of the app with its verdict, in name order.

    Left out besides ``exclude_schemas``: what is the system's, Supabase's, an extension's, or temporary.
    """
    excluded = [*exclude_schemas, *await managed_schemas(connection)]
    tables = await fetch(connection, _Table, _TABLES, excluded)
    indexes: dict[int, list[UniqueIndex]] = defaultdict(list)
    for index in await fetch(connection, UniqueIndex, _INDEXES, [table.oid for table in tables]):
        indexes[index.table].append(index)
    return [_source_table(table, indexes[table.oid], connection.info.server_version) for table in tables]


def _source_table(row: _Table, indexes: Sequence[UniqueIndex], server_version: int) -> SourceTable:
    identity = ReplicaIdentity(row.identity)
    return SourceTable(
        oid=row.oid,
        table=TableName(row.schema, row.name),
        identity=identity,
        partitioned=row.partitioned,
        root=row.root,
        unlogged=row.unlogged,
        size=row.size,
        owned=row.owned,
        problem=identity_problem(identity, indexes, row.generated, server_version),
        full_problem=full_problem(row.generated, server_version),
        identity_index=next((index.name for index in indexes if index.chosen), None),
        usable_index=usable_index(indexes),
        keyed=has_usable_primary_key(indexes),
    )
