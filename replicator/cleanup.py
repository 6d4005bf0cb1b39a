"""`replicator cleanup`: both servers as if replicator had never been there, the data aside.

Each removal stands for itself, so it works when half of the things are missing, and again after it was interrupted. The
control tables go last: they are what knows the names of the others.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, LiteralString

import psycopg
import structlog

from bootstrap.entries import REFRESH
from replicator import control
from replicator.config import Settings
from replicator.control import Migration
from replicator.errors import CleanupError, Side, SlotBusyError
from replicator.exclusive import only_command
from replicator.model import FENCE, Phase, SchemaMode, TableName
from replicator.postgres import Connection, connected, describe, reporting
from replicator.source import fence
from replicator.source.publication import changed_identities, drop_publications, set_identities
from replicator.source.slot import drop_slot, read_slot

log = structlog.get_logger(__name__)

_PURPOSE: Final = "cleanup"
_PATIENCE: Final = 15.0
"""Seconds to wait for our own walsender's end, and for the lock of a table that is in use."""

_PAUSE: Final = 0.2

_RETURN_PASSED: Final = "cutover:point-of-no-return"
_VALIDATED: Final = "cutover:validate"

_BRIEF: Final[LiteralString] = "SET lock_timeout = '500ms'"

_SESSION: Final[LiteralString] = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
                WHERE pid = %s AND datname = pg_catalog.current_database() AND usename = current_user)
"""

# only our own role's sessions show their name
_END_OURS: Final[LiteralString] = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
 WHERE pid = %s AND usename = current_user AND application_name LIKE 'replicator%%'
"""

_STRANGERS: Final[LiteralString] = """
SELECT slot_name::text FROM pg_catalog.pg_replication_slots
 WHERE database = pg_catalog.current_database() AND slot_name ~ '^replicator_[0-9a-f]{8}$'
"""

_FULL: Final[LiteralString] = """
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relreplident = 'f' AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
"""

_CONTROL_TABLES: Final[LiteralString] = """
SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
"""


async def cleanup(settings: Settings) -> list[str]:
    """Remove slot, publications, fence and control tables; return a line for each thing that was removed.

    Raises CleanupError while a worker runs or a cutover is in the middle, or when something is in use.
    """
    async with (
        connected(settings.target, Side.TARGET, _PURPOSE) as target,
        connected(settings.source, Side.SOURCE, _PURPOSE) as source,
        only_command(target),
    ):
        with reporting(Side.TARGET, "reading the control tables"):
            migration = await _read_migration(settings, target)
        if migration is None:
            await _tell_strangers(source)
        removed = []
        async for line in _remove(migration, source, target):
            log.info("removed", what=line)
            removed.append(line)
        return removed


async def _remove(migration: Migration | None, source: Connection, target: Connection) -> AsyncIterator[str]:
    if migration is not None:
        with reporting(Side.SOURCE, "removing the fence", CleanupError):
            async for line in _remove_fence(migration, source):
                yield line
        if await _remove_slot(migration.slot, source):
            yield f"source: replication slot {migration.slot}"
        async for line in _restore_identities(migration, source, target):
            yield line
        async for line in _remove_publications(migration, source):
            yield line
        async for line in _restore(migration, target):
            yield line
    with reporting(Side.TARGET, "removing the control tables", CleanupError):
        if await _remove_control(target):
            yield f"target: schema {control.SCHEMA} with the control tables"


# --- whether it may be done -------------------------------------------------------------------------------------------


async def _read_migration(settings: Settings, target: Connection) -> Migration | None:
    if not await control.exists(target):
        return None
    migration = await control.read_migration(target)
    await _require_no_worker(settings, target, migration)
    steps = await control.read_steps(target)
    if _RETURN_PASSED in steps and _VALIDATED not in steps:
        raise CleanupError(
            "a cutover has passed its point of no return, and not all of its foreign keys are made and valid",
            hint="Run `replicator cutover` again to finish it, then clean up. "
            "Where rows contradict a foreign key, mend them or drop it on the target first.",
            side=Side.TARGET,
        )
    return migration


async def _require_no_worker(settings: Settings, target: Connection, migration: Migration | None) -> None:
    """Refuse while a worker is at work; one that idles after the cutover is no obstacle."""
    worker = await control.read_worker(target)
    if worker is None or worker.heartbeat_age > settings.lease_timeout:
        return
    if migration is not None and migration.phase is Phase.DONE:
        return
    if await _is_true(target, _SESSION, worker.backend_pid):
        raise CleanupError(
            f"a worker is running on {worker.host}",
            hint="Stop it first (SIGTERM), then run `replicator cleanup` again.",
        )


async def _tell_strangers(source: Connection) -> None:
    """Without control tables nobody knows whether what is on the source is this migration's: it is left alone."""
    with reporting(Side.SOURCE, "looking for slots"):
        slots = [row[0] for row in await (await source.execute(_STRANGERS)).fetchall()]
        owner = await fence.owner(source)
    for slot in slots:
        log.warning("left alone: a slot that this target does not know", slot=slot, remedy="pg_drop_replication_slot")
    if owner is not None:
        log.warning(
            "left alone: the fence of a migration that this target does not know: the source may be closed",
            migration=owner,
            remedy=f"Run on the source, if that target is gone for good: DROP SCHEMA {FENCE} CASCADE",
        )


