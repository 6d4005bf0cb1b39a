"""Our own publications: made before any slot, and removed with whatever they changed put back (law 5).

REPLICATOR_KEYLESS=full changes replica identities. What they were is kept in the comment on the publication, which
commits with the change: so a cleanup can put them back whatever else was lost.

Source: PostgreSQL documentation, CREATE PUBLICATION, ALTER TABLE ("REPLICA IDENTITY").
"""

import json
from collections.abc import Iterable, Sequence
from typing import Final, LiteralString, NamedTuple

import psycopg
import structlog
import tenacity
from psycopg import sql
from psycopg.rows import class_row

from replicator.catalog import SourceTable
from replicator.config import Settings
from replicator.errors import Side, SourceError, TransientError
from replicator.model import KeylessPolicy, ReplicaIdentity, SchemaMode, TableName
from replicator.postgres import Connection, qualified, translate
from replicator.source.publication_plan import PublicationPlan, plan_publications
from replicator.source.slot import PUBLICATION_REMEDY, UNPUBLISHED

log = structlog.get_logger(__name__)

INSERTS_SUFFIX: Final = "_inserts"

_COMPLETE = "insert, update, delete, truncate"
# TRUNCATE needs no replica identity: without it, rows that the app removed that way would stay on the target
_INSERTS = "insert, truncate"

PATIENT: Final[LiteralString] = "SET LOCAL lock_timeout = '30s'"
# the app waits behind our request for an exclusive lock, so it must be short, over all tables together
_BRIEF: Final[LiteralString] = "SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '1s'"
_COMMENT = "Made by replicator; removed by `replicator cleanup`. Replica identities before: "

_RETRY: Final = tenacity.AsyncRetrying(
    retry=tenacity.retry_if_exception_type(TransientError),
    wait=tenacity.wait_random(0.2, 1),
    stop=tenacity.stop_after_attempt(3),
    reraise=True,
)


class FormerIdentity(NamedTuple):
    """What a table's replica identity was before we made it FULL."""

    oid: int
    identity: str
    index_name: str | None


class _Changed(NamedTuple):
    schema: str
    name: str
    identity: str
    index_name: str | None


def publication_names(slot_name: str, settings: Settings) -> tuple[str, ...]:
    """The publications to stream from: the user's, or our own for this slot."""
    if settings.publications:
        return settings.publications
    # made even while it is empty: a publication younger than WAL still to be decoded cannot be streamed from
    inserts = (slot_name + INSERTS_SUFFIX,) if settings.keyless is KeylessPolicy.INSERT_ONLY else ()
    return (slot_name, *inserts)


def plan(tables: Iterable[SourceTable], settings: Settings) -> PublicationPlan:
    """What `create_publications` would do with these tables under these settings."""
    return plan_publications(tables, settings.keyless, via_root=_via_root(settings))


def _via_root(settings: Settings) -> bool:
    """With a schema of the user's own, the target's partitions may be others: changes travel under the root's name."""
    return settings.schema_mode is SchemaMode.EXISTING


async def create_publications(
    connection: Connection, slot_name: str, tables: Iterable[SourceTable], settings: Settings
) -> tuple[str, ...]:
    """Make our publications for this slot and return their names; what exists already is kept.

    Commits before it returns: the slot must be made after that. Raises SourceError for tables that REPLICATOR_KEYLESS
    refuses or that the role may not publish, TransientError when other sessions hold the tables.
    """
    names = publication_names(slot_name, settings)
    if settings.publications or await _exist(connection, names):
        return names
    planned = plan(tables, settings)
    planned.require_allowed()
    via_root = _via_root(settings)
    async for attempt in _RETRY.copy():
        with attempt:
            try:
                async with connection.transaction():
                    await connection.execute(PATIENT)
                    await _create(connection, names, planned, via_root)
                    await make_full(connection, names[0], planned.make_full)
            except psycopg.Error as error:
                raise translated(error, "creating the publications") from None
    log.info("publications created", names=names, tables=len(planned.complete), insert_only=len(planned.insert_only))
    return names


async def probe_publications(connection: Connection, planned: PublicationPlan, settings: Settings) -> None:
    """Find out whether the role may publish the planned tables, in a transaction that is rolled back.

    Not inferred from ownership: Supabase runs CREATE PUBLICATION with more rights. Raises as `create_publications`.
    """
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute("SET LOCAL lock_timeout = '5s'")
            await _create(connection, ("replicator_probe", "replicator_probe_inserts"), planned, _via_root(settings))
    except psycopg.Error as error:
        raise translated(error, "creating a publication") from None


def translated(error: psycopg.Error, doing: str) -> Exception:
    """The error as ours, with the remedy where a right is missing."""
    gone = isinstance(error, psycopg.errors.UndefinedTable)  # since it was listed: the next look does not see it
    translated = translate(error, Side.SOURCE, doing, otherwise=TransientError if gone else SourceError)
    if error.sqlstate == "42501":
        translated.hint = "Connect as the owner of the tables, with CREATE on the database."
    if UNPUBLISHED.search(error.diag.message_primary or ""):
        translated.hint = PUBLICATION_REMEDY
    return translated


async def _exist(connection: Connection, names: Sequence[str]) -> bool:
    """Whether an earlier run has made them, which it did in one transaction."""
    cursor = await connection.execute(
        "SELECT count(*) FROM pg_catalog.pg_publication WHERE pubname = ANY (%s)", [list(names)]
    )
    row = await cursor.fetchone()
    found = row[0] if row else 0
    if found not in (0, len(names)):
        raise SourceError(
            f"not all of the publications {', '.join(names)} exist",
            hint="REPLICATOR_KEYLESS was changed: set it back, or run `replicator cleanup` and start again.",
        )
    return bool(found)


