"""The fence on the source: triggers that refuse every write to the migrated tables, and the function behind them.

The function is the switch: replacing it by one that does nothing opens the source at once, whoever reads or writes.
The triggers are taken away later, because DROP TRIGGER would wait behind readers and make others wait behind it.

Source: PostgreSQL documentation, "Overview of Trigger Behavior" (a statement trigger fires only for the table that the
statement names, so roots, leaves and children have each their own), CREATE TRIGGER (it takes SHARE ROW EXCLUSIVE, which
waits for running writers), ALTER TABLE ("ENABLE ALWAYS": also under session_replication_role = replica).
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString, NamedTuple
from uuid import UUID

from psycopg import sql

from replicator.catalog.query import fetch
from replicator.errors import CutoverError
from replicator.model import FENCE, TableName
from replicator.postgres import Connection, qualified

SCHEMA: Final = FENCE
TRIGGER: Final = FENCE
WRITE_REFUSED: Final = "25006"
"""The SQLSTATE of a refused write, read_only_sql_transaction: what drivers know as "write to another server"."""

_TABLES: Final[LiteralString] = """
WITH RECURSIVE below AS (
  SELECT oid FROM unnest(%s::oid[]) migrated(oid)
  UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN below b ON i.inhparent = b.oid
), family AS (
  SELECT oid FROM below
  UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN family f ON i.inhrelid = f.oid
)
SELECT c.oid, n.nspname AS schema, c.relname AS name, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned
  FROM family f
  JOIN pg_catalog.pg_class c ON c.oid = f.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
 ORDER BY c.oid
"""
"""A statement on a parent writes to its children without firing their triggers, so the ancestors belong to it too."""

_FINGERPRINT: Final[LiteralString] = """
SELECT coalesce(pg_catalog.md5(string_agg(concat_ws(' ', c.oid, n.nspname, c.relname,
         pg_catalog.pg_relation_filenode(c.oid), t.oid, t.xmin, t.tgenabled, t.tgfoid, a.columns), ',' ORDER BY c.oid)),
       '') AS fingerprint
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'replicator_fence'
  LEFT JOIN LATERAL (
    SELECT pg_catalog.md5(string_agg(concat_ws(' ', attname, atttypid, attisdropped), ',' ORDER BY attnum)) AS columns
      FROM pg_catalog.pg_attribute WHERE attrelid = c.oid AND attnum > 0) a ON true
 WHERE c.oid = ANY (%s)
"""
"""Any ALTER TABLE ... TRIGGER makes a new row version (xmin), any rewrite or TRUNCATE a new file."""

_STATE: Final[LiteralString] = """
SELECT pg_catalog.obj_description(n.oid, 'pg_namespace') AS owner, p.prosrc AS body,
       pg_catalog.clock_timestamp() AS now
  FROM pg_catalog.pg_namespace n
  LEFT JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = 'refuse_write'
 WHERE n.nspname = ANY (%s)
"""

_FENCED: Final[LiteralString] = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, true AS owned
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
  JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace
 WHERE f.nspname = ANY (%s)
 ORDER BY c.oid
"""

_FUNCTION: Final = sql.SQL(
    "CREATE OR REPLACE FUNCTION replicator_fence.refuse_write() RETURNS trigger LANGUAGE plpgsql AS {}"
)
_OPEN_BODY: Final = "BEGIN RETURN NULL; END"
_REFUSE: Final = sql.SQL(
    "RAISE EXCEPTION USING ERRCODE = {state}, MESSAGE = {message}, HINT = {hint},"
    " DETAIL = pg_catalog.format('Table %I.%I does not accept writes any more.', TG_TABLE_SCHEMA, TG_TABLE_NAME);"
)
_PAUSED_BODY: Final = sql.SQL(
    "BEGIN IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) {deadline}::pg_catalog.timestamptz"
    " THEN {refuse} END IF; RETURN NULL; END"
)
_SEALED_BODY: Final = sql.SQL("BEGIN {refuse} END")

