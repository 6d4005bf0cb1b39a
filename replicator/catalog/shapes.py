"""What may change on the source while the stream runs: the shapes of published tables, and a fingerprint of it all.

Source: PostgreSQL documentation, "System Catalogs" (pg_attribute, pg_class, pg_publication_rel, pg_enum).
"""

from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple

from replicator.catalog.published import PublishedTable
from replicator.catalog.query import fetch
from replicator.postgres import Connection
from replicator.shape import Shape, ShapeColumn, shapes_by_oid

_COLUMNS: Final[LiteralString] = """
SELECT attrelid AS oid, attnum AS number, attname AS name, pg_catalog.format_type(atttypid, atttypmod) AS type,
       atttypid AS type_oid, atttypmod AS modifier
  FROM pg_catalog.pg_attribute
 WHERE attrelid = ANY (%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
 ORDER BY attrelid, attnum
"""

_FILES: Final[LiteralString] = "SELECT oid, relfilenode AS node FROM pg_catalog.pg_class WHERE oid = ANY (%s)"

_ENTRIES: Final[LiteralString] = """
SELECT u.oid, r.oid AS entry
  FROM unnest(%s::oid[]) u(oid)
 CROSS JOIN LATERAL (SELECT u.oid AS relid UNION SELECT a.relid::oid FROM pg_catalog.pg_partition_ancestors(u.oid) a) t
  JOIN pg_catalog.pg_publication_rel r ON r.prrelid = t.relid
  JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
 WHERE p.pubname = ANY (%s)
"""

_FINGERPRINT: Final[LiteralString] = """
WITH app AS (SELECT oid FROM pg_catalog.pg_namespace
              WHERE nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_') AND nspname <> ALL (%s)),
tables AS (SELECT oid, relname, relnamespace, relkind, relpersistence FROM pg_catalog.pg_class
            WHERE relnamespace IN (TABLE app) AND relkind IN ('r', 'p', 'v', 'm', 'S'))
SELECT pg_catalog.md5(pg_catalog.concat_ws('/',
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', oid, relname, relnamespace, relkind, relpersistence), ','
          ORDER BY oid) FROM tables),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', attrelid, attnum, attname, atttypid, atttypmod), ','
          ORDER BY attrelid, attnum) FROM pg_catalog.pg_attribute
    WHERE attrelid IN (SELECT oid FROM tables WHERE relkind IN ('r', 'p')) AND attnum > 0 AND NOT attisdropped),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', indexrelid, indisvalid), ',' ORDER BY indexrelid)
     FROM pg_catalog.pg_index WHERE indrelid IN (SELECT oid FROM tables)),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', inhrelid, inhparent), ',' ORDER BY inhrelid, inhparent)
     FROM pg_catalog.pg_inherits WHERE inhrelid IN (SELECT oid FROM tables)),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', enumtypid, enumlabel), ',' ORDER BY enumtypid, enumsortorder)
     FROM pg_catalog.pg_enum),
  (SELECT pg_catalog.string_agg(oid::text, ',' ORDER BY oid) FROM pg_catalog.pg_publication_rel)))
"""


class _Column(NamedTuple):
    oid: int
    number: int
    name: str
    type: str
    type_oid: int
    modifier: int


class _File(NamedTuple):
    oid: int
    node: int


async def read_shapes(
    connection: Connection, tables: Sequence[PublishedTable], publications: Sequence[str]
) -> dict[int, Shape]:
    """The shape of each table by its oid, as the connection's snapshot sees it."""
    oids = [table.oid for table in tables]
    parts = {part.oid: table.oid for table in tables for part in table.parts}
    columns = await fetch(connection, _Column, _COLUMNS, oids)
    files = await fetch(connection, _File, _FILES, list(parts))
    entries = await (await connection.execute(_ENTRIES, [oids, list(publications)])).fetchall()
    return shapes_by_oid(
        ((c.oid, c.number, ShapeColumn(c.name, c.type, frozenset([(c.type_oid, c.modifier)]))) for c in columns),
        ((parts[file.oid], file.oid, file.node) for file in files),
        ((oid, entry) for oid, entry in entries),
    )


async def read_fingerprint(connection: Connection, exclude_schemas: Sequence[str]) -> str:
    """A hash of what the app's deploys change: tables, columns, indexes, enums, and what is published."""
    row = await (await connection.execute(_FINGERPRINT, [list(exclude_schemas)])).fetchone()
    return str(row[0]) if row else ""
