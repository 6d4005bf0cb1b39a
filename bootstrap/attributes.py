"""What both sides' tables have besides their rows: the statements that make defaults, CHECKs and the like ours.

They wait for the cutover: rows from before the change may be on their way, which they would refuse or fill wrongly.
Source: PostgreSQL documentation, "System Catalogs" (pg_attrdef, pg_constraint), ALTER TABLE.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, LiteralString, NamedTuple

from psycopg import sql
from psycopg.rows import class_row

from bootstrap.entries import Entry
from replicator.model import TableName
from replicator.postgres import Connection, qualified

_COLUMNS: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS relation, a.attname AS name, a.attnotnull AS required,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS value, a.attidentity <> '' AS is_identity
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relkind IN ('r', 'p')
   AND a.attgenerated = '' AND n.nspname = ANY (%s)
"""

_CHECKS: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS relation, k.conname AS name, false AS required,
       pg_catalog.pg_get_constraintdef(k.oid) AS value, false AS is_identity
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'c' AND k.coninhcount = 0 AND n.nspname = ANY (%s)
"""


_IDENTITIES: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS relation, a.attname AS name, a.attidentity::text AS identity,
       a.atthasdef AS has_default,
       ARRAY (SELECT ARRAY[sn.nspname::text, s.relname::text]
                FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
                JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
                 AND d.refobjid = c.oid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
               ORDER BY d.deptype DESC) AS sequences
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attgenerated = '' AND n.nspname = ANY (%s)
"""
_EXPRESSIONS: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS relation, a.attname AS name, false AS required,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS value, false AS is_identity
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attgenerated <> '' AND n.nspname = ANY (%s)
"""
_FORCED: Final[LiteralString] = """
SELECT n.nspname, c.relname, c.relforcerowsecurity
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY (%s)
 ORDER BY n.nspname, c.relname
"""
_INHERITED: Final[LiteralString] = """
SELECT n.nspname, c.relname, pn.nspname, p.relname
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind = 'r' AND NOT c.relispartition
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind = 'r'
  JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
 WHERE n.nspname = ANY (%s)
 ORDER BY n.nspname, c.relname, i.inhseqno
"""
_SET_EXPRESSION_SINCE: Final = 170_000

_KINDS: Final[Mapping[str, LiteralString]] = {"a": "ALWAYS", "d": "BY DEFAULT"}


class _Identity(NamedTuple):
    """A column and whether the server numbers it: ``identity`` is "a", "d", or empty.

    Of the ``sequences`` that the column owns, that of the identity comes first.
    """

    schema: str
    relation: str
    name: str
    identity: str
    has_default: bool
    sequences: list[list[str]]

    def to_become(self, ours: "_Identity") -> str:
        """The statements that let the target's column be numbered as the source's."""
        column = sql.Identifier(self.name)
        if not ours.identity:
            return self._alter("ALTER COLUMN {} DROP IDENTITY", column)
        kind = sql.SQL(_KINDS[ours.identity])
        if self.identity:
            return self._alter("ALTER COLUMN {} SET GENERATED {}", column, kind)
        sequence = sql.Identifier(*ours.sequences[0])
        statements = [self._alter("ALTER COLUMN {} DROP DEFAULT", column)] if self.has_default else []
        if ours.sequences[0] in self.sequences:  # one that numbered it before has the name
            statements.append(sql.SQL("DROP SEQUENCE {}").format(sequence).as_string())
        add: LiteralString = (
            "ALTER COLUMN {} SET NOT NULL, ALTER COLUMN {} ADD GENERATED {} AS IDENTITY (SEQUENCE NAME {})"
        )
        return "; ".join([*statements, self._alter(add, column, column, kind, sequence)])

    def _alter(self, action: LiteralString, *parts: sql.Composable) -> str:
        table = qualified(TableName(self.schema, self.relation))
        return sql.SQL("ALTER TABLE {} {}").format(table, sql.SQL(action).format(*parts)).as_string()


class _Attribute(NamedTuple):
    schema: str
    relation: str
    name: str
    required: bool
    value: str | None
    is_identity: bool

    @property
    def table(self) -> TableName:
        return TableName(self.schema, self.relation)

    def entry(self, kind: str, action: LiteralString, value: str = "") -> Entry:
        """The statement that does it, as a dump would have it."""
        composed = sql.SQL(action).format(sql.Identifier(self.name), sql.SQL(value))
        statement = sql.SQL("ALTER TABLE {} {};").format(qualified(self.table), composed)
        return Entry(kind, self.schema, f"{self.relation} {self.name}", statement.as_string())


_Attributes = Mapping[tuple[str, str, str], _Attribute]


async def different_attributes(source: Connection, target: Connection, schemas: Sequence[str]) -> list[Entry]:
    """What the cutover has to change on tables that both sides have in these schemas, which are the app's."""
    columns = await _read(target, _COLUMNS, schemas)
    return [
        *_columns(await _read(source, _COLUMNS, schemas), columns),
        *_checks(await _read(source, _CHECKS, schemas), await _read(target, _CHECKS, schemas), columns),
    ]


