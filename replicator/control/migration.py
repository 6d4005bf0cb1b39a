"""The migration: what was recorded when it began, its phase, and the reason of the last stop."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from replicator.control.schema import MIGRATION, NOW, run
from replicator.model import Phase
from replicator.postgres import Connection


@dataclass(frozen=True, slots=True)
class Migration:
    """What was recorded when the migration began, and where it stands. ``error`` is the last stop's reason."""

    id: UUID
    slot: str
    publications: tuple[str, ...]
    owns_publications: bool
    settings: Mapping[str, Any]
    system_identifier: str
    timeline: int
    database: str
    phase: Phase = Phase.BOOTSTRAP
    phase_since: datetime | None = None
    error: Mapping[str, Any] | None = None


async def read_migration(connection: Connection) -> Migration | None:
    """The recorded migration, or None before the first `run`. The control tables must exist."""
    cursor = await run(connection, sa.select(MIGRATION))
    row = await cursor.fetchone()
    if row is None:
        return None
    del row["only"], row["created_at"]
    row |= {"phase": Phase(row["phase"]), "publications": tuple(row["publications"])}
    return Migration(**row)


async def start_migration(connection: Connection, migration: Migration) -> None:
    """Record the migration, before anything is made on the source, so that a crash leaves no orphan unnamed."""
    await run(
        connection,
        MIGRATION.insert().values(
            id=migration.id,
            slot=migration.slot,
            publications=list(migration.publications),
            owns_publications=migration.owns_publications,
            settings=dict(migration.settings),
            system_identifier=migration.system_identifier,
            timeline=migration.timeline,
            database=migration.database,
            phase=migration.phase.value,
        ),
    )


async def forget_migration(connection: Connection) -> None:
    """Remove the record of a migration that has no progress yet, so that another can be recorded."""
    await run(connection, MIGRATION.delete())


async def set_phase(connection: Connection, phase: Phase) -> None:
    """Enter a phase; entering the current one again changes nothing."""
    await run(
        connection,
        MIGRATION.update().where(MIGRATION.c.phase != phase.value).values(phase=phase.value, phase_since=NOW),
    )


async def record_error(connection: Connection, error: Mapping[str, Any] | None) -> None:
    """Keep the reason of the last stop for `status` (side, message, hint), or forget it."""
    value = sa.null() if error is None else dict(error)
    await run(connection, MIGRATION.update().values(error=value))
