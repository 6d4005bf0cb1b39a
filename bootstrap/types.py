"""Types of the app that were renamed or made anew on the source: their object ids tell them from others.

Values travel as text, so the stream does not tell of it; the app names types in its statements. A type that is made
anew under its name with another definition would cut or round what comes, so the target's leaves its name to it.
Source: PostgreSQL documentation, "System Catalogs" (pg_type, pg_range), ALTER TYPE, CREATE TYPE.
"""

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Final, LiteralString
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg import sql

from bootstrap.making import make_schema, refused
from replicator import control
from replicator.errors import SchemaMismatchError, Side
from replicator.model import TableName
from replicator.postgres import Connection, qualified, translate

log = structlog.get_logger(__name__)

LEFT: Final = "replicator_left_"
"""What the names of the target's types and indexes begin with that have left theirs to others."""

STEP: Final = "types"
"""The step that records what the types of the source were called when the target's got their names."""

_TYPES: Final[LiteralString] = """
SELECT t.oid::bigint, n.nspname, t.typname
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
 WHERE (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c') AND n.nspname = ANY (%s)
"""
_THERE: Final[LiteralString] = """
SELECT n.nspname, t.typname
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
"""
_DEFINITIONS: Final[LiteralString] = """
SELECT n.nspname, t.typname,
       pg_catalog.concat_ws(' ', t.typtype, pg_catalog.format_type(coalesce(r.rngsubtype, t.typbasetype), t.typtypmod),
         nullif(coalesce(nullif(r.rngcollation, 0), t.typcollation), 0)::pg_catalog.regcollation,
         nullif(r.rngcanonical, 0)::pg_catalog.regproc, o.opcname,
         (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attname,
                   pg_catalog.format_type(a.atttypid, a.atttypmod),
                   nullif(a.attcollation, 0)::pg_catalog.regcollation), ', ' ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped))
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
  LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
  LEFT JOIN pg_catalog.pg_opclass o ON o.oid = r.rngsubopc
 WHERE (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c') AND n.nspname = ANY (%s)
"""
"""Of enums, only that they are ones: their values follow."""
_ATTRIBUTES: Final[LiteralString] = """
SELECT n.nspname, c.relname, a.attname,
       pg_catalog.format_type(a.atttypid, a.atttypmod)
         || CASE WHEN a.attcollation <> t.typcollation
                 THEN ' COLLATE ' || a.attcollation::pg_catalog.regcollation::text ELSE '' END
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 WHERE c.relkind = 'c' AND n.nspname = ANY (%s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_type'::regclass AND e.objid = c.reltype AND e.deptype = 'e')
 ORDER BY n.nspname, c.relname, a.attnum
"""
_TO_TEXT: Final[LiteralString] = """
SELECT pg_catalog.format('ALTER TABLE %%1$I.%%2$I ALTER COLUMN %%3$I DROP DEFAULT, '
                           'ALTER COLUMN %%3$I TYPE text USING %%3$I::text', n.nspname, c.relname, a.attname)
  FROM pg_catalog.pg_range r JOIN pg_catalog.pg_type u ON r.rngtypid IN (u.oid, u.typelem)
                                                       OR r.rngmultitypid IN (u.oid, u.typelem)
  JOIN pg_catalog.pg_attribute a ON a.atttypid = u.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE r.rngtypid = %s::pg_catalog.regtype
 ORDER BY n.nspname, c.relname, a.attnum
"""


async def note_types(source: Connection, target: Connection, schemas: Sequence[str]) -> None:
    """Record the names of the types in these schemas, before the target gets them."""
    await _record(target, await _read(source, schemas))


async def renamed_types(source: Connection, target: Connection, schemas: Sequence[str]) -> dict[TableName, TableName]:
    """The types of the target that have other names on the source by now, by their old ones."""
    now = await _read(source, schemas)
    there = await _there(target)
    return {
        old: now[oid] for oid, old in (await _recorded(target)).items() if old in there and now.get(oid, old) != old
    }


async def redefined_types(source: Connection, target: Connection, schemas: Sequence[str]) -> list[TableName]:
    """The types of both sides that are defined otherwise: base type or subtype, modifier, collation, attributes."""
    ours, theirs = await _definitions(source, schemas), await _definitions(target, schemas)
    return [name for name, text in sorted(ours.items()) if theirs.get(name, text) != text]


async def rename_types(source: Connection, target: Connection, epoch: UUID, schemas: Sequence[str]) -> None:
    """Give the target's types the names that they have on the source.

    A type that has such a name on the target is one that the source has dropped: it gets another one, and stays. So
    does one whose name a new type with another definition has. Raises SchemaMismatchError where a table's type has it.
    """
    before, now = await _recorded(target), await _read(source, schemas)
    if before == now:
        return
    renamed = await renamed_types(source, target, schemas)
    definitions = await _definitions(source, schemas)
    arrived = {name for oid, name in now.items() if oid not in before}
    there = await _there(target)
    left = [new for new in renamed.values() if new in there and new not in renamed]
    try:
        async with control.under_epoch(target, epoch):
            for schema in sorted({new.schema for old, new in renamed.items() if old.schema != new.schema}):
                await make_schema(target, schema)
            for name in left:
                await _leave_name(target, name)
            for statement in _statements(renamed):
                await target.execute(statement)
            while others := await _made_anew(target, arrived, definitions, schemas):  # one may be made of another
                for name in others:
                    await _leave_name(target, name)
            await _record(target, now)
    except psycopg.Error as error:
        raise translate(error, Side.TARGET, "renaming types", otherwise=SchemaMismatchError) from None
    for old, new in renamed.items():
        log.info("renamed a type", type=str(old), now=str(new))


