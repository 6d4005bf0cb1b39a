"""What may change on the source while the stream runs: the shapes of published tables.

Source: PostgreSQL documentation, "System Catalogs" (pg_attribute, pg_class, pg_publication_rel).
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
       atttypid AS type_oid, atttypmod AS modifier, xmin::text::bigint AS version, attgenerated <> '' AS generated
  FROM pg_catalog.pg_attribute
 WHERE attrelid = ANY (%s) AND attnum > 0 AND NOT attisdropped
 ORDER BY attrelid, attnum
"""

_USED: Final[LiteralString] = """
WITH RECURSIVE used (relid, typid) AS (
  SELECT attrelid, atttypid FROM pg_catalog.pg_attribute
   WHERE attrelid = ANY (%s) AND attnum > 0 AND NOT attisdropped AND atttypid >= 16384
   UNION
  SELECT u.relid, i.typid
    FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.typid
   CROSS JOIN LATERAL (
     SELECT v.typid FROM (VALUES (t.typelem), (t.typbasetype)) v (typid)
      UNION ALL
     SELECT a.atttypid FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
      UNION ALL
     SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)) i
   WHERE i.typid >= 16384)
"""
"""From 16384 on are the object ids of what users made (documentation: "System Catalog Initial Data", OID assignment).
A type may be inside of an array, a domain, a composite or a range."""

_LABELS: Final[LiteralString] = """
SELECT u.relid, e.oid::bigint, e.enumlabel
  FROM used u JOIN pg_catalog.pg_enum e ON e.enumtypid = u.typid
"""
_ATTRIBUTES: Final[LiteralString] = """
SELECT u.relid, a.attrelid::bigint,
       pg_catalog.array_agg(pg_catalog.concat_ws(' ', a.attnum, a.atttypid, a.atttypmod) ORDER BY a.attnum)
  FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.typid
  JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
 GROUP BY u.relid, a.attrelid
"""

_FILES: Final[LiteralString] = "SELECT oid, relfilenode AS node FROM pg_catalog.pg_class WHERE oid = ANY (%s)"

_ENTRIES: Final[LiteralString] = """
WITH RECURSIVE tree(unit, below) AS (
  SELECT u.oid, i.inhrelid FROM unnest(%(oids)s::oid[]) u(oid) JOIN pg_catalog.pg_inherits i ON i.inhparent = u.oid
   UNION ALL SELECT t.unit, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.below),
units AS (
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
 UNION
SELECT u.oid, pg_catalog.concat_ws(' ', 'partition', i.inhrelid, i.inhparent, i.xmin)
  FROM (SELECT oid, a.relid FROM unnest(%(oids)s::oid[]) u(oid), pg_catalog.pg_partition_ancestors(u.oid) a(relid)
         UNION SELECT unit, below FROM tree) u(oid, relid)
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = u.relid
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
 UNION
SELECT c.oid, 'toast ' || c.reltoastrelid
  FROM pg_catalog.pg_class c
 WHERE c.oid = ANY (%(oids)s) AND c.reltoastrelid <> 0
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel r JOIN published p ON p.oid = r.prpubid
                    WHERE r.prrelid = c.oid)
"""
"""What publishes a table. ALTER PUBLICATION … SET (publish = …) makes another xmin, ADD TABLE does not. A partition is
published with the table above it: while it is detached nothing is sent of it, and ATTACH makes another xmin.
``pg_partition_tree`` would lock the partitions for as long as a snapshot is kept. A table that is not listed itself may
be set UNLOGGED and be loaded, unseen: ALTER TABLE makes another TOAST table when it rewrites one, unlike TRUNCATE."""

_SCHEMA_ENTRIES: Final[LiteralString] = """
 UNION
SELECT u.oid, pg_catalog.concat_ws(' ', 'schema', s.oid, p.oid, p.xmin)
  FROM units u JOIN pg_catalog.pg_publication_namespace s ON s.pnnspid = u.relnamespace
  JOIN published p ON p.oid = s.pnpubid
 UNION
SELECT u.oid, pg_catalog.concat_ws(' ', 'in schema', d.refobjid, d.xmin)
  FROM units u JOIN pg_catalog.pg_publication_namespace s ON s.pnnspid = u.relnamespace
  JOIN published p ON p.oid = s.pnpubid
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = u.relid AND d.objsubid = 0
   AND d.refclassid = 'pg_catalog.pg_namespace'::regclass
"""
"""SET SCHEMA makes another xmin of what a table depends on: it may have been elsewhere for a while, and come back."""
SCHEMAS_SINCE: Final = 150_000
"""The server version from which a publication may name schemas."""


class _Column(NamedTuple):
    oid: int
    number: int
    name: str
    type: str
    type_oid: int
    modifier: int
    version: int
    generated: bool


class _File(NamedTuple):
    oid: int
    node: int


async def read_shapes(
    connection: Connection, tables: Sequence[PublishedTable], publications: Sequence[str]
) -> dict[int, Shape]:
    """The shape of each table by its oid, as the connection's snapshot sees it."""
    columns: dict[int, dict[int, ShapeColumn]] = defaultdict(dict)
    computed: dict[int, dict[int, tuple[str, str]]] = defaultdict(dict)
    for c in await fetch(connection, _Column, _COLUMNS, [table.oid for table in tables]):
        if c.generated:
            computed[c.oid][c.number] = (c.name, c.type)
            continue
        columns[c.oid][c.number] = ShapeColumn(c.name, c.type, frozenset([(c.type_oid, c.modifier)]), c.version)
    labels: dict[int, dict[int, str]] = defaultdict(dict)
    cursor = await connection.execute(_USED + _LABELS, [[table.oid for table in tables]])
    for relation, oid, label in await cursor.fetchall():
        labels[relation][oid] = label
    attributes: dict[int, dict[int, list[str]]] = defaultdict(dict)
    cursor = await connection.execute(_USED + _ATTRIBUTES, [[table.oid for table in tables]])
    for relation, oid, each in await cursor.fetchall():
        attributes[relation][oid] = each
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
            others=frozenset(name for name, _ in computed[table.oid].values()),
            labels=labels[table.oid],
            computed=computed[table.oid],
            attributes=attributes[table.oid],
        )
        for table in tables
    }


async def _entries(connection: Connection, oids: list[int], publications: Sequence[str]) -> Mapping[int, set[str]]:
    query = _ENTRIES
    if connection.info.server_version >= SCHEMAS_SINCE:
        query += _SCHEMA_ENTRIES
    cursor = await connection.execute(query, {"oids": oids, "publications": list(publications)})
    found: dict[int, set[str]] = defaultdict(set)
    for oid, entry in await cursor.fetchall():
        found[oid].add(entry)
    return found