_TRIGGER: Final = sql.SQL(
    "CREATE OR REPLACE TRIGGER replicator_fence BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
    " FOR EACH STATEMENT EXECUTE FUNCTION replicator_fence.refuse_write();"
    " ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER replicator_fence"
)


class FencedTable(NamedTuple):
    """A table that the fence covers; ``owned``: our role is its owner, or a member, and may ENABLE ALWAYS."""

    oid: int
    schema: str
    name: str
    owned: bool

    @property
    def table(self) -> TableName:
        """Its name."""
        return TableName(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Fence:
    """A fence that has been raised, as it was found right after that.

    ``body`` is the function's; ``deadline`` is when it lets writes pass, by the source's clock (None: never);
    ``raised_at`` is when the try that succeeded began, in monotonic seconds: writers may have waited since then.
    """

    tables: tuple[FencedTable, ...]
    fingerprint: str
    body: str
    deadline: datetime | None
    raised_at: float


class _Fingerprint(NamedTuple):
    fingerprint: str


class _State(NamedTuple):
    owner: str | None
    body: str | None
    now: datetime


async def tables_to_fence(connection: Connection, migrated: Iterable[int]) -> tuple[FencedTable, ...]:
    """The tables with these oids, everything below them, and everything above that, in a fixed order."""
    return tuple(await fetch(connection, FencedTable, _TABLES, list(migrated)))


async def prepare(connection: Connection, migration: UUID) -> None:
    """Make the schema and a function that refuses nothing. Raises CutoverError if they are another migration's."""
    state = await _state(connection)
    if state is not None and state.owner != str(migration):
        raise CutoverError(
            f"schema {SCHEMA} on the source belongs to another migration",
            hint="Run `replicator cleanup` for that one, or drop the schema with its triggers.",
        )
    if state is None:
        async with connection.transaction():
            await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
            comment = sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(SCHEMA), sql.Literal(str(migration)))
            await connection.execute(comment)
    if state is None or state.body is None:
        await connection.execute(_FUNCTION.format(sql.Literal(_OPEN_BODY)))


async def raise_fence(
    connection: Connection,
    tables: Sequence[FencedTable],
    *,
    destination: str,
    seconds: float | None,
    lock_seconds: float,
) -> Fence:
    """Fence all the tables in one transaction, once; when it returns, no write is in flight.

    The fence lifts itself after ``seconds``; None: never. Raises psycopg's LockNotAvailable or QueryCanceled when the
    locks were not to be had in ``lock_seconds``, for one or for all of them: then nothing has changed.
    """
    raised_at = time.monotonic()
    deadline = None if seconds is None else await _deadline(connection, seconds)
    body = _body(connection, destination, deadline)
    limit = sql.Literal(f"{max(1, round(lock_seconds * 1000))}ms")
    names = sql.SQL(", ").join(sql.SQL("ONLY {}").format(qualified(table.table)) for table in tables)
    script = [
        # the time-out of a lock bounds each wait alone; together they must stay below the app's deadlock_timeout
        sql.SQL("SET LOCAL lock_timeout = {}").format(limit),
        sql.SQL("SET LOCAL statement_timeout = {}").format(limit),
        sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names),
        sql.SQL("SET LOCAL statement_timeout = 0"),
        _FUNCTION.format(sql.Literal(body)),
        *(_TRIGGER.format(table=qualified(table.table)) for table in tables),
    ]
    async with connection.transaction():
        await connection.execute(sql.SQL(";").join(script))
    return Fence(tuple(tables), await _fingerprint(connection, tables), body, deadline, raised_at)


async def breach(connection: Connection, fence: Fence, migrated: Iterable[int]) -> str | None:
    """Why a write may have passed since the fence was raised, or None: then there was none, by construction."""
    if reason := await _changed(connection, fence, migrated):
        return reason
    state = await _state(connection)
    if state is None or state.body != fence.body:
        return "the fence was lifted"
    return _lapsed(fence, state)