async def _create(connection: Connection, names: Sequence[str], planned: PublicationPlan, via_root: bool) -> None:
    contents = ((planned.complete, _COMPLETE), (planned.insert_only, _INSERTS))
    for name, (tables, operations) in zip(names, contents, strict=False):
        await connection.execute(_create_statement(name, tables, operations, via_root))


def _create_statement(name: str, tables: Sequence[SourceTable], operations: str, via_root: bool) -> sql.Composed:
    names = sql.SQL(", ").join(map(listed, tables))
    return sql.SQL("CREATE PUBLICATION {} {} WITH (publish = {}, publish_via_partition_root = {})").format(
        sql.Identifier(name),
        sql.SQL("FOR TABLE {}").format(names) if tables else sql.SQL(""),
        sql.Literal(operations),
        sql.Literal(via_root),
    )


def listed(table: SourceTable) -> sql.Composed:
    """A table as CREATE and ALTER PUBLICATION name it."""
    # ONLY: a parent must not draw in its children, which are listed with a verdict of their own
    return sql.SQL("{}{}").format(sql.SQL("" if table.partitioned else "ONLY "), qualified(table.table))


async def make_full(
    connection: Connection, publication: str, tables: Sequence[SourceTable], former: Sequence[FormerIdentity] = ()
) -> None:
    """Give tables REPLICA IDENTITY FULL within the caller's transaction; ``former``: what is kept of others already."""
    known = {item.oid for item in former}
    now = [FormerIdentity(t.oid, t.identity.value, t.identity_index) for t in tables if t.oid not in known]
    before = [*former, *now]
    await connection.execute(
        sql.SQL("COMMENT ON PUBLICATION {} IS {}").format(
            sql.Identifier(publication), sql.Literal(_COMMENT + json.dumps(before))
        )
    )
    await set_identities(connection, [(table.table, sql.SQL("FULL")) for table in tables])


async def set_identities(connection: Connection, identities: Sequence[tuple[TableName, sql.Composable]]) -> None:
    """Within the caller's transaction: all locks in one statement and in one order, then changes that take no time."""
    if not identities:
        return
    ordered = sorted(identities, key=lambda item: item[0])
    names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(qualified(name)) for name, _ in ordered)
    await connection.execute(_BRIEF)
    await connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names))
    for name, identity in ordered:
        await connection.execute(sql.SQL("ALTER TABLE ONLY {} REPLICA IDENTITY {}").format(qualified(name), identity))


# --- removing them ----------------------------------------------------------------------------------------------------

_COMMENTS: Final[LiteralString] = """
SELECT pg_catalog.obj_description(oid, 'pg_publication') FROM pg_catalog.pg_publication WHERE pubname = ANY (%s)
"""

# only what is still as we left it: FULL; a former index may be gone
_STILL_FULL: Final[LiteralString] = """
SELECT n.nspname AS schema, c.relname AS name, f.identity,
       (SELECT i.relname FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
         WHERE x.indrelid = c.oid AND i.relname = f.index_name) AS index_name
  FROM unnest(%s::oid[], %s::text[], %s::text[]) f(oid, identity, index_name)
  JOIN pg_catalog.pg_class c ON c.oid = f.oid AND c.relreplident = 'f'
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""


async def drop_publications(connection: Connection, names: Sequence[str]) -> list[TableName]:
    """Drop publications of ours, if they exist, and put back the replica identities that they changed: of which tables.

    Raises TransientError when other sessions hold the tables; then nothing was dropped.
    """
    changed: list[tuple[TableName, sql.Composable]] = []
    async for attempt in _RETRY.copy():
        with attempt:
            try:
                async with connection.transaction():
                    await connection.execute(PATIENT)
                    changed = await changed_identities(connection, names)
                    for name in names:
                        drop = sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name))
                        await connection.execute(drop)
                    await set_identities(connection, changed)
            except psycopg.Error as error:
                raise translated(error, "dropping the publications") from None
    return [table for table, _ in changed]


async def former_identities(connection: Connection, names: Sequence[str]) -> list[FormerIdentity]:
    """What the replica identities were that we changed for these publications."""
    cursor = await connection.execute(_COMMENTS, [list(names)])
    comments = [comment for (comment,) in await cursor.fetchall() if comment and comment.startswith(_COMMENT)]
    return [FormerIdentity(*item) for comment in comments for item in json.loads(comment.removeprefix(_COMMENT))]


async def changed_identities(connection: Connection, names: Sequence[str]) -> list[tuple[TableName, sql.Composable]]:
    """The tables that were made FULL for these publications and still are, with what they were before."""
    columns = [list(column) for column in zip(*await former_identities(connection, names), strict=True)]
    cursor = await connection.cursor(row_factory=class_row(_Changed)).execute(_STILL_FULL, columns or [[], [], []])
    return [(TableName(row.schema, row.name), _identity(row)) for row in await cursor.fetchall()]


def _identity(row: _Changed) -> sql.Composable:
    match ReplicaIdentity(row.identity):
        case ReplicaIdentity.DEFAULT:
            return sql.SQL("DEFAULT")
        case ReplicaIdentity.INDEX if row.index_name is not None:
            return sql.SQL("USING INDEX {}").format(sql.Identifier(row.index_name))
        case _:
            return sql.SQL("NOTHING")  # an identity whose index is gone works like NOTHING
