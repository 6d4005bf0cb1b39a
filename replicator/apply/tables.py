"""What the target's catalog says of the tables that changes arrive for."""

from collections.abc import Mapping, Sequence
from typing import Final, LiteralString

from psycopg import sql
from psycopg.rows import dict_row

from replicator.apply.statements import TargetColumn, TargetTable
from replicator.control import TableRecord
from replicator.errors import SchemaMismatchError
from replicator.model import Relation, ReplicaIdentity
from replicator.postgres import Connection, qualified

_TABLE: Final[LiteralString] = """
SELECT c.oid, c.relkind = 'p' AS partitioned
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""

_COLUMNS: Final[LiteralString] = """
WITH RECURSIVE base AS (
  SELECT a.attnum, a.attname, a.attidentity, a.attgenerated, a.attnotnull, a.attcollation,
         a.atttypid AS typid, a.atttypmod AS typmod,
         a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT b.attnum, b.attname, b.attidentity, b.attgenerated, b.attnotnull, b.attcollation,
         t.typbasetype, CASE WHEN t.typtypmod >= 0 THEN t.typtypmod ELSE b.typmod END, b.required
    FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typid WHERE t.typtype = 'd')
SELECT b.attnum, b.attname AS name, b.required, b.attidentity = 'a' AS identity_always,
       b.attgenerated <> '' AS generated,
       pg_catalog.format_type(b.typid, b.typmod)
         || CASE WHEN b.attcollation <> t.typcollation
                 THEN ' COLLATE ' || b.attcollation::pg_catalog.regcollation::text ELSE '' END AS type,
       pg_catalog.format_type(b.typid, -1) AS parameter_type,
       NOT EXISTS (SELECT FROM pg_catalog.pg_cast k
                    WHERE k.castsource = 'pg_catalog.text'::pg_catalog.regtype AND k.casttarget = b.typid
                      AND k.castmethod = 'f') AS casts_as_input,
       coalesce((SELECT n.nspname FROM pg_catalog.pg_operator o
                   JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
                  WHERE o.oprname = '=' AND o.oprleft = b.typid AND o.oprright = b.typid
                  ORDER BY n.nspname <> 'pg_catalog', n.nspname LIMIT 1), 'pg_catalog') AS equality_schema
  FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typid WHERE t.typtype <> 'd'
"""

_UNIQUE: Final[LiteralString] = """
SELECT i.indkey::smallint[] AS attnums, i.indisprimary AS primary,
       i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                          WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
                            AND (NOT a.attnotnull OR a.attgenerated <> '')) AS usable,
       i.indnkeyatts AS keys
  FROM pg_catalog.pg_index i
 WHERE i.indrelid = %s AND (i.indisunique OR i.indisexclusion)
 ORDER BY i.indisprimary DESC, i.indexrelid
"""

_DEFERRED: Final[LiteralString] = """
SELECT DISTINCT k.connamespace::pg_catalog.regnamespace::text, pg_catalog.quote_ident(k.conname)
  FROM unnest(%s::text[], %s::text[]) u (schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = u.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = u.name
 CROSS JOIN LATERAL (SELECT c.oid UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.oid)) p (relid)
  JOIN pg_catalog.pg_trigger t ON t.tgrelid = p.relid AND t.tginitdeferred
  JOIN pg_catalog.pg_constraint k ON k.oid = t.tgconstraint
"""


def require_shape(relation: Relation, record: TableRecord) -> None:
    """Raise SchemaMismatchError if the table was renamed, or a column's type changed, since its rows were copied."""
    if relation.table != record.table:
        raise SchemaMismatchError(f"table {record.table} is named {relation.table} on the source now")
    if record.shape is not None and not record.shape.names_follow(relation):
        raise SchemaMismatchError(f"columns of {relation.table} have swapped their names on the source")
    if record.shape is not None and (retyped := record.shape.retyped_in(relation)):
        raise SchemaMismatchError(f"column {retyped[0]} of {relation.table} has another type on the source now")


