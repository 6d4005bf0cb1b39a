"""Whether the stream may resume: the same source, its slot, and nothing that it would skip. Pure.

Before each connection of the stream, and whenever the bootstrap is repeated (design: Source identity).
"""

from replicator.control import Migration, Progress
from replicator.errors import SlotLostError, SourceChangedError, TargetLostCommitsError
from replicator.lsn import format_lsn
from replicator.source.slot import Slot, SourceIdentity


def check_resumable(
    slot: Slot | None, identity: SourceIdentity, migration: Migration, progress: Progress | None
) -> Slot:
    """Return the slot if the stream may go on at ``progress.durable`` without skipping a change, else raise.

    Raises SourceChangedError (another server, timeline, database, or WAL behind progress), SlotLostError, or
    TargetLostCommitsError (the slot is confirmed beyond progress).
    """
    check_identity(identity, migration)
    if slot is None:
        raise SlotLostError(f"replication slot {migration.slot} is gone")
    if slot.lost:
        raise SlotLostError(f"replication slot {migration.slot} was invalidated: the source removed WAL that it needed")
    if progress is None:
        return slot
    if progress.durable > slot.wal_lsn:
        raise SourceChangedError(
            f"progress is at {format_lsn(progress.durable)}, but the source's WAL ends at {format_lsn(slot.wal_lsn)}"
        )
    if slot.confirmed_flush is not None and slot.confirmed_flush > progress.durable:
        raise TargetLostCommitsError(
            f"progress is at {format_lsn(progress.durable)}, "
            f"but the slot is confirmed up to {format_lsn(slot.confirmed_flush)}: the target lost commits"
        )
    return slot


def check_identity(identity: SourceIdentity, migration: Migration) -> None:
    """Raise SourceChangedError unless this is the server, timeline and database that the migration began with."""
    if identity.system_identifier != migration.system_identifier:
        raise SourceChangedError("the source is another server than the one that the migration began with")
    if identity.database != migration.database:
        raise SourceChangedError(
            f"the source's database is {identity.database}, but the migration began with {migration.database}"
        )
    if identity.timeline != migration.timeline:
        raise SourceChangedError(
            f"the source is on timeline {identity.timeline}, but the migration began on {migration.timeline}"
        )
