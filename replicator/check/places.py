"""With REPLICATOR_SCHEMA=existing, every published table and column must have its place on the target."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, NamedTuple

from psycopg.rows import class_row

from bootstrap.places import Place, require_empty
from replicator.catalog import published_tables
from replicator.check.context import Pair, Source
from replicator.check.finding import Finding, blocked, from_error, listed
from replicator.errors import ReplicatorError, Side
from replicator.model import SchemaMode, TableName
from replicator.postgres import Connection
from replicator.source.publication import plan

_COLUMNS: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS table, c.relkind = 'p' AS partitioned, a.attname AS name,
       a.attgenerated <> '' AS generated,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required,
       pg_catalog.row_security_active(c.oid) AS hidden,
       c.relpersistence = 'u'
         OR EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) t
                      JOIN pg_catalog.pg_class l ON l.oid = t.relid AND l.relpersistence = 'u') AS unlogged
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN unnest(%s::text[], %s::text[]) w(schema, name) ON w.schema = n.nspname AND w.name = c.relname
 WHERE c.relkind IN ('r', 'p')
 ORDER BY a.attnum
"""


class Column(NamedTuple):
    """A column; ``required``: an INSERT without it fails. ``hidden``: policies keep rows of its table from the role.

    ``unlogged``: so is its table, or a partition of it.
    """

    schema: str
    table: str
    partitioned: bool
    name: str
    generated: bool
    required: bool
    hidden: bool = False
    unlogged: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """A table and the columns that the stream will carry; it leaves out those that are ``computed``."""

    table: TableName
    columns: frozenset[str]
    computed: frozenset[str] = frozenset()


async def places(pair: Pair) -> list[Finding]:
    """Tables and columns without a place, and columns of the target that nothing would fill."""
    if pair.source.settings.schema_mode is SchemaMode.COPY:
        return []
    try:
        sent = await _sent(pair.source)
    except ReplicatorError:
        return []  # a missing publication has a finding of its own
    columns = await _columns(pair.target.connection, [item.table for item in sent])
    found = places_verdict(sent, columns)
    if not pair.source.under_way:
        found += await _emptiness(pair.target.connection, columns)
    return found


async def _emptiness(target: Connection, columns: Mapping[TableName, Sequence[Column]]) -> list[Finding]:
    # the bootstrap looks into forced tables of the role's own once it has lifted that
    seen = {name: own for name, own in columns.items() if not own[0].hidden}
    try:
        await require_empty(target, [Place(*name, own[0].partitioned, []) for name, own in seen.items()])
    except ReplicatorError as error:
        return [from_error(error)]
    return []


async def _sent(source: Source) -> list[Sent]:
    if source.settings.publications:
        published = await published_tables(source.connection, source.settings.publications)
        sent: dict[TableName, Collection[str] | None] = {table.table: table.columns for table in published}
    else:
        planned = plan(source.tables, source.settings)
        sent = {table.table: None for table in (*planned.complete, *planned.insert_only)}
    found = []
    columns = await _columns(source.connection, list(sent))
    for table, published_columns in sent.items():
        plain = (c.name for c in columns.get(table, ()) if not c.generated)
        computed = frozenset(c.name for c in columns.get(table, ()) if c.generated)
        found.append(Sent(table, frozenset(plain if published_columns is None else published_columns), computed))
    return found


async def _columns(connection: Connection, tables: Sequence[TableName]) -> dict[TableName, list[Column]]:
    parameters = [[table.schema for table in tables], [table.name for table in tables]]
    cursor = await connection.cursor(row_factory=class_row(Column)).execute(_COLUMNS, parameters)
    found: dict[TableName, list[Column]] = defaultdict(list)
    for column in await cursor.fetchall():
        found[TableName(column.schema, column.table)].append(column)
    return dict(found)


def places_verdict(sent: Sequence[Sent], target: Mapping[TableName, Sequence[Column]]) -> list[Finding]:
    """One finding for all missing tables, one a table for its columns."""
    found = []
    if missing := [item.table for item in sent if item.columns and item.table not in target]:
        found.append(
            blocked(
                Side.TARGET,
                f"published tables are missing: {listed(missing)}",
                "Run your own migrations on the target first, or leave the tables out of the publication.",
            )
        )
    if unlogged := [item.table for item in sent if any(column.unlogged for column in target.get(item.table, ()))]:
        found.append(
            blocked(
                Side.TARGET,
                f"tables, or partitions of them, are unlogged: {listed(unlogged)}",
                "ALTER TABLE … SET LOGGED on the target: a crash of it would empty them.",
            )
        )
    for item in sent:
        found += _column_findings(item, target.get(item.table, ()))
    return found


def _column_findings(sent: Sent, columns: Sequence[Column]) -> list[Finding]:
    if not columns:
        return []
    writable = {column.name for column in columns if not column.generated}
    held = sorted(sent.computed & writable)
    unfilled = [column.name for column in columns if column.required and column.name not in sent.columns]
    verdicts = (
        (sorted(sent.columns - writable), "has no column for", "Add the columns, not generated ones, to the table."),
        (held, "holds values of columns that are generated on the source:", "Let the target compute them, too."),
        (unfilled, "has columns that are NOT NULL without a default and not published:", "Give them a default."),
    )
    return [
        blocked(Side.TARGET, f"table {sent.table} {problem} {listed(names)}", remedy)
        for names, problem, remedy in verdicts
        if names
    ]
