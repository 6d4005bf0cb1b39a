"""The replication slot: making it with an exported snapshot, reading it, dropping it, and what the source says to it.

Source: PostgreSQL documentation, "Streaming Replication Protocol" (CREATE_REPLICATION_SLOT, IDENTIFY_SYSTEM) and
"System Views" (pg_replication_slots).
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from replicator.errors import (
    ConfigurationError,
    DecodingError,
    ReplicatorError,
    Side,
    SlotBusyError,
    SlotLostError,
    SourceError,
    TransientError,
)
from replicator.lsn import Lsn, parse_lsn
from replicator.postgres import Connection, connect, describe, has_no_place, translate

SYNTAX_ERROR: Final = "42601"
LOCK_TIMEOUT: Final = "55P03"
SLOT_ACTIVE: Final = "55006"
NO_FREE_SLOT: Final = "53400"
NOT_IN_STATE: Final = "55000"
DUPLICATE: Final = "42710"
UNDEFINED: Final = "42704"
FORBIDDEN: Final = "42501"
INTERNAL: Final = "XX000"

_WAL_LEVEL = re.compile(r"wal_level")
_LOST = re.compile(
    r"can no longer (get changes from|access) replication slot|was invalidated|has been invalidated"
    r"|cannot read from logical replication slot"  # 14 and 15
)
_CHANGE = re.compile(r"associated LSN ([0-9A-F]+/[0-9A-F]+)")
_MISSING = re.compile(r"replication slot .* does not exist", re.DOTALL)
UNPUBLISHED = re.compile(r"publication .* does not exist", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """Which server and database the source is, and where its WAL stands (``wal_lsn``: flushed)."""

    system_identifier: str
    timeline: int
    database: str
    wal_lsn: Lsn


@dataclass(frozen=True, slots=True)
class SlotSnapshot:
    """What the creation of a slot gives.

    Transactions whose commit LSN is below ``lsn`` are in ``snapshot``, the others are not. The snapshot's id dies with
    the next command on the connection that made the slot: import it elsewhere first.
    """

    lsn: Lsn
    snapshot: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot, with the source's WAL position and clock at the moment of reading.

    ``safe_bytes`` is WAL that can still be written before the slot is in danger (None: no limit is set);
    ``retained_bytes`` is WAL that is kept for the slot, up to ``wal_lsn`` (flushed).
    """

    name: str
    active_pid: int | None
    confirmed_flush: Lsn | None
    restart_lsn: Lsn | None
    wal_status: str | None
    safe_bytes: int | None
    retained_bytes: int
    wal_lsn: Lsn
    now: datetime

    @property
    def lost(self) -> bool:
        """Whether the server has removed WAL that the slot needed, or invalidated it otherwise."""
        return self.wal_status == "lost" or self.restart_lsn is None


# --- on a replication connection --------------------------------------------------------------------------------------


async def identify(connection: Connection) -> SourceIdentity:
    """Ask a replication connection which server it is.

    Raises ConfigurationError when it is an ordinary one: a pooler drops the replication parameter silently.
    """
    try:
        cursor = await connection.cursor(row_factory=dict_row).execute("IDENTIFY_SYSTEM")
        row = await cursor.fetchone()
    except psycopg.Error as error:
        raise slot_error(error, "identifying the source") from None
    if row is None or row["dbname"] is None:
        raise SourceError("the source did not identify itself")
    return SourceIdentity(row["systemid"], int(row["timeline"]), row["dbname"], parse_lsn(row["xlogpos"]))


async def read_identity(dsn: str, purpose: str) -> SourceIdentity:
    """Ask over a replication connection of its own. Raises what `connect` and `identify` raise."""
    connection = await connect(dsn, Side.SOURCE, purpose, replication=True)
    try:
        return await identify(connection)
    finally:
        await connection.close()


async def create_slot(
    replication_connection: Connection, name: str, *, temporary: bool = False, lock_timeout: float
) -> SlotSnapshot:
    """Make a pgoutput slot and export its snapshot; waits up to ``lock_timeout`` seconds for each old transaction.

    Raises TransientError when an old transaction does not end in time or the snapshot is too large, SourceError when
    there is no free slot, the WAL level is too low, the role may not, or the slot exists.
    """
    # EXPORT_SNAPSHOT is understood by 14 and still by 18
    command = sql.SQL("CREATE_REPLICATION_SLOT {} {} LOGICAL pgoutput EXPORT_SNAPSHOT").format(
        sql.Identifier(name), sql.SQL("TEMPORARY" if temporary else "")
    )
    timeout = sql.SQL("SET lock_timeout = {}").format(sql.Literal(max(1, round(lock_timeout * 1000))))
    try:
        await replication_connection.execute(timeout)
        cursor = await replication_connection.cursor(row_factory=dict_row).execute(command)
        row = await cursor.fetchone()
    except psycopg.Error as error:
        raise slot_error(error, f"creating replication slot {name}") from None
    if row is None or row["snapshot_name"] is None:
        raise SourceError(f"the source made slot {name} without a snapshot")
    return SlotSnapshot(parse_lsn(row["consistent_point"]), row["snapshot_name"])