async def different_tables(source: Connection, target: Connection, schemas: Sequence[str]) -> list[Entry]:
    """What the cutover has to change of whom policies bind, and of which tables' rows are found in another one."""
    ours, theirs = await _forced(source, schemas), await _forced(target, schemas)
    found = [
        _change(table, "FORCE ROW LEVEL SECURITY" if forced else "NO FORCE ROW LEVEL SECURITY")
        for table, forced in ours.items()
        if theirs.get(table, forced) != forced
    ]
    ours_above, theirs_above = await _inherited(source, schemas), await _inherited(target, schemas)
    for action, pairs, others in (
        ("NO INHERIT", theirs_above, ours_above),
        ("INHERIT", ours_above, theirs_above),
    ):
        for child, parent in pairs:
            if (child, parent) not in others and {child, parent} <= ours.keys() & theirs.keys():
                found.append(_change(child, f"{action} {qualified(parent).as_string()}"))
    return found


def _change(table: TableName, action: str) -> Entry:
    statement = f"ALTER TABLE {qualified(table).as_string()} {action};"
    return Entry("TABLE", table.schema, f"{table.name}: {action.lower()}", statement)


async def _forced(connection: Connection, schemas: Sequence[str]) -> dict[TableName, bool]:
    rows = await (await connection.execute(_FORCED, [list(schemas)])).fetchall()
    return {TableName(schema, name): forced for schema, name, forced in rows}


async def _inherited(connection: Connection, schemas: Sequence[str]) -> list[tuple[TableName, TableName]]:
    rows = await (await connection.execute(_INHERITED, [list(schemas)])).fetchall()
    return [(TableName(*row[:2]), TableName(*row[2:])) for row in rows]


async def different_identities(
    source: Connection, target: Connection, schemas: Sequence[str]
) -> dict[TableName, list[str]]:
    """By table of both sides, the statements for its columns that only one side numbers by itself, or otherwise."""
    theirs = {row[:3]: row for row in await _read_identities(target, schemas)}
    found: dict[TableName, list[str]] = {}
    for our in await _read_identities(source, schemas):
        their = theirs.get(our[:3])
        if their is not None and their.identity != our.identity:
            found.setdefault(TableName(our.schema, our.relation), []).append(their.to_become(our))
    return found


async def different_expressions(
    source: Connection, target: Connection, schemas: Sequence[str]
) -> dict[TableName, list[str]]:
    """By table of both sides, the statements for generated columns that the app has given another expression."""
    if source.info.server_version < _SET_EXPRESSION_SINCE:
        return {}  # and servers of several versions need not print one alike
    theirs = await _read(target, _EXPRESSIONS, schemas)
    found: dict[TableName, list[str]] = {}
    for key, our in (await _read(source, _EXPRESSIONS, schemas)).items():
        if key in theirs and our.value is not None and theirs[key].value != our.value:
            change = our.entry("", "ALTER COLUMN {} SET EXPRESSION AS ({})", our.value)
            found.setdefault(our.table, []).append(change.sql.removesuffix(";"))
    return found


async def _read_identities(connection: Connection, schemas: Sequence[str]) -> list[_Identity]:
    cursor = await connection.cursor(row_factory=class_row(_Identity)).execute(_IDENTITIES, [list(schemas)])
    return await cursor.fetchall()


async def _read(connection: Connection, query: LiteralString, schemas: Sequence[str]) -> _Attributes:
    """With names that say their schema, whatever the session's search_path is."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = ''")
        cursor = await connection.cursor(row_factory=class_row(_Attribute)).execute(query, [list(schemas)])
        return {(row.schema, row.relation, row.name): row for row in await cursor.fetchall()}


def _columns(ours: _Attributes, theirs: _Attributes) -> Iterator[Entry]:
    for key, our in ours.items():
        their = theirs.get(key)
        if their is None or our.is_identity or their.is_identity:
            continue
        if our.value is None and their.value is not None:
            yield our.entry("DEFAULT", "ALTER COLUMN {} DROP DEFAULT{}")
        elif our.value is not None and our.value != their.value:
            yield our.entry("DEFAULT", "ALTER COLUMN {} SET DEFAULT {}", our.value)
        if our.required and not their.required:
            yield our.entry("NOT NULL", "ALTER COLUMN {} SET NOT NULL{}")
        elif their.required and not our.required:
            yield our.entry("NOT NULL", "ALTER COLUMN {} DROP NOT NULL{}")


def _checks(ours: _Attributes, theirs: _Attributes, columns: _Attributes) -> Iterator[Entry]:
    there = {column.table for column in columns.values()}
    for key, our in ours.items():
        if our.table not in there or our.value is None:
            continue
        if key not in theirs:
            yield our.entry("CHECK CONSTRAINT", "ADD CONSTRAINT {} {}", our.value)
        elif theirs[key].value != our.value:
            drop = our.entry("CHECK CONSTRAINT", "DROP CONSTRAINT {}{}")
            yield replace(drop, sql=drop.sql + "\n" + our.entry("", "ADD CONSTRAINT {} {}", our.value).sql)


async def looser_columns(source: Connection, target: Connection, schemas: Sequence[str]) -> dict[TableName, list[str]]:
    """By table of both sides, the columns that may be NULL on the source only."""
    theirs = await _read(target, _COLUMNS, schemas)
    found: dict[TableName, list[str]] = {}
    for key, our in (await _read(source, _COLUMNS, schemas)).items():
        if key in theirs and theirs[key].required and not our.required:
            found.setdefault(our.table, []).append(our.name)
    return found
