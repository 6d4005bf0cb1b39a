"""Checks of the target server: may the role make what a migration needs, and is there room for its connections."""

from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg.rows import class_row

from replicator import control
from replicator.check.context import Target
from replicator.check.finding import Finding, blocked, listed, warning
from replicator.check.source import OLDEST_VERSION
from replicator.errors import Side
from replicator.model import SchemaMode

_OWN_CONNECTIONS: Final = 5
"""Connections besides the copy and index jobs: lease, apply, heartbeat, commands."""

_FACTS: Final[LiteralString] = """
SELECT current_setting('server_version_num')::int AS version,
       pg_catalog.pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS read_only,
       pg_catalog.has_database_privilege(current_database(), 'CREATE') AS may_create,
       pg_catalog.has_database_privilege(current_database(), 'TEMPORARY') AS may_use_temporary,
       least(
         nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1),
         current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database)::int
       ) AS free_connections
  FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
 WHERE d.datname = current_database() AND r.rolname = current_user
"""

_FOREIGN_TABLES: Final[LiteralString] = """
SELECT n.nspname || '.' || c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT starts_with(n.nspname, 'pg_') AND n.nspname <> 'information_schema'
   AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
 ORDER BY 1
"""


_FIRING: Final[LiteralString] = """
SELECT t.tgname || ' of ' || n.nspname || '.' || c.relname
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') AND c.relkind IN ('r', 'p') AND n.nspname <> %s
 ORDER BY 1
"""

_HIDING: Final[LiteralString] = """
SELECT n.nspname || '.' || c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND pg_catalog.row_security_active(c.oid)
   AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
 ORDER BY 1
"""


class TargetFacts(NamedTuple):
    """What the target allows the role; ``read_only``: a standby, or a default of read-only transactions."""

    version: int
    read_only: bool
    may_create: bool
    may_use_temporary: bool
    free_connections: int


async def server(target: Target) -> list[Finding]:
    """Version, rights and free connections."""
    cursor = await target.connection.cursor(row_factory=class_row(TargetFacts)).execute(_FACTS)
    facts = await cursor.fetchone()
    if facts is None:
        return []
    needed = target.settings.copy_jobs + target.settings.index_jobs + _OWN_CONNECTIONS
    return [*server_verdict(facts), *connection_verdict(facts.free_connections, needed)]


def server_verdict(facts: TargetFacts) -> list[Finding]:
    """Whether this server and role can take the migration."""
    verdicts = (
        (facts.version < OLDEST_VERSION, "the server is older than PostgreSQL 14", "Use a newer server."),
        (facts.read_only, "the server is read only", "Name the primary's host in TARGET_DATABASE_URL."),
        (
            not facts.may_create,
            "the role may not create schemas in the database",
            "GRANT CREATE ON DATABASE … TO the role, or connect as the owner.",
        ),
        (
            not facts.may_use_temporary,
            "the role may not create temporary tables, which changes are applied through",
            "GRANT TEMPORARY ON DATABASE … TO the role, or connect as the owner.",
        ),
    )
    return [blocked(Side.TARGET, message, remedy) for applies, message, remedy in verdicts if applies]


def connection_verdict(free: int, needed: int) -> list[Finding]:
    """Whether there is room for the connections of the copy."""
    if free >= needed:
        return []
    return [
        warning(
            Side.TARGET,
            f"{free} connections are free, the copy uses up to {needed}",
            "Lower REPLICATOR_COPY_JOBS or REPLICATOR_INDEX_JOBS, or free connections.",
        )
    ]


async def replica_mode(target: Target) -> list[Finding]:
    """With a schema of the user's own, triggers and foreign keys are there already and must not act on what comes."""
    if target.settings.schema_mode is SchemaMode.COPY:
        return []
    if await _may_use_replica_mode(target):
        return firing_verdict(await _names(target, _FIRING, [control.SCHEMA]))
    return replica_mode_verdict(await _names(target, _FOREIGN_TABLES))


async def row_security(target: Target) -> list[Finding]:
    """Policies of a schema of the user's own that apply to the role; those of its own tables are lifted meanwhile."""
    if target.settings.schema_mode is SchemaMode.COPY:
        return []
    return row_security_verdict(await _names(target, _HIDING))


async def _names(target: Target, query: LiteralString, parameters: Sequence[str] = ()) -> list[str]:
    return [name for (name,) in await (await target.connection.execute(query, parameters)).fetchall()]


async def _may_use_replica_mode(target: Target) -> bool:
    """Probed, not inferred: hosts grant it in ways of their own."""
    try:
        async with target.connection.transaction(force_rollback=True):
            await target.connection.execute("SET LOCAL session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def replica_mode_verdict(not_owned: list[str]) -> list[Finding]:
    """What follows when the role may not set session_replication_role."""
    if not_owned:
        return [
            blocked(
                Side.TARGET,
                "the role may not set session_replication_role, nor change tables that it does not own: "
                + listed(not_owned),
                "GRANT SET ON PARAMETER session_replication_role TO the role, or connect as the tables' owner.",
            )
        ]
    return [
        warning(
            Side.TARGET,
            "the role may not set session_replication_role: foreign keys are dropped and triggers disabled "
            "until the cutover",
            "Nothing needs doing; GRANT SET ON PARAMETER session_replication_role TO the role would avoid it.",
        )
    ]


def firing_verdict(triggers: list[str]) -> list[Finding]:
    """Triggers that their owner has marked to fire on replicated rows."""
    if not triggers:
        return []
    return [
        warning(
            Side.TARGET,
            f"triggers that are enabled as REPLICA or ALWAYS fire on copied and applied rows: {listed(triggers)}",
            "Nothing needs doing if that is what they are for; else ALTER TABLE … ENABLE TRIGGER, without REPLICA or "
            "ALWAYS, or DISABLE TRIGGER, until the cutover.",
        )
    ]


def row_security_verdict(tables: list[str]) -> list[Finding]:
    """Tables whose rows the role could not see or write as it must."""
    if not tables:
        return []
    return [
        blocked(
            Side.TARGET,
            f"row-level security applies to the role on {listed(tables)}",
            "Connect as the tables' owner, or as a role with BYPASSRLS.",
        )
    ]