async def fit_attributes(source: Connection, target: Connection, epoch: UUID, schemas: Sequence[str]) -> None:
    """Give the target's composite types the attributes that they have on the source.

    Where more than their names are others, values lose what they hold of them: the tables that have such a column come
    again. Raises SchemaMismatchError with the statement.
    """
    ours, theirs = await _attributes(source, schemas), await _attributes(target, schemas)
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] == theirs[name]:
            continue
        statements = _fitting(name, ours[name], theirs[name])
        try:
            async with control.under_epoch(target, epoch):
                for statement in statements:
                    await target.execute(statement)
        except psycopg.Error as error:
            told = (statement.as_string() for statement in statements)
            raise refused(error, f"altering type {name}", *told) from None
        log.info("a type has other attributes", type=str(name))


_Attributes = list[tuple[str, str]]
"""Names and types, in their order."""


async def _attributes(connection: Connection, schemas: Sequence[str]) -> dict[TableName, _Attributes]:
    found: dict[TableName, _Attributes] = defaultdict(list)
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = ''")
        rows = await (await connection.execute(_ATTRIBUTES, [list(schemas)])).fetchall()
    for schema, relation, name, kind in rows:
        found[TableName(schema, relation)].append((name, kind))
    return found


def _fitting(table: TableName, ours: _Attributes, theirs: _Attributes) -> list[sql.Composed]:
    """Rename them if nothing else is different, by way of names that nothing has; else make those behind the first."""
    if [kind for _, kind in ours] == [kind for _, kind in theirs]:
        changed = [(old, new) for (old, _), (new, _) in zip(theirs, ours, strict=True) if old != new]
        between = [f"replicator_renamed_{number}" for number in range(len(changed))]
        steps = [(old, name) for (old, _), name in zip(changed, between, strict=True)]
        steps += [(name, new) for (_, new), name in zip(changed, between, strict=True)]
        rename = sql.SQL("ALTER TYPE {} RENAME ATTRIBUTE {} TO {}")
        return [rename.format(qualified(table), *map(sql.Identifier, step)) for step in steps]
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
    actions = [sql.SQL("DROP ATTRIBUTE {}").format(sql.Identifier(name)) for name, _ in theirs[same:]]
    actions += [
        sql.SQL("ADD ATTRIBUTE {} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in ours[same:]
    ]
    return [sql.SQL("ALTER TYPE {} {}").format(qualified(table), sql.SQL(", ").join(actions))]


async def _made_anew(
    target: Connection, names: Container[TableName], ours: Mapping[TableName, str], schemas: Sequence[str]
) -> list[TableName]:
    """The target's types of these names that the source defines otherwise.

    Raises SchemaMismatchError for a range: functions have its name, too, which only a superuser may rename.
    """
    theirs = await _definitions(target, schemas)
    found = [name for name, text in theirs.items() if name in names and ours.get(name, text) != text]
    for name in found:
        if theirs[name].startswith("r "):
            columns = await (await target.execute(_TO_TEXT, [qualified(name).as_string()])).fetchall()
            drop = sql.SQL("DROP TYPE {}").format(qualified(name)).as_string()
            raise SchemaMismatchError(
                f"range {name} is another one on the source now",
                hint=f"Run on the target: {'; '.join([*(row[0] for row in columns), drop])}; the worker makes it then.",
            )
    return found


async def _leave_name(target: Connection, name: TableName) -> None:
    unused = sql.Identifier(f"{LEFT}{uuid4().hex}")
    await target.execute(sql.SQL("ALTER TYPE {} RENAME TO {}").format(qualified(name), unused))
    log.info("a type has left its name to the source's", type=str(name))


async def _definitions(connection: Connection, schemas: Sequence[str]) -> dict[TableName, str]:
    """With names that say their schema, whatever the session's search_path is."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = ''")
        rows = await (await connection.execute(_DEFINITIONS, [list(schemas)])).fetchall()
    return {TableName(schema, name): text for schema, name, text in rows}


def _statements(renamed: Mapping[TableName, TableName]) -> Iterator[sql.Composed]:
    """By way of names that nothing has: two may have swapped theirs."""
    between = {old: TableName(old.schema, f"replicator_renamed_{number}") for number, old in enumerate(renamed)}
    for old, temporary in between.items():
        yield sql.SQL("ALTER TYPE {} RENAME TO {}").format(qualified(old), sql.Identifier(temporary.name))
    for old, new in renamed.items():
        if old.schema != new.schema:
            yield sql.SQL("ALTER TYPE {} SET SCHEMA {}").format(qualified(between[old]), sql.Identifier(new.schema))
        moved = TableName(new.schema, between[old].name)
        yield sql.SQL("ALTER TYPE {} RENAME TO {}").format(qualified(moved), sql.Identifier(new.name))


async def _there(target: Connection) -> set[TableName]:
    return {TableName(*row) for row in await (await target.execute(_THERE)).fetchall()}


async def _read(source: Connection, schemas: Sequence[str]) -> dict[int, TableName]:
    rows = await (await source.execute(_TYPES, [list(schemas)])).fetchall()
    return {oid: TableName(schema, name) for oid, schema, name in rows}


async def _recorded(target: Connection) -> dict[int, TableName]:
    recorded = (await control.read_steps(target)).get(STEP, {})
    return {int(oid): TableName(*name) for oid, name in recorded.items()}


async def _record(target: Connection, types: Mapping[int, TableName]) -> None:
    await control.record_step(target, STEP, {str(oid): list(name) for oid, name in types.items()})