async def seal(connection: Connection, fence: Fence, migrated: Iterable[int], destination: str) -> str | None:
    """Make the fence permanent. Return why a write may have passed before that, or None if none can have."""
    reason = await breach(connection, fence, migrated)
    await connection.execute(_FUNCTION.format(sql.Literal(_body(connection, destination, None))))
    # the old function was in force until this commit, so the clock is read after it
    state = await _state(connection)
    return reason or (_lapsed(fence, state) if state else "the fence was lifted")


async def lift(connection: Connection, migration: UUID) -> bool:
    """Let writes pass again, at once; the triggers stay, doing nothing. False if no fence of this migration is up."""
    state = await _state(connection)
    if state is None or state.owner != str(migration) or state.body in (None, _OPEN_BODY):
        return False
    await connection.execute(_FUNCTION.format(sql.Literal(_OPEN_BODY)))
    return True


async def fenced_tables(connection: Connection) -> list[TableName]:
    """The tables that have the fence's trigger, whether it refuses writes or not."""
    return [table.table for table in await fetch(connection, FencedTable, _FENCED, [SCHEMA])]


async def drop_trigger(connection: Connection, table: TableName) -> None:
    """Take the fence's trigger from one table, under the session's lock_timeout."""
    statement = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}")
    await connection.execute(statement.format(sql.Identifier(TRIGGER), qualified(table)))


async def drop_schema(connection: Connection) -> None:
    """Remove the function and the schema, once no trigger uses them."""
    async with connection.transaction():
        await connection.execute("DROP FUNCTION IF EXISTS replicator_fence.refuse_write()")
        await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(SCHEMA)))


async def owner(connection: Connection) -> str | None:
    """The id of the migration that the fence's schema belongs to, or None if there is no such schema."""
    state = await _state(connection)
    return None if state is None else state.owner or "?"


async def _state(connection: Connection) -> _State | None:
    rows = await fetch(connection, _State, _STATE, [SCHEMA])
    return rows[0] if rows else None


async def _fingerprint(connection: Connection, tables: Iterable[FencedTable]) -> str:
    (row,) = await fetch(connection, _Fingerprint, _FINGERPRINT, [table.oid for table in tables])
    return row.fingerprint


async def _changed(connection: Connection, fence: Fence, migrated: Iterable[int]) -> str | None:
    tables = await tables_to_fence(connection, migrated)
    if tables != fence.tables:
        return "tables were attached, detached, renamed or dropped"
    if await _fingerprint(connection, tables) != fence.fingerprint:
        return "tables or their fence were altered"
    return None


def _lapsed(fence: Fence, state: _State) -> str | None:
    lapsed = fence.deadline is not None and state.now >= fence.deadline
    return "the fence has lifted itself at its deadline" if lapsed else None


async def _deadline(connection: Connection, seconds: float) -> datetime:
    query: LiteralString = "SELECT pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => %s)"
    row = await (await connection.execute(query, [seconds])).fetchone()
    if row is None or not isinstance(row[0], datetime):
        raise CutoverError("the source did not tell its time")
    return row[0]


def _body(connection: Connection, destination: str, deadline: datetime | None) -> str:
    if deadline is None:
        refuse = _refuse(f"this database has moved to {destination}", "Connect the application to the new database.")
        return _SEALED_BODY.format(refuse=refuse).as_string(connection)
    refuse = _refuse(
        f"this database is moving to {destination}: writes are paused here",
        "Try again in a moment; when the move is done, connect the application to the new database.",
    )
    text = sql.Literal(deadline.isoformat())
    return _PAUSED_BODY.format(deadline=text, refuse=refuse).as_string(connection)


def _refuse(message: str, hint: str) -> sql.Composed:
    return _REFUSE.format(state=sql.Literal(WRITE_REFUSED), message=sql.Literal(message), hint=sql.Literal(hint))
