"""What may change on the source while the stream runs: the shapes of published tables, and a fingerprint of it all.

Source: PostgreSQL documentation, "System Catalogs" (pg_attribute, pg_class, pg_publication_rel, pg_enum).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, LiteralString, NamedTuple

from replicator.catalog.published import PublishedTable
from replicator.catalog.query import fetch
from replicator.postgres import Connection
from replicator.shape import Shape, ShapeColumn

_COLUMNS: Final[LiteralString] = """
SELECT attrelid AS oid, attnum AS number, attname AS name, pg_catalog.format_type(atttypid, atttypmod) AS type,
       atttypid AS type_oid, atttypmod AS modifier
  FROM pg_catalog.pg_attribute
 WHERE attrelid = ANY (%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
 ORDER BY attrelid, attnum
"""

_FILES: Final[LiteralString] = "SELECT oid, relfilenode AS node FROM pg_catalog.pg_class WHERE oid = ANY (%s)"

_ENTRIES: Final[LiteralString] = """
WITH units AS (
  SELECT u.oid, c.oid AS relid, c.relnamespace
    FROM unnest(%(oids)s::oid[]) u(oid)
   CROSS JOIN LATERAL (SELECT u.oid UNION SELECT a.relid::oid FROM pg_catalog.pg_partition_ancestors(u.oid) a) t(relid)
    JOIN pg_catalog.pg_class c ON c.oid = t.relid),
published AS (SELECT oid, xmin, puballtables FROM pg_catalog.pg_publication WHERE pubname = ANY (%(publications)s))
SELECT u.oid, 'table ' || r.oid AS entry
  FROM units u JOIN pg_catalog.pg_publication_rel r ON r.prrelid = u.relid JOIN published p ON p.oid = r.prpubid
 UNION
SELECT u.oid, pg_catalog.concat_ws(' ', 'publication', p.oid, p.xmin)
  FROM units u JOIN pg_catalog.pg_publication_rel r ON r.prrelid = u.relid JOIN published p ON p.oid = r.prpubid
 UNION
SELECT u.oid, pg_catalog.concat_ws(' ', 'publication', p.oid, p.xmin) FROM units u, published p WHERE p.puballtables
"""
"""What publishes a table. ALTER PUBLICATION … SET (publish = …) makes another xmin, ADD TABLE does not."""

_SCHEMA_ENTRIES: Final[LiteralString] = """
 UNION
SELECT u.oid, pg_catalog.concat_ws(' ', 'schema', s.oid, p.oid, p.xmin)
  FROM units u JOIN pg_catalog.pg_publication_namespace s ON s.pnnspid = u.relnamespace
  JOIN published p ON p.oid = s.pnpubid
"""
_SCHEMAS_SINCE: Final = 150_000
"""The server version from which a publication may name schemas."""

_PUBLISHED_SCHEMAS: Final[LiteralString] = """
SELECT pg_catalog.md5(pg_catalog.string_agg(oid::text, ',' ORDER BY oid)) FROM pg_catalog.pg_publication_namespace
"""

_FINGERPRINT: Final[LiteralString] = """
WITH app AS (SELECT oid FROM pg_catalog.pg_namespace
              WHERE nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')
                AND nspname <> ALL (%(schemas)s)),
publications AS (SELECT oid, xmin FROM pg_catalog.pg_publication WHERE pubname <> ALL (%(publications)s)),
tables AS (SELECT oid, relname, relnamespace, relkind, relpersistence, relreplident = 'n' AS silent,
                  CASE WHEN relispartition THEN relfilenode END AS file FROM pg_catalog.pg_class
            WHERE relnamespace IN (TABLE app) AND relkind IN ('r', 'p', 'v', 'm', 'S'))
SELECT pg_catalog.md5(pg_catalog.concat_ws('/',
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', oid, relname, relnamespace, relkind, relpersistence,
          silent, file), ','
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
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', oid, xmin), ',' ORDER BY oid) FROM publications),
  (SELECT pg_catalog.string_agg(oid::text, ',' ORDER BY oid)
     FROM pg_catalog.pg_publication_rel WHERE prpubid IN (SELECT oid FROM publications))))
"""

_PUBLICATIONS: Final[LiteralString] = """
SELECT pg_catalog.md5(pg_catalog.concat_ws('/',
  pg_catalog.string_agg(pg_catalog.concat_ws(' ', p.oid, p.xmin, r.oid, c.relreplident), ',' ORDER BY p.oid, r.oid)))
  FROM pg_catalog.pg_publication p LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
  LEFT JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
 WHERE p.pubname = ANY (%s)
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
    columns: dict[int, dict[int, ShapeColumn]] = defaultdict(dict)
    for c in await fetch(connection, _Column, _COLUMNS, [table.oid for table in tables]):
        columns[c.oid][c.number] = ShapeColumn(c.name, c.type, frozenset([(c.type_oid, c.modifier)]))
    parts = [part.oid for table in tables for part in table.parts]
    nodes = {file.oid: file.node for file in await fetch(connection, _File, _FILES, parts)}
    entries = await _entries(connection, [table.oid for table in tables], publications)
    return {
        table.oid: Shape(
            columns[table.oid],
            {part.oid: nodes[part.oid] for part in table.parts if part.oid in nodes},
            frozenset(entries[table.oid]),
            frozenset(part.oid for part in table.parts if part.main_size),
            of_root=any(part.oid != table.oid for part in table.parts),
        )
        for table in tables
    }


async def _entries(connection: Connection, oids: list[int], publications: Sequence[str]) -> Mapping[int, set[str]]:
    query = _ENTRIES
    if connection.info.server_version >= _SCHEMAS_SINCE:
        query += _SCHEMA_ENTRIES
    cursor = await connection.execute(query, {"oids": oids, "publications": list(publications)})
    found: dict[int, set[str]] = defaultdict(set)
    for oid, entry in await cursor.fetchall():
        found[oid].add(entry)
    return found


async def read_fingerprint(
    connection: Connection, exclude_schemas: Sequence[str], exclude_publications: Sequence[str] = ()
) -> str:
    """A hash of what the app's deploys change: tables, columns, indexes, enums, and what is published."""
    parameters = {"schemas": list(exclude_schemas), "publications": list(exclude_publications)}
    row = await (await connection.execute(_FINGERPRINT, parameters)).fetchone()
    schemas = None
    if connection.info.server_version >= _SCHEMAS_SINCE:
        schemas = await (await connection.execute(_PUBLISHED_SCHEMAS)).fetchone()
    return f"{row and row[0]} {schemas and schemas[0]}"


async def publications_fingerprint(connection: Connection, names: Sequence[str]) -> str:
    """A hash of these publications, and of the tables that each lists with their replica identities."""
    row = await (await connection.execute(_PUBLICATIONS, [list(names)])).fetchone()
    return str(row and row[0])
