"""Taking over, from a new dump, what the app's deploys have made besides columns: types, indexes, triggers and so on.

What columns and tables may need is made before them; indexes, constraints and views wait in the control tables like
those of the first dump, and what would fire on applied rows replaces what waits for the cutover.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Final, LiteralString
from uuid import UUID

import psycopg
import structlog

from bootstrap.attributes import different_attributes, different_tables
from bootstrap.bodies import replaced_bodies, replaced_materialized_views
from bootstrap.domains import different_domains
from bootstrap.entries import Entry, Plan, header_name
from bootstrap.extended_statistics import replaced_statistics
from bootstrap.extensions import make_extensions, read_extensions
from bootstrap.indexes import indexes_below, replaced_indexes
from bootstrap.lost_keys import lost_keys, replaced_keys
from bootstrap.making import make_entries, make_schema, waited_for
from bootstrap.schema import OWNED_KINDS, app_schemas, dump_app, key_statements, owners_of
from bootstrap.sequences import rename_sequences
from bootstrap.types import fit_attributes, rename_types
from replicator import control
from replicator.config import Settings
from replicator.control import Deferred
from replicator.errors import SchemaMismatchError, Side, TargetError
from replicator.model import TableName
from replicator.postgres import Connection, translate

log = structlog.get_logger(__name__)

FOLLOWED_STEP: Final = "followed"
"""The step whose detail tells the source's schema that the target has followed to."""

_NEEDED: Final = frozenset({"DOMAIN", "FUNCTION", "PROCEDURE", "SEQUENCE", "TYPE"})
_MAY_WAIT: Final = frozenset({"FUNCTION", "PROCEDURE"})
"""What may need a table or a column that the same deploy has made, and that rows do without until then."""

_LATER: Final = frozenset({
    "CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "INDEX", "INDEX ATTACH", "MATERIALIZED VIEW", "STATISTICS",
    "TABLE ATTACH", "VIEW",
})  # fmt: skip
_LAST: Final = ("TABLE ATTACH", "INDEX ATTACH")
"""A partition makes indexes of its own where it has none, and attaches them; an index is attached after its table."""

_REPRINTED: Final = frozenset({"INDEX", "STATISTICS"})
_WITHOUT_TABLE: Final = frozenset({"MATERIALIZED VIEW", "VIEW"})

_THERE: Final[LiteralString] = """
WITH app AS (SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE NOT starts_with(nspname, 'pg_'))
SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'INDEX' END,
       n.nspname, c.relname::text
  FROM pg_catalog.pg_class c JOIN app n ON n.oid = c.relnamespace WHERE c.relkind IN ('S', 'v', 'm', 'i', 'I')
UNION ALL
SELECT CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, n.nspname, t.typname::text
  FROM pg_catalog.pg_type t JOIN app n ON n.oid = t.typnamespace
UNION ALL
SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, n.nspname,
       p.proname || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')'
  FROM pg_catalog.pg_proc p JOIN app n ON n.oid = p.pronamespace
UNION ALL
SELECT k.kind, n.nspname, t.relname || ' ' || c.conname
  FROM pg_catalog.pg_constraint c CROSS JOIN (VALUES ('CONSTRAINT'), ('CHECK CONSTRAINT')) k(kind)
  JOIN pg_catalog.pg_class t ON t.oid = c.conrelid JOIN app n ON n.oid = t.relnamespace
UNION ALL
SELECT CASE WHEN c.relkind IN ('i', 'I') THEN 'INDEX ATTACH' ELSE 'TABLE ATTACH' END, n.nspname, c.relname::text
  FROM pg_catalog.pg_class c JOIN app n ON n.oid = c.relnamespace
 WHERE c.relispartition AND c.relkind IN ('r', 'p', 'f', 'i', 'I')
UNION ALL
SELECT 'STATISTICS', n.nspname, s.stxname::text
  FROM pg_catalog.pg_statistic_ext s JOIN app n ON n.oid = s.stxnamespace
UNION ALL
SELECT 'DEFAULT', n.nspname, c.relname || ' ' || a.attname
  FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
  JOIN pg_catalog.pg_class c ON c.oid = d.adrelid JOIN app n ON n.oid = c.relnamespace
"""
"""What is on the target, by kind, schema and name as pg_dump's headers give them."""

# what belongs to a table that is not there yet comes with it
_WITH_TABLES: Final[LiteralString] = """
SELECT n.nspname, s.relname::text, tn.nspname, t.relname::text
  FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_catalog.pg_class t ON t.oid = d.refobjid AND t.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
 WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
"""
_TABLES: Final[LiteralString] = """
SELECT n.nspname, c.relname::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
"""


