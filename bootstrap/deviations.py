"""What a deploy may have changed under a name that stayed, and the worker does not follow: the cutover has to tell it.

Source: PostgreSQL documentation, "System Catalogs" (pg_class: relpartbound, pg_attribute).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, LiteralString, NamedTuple

from bootstrap.types import LEFT
from replicator.catalog.query import fetch
from replicator.postgres import Connection

_BOUNDS: Final[LiteralString] = """
SELECT 'partition' AS kind, c.oid::regclass::text AS name, b.bound AS definition,
       pg_catalog.format('Run on the target: ALTER TABLE %%1$s DETACH PARTITION %%2$s; '
                           'ALTER TABLE %%1$s ATTACH PARTITION %%2$s %%3$s',
                         i.inhparent::regclass, c.oid::regclass, b.bound) AS remedy
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
 CROSS JOIN LATERAL pg_catalog.pg_get_expr(c.relpartbound, c.oid) b (bound)
 WHERE c.relispartition AND c.relkind IN ('r', 'p') AND n.nspname = ANY (%s)
"""
_COLLATIONS: Final[LiteralString] = """
SELECT 'column' AS kind, pg_catalog.format('%%s.%%I', c.oid::regclass, a.attname) AS name,
       'COLLATE ' || a.attcollation::regcollation AS definition,
       pg_catalog.format('Run on the target: ALTER TABLE %%s ALTER COLUMN %%I TYPE %%s COLLATE %%s', c.oid::regclass,
         a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation) AS remedy
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attcollation <> 0 AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0 AND c.relkind IN ('r', 'p')
   AND n.nspname = ANY (%s)
"""
"""Where each was declared: it cannot be changed where it is inherited."""
_COLUMN_TYPES: Final[LiteralString] = """
SELECT 'column' AS kind, pg_catalog.format('%%s.%%I', c.oid::regclass, a.attname) AS name, f.kind AS definition,
       pg_catalog.format(CASE WHEN a.attgenerated = ''
           THEN 'Run on the target: ALTER TABLE %%1$s ALTER COLUMN %%2$I DROP DEFAULT, '
                  'ALTER COLUMN %%2$I TYPE %%3$s USING %%2$I::text::%%3$s'
           ELSE 'Run on the target: ALTER TABLE %%1$s ALTER COLUMN %%2$I TYPE %%3$s' END,
         c.oid::regclass, a.attname, f.kind) AS remedy
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL pg_catalog.format_type(a.atttypid, a.atttypmod) f (kind)
 WHERE a.atttypid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0 AND c.relkind IN ('r', 'p')
   AND n.nspname = ANY (%s)
"""

_SAME: Final = (_BOUNDS, _COLLATIONS)


class _Definition(NamedTuple):
    kind: str
    name: str
    definition: str
    remedy: str


class Deviation(NamedTuple):
    """What both sides have, and is another one on the target; ``remedy`` says how to make it like the source's."""

    kind: str
    name: str
    source: str
    target: str
    remedy: str


async def deviations(source: Connection, target: Connection, schemas: Sequence[str]) -> list[Deviation]:
    """Partitions and columns in these schemas whose definitions differ.

    The types of columns differ where the target's has left its name to another one, and no row has come since: the
    columns of unlogged tables, and those that are computed.
    """
    ours, theirs = await _read(source, _SAME, schemas), await _read(target, _SAME, schemas)
    types, former = await _read(source, [_COLUMN_TYPES], schemas), await _read(target, [_COLUMN_TYPES], schemas)
    left = {key: item for key, item in former.items() if LEFT in item.definition}
    return [*_differences(ours, theirs), *_differences(types, left)]


_Definitions = Mapping[tuple[str, str], _Definition]


def _differences(ours: _Definitions, theirs: _Definitions) -> Iterator[Deviation]:
    for key, our in ours.items():
        if key in theirs and theirs[key].definition != our.definition:
            yield Deviation(our.kind, our.name, our.definition, theirs[key].definition, our.remedy)


async def _read(connection: Connection, queries: Iterable[LiteralString], schemas: Sequence[str]) -> _Definitions:
    """With names that say their schema, whatever the session's search_path is."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = ''")
        return {
            (item.kind, item.name): item
            for query in queries
            for item in await fetch(connection, _Definition, query, schemas)
        }