def slot_error(error: psycopg.Error, doing: str) -> ReplicatorError:
    """Turn what a replication command or a slot function answered into ours, with the remedy."""
    state, text = error.sqlstate or "", error.diag.message_primary or ""
    message = f"{doing}: {describe(error)}"
    if state == SYNTAX_ERROR:
        return ConfigurationError(_POOLER, hint=POOLER_REMEDY)
    if state == SLOT_ACTIVE:
        return SlotBusyError(message)
    if state == LOCK_TIMEOUT:
        return TransientError(f"{doing}: {_OLD_TRANSACTIONS}", side=Side.SOURCE, hint=OLD_TRANSACTIONS_REMEDY)
    if (state == NOT_IN_STATE and _LOST.search(text)) or (state == UNDEFINED and _MISSING.search(text)):
        return SlotLostError(message)
    if has_no_place(error):
        # the output plugin tells where, but not in which table
        place = _CHANGE.search(error.diag.context or "")
        failure = SourceError(message, hint=_NO_PLACE_REMEDY)
        return failure.located(f"in the change at {place[1]}") if place else failure
    return _other_error(error, doing, message)


def _other_error(error: psycopg.Error, doing: str, message: str) -> ReplicatorError:
    state, text = error.sqlstate or "", error.diag.message_primary or ""
    if state == INTERNAL:  # of the server's own files and catalogs, not of rows
        return DecodingError(f"{doing}: {text} ({state})")
    hint = _source_remedy(state, text)
    return SourceError(message, hint=hint) if hint else translate(error, Side.SOURCE, doing, otherwise=SourceError)


def _source_remedy(state: str, text: str) -> str | None:
    if state == NOT_IN_STATE and _WAL_LEVEL.search(text):
        return WAL_LEVEL_REMEDY
    if state == UNDEFINED and UNPUBLISHED.search(text):
        return PUBLICATION_REMEDY
    return _SOURCE_REMEDIES.get(state)


_NO_PLACE_REMEDY: Final = (
    "The slot cannot send this change. Correct the text on the source (reading it fails there after "
    "SET client_encoding = 'UTF8'), run `replicator cleanup`, empty the target, and start the migration again."
)
_POOLER: Final = "the source does not speak the replication protocol here: this is a connection pooler"
POOLER_REMEDY: Final = (
    "Use the direct host and port in SOURCE_DATABASE_URL (Supabase: db.<ref>.supabase.co:5432, not the pooler)."
)
_OLD_TRANSACTIONS: Final = "transactions that were running before did not end in time"
OLD_TRANSACTIONS_REMEDY: Final = (
    "End long transactions and prepared ones on the source (pg_stat_activity, pg_prepared_xacts)."
)
WAL_LEVEL_REMEDY: Final = "Set wal_level = logical on the source and restart it."
NO_FREE_SLOT_REMEDY: Final = (
    "Drop a slot that is not used any more (pg_drop_replication_slot), or raise max_replication_slots and restart."
)
# up to PostgreSQL 17 the server decodes by the catalog as it was: what it has no publication for, it cannot decode
PUBLICATION_REMEDY: Final = (
    "Make the publication again, then start `replicator run` again: its tables are copied anew. If it is there, the "
    "source was written to while it was not: drop and make again all the publications of the migration, so that the "
    "stream goes on behind that time."
)
_SOURCE_REMEDIES: Final = {
    NO_FREE_SLOT: NO_FREE_SLOT_REMEDY,
    DUPLICATE: "Another migration uses this slot's name; run `replicator cleanup` for it first.",
    FORBIDDEN: "Give the role of SOURCE_DATABASE_URL the REPLICATION attribute.",
}


# --- on an ordinary connection ----------------------------------------------------------------------------------------

_READ: Final[LiteralString] = """
SELECT s.slot_name AS name, s.active_pid, s.confirmed_flush_lsn::text AS confirmed_flush,
       s.restart_lsn::text AS restart_lsn, s.wal_status, s.safe_wal_size AS safe_bytes,
       coalesce(w.lsn - s.restart_lsn, 0)::bigint AS retained_bytes, w.lsn::text AS wal_lsn,
       clock_timestamp() AS now
  FROM pg_catalog.pg_replication_slots s, (SELECT pg_catalog.pg_current_wal_flush_lsn() AS lsn OFFSET 0) w
 WHERE s.slot_name = %s
"""


async def read_slot(connection: Connection, name: str) -> Slot | None:
    """The slot as it is now, or None if there is none of that name. Raises SourceError on a standby."""
    try:
        cursor = await connection.cursor(row_factory=dict_row).execute(_READ, [name])
        row = await cursor.fetchone()
    except psycopg.Error as error:
        raise slot_error(error, f"reading replication slot {name}") from None
    return None if row is None else _slot(row)


def _slot(row: dict[str, Any]) -> Slot:
    positions = {
        key: None if row[key] is None else parse_lsn(row[key]) for key in ("confirmed_flush", "restart_lsn", "wal_lsn")
    }
    return Slot(**(row | positions))


async def read_keep_bytes(connection: Connection) -> int | None:
    """max_slot_wal_keep_size in bytes: WAL that a slot may retain before it is lost; None if that is unlimited."""
    cursor = await connection.execute(
        "SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'"
    )
    row = await cursor.fetchone()
    megabytes = -1 if row is None else int(row[0])
    return None if megabytes < 0 else megabytes * 1024 * 1024


async def read_wal_end(connection: Connection) -> Lsn:
    """Where the source's WAL ends now (flushed)."""
    row = await (await connection.execute("SELECT pg_catalog.pg_current_wal_flush_lsn()::text")).fetchone()
    if row is None:
        raise SourceError("the source did not say where its WAL ends")
    return parse_lsn(row[0])


async def drop_slot(connection: Connection, name: str) -> None:
    """Drop the slot if it is there. Raises SlotBusyError while a process streams from it."""
    try:
        await connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = %s",
            [name],
        )
    except psycopg.Error as error:
        if error.sqlstate != UNDEFINED:  # gone meanwhile: that is what was wanted
            raise slot_error(error, f"dropping replication slot {name}") from None
