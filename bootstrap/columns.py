"""Columns of both sides: what the target lacks, and the statement that adds it.

Source: PostgreSQL documentation, "System Catalogs" (pg_attribute: attmissingval), ALTER TABLE.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, LiteralString, NamedTuple

from psycopg import sql
from psycopg.rows import class_row

from replicator.model import TableName
from replicator.postgres import Connection, qualified

# parents come with their children: a column is added where it was declared
_SOURCE: Final[LiteralString] = """
WITH RECURSIVE tree(oid, unit) AS (
  SELECT u.oid, u.oid FROM unnest(%s::oid[]) u(oid)
  UNION SELECT i.inhparent, t.unit FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhrelid = t.oid)
SELECT n.nspname AS schema, c.relname AS relation, a.attname AS name, t.units,
       pg_catalog.format_type(a.atttypid, a.atttypmod)
         || CASE WHEN a.attcollation <> k.typcollation
                 THEN ' COLLATE ' || a.attcollation::pg_catalog.regcollation::text ELSE '' END AS type,
       a.attidentity::text AS identity, a.attgenerated::text AS generated,
       CASE WHEN a.attgenerated <> '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END AS expression,
       coalesce((a.attmissingval::text::text[])[1],
                (SELECT (l.attmissingval::text::text[])[1] FROM pg_catalog.pg_attribute l
                  WHERE l.attrelid = ANY (t.units) AND l.attname = a.attname AND l.atthasmissing LIMIT 1)) AS missing
  FROM (SELECT oid, pg_catalog.array_agg(unit) AS units FROM tree GROUP BY oid) t
  JOIN pg_catalog.pg_class c ON c.oid = t.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0
  JOIN pg_catalog.pg_type k ON k.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 ORDER BY n.nspname, c.relname, a.attnum
"""

_TARGET: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS relation, a.attname AS name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required, a.attgenerated <> '' AS computed
  FROM unnest(%s::text[], %s::text[]) w(schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
"""

_DECLARED: Final[LiteralString] = """
WITH RECURSIVE above(oid, inherited, level) AS (
  SELECT c.oid, a.attinhcount > 0, 0
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s
   WHERE n.nspname = %(schema)s AND c.relname = %(name)s
  UNION ALL
  SELECT a.attrelid, a.attinhcount > 0, b.level + 1
    FROM above b JOIN pg_catalog.pg_inherits i ON i.inhrelid = b.oid
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.inhparent AND a.attname = %(column)s
   WHERE b.inherited)
SELECT n.nspname, c.relname
  FROM above b JOIN pg_catalog.pg_class c ON c.oid = b.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY b.level DESC LIMIT 1
"""


class Column(NamedTuple):
    """A column of the source where it was declared; ``units`` are the published tables that have it.

    ``missing`` is the frozen value, as text, that rows from before the column have.
    """

    schema: str
    relation: str
    name: str
    units: list[int]
    type: str
    identity: str
    generated: str
    expression: str | None
    missing: str | None

    @property
    def table(self) -> TableName:
        """The table that it was declared in."""
        return TableName(self.schema, self.relation)

    def replacement(self) -> str:
        """What puts it in the place of the target's column of its name."""
        drop = sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(qualified(self.table), sql.Identifier(self.name))
        return f"{drop.as_string()}; {self.statement()}"

    def statement(self) -> str:
        """What adds it to the target."""
        value: sql.Composable = sql.SQL("")
        if self.generated:
            kind = "VIRTUAL" if self.generated == "v" else "STORED"
            value = sql.SQL(f" GENERATED ALWAYS AS ({self.expression}) {kind}")
        elif self.identity:
            value = sql.SQL(" GENERATED {} AS IDENTITY").format(
                sql.SQL("ALWAYS" if self.identity == "a" else "BY DEFAULT")
            )
        elif self.missing is not None:
            value = sql.SQL(" DEFAULT {}").format(sql.Literal(self.missing))
        return (
            sql.SQL("ALTER TABLE {} ADD COLUMN {} {}{}")
            .format(qualified(self.table), sql.Identifier(self.name), sql.SQL(self.type), value)
            .as_string()
        )


class TargetColumn(NamedTuple):
    """A column of the target: its type, whether only the source can give it a value, and whether nobody can."""

    type: str
    required: bool
    computed: bool


class _Place(NamedTuple):
    schema: str
    relation: str
    name: str | None
    type: str
    required: bool
    computed: bool


async def read_source_columns(source: Connection, oids: Sequence[int]) -> list[Column]:
    """The columns of these tables and of their parents, generated ones included, where they were declared."""
    cursor = await source.cursor(row_factory=class_row(Column)).execute(_SOURCE, [list(oids)])
    return await cursor.fetchall()


async def read_target_columns(
    target: Connection, names: Iterable[TableName]
) -> dict[TableName, dict[str, TargetColumn]]:
    """The columns of those tables that are there, by name; types are named with their schemas."""
    wanted = sorted(set(names))
    async with target.transaction():
        await target.execute("SET LOCAL search_path = ''")
        cursor = await target.cursor(row_factory=class_row(_Place)).execute(
            _TARGET, [[table.schema for table in wanted], [table.name for table in wanted]]
        )
        rows = await cursor.fetchall()
    found: dict[TableName, dict[str, TargetColumn]] = defaultdict(dict)
    for row in rows:
        columns = found[TableName(row.schema, row.relation)]
        if row.name is not None:
            columns[row.name] = TargetColumn(row.type, row.required, row.computed)
    return dict(found)


async def declaring_table(target: Connection, table: TableName, column: str) -> TableName:
    """The table itself, or the one above it that its column is inherited from."""
    row = await (
        await target.execute(_DECLARED, {"schema": table.schema, "name": table.name, "column": column})
    ).fetchone()
    return TableName(*row) if row else table
