"""Copying the schema: what rows need before the data, the rest recorded for after the data and for the cutover.

The dump's own settings are not run: the session has its pinned ones, and an empty search_path lasts only as long as
the transaction that needs it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, LiteralString
from uuid import UUID

import structlog

from bootstrap.entries import Entry, Plan, header_name, parse_dump, plan_entries
from bootstrap.extensions import make_extensions, read_extensions
from bootstrap.making import make_entries, make_schema
from bootstrap.pgdump import dump_schemas, dump_tables
from replicator import control
from replicator.catalog import managed_schemas
from replicator.config import Settings
from replicator.errors import SchemaMismatchError, Side, SourceError
from replicator.model import FENCE, TableName
from replicator.postgres import Connection, reporting

log = structlog.get_logger(__name__)

STEP: Final = "schema"
"""The step that is recorded when all is made that the data needs."""

_MADE: Final = "schema: made "
"""Steps that are recorded on the way there: each with the entries that one transaction has made."""

_AT_ONCE: Final = 200
"""Entries in one transaction: each new table takes several of the server's shared locks."""

_SCHEMAS: Final[LiteralString] = """
SELECT n.nspname
  FROM pg_catalog.pg_namespace n
 WHERE n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_') AND n.nspname <> ALL (%s)
   AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
                  AND d.classid NOT IN ('pg_extension'::regclass, 'pg_default_acl'::regclass)
                  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend m
                                   WHERE (m.classid, m.objid) = (d.classid, d.objid) AND m.deptype = 'e'))
 ORDER BY n.nspname
"""
"""The schemas that hold anything which no extension has brought."""

_OWNERS: Final[LiteralString] = """
SELECT 'INDEX', n.nspname, i.relname, tn.nspname, t.relname
  FROM pg_catalog.pg_index x
  JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
  JOIN pg_catalog.pg_class t ON t.oid = x.indrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
UNION ALL
SELECT 'CONSTRAINT', n.nspname, t.relname || ' ' || c.conname, n.nspname, t.relname
  FROM pg_catalog.pg_constraint c
  JOIN pg_catalog.pg_class t ON t.oid = c.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
UNION ALL
SELECT 'STATISTICS', n.nspname, s.stxname, tn.nspname, t.relname
  FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
  JOIN pg_catalog.pg_class t ON t.oid = s.stxrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
"""
"""Kind, schema and name as pg_dump's headers give them, and the table that each belongs to."""

OWNED_KINDS: Final[Mapping[str, str]] = {
    "INDEX": "INDEX",
    "CONSTRAINT": "CONSTRAINT",
    "CHECK CONSTRAINT": "CONSTRAINT",
    "STATISTICS": "STATISTICS",
}


async def copy_schema(settings: Settings, source: Connection, snapshot: str, target: Connection, epoch: UUID) -> None:
    """Make the schema as ``snapshot`` (kept by ``source``) sees it, unless that is recorded; each part is made once.

    Raises TargetError that names the object which the target refused, SchemaMismatchError when the source's schema
    changed after a part of it was made, or what `dump_schemas` raises.
    """
    steps = await control.read_steps(target)
    if STEP in steps:
        return
    schemas = await app_schemas(source, settings)
    plan = await dump_app(settings, source, snapshot)
    if schemas:
        with reporting(Side.SOURCE, "reading the extensions", SourceError):
            extensions = await read_extensions(source, schemas)
        async with control.under_epoch(target, epoch):
            await make_extensions(target, extensions)
        await _make_all(target, epoch, plan.before_data, steps)
    owners = await owners_of(source)
    async with control.under_epoch(target, epoch):
        await _record_rest(target, plan, owners)
        await control.forget_steps(target, [name for name in await control.read_steps(target) if _is_part(name)])
        await control.record_step(target, STEP, {"schemas": schemas})
    log.info("made the schema", schemas=schemas, deferred=len(plan.cutover))


async def copy_tables_schema(
    settings: Settings,
    source: Connection,
    snapshot: str | None,
    target: Connection,
    epoch: UUID,
    *,
    tables: Mapping[TableName, TableName | None],
) -> None:
    """Make tables that are new on the source, with their keys and what is deferred.

    ``tables``: each with what it is a partition of, if it is one. Raises as `copy_schema` does.
    """
    dump = await dump_tables(settings, source.info.server_version, snapshot, list(tables))
    owners = await owners_of(source)
    plan = _attach_last(
        plan_entries(parse_dump(dump, {table.schema for table in tables})),
        {table for table, parent in tables.items() if parent is not None and parent not in tables},
        owners,
    )
    async with control.under_epoch(target, epoch):
        for schema in dict.fromkeys(table.schema for table in tables):
            await make_schema(target, schema)
        await make_entries(target, plan.before_data)
        await _record_rest(target, plan, owners)
    log.info("made new tables", tables=[str(table) for table in tables])