async def make_needed(settings: Settings, source: Connection, target: Connection, epoch: UUID) -> Plan:
    """Dump the schema, and make the schemas, extensions, types, functions and sequences that the target lacks.

    Functions that need new tables or columns are left to `note_rest`. Returns the dump's plan. Raises
    SchemaMismatchError for what the target refuses.
    """
    plan = await dump_app(settings, source, None)
    schemas = await app_schemas(source, settings)
    await _make_surroundings(source, target, epoch, schemas)
    await rename_sequences(source, target, epoch, schemas)
    await rename_types(source, target, epoch, schemas)
    await fit_attributes(source, target, epoch, schemas)
    await _make_lacking(source, target, epoch, plan)
    return plan


async def _make_lacking(source: Connection, target: Connection, epoch: UUID, plan: Plan) -> None:
    there = await made_already(target)
    tables = await _tables(target)
    cursor = await source.execute(_WITH_TABLES)
    comes_with = {
        (header_name(schema), header_name(name))
        for schema, name, *owner in await cursor.fetchall()
        if TableName(*owner) not in tables
    }
    needed = [
        entry
        for entry in plan.before_data
        if entry.kind in _NEEDED
        and (entry.kind, entry.schema, entry.name) not in there
        and entry.sql.startswith("CREATE ")
        and (entry.schema, entry.name) not in comes_with
    ]
    if needed:
        await _make(target, epoch, needed)


async def _make_surroundings(source: Connection, target: Connection, epoch: UUID, schemas: Sequence[str]) -> None:
    """Schemas that are new, and extensions that the app's objects have come to use."""
    used = [extension for extension in await read_extensions(source, schemas) if extension.used]
    try:
        async with control.under_epoch(target, epoch):
            for schema in schemas:
                await make_schema(target, schema)
            await make_extensions(target, used)
    except psycopg.Error as error:
        raise translate(error, Side.TARGET, "making schemas", otherwise=SchemaMismatchError) from None
    except TargetError as error:
        raise waited_for(error) from None


async def _make(target: Connection, epoch: UUID, entries: Sequence[Entry]) -> None:
    try:
        async with control.under_epoch(target, epoch):
            waiting = await make_entries(target, entries, _MAY_WAIT)
    except TargetError as error:
        raise waited_for(error) from None
    if made := [str(entry) for entry in entries if entry not in waiting]:
        log.info("made what is new", objects=made)


async def note_rest(
    settings: Settings, source: Connection, target: Connection, epoch: UUID, plan: Plan, *, renews: bool
) -> None:
    """Make the functions that had to wait, and record what the target lacks to be made next.

    If it ``renews`` that, record what the cutover has to make as well: functions that lack something still, too. A
    cutover under way has rehearsed its list, and does not go on if the source's schema has changed since.
    """
    await _make_lacking(source, target, epoch, plan)
    replaced = {
        ("CONSTRAINT", table.schema, f"{table.name} {name}"): drop
        for (table, name), drop in (await replaced_keys(source, target)).items()
    }
    schemas = await app_schemas(source, settings)
    views = await replaced_materialized_views(source, target, schemas)
    replaced |= {
        ("MATERIALIZED VIEW", header_name(view.schema), header_name(view.name)): drop for view, drop in views.items()
    }
    indexes = await replaced_indexes(source, target, schemas)
    for kind, others in (("INDEX", indexes), ("STATISTICS", await replaced_statistics(source, target, schemas))):
        replaced |= {(kind, header_name(name.schema), header_name(name.name)): drop for name, drop in others.items()}
    there = await made_already(target) - replaced.keys()
    waiting = {(item.kind, item.schema, item.name) for item in await control.read_keys(target)}
    owners, tables = await owners_of(source), await _tables(target)
    entries = [
        entry
        for entry in (*plan.before_data, *plan.after_data)
        if entry.kind in _LATER and (entry.kind, entry.schema, entry.name) not in waiting
    ]
    for entry in entries:
        # two versions of PostgreSQL may print one index otherwise: it is another one if the source says so
        name = (entry.kind, entry.schema, entry.name)
        if entry.kind in _REPRINTED and name in replaced and await control.was_made_by(target, *name, entry.sql):
            del replaced[name]
            there.add(name)
    gone = [
        index
        for index in indexes
        if (name := ("INDEX", header_name(index.schema), header_name(index.name))) in replaced
        and owners.get(name) in tables  # not of one whose new name the target lacks yet
    ]
    there -= {
        (kind, header_name(index.schema), header_name(index.name))
        for index in await indexes_below(target, gone)
        for kind in ("INDEX", "INDEX ATTACH")
    }
    new_views = {
        (entry.schema, entry.name)
        for entry in entries
        if entry.kind == "MATERIALIZED VIEW" and (entry.kind, entry.schema, entry.name) not in there
    }
    lacking = [
        _in_place_of(replaced.get((entry.kind, entry.schema, entry.name)), entry)
        for entry in entries
        if _is_within(new_views, entry, owners)
        or (
            (entry.kind, entry.schema, entry.name) not in there
            and (entry.kind in _WITHOUT_TABLE or any(_is_of(entry, table, owners) for table in tables))
        )
    ]
    lacking.sort(key=lambda entry: _LAST.index(entry.kind) + 1 if entry.kind in _LAST else 0)
    async with control.under_epoch(target, epoch):
        keys = list(key_statements(lacking, owners, await control.next_position(target)))
        await control.add_keys(target, keys)
    if renews:
        await refresh_deferred(settings, source, target, plan)
    if lacking:
        log.info("to be made: what is new", objects=[str(entry) for entry in lacking])