async def read_target_table(connection: Connection, relation: Relation) -> TargetTable:
    """Find the place of a relation on the target. Raises SchemaMismatchError if it, or a column, has none."""
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(_TABLE, relation.table, prepare=True)
    table = await cursor.fetchone()
    if table is None:
        raise SchemaMismatchError(f"table {relation.table} is not on the target")
    await cursor.execute(_COLUMNS, [table["oid"]], prepare=True)
    found = {row["name"]: row for row in await cursor.fetchall()}
    _require_complete(relation, found)
    await cursor.execute(_UNIQUE, [table["oid"]], prepare=True)
    indexes = [(frozenset(row["attnums"][: row["keys"]]), row["usable"]) for row in await cursor.fetchall()]
    columns = tuple(_column(relation, column.name, found.get(column.name)) for column in relation.columns)
    published = {column.name for column in columns}
    local = [row for name, row in found.items() if name not in published and not row["generated"]]
    attnums = [found[column.name]["attnum"] for column in relation.columns]
    key = key_positions(
        relation,
        [[attnums.index(n) for n in sorted(index)] for index, usable in indexes if usable and index <= set(attnums)],
    )
    key_attnums = frozenset(attnums[i] for i in key or ())
    return TargetTable(
        relation.table,
        columns,
        key,
        table["partitioned"],
        # a partition may have unique indexes of its own
        has_other_unique=table["partitioned"] or any(index != key_attnums for index, _ in indexes),
        local=tuple(_column(relation, str(row["name"]), row) for row in local),
    )


async def read_deferred_constraints(connection: Connection, tables: Sequence[TargetTable]) -> list[str]:
    """The constraints of tables and their partitions, as SQL has their names, that are checked at the commit."""
    names = [[table.name.schema for table in tables], [table.name.name for table in tables]]
    cursor = await connection.execute(_DEFERRED, names, prepare=True)
    return [".".join(row) for row in await cursor.fetchall()]


def _require_complete(relation: Relation, found: Mapping[str, dict[str, object]]) -> None:
    """A column that must have a value gets one only from the source."""
    published = {column.name for column in relation.columns}
    if lacking := [name for name, column in found.items() if column["required"] and name not in published]:
        raise SchemaMismatchError(
            f"column {lacking[0]} of {relation.table} is NOT NULL without a default on the target, "
            "but the source does not send it",
            hint=f"Run on the target: {_drop(relation, lacking[0])}; or give it a default. "
            "The worker goes on by itself then.",
        )


def _drop(relation: Relation, column: str) -> str:
    statement = sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(qualified(relation.table), sql.Identifier(column))
    return statement.as_string()


def _column(relation: Relation, name: str, found: dict[str, object] | None) -> TargetColumn:
    if found is None:
        raise SchemaMismatchError(f"column {name} of {relation.table} does not exist on the target")
    if found["generated"]:
        change = sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP EXPRESSION")
        statement = change.format(qualified(relation.table), sql.Identifier(name)).as_string()
        raise SchemaMismatchError(
            f"column {name} of {relation.table} is generated on the target, and the source sends it",
            hint=f"Run on the target: {statement}; the worker goes on by itself then.",
        )
    return TargetColumn(
        name,
        str(found["type"]),
        str(found["parameter_type"]),
        bool(found["identity_always"]),
        bool(found["casts_as_input"]),
        str(found["equality_schema"]),
    )


def key_positions(relation: Relation, unique: list[list[int]]) -> tuple[int, ...] | None:
    """The positions of the key among the published columns, or None.

    Under REPLICA IDENTITY FULL every column is flagged, so the first of the ``unique`` keys serves if there is one.
    """
    if relation.identity is ReplicaIdentity.NOTHING:
        return None
    if relation.identity is ReplicaIdentity.FULL:
        return tuple(unique[0]) if unique else None
    return tuple(i for i, column in enumerate(relation.columns) if column.key) or None
