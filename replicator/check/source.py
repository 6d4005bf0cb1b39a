"""Checks of the source server: may it replicate, will it keep the WAL, can a slot be made."""

from typing import Final, LiteralString, NamedTuple

from psycopg.rows import class_row

from replicator import control
from replicator.check.context import Source
from replicator.check.finding import Finding, blocked, from_error, listed, warning
from replicator.errors import ReplicatorError, Side
from replicator.source.slot import NO_FREE_SLOT_REMEDY, OLD_TRANSACTIONS_REMEDY, WAL_LEVEL_REMEDY, read_identity

OLDEST_VERSION: Final = 140_000

_MAY_REPLICATE: Final[LiteralString] = """
SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user
"""

_FACTS: Final[LiteralString] = """
SELECT current_setting('server_version_num')::int AS version,
       pg_catalog.pg_is_in_recovery() AS standby,
       current_setting('wal_level') AS wal_level,
       r.rolreplication OR r.rolsuper AS may_replicate,
       current_setting('max_replication_slots')::int
         - (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int AS free_slots,
       current_setting('max_wal_senders')::int
         - (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int AS free_senders,
       (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_mib,
       coalesce((SELECT setting::bigint FROM pg_catalog.pg_settings
                  WHERE name = 'idle_replication_slot_timeout'), 0) AS idle_timeout,
       (SELECT count(*) FROM pg_catalog.pg_prepared_xacts) AS prepared,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE backend_xid IS NOT NULL AND xact_start < now() - interval '1 minute') AS old_transactions,
       (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata) AS large_objects,
       pg_catalog.quote_ident(r.rolname) AS role
  FROM pg_catalog.pg_roles r
 WHERE r.rolname = current_user
"""


_RELATIONS_OF_OUR_SCHEMA: Final[LiteralString] = """
SELECT c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT c.relname = ANY (%s)
 ORDER BY 1
"""


class SourceFacts(NamedTuple):
    """What the source's settings and statistics say; ``keep_mib`` is -1 without a limit, ``idle_timeout`` 0.

    ``role`` is quoted as an identifier.
    """

    version: int
    standby: bool
    wal_level: str
    may_replicate: bool
    free_slots: int
    free_senders: int
    keep_mib: int
    idle_timeout: int
    prepared: int
    old_transactions: int
    large_objects: int
    role: str


async def server(source: Source) -> list[Finding]:
    """Version, WAL level, rights, free slots and WAL senders, limits on retained WAL, old transactions."""
    cursor = await source.connection.cursor(row_factory=class_row(SourceFacts)).execute(_FACTS)
    facts = await cursor.fetchone()
    if facts is None:
        return []
    return [
        *server_verdict(facts),
        *([] if source.under_way else room_verdict(facts)),
        *retention_verdict(facts),
        *waiting_verdict(facts),
        *large_object_verdict(facts),
    ]


async def our_schema(source: Source) -> list[Finding]:
    """A schema of the app with the name of ours would be taken for the control tables of another migration."""
    cursor = await source.connection.execute(_RELATIONS_OF_OUR_SCHEMA, [control.SCHEMA, list(control.TABLE_NAMES)])
    names = [f"{control.SCHEMA}.{name}" for (name,) in await cursor.fetchall()]
    if not names:
        return []
    return [
        blocked(
            Side.SOURCE,
            f"{listed(names)} would not be moved: replicator's own tables have a schema of that name on the target",
            f"ALTER SCHEMA {control.SCHEMA} RENAME TO … on the source, until the migration is cleaned up.",
        )
    ]


def server_verdict(facts: SourceFacts) -> list[Finding]:
    """Whether this server and role can replicate at all."""
    found = []
    if facts.version < OLDEST_VERSION:
        found.append(blocked(Side.SOURCE, "the server is older than PostgreSQL 14", "Upgrade the source first."))
    if facts.standby:
        found.append(blocked(Side.SOURCE, "the server is a standby", "Name the primary's host in SOURCE_DATABASE_URL."))
    if facts.wal_level != "logical":
        found.append(blocked(Side.SOURCE, f"wal_level is {facts.wal_level}, not logical", WAL_LEVEL_REMEDY))
    if not facts.may_replicate:
        found.append(
            blocked(
                Side.SOURCE,
                f"role {facts.role} may not replicate",
                f"ALTER ROLE {facts.role} REPLICATION, or connect as a role that has it (Supabase: postgres).",
            )
        )
    return found


def room_verdict(facts: SourceFacts) -> list[Finding]:
    """Whether a slot and its WAL sender fit in; a second slot is needed for a moment when tables are copied anew."""
    found = []
    if facts.free_slots < 1:
        found.append(blocked(Side.SOURCE, "all replication slots are in use", NO_FREE_SLOT_REMEDY))
    elif facts.free_slots == 1:
        found.append(
            warning(
                Side.SOURCE,
                "only one replication slot is free; copying a table again needs a second one for a moment",
                NO_FREE_SLOT_REMEDY,
            )
        )
    if facts.free_senders < 1:
        found.append(
            blocked(Side.SOURCE, "all WAL senders are in use", "Raise max_wal_senders on the source and restart it.")
        )
    return found


def retention_verdict(facts: SourceFacts) -> list[Finding]:
    """Whether the source may throw away WAL that the migration still needs."""
    found = []
    if facts.keep_mib >= 0:
        found.append(
            warning(
                Side.SOURCE,
                f"max_slot_wal_keep_size is {facts.keep_mib} MB: a slot that falls further behind is lost for good",
                "Raise it if the copy may take longer than the app needs to write that much WAL; "
                "watch replicator_slot_safe_bytes.",
            )
        )
    if facts.idle_timeout > 0:
        found.append(
            warning(
                Side.SOURCE,
                f"idle_replication_slot_timeout is {facts.idle_timeout} s: a slot that idles longer is lost for good",
                "Set it to 0 on the source for the time of the migration.",
            )
        )
    return found


def waiting_verdict(facts: SourceFacts) -> list[Finding]:
    """What the creation of a slot would wait for: any transaction with an xid, in any database."""
    found = []
    if facts.prepared:
        found.append(
            warning(
                Side.SOURCE,
                f"{facts.prepared} prepared transactions are open: a slot cannot be made before they end",
                "COMMIT PREPARED or ROLLBACK PREPARED them (pg_prepared_xacts).",
            )
        )
    if facts.old_transactions:
        found.append(
            warning(
                Side.SOURCE,
                f"{facts.old_transactions} writing transactions are older than a minute: "
                "a slot cannot be made before they end",
                OLD_TRANSACTIONS_REMEDY,
            )
        )
    return found


def large_object_verdict(facts: SourceFacts) -> list[Finding]:
    """Large objects are in no publication."""
    if not facts.large_objects:
        return []
    return [
        warning(
            Side.SOURCE,
            f"{facts.large_objects} large objects are not moved: logical replication does not carry them",
            "Move them yourself after the cutover, or store them in a bytea column before.",
        )
    ]


async def replication_connection(source: Source) -> list[Finding]:
    """Whether the connection string leads to the server itself and not to a pooler."""
    cursor = await source.connection.execute(_MAY_REPLICATE)
    if await cursor.fetchone() != (True,):
        return []  # `server` has said so, with the remedy
    try:
        await read_identity(source.settings.source, "check")
    except ReplicatorError as error:
        return [from_error(error)]
    return []