# --- the source -------------------------------------------------------------------------------------------------------


async def _remove_fence(migration: Migration, source: Connection) -> AsyncIterator[str]:
    if await fence.owner(source) != str(migration.id):
        return
    if await fence.lift(source, migration.id):
        yield "source: the fence; the source takes writes again"
    await source.execute(_BRIEF)
    for table in await fence.fenced_tables(source):
        await _drop_trigger(source, table)
    await fence.drop_schema(source)
    yield f"source: schema {fence.SCHEMA} with the fence's function and triggers"


async def _drop_trigger(source: Connection, table: TableName) -> None:
    """Wait for readers only briefly, since others wait behind us, but again and again."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _PATIENCE
    while True:
        try:
            return await fence.drop_trigger(source, table)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if loop.time() > end:
                raise CleanupError(
                    f"the fence's trigger could not be removed from {table}: the table is in use",
                    hint="It does nothing any more. End long transactions, then run `replicator cleanup` again.",
                    side=Side.SOURCE,
                ) from None
        await asyncio.sleep(_PAUSE)


async def _remove_slot(name: str, source: Connection) -> bool:
    """Drop the slot, ending a walsender of ours that has outlived its worker. False if there is no slot."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _PATIENCE
    while (slot := await read_slot(source, name)) is not None:
        try:
            if slot.active_pid is not None:
                with reporting(Side.SOURCE, "ending our walsender", CleanupError):
                    await source.execute(_END_OURS, [slot.active_pid])
                await asyncio.sleep(_PAUSE)
            await drop_slot(source, name)
            return True
        except SlotBusyError:
            if loop.time() > end:
                raise CleanupError(
                    f"replication slot {name} is in use by process {slot.active_pid}",
                    hint="End that process on the source, then run `replicator cleanup` again.",
                    side=Side.SOURCE,
                ) from None
    return False


async def _remove_publications(migration: Migration, source: Connection) -> AsyncIterator[str]:
    """Drop those that replicator made, and put back the replica identities that it changed; never the user's."""
    if not migration.owns_publications:
        return
    query: LiteralString = "SELECT pubname::text FROM pg_catalog.pg_publication WHERE pubname = ANY (%s) ORDER BY 1"
    with reporting(Side.SOURCE, "looking for publications", CleanupError):
        there = await (await source.execute(query, [list(migration.publications)])).fetchall()
    for table in await drop_publications(source, migration.publications):
        yield f"source: the replica identity of {table} is what it was"
    for (name,) in there:
        yield f"source: publication {name}"


# --- the target -------------------------------------------------------------------------------------------------------


async def _restore_identities(migration: Migration, source: Connection, target: Connection) -> AsyncIterator[str]:
    """A schema that was copied has FULL where we had set it; the source's publications know what it was before."""
    if not migration.owns_publications or migration.settings.get("REPLICATOR_SCHEMA") == SchemaMode.EXISTING.value:
        return
    with reporting(Side.SOURCE, "reading the former replica identities", CleanupError):
        changed = await changed_identities(source, migration.publications)
    with reporting(Side.TARGET, "putting replica identities back", CleanupError):
        full = {TableName(*row) for row in await (await target.execute(_FULL)).fetchall()}
        identities = [(table, identity) for table, identity in changed if table in full]
        async with target.transaction():
            await set_identities(target, identities)
    for table, _ in identities:
        yield f"target: the replica identity of {table} is what it was"


async def _restore(migration: Migration, target: Connection) -> AsyncIterator[str]:
    """Give a schema of the user's own back what was dropped or disabled for the time of the migration."""
    if migration.settings.get("REPLICATOR_SCHEMA") != SchemaMode.EXISTING.value:
        return
    with reporting(Side.TARGET, "reading the statements that wait", CleanupError):
        waiting = [item for item in await control.read_deferred(target) if not item.done and item.kind != REFRESH]
    for item in waiting:
        try:
            async with target.transaction():
                await target.execute("SET LOCAL search_path = ''")
                await target.execute(item.statement.encode())
                await control.mark_deferred(target, [item.position])
        except psycopg.Error as error:
            raise CleanupError(
                f"{item.kind.lower()} {item.schema}.{item.name} could not be put back: {describe(error)}",
                hint=f"Remove the reason, or the row with position {item.position} from replicator.deferred, "
                "then run `replicator cleanup` again.",
                side=Side.TARGET,
            ) from None
        yield f"target: put back {item.kind.lower()} {item.schema}.{item.name}"


async def _remove_control(target: Connection) -> bool:
    """Drop the control schema, even one whose making was interrupted, but never a schema that holds anything else."""
    rows = await (await target.execute(_CONTROL_TABLES, [control.SCHEMA])).fetchall()
    there = {name for (name,) in rows}
    if not there or not there <= control.TABLE_NAMES:
        return False
    await control.drop(target)
    return True


async def _is_true(connection: Connection, query: LiteralString, parameter: int) -> bool:
    row = await (await connection.execute(query, [parameter])).fetchone()
    return bool(row and row[0])
