"""Whether something of the app's schema is another than at an earlier look: hashes of the catalog.

Source: PostgreSQL documentation, "System Catalogs".
"""

from collections.abc import Sequence
from typing import Final, LiteralString

from replicator.catalog.shapes import SCHEMAS_SINCE
from replicator.postgres import Connection

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
            WHERE relnamespace IN (TABLE app) AND relkind IN ('r', 'p', 'v', 'm', 'S', 'c'))
SELECT pg_catalog.md5(pg_catalog.concat_ws('/',
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', oid, relname, relnamespace, relkind, relpersistence,
          silent, file), ','
          ORDER BY oid) FROM tables),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', attrelid, attnum, xmin), ','
          ORDER BY attrelid, attnum) FROM pg_catalog.pg_attribute
    WHERE attrelid IN (SELECT oid FROM tables WHERE relkind IN ('r', 'p', 'c')) AND attnum > 0 AND NOT attisdropped),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', indexrelid, indisvalid, relname), ',' ORDER BY indexrelid)
     FROM pg_catalog.pg_index JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
    WHERE indrelid IN (SELECT oid FROM tables)),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', p.oid, p.proname, p.pronamespace), ',' ORDER BY p.oid)
     FROM pg_catalog.pg_proc p
    WHERE p.pronamespace IN (TABLE app)
      AND EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_index x ON x.indexrelid = d.objid
                   WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass AND d.refobjid = p.oid
                     AND d.classid = 'pg_catalog.pg_class'::regclass)),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', inhrelid, inhparent), ',' ORDER BY inhrelid, inhparent)
     FROM pg_catalog.pg_inherits WHERE inhrelid IN (SELECT oid FROM tables)),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', enumtypid, enumlabel), ',' ORDER BY enumtypid, enumsortorder)
     FROM pg_catalog.pg_enum),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.oid, t.typname, t.typnamespace), ',' ORDER BY t.oid)
     FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
    WHERE t.typnamespace IN (TABLE app) AND (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c')),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', oid, stxname, stxnamespace), ',' ORDER BY oid)
     FROM pg_catalog.pg_statistic_ext WHERE stxnamespace IN (TABLE app)),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', oid, xmin), ',' ORDER BY oid) FROM publications),
  (SELECT pg_catalog.string_agg(oid::text, ',' ORDER BY oid)
     FROM pg_catalog.pg_publication_rel WHERE prpubid IN (SELECT oid FROM publications))))
"""

_DEFINITIONS: Final[LiteralString] = """
WITH app AS (SELECT oid FROM pg_catalog.pg_namespace
              WHERE nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_') AND nspname <> ALL (%s)),
tables AS (SELECT oid, relname, relnamespace, relkind, relpersistence, relrowsecurity, relforcerowsecurity
             FROM pg_catalog.pg_class WHERE relnamespace IN (TABLE app) AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')),
versions(catalog, oid, version) AS (
  SELECT 'function', oid, xmin::text FROM pg_catalog.pg_proc WHERE pronamespace IN (TABLE app)
  UNION ALL SELECT 'type', oid, xmin::text FROM pg_catalog.pg_type WHERE typnamespace IN (TABLE app)
  UNION ALL SELECT 'label', oid, xmin::text FROM pg_catalog.pg_enum
  UNION ALL SELECT 'constraint', oid, xmin::text FROM pg_catalog.pg_constraint WHERE connamespace IN (TABLE app)
  UNION ALL SELECT 'default', oid, xmin::text FROM pg_catalog.pg_attrdef WHERE adrelid IN (SELECT oid FROM tables)
  UNION ALL SELECT 'rule', oid, xmin::text FROM pg_catalog.pg_rewrite WHERE ev_class IN (SELECT oid FROM tables)
  UNION ALL SELECT 'policy', oid, xmin::text FROM pg_catalog.pg_policy WHERE polrelid IN (SELECT oid FROM tables)
  UNION ALL SELECT 'statistics', oid, xmin::text FROM pg_catalog.pg_statistic_ext WHERE stxnamespace IN (TABLE app)
  UNION ALL SELECT 'index', indexrelid, pg_catalog.concat_ws(' ', indisvalid, relname)
              FROM pg_catalog.pg_index JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
             WHERE indrelid IN (SELECT oid FROM tables)
  UNION ALL SELECT 'partition', inhrelid, inhparent::text FROM pg_catalog.pg_inherits
             WHERE inhrelid IN (SELECT oid FROM tables)
  UNION ALL SELECT 'trigger', t.oid, t.xmin::text FROM pg_catalog.pg_trigger t
              JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE t.tgrelid IN (SELECT oid FROM tables) AND NOT t.tgisinternal AND n.nspname <> ALL (%s))
SELECT pg_catalog.md5(pg_catalog.concat_ws('/',
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', oid, relname, relnamespace, relkind, relpersistence,
          relrowsecurity, relforcerowsecurity), ',' ORDER BY oid) FROM tables),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', attrelid, attnum, xmin), ',' ORDER BY attrelid, attnum)
     FROM pg_catalog.pg_attribute WHERE attrelid IN (SELECT oid FROM tables) AND attnum > 0),
  (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', catalog, oid, version), ',' ORDER BY catalog, oid)
     FROM versions)))
"""

_PUBLICATIONS: Final[LiteralString] = """
SELECT pg_catalog.md5(pg_catalog.concat_ws('/',
  pg_catalog.string_agg(pg_catalog.concat_ws(' ', p.oid, p.xmin, r.oid, c.relreplident), ',' ORDER BY p.oid, r.oid)))
  FROM pg_catalog.pg_publication p LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
  LEFT JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
 WHERE p.pubname = ANY (%s)
"""


async def read_fingerprint(
    connection: Connection, exclude_schemas: Sequence[str], exclude_publications: Sequence[str] = ()
) -> str:
    """A hash of what the app's deploys change: tables, columns, indexes, types, enums, and what is published."""
    parameters = {"schemas": list(exclude_schemas), "publications": list(exclude_publications)}
    row = await (await connection.execute(_FINGERPRINT, parameters)).fetchone()
    schemas = None
    if connection.info.server_version >= SCHEMAS_SINCE:
        schemas = await (await connection.execute(_PUBLISHED_SCHEMAS)).fetchone()
    return f"{row and row[0]} {schemas and schemas[0]}"


async def read_definitions(connection: Connection, exclude_schemas: Sequence[str]) -> str:
    """A hash of all that a dump of the app's schemas would tell, but for comments, rights and settings of sequences.

    Triggers whose functions lie in ``exclude_schemas`` do not count: a fence is none of the app's.
    """
    schemas = list(exclude_schemas)
    row = await (await connection.execute(_DEFINITIONS, [schemas, schemas])).fetchone()
    return str(row and row[0])


async def publications_fingerprint(connection: Connection, names: Sequence[str]) -> str:
    """A hash of these publications, and of the tables that each lists with their replica identities."""
    row = await (await connection.execute(_PUBLICATIONS, [list(names)])).fetchone()
    return str(row and row[0])