def _attach_last(plan: Plan, partitions: Iterable[TableName], owners: Mapping[tuple[str, str, str], TableName]) -> Plan:
    """Attach the ``partitions`` of tables that have keys at the end.

    They would get keys of their own, if they had none by then; what they have is attached with them.
    """
    names = {(header_name(table.schema), header_name(table.name)) for table in partitions}
    last = [entry for entry in plan.before_data if entry.kind == "TABLE ATTACH" and (entry.schema, entry.name) in names]
    attached = {
        index
        for index, table in owners.items()
        if index[0] == "INDEX" and (header_name(table.schema), header_name(table.name)) in names
    }
    after = [
        entry
        for entry in plan.after_data
        if entry.kind != "INDEX ATTACH" or ("INDEX", entry.schema, entry.name) not in attached
    ]
    return Plan(tuple(entry for entry in plan.before_data if entry not in last), (*after, *last), plan.cutover)


async def app_schemas(source: Connection, settings: Settings) -> list[str]:
    """The names of the schemas that are moved."""
    with reporting(Side.SOURCE, "reading the schemas", SourceError):
        excluded = [*settings.exclude_schemas, *await managed_schemas(source), control.SCHEMA, FENCE]
        cursor = await source.execute(_SCHEMAS, [excluded])
        return [str(row[0]) for row in await cursor.fetchall()]


async def dump_app(settings: Settings, source: Connection, snapshot: str | None) -> Plan:
    """Dump the app's schemas as the snapshot sees them, or as they are now. Raises as `dump_schemas` does."""
    schemas = await app_schemas(source, settings)
    if not schemas:
        return Plan((), (), ())
    log.info("dumping the schema", schemas=schemas)
    dump = await dump_schemas(settings, source.info.server_version, snapshot, schemas)
    return plan_entries(parse_dump(dump, schemas))


# --- before the data --------------------------------------------------------------------------------------------------


async def _make_all(
    target: Connection, epoch: UUID, entries: Sequence[Entry], steps: Mapping[str, Mapping[str, str]]
) -> None:
    """Make what is not made yet, some entries a transaction, each recorded in the transaction that made it (law 8)."""
    parts = [detail for name, detail in steps.items() if _is_part(name)]
    made = {digest: entry for detail in parts for digest, entry in detail.items()}
    digests = {_digest(entry): entry for entry in entries}
    if changed := [name for digest, name in made.items() if digest not in digests]:
        raise SchemaMismatchError(
            f"the source's schema changed while it was being copied: {changed[0]}",
            hint="Run `replicator cleanup`, empty the target, and start the migration again.",
        )
    present = await _present_schemas(target)
    waiting = iter([(d, e) for d, e in digests.items() if d not in made and _schema_of(e) not in present])
    number = len(parts)
    while batch := dict(islice(waiting, _AT_ONCE)):
        number += 1
        async with control.under_epoch(target, epoch):
            await make_entries(target, batch.values())
            names = {digest: str(entry) for digest, entry in batch.items()}
            await control.record_step(target, f"{_MADE}{number}", names)


def _is_part(step: str) -> bool:
    return step.startswith(_MADE)


def _digest(entry: Entry) -> str:
    text = "\0".join((entry.kind, entry.schema, entry.name, entry.sql))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


async def _present_schemas(target: Connection) -> frozenset[str | None]:
    cursor = await target.execute("SELECT nspname FROM pg_catalog.pg_namespace")
    return frozenset(header_name(row[0]) for row in await cursor.fetchall())


def _schema_of(entry: Entry) -> str | None:
    """The schema that an entry makes or comments on; where it is there already, it is left as it is."""
    if entry.kind == "SCHEMA":
        return entry.name
    if entry.kind == "COMMENT" and entry.name.startswith("SCHEMA "):
        return entry.name.removeprefix("SCHEMA ").strip('"').replace('""', '"')
    return None


# --- after the data, and at the cutover -------------------------------------------------------------------------------


async def owners_of(source: Connection) -> Mapping[tuple[str, str, str], TableName]:
    """The table that each index, constraint and statistics object of the source belongs to, by its entry's header."""
    with reporting(Side.SOURCE, "reading the indexes", SourceError):
        cursor = await source.execute(_OWNERS)
        return {
            (kind, header_name(schema), header_name(name)): TableName(*table)
            for kind, schema, name, *table in await cursor.fetchall()
        }


async def _record_rest(target: Connection, plan: Plan, owners: Mapping[tuple[str, str, str], TableName]) -> None:
    start = await control.next_position(target)
    keys = list(key_statements(plan.after_data, owners, start))
    deferred = [
        control.Deferred(position, entry.kind, entry.schema, entry.name, entry.sql)
        for position, entry in enumerate(plan.cutover, start + len(keys))
    ]
    await control.add_keys(target, keys)
    await control.add_deferred(target, deferred)


def key_statements(
    entries: Sequence[Entry], owners: Mapping[tuple[str, str, str], TableName], start: int
) -> Iterator[control.KeyStatement]:
    """Entries as statements that wait for the data, with their tables, at positions from ``start``."""
    table = None
    for position, entry in enumerate(entries, start):
        if entry.kind not in ("COMMENT", "SECURITY LABEL"):
            table = owners.get((OWNED_KINDS.get(entry.kind, ""), entry.schema, entry.name))
        yield control.KeyStatement(position, entry.kind, entry.schema, entry.name, table, entry.sql)
