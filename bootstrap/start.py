"""The beginning: the migration's row, its publications, and what a crash before the first record has left behind."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import structlog

from replicator import control
from replicator.catalog import source_tables
from replicator.config import Settings
from replicator.control import Migration, Progress
from replicator.errors import ConfigurationError, FencedError, Side, SourceError
from replicator.postgres import Connection, reporting
from replicator.source.publication import create_publications, drop_publications, publication_names
from replicator.source.resumable import check_identity, check_resumable
from replicator.source.slot import SourceIdentity, drop_slot, read_identity, read_slot

log = structlog.get_logger(__name__)


async def begin(settings: Settings, epoch: UUID, source: Connection, target: Connection) -> tuple[Migration, bool]:
    """Find or record the migration, and make sure that its publications are there; True: it has no progress yet.

    Raises ConfigurationError when a setting that shapes the migration was changed, or what `check_resumable` and
    `create_publications` raise.
    """
    identity = await read_identity(settings.source, "worker identity")
    migration = await control.read_migration(target)
    progress = await control.read_progress(target)
    if migration is not None and progress is not None:
        _require_unchanged(migration, settings)
        await _require_resumable(source, identity, migration, progress)
        return migration, False
    if migration is not None:
        check_identity(identity, migration)
        await _drop_orphan_slot(epoch, source, target, migration)
        if _changed(migration, settings):
            await _forget(epoch, source, target, migration)
            migration = None
    if migration is None:
        migration = await _record(settings, epoch, target, identity)
    await _publish(settings, source, migration)
    return migration, True


async def _record(settings: Settings, epoch: UUID, target: Connection, identity: SourceIdentity) -> Migration:
    """Before anything is made on the source, so that whatever is made there can be found by its name."""
    migration_id = uuid4()
    slot = f"replicator_{migration_id.hex[:8]}"
    migration = Migration(
        id=migration_id,
        slot=slot,
        publications=publication_names(slot, settings),
        owns_publications=not settings.publications,
        settings=_shape(settings),
        system_identifier=identity.system_identifier,
        timeline=identity.timeline,
        database=identity.database,
    )
    async with control.under_epoch(target, epoch):
        await control.start_migration(target, migration)
    log.info("migration recorded", id=str(migration_id), slot=slot)
    return migration


def _shape(settings: Settings) -> Mapping[str, Any]:
    """The settings that shape a migration: they must stay as they were when it began."""
    return {
        "REPLICATOR_SCHEMA": settings.schema_mode.value,
        "REPLICATOR_PUBLICATIONS": ",".join(settings.publications),
        "REPLICATOR_KEYLESS": settings.keyless.value,
        "REPLICATOR_EXCLUDE_SCHEMAS": ",".join(settings.exclude_schemas),
    }


def _changed(migration: Migration, settings: Settings) -> tuple[str, object, object] | None:
    """The first of these settings that is not what it was, with both values."""
    for name, value in _shape(settings).items():
        before = migration.settings.get(name, value)
        if before != value:
            return name, before, value
    return None


def _require_unchanged(migration: Migration, settings: Settings) -> None:
    if change := _changed(migration, settings):
        name, before, value = change
        raise ConfigurationError(
            f"{name} was {before!r} when the migration began, and is {value!r} now",
            hint="Set it back, or run `replicator cleanup`, empty the target, and start again.",
        )


# --- on the source, while nothing is copied ---------------------------------------------------------------------------


async def _drop_orphan_slot(epoch: UUID, source: Connection, target: Connection, migration: Migration) -> None:
    """Under the epoch (law 6): for a worker that was replaced meanwhile, it is no orphan but the next one's slot."""
    async with control.under_epoch(target, epoch):
        if await control.read_progress(target) is not None:
            raise FencedError("another worker has begun to copy")
        with reporting(Side.SOURCE, "looking for an orphan slot", SourceError):
            if await read_slot(source, migration.slot) is not None:
                log.warning("dropping the slot of an attempt that recorded nothing", slot=migration.slot)
                await drop_slot(source, migration.slot)


async def _forget(epoch: UUID, source: Connection, target: Connection, migration: Migration) -> None:
    """The settings were corrected after an attempt that came to nothing: begin anew, with other publications."""
    if migration.owns_publications:
        await drop_publications(source, migration.publications)
    async with control.under_epoch(target, epoch):
        await control.forget_migration(target)


async def _publish(settings: Settings, source: Connection, migration: Migration) -> None:
    """The publications must be there before the slot: one that is younger cannot be streamed from."""
    with reporting(Side.SOURCE, "preparing the publications", SourceError):
        tables = await source_tables(source, [*settings.exclude_schemas, control.SCHEMA])
        await create_publications(source, migration.slot, tables, settings)


async def _require_resumable(
    source: Connection, identity: SourceIdentity, migration: Migration, progress: Progress
) -> None:
    with reporting(Side.SOURCE, "reading the replication slot", SourceError):
        slot = await read_slot(source, migration.slot)
    check_resumable(slot, identity, migration, progress)