async def refresh_deferred(settings: Settings, source: Connection, target: Connection, plan: Plan) -> None:
    """Let the cutover make what the source has now; what it has made stays made."""
    schemas = await app_schemas(source, settings)
    entries = [
        *await replaced_bodies(source, target, schemas, plan),
        *await different_domains(source, target, schemas),
        *await different_attributes(source, target, schemas),
        *await different_tables(source, target, schemas),
        *(
            Entry("DROPPED KEY", table.schema, f"{table.name}: {drop}", f"{drop};")
            for table, drops in (await lost_keys(source, target, replaced=False)).items()
            for drop in drops
        ),
        *plan.cutover,
    ]
    async with target.transaction():
        await _replace_deferred(target, entries)


async def _replace_deferred(target: Connection, entries: Sequence[Entry]) -> None:
    known = await control.read_deferred(target)
    done = [item for item in known if item.done]
    made = {(item.kind, item.schema, item.name) for item in done}
    now = [entry for entry in entries if (entry.kind, entry.schema, entry.name) not in made]
    before = [(item.kind, item.schema, item.name, item.statement) for item in known if not item.done]
    if before == [(entry.kind, entry.schema, entry.name, entry.sql) for entry in now]:
        return
    await control.forget_deferred(target)
    start = await control.next_position(target)
    await control.add_deferred(
        target, [Deferred(position, e.kind, e.schema, e.name, e.sql) for position, e in enumerate(now, start)]
    )
    log.info("what waits for the cutover has changed", statements=len(now))


def _in_place_of(drop: str | None, entry: Entry) -> Entry:
    """An entry after what drops its predecessor; a partitioned table's key then makes those of the partitions, too."""
    if drop is None:
        return entry
    return replace(entry, sql=drop + entry.sql.replace("ALTER TABLE ONLY ", "ALTER TABLE ", 1))


def _is_within(
    views: Container[tuple[str, str]], entry: Entry, owners: Mapping[tuple[str, str, str], TableName]
) -> bool:
    """An index that goes with its view is lost when that is made anew."""
    view = owners.get((OWNED_KINDS.get(entry.kind, ""), entry.schema, entry.name))
    return view is not None and (header_name(view.schema), header_name(view.name)) in views


def _is_of(entry: Entry, table: TableName, owners: Mapping[tuple[str, str, str], TableName]) -> bool:
    if entry.kind == "TABLE ATTACH":
        return TableName(entry.schema, entry.name) == table
    if entry.kind == "DEFAULT":
        return entry.schema == header_name(table.schema) and entry.name.startswith(f"{header_name(table.name)} ")
    kind = "INDEX" if entry.kind == "INDEX ATTACH" else OWNED_KINDS[entry.kind]
    return owners.get((kind, entry.schema, entry.name)) == table


async def _tables(target: Connection) -> set[TableName]:
    return {TableName(*row) for row in await (await target.execute(_TABLES)).fetchall()}


async def made_already(target: Connection) -> set[tuple[str, str, str]]:
    """What is on the target, by kind, schema and name as the headers of a dump give them."""
    async with target.transaction():
        await target.execute("SET LOCAL search_path = ''")
        rows = await (await target.execute(_THERE)).fetchall()
    return {(kind, header_name(schema), header_name(name)) for kind, schema, name in rows}
