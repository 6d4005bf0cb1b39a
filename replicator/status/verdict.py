"""From what was read to the status: pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replicator import control
from replicator.errors import ReplicatorError
from replicator.lsn import Lsn, parse_lsn
from replicator.model import Phase
from replicator.source.slot import Slot
from replicator.status.report import Lag, LastError, MigrationStatus, SlotStatus, Status, WorkerStatus


@dataclass(frozen=True, slots=True)
class Records:
    """What the control tables say, as of one snapshot.

    ``unpublished``: the app's new tables that could not be; ``spool_bytes``: what waits on the target, None if nothing.
    """

    migration: control.Migration
    progress: control.Progress | None
    worker: control.Worker | None
    tables: Sequence[control.TableRecord]
    unpublished: Mapping[str, str] = field(default_factory=dict)
    spool_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SourceView:
    """What the source says: the end of its WAL (flushed), and the slot if it is there."""

    wal_lsn: Lsn
    slot: Slot | None


def judge(records: Records, source: SourceView | ReplicatorError, lease_timeout: float) -> Status:
    """Make the status; ``source`` is the reason where the source could not be read, ``lease_timeout`` in seconds."""
    worker = _worker(records.worker, lease_timeout)
    applied = records.progress.lsn if records.progress else None
    statistics = records.worker.statistics if records.worker else {}
    view = None if isinstance(source, ReplicatorError) else source
    source_lsn = view.wal_lsn if view else _lsn(statistics.get("source_lsn"))
    lag, note = _lag(records.migration.phase, applied, source_lsn, worker, statistics)
    notes = [] if view else [f"{source}; lag in bytes is as of the worker's last figures, the slot is not known"]
    notes += [f"table {name} is not replicated: {reason}" for name, reason in records.unpublished.items()]
    return Status(
        phase=records.migration.phase,
        phase_since=records.migration.phase_since,
        migration=MigrationStatus(records.migration.id, records.migration.slot, records.migration.publications),
        applied_lsn=applied,
        source_lsn=source_lsn,
        lag=lag,
        tables=Counter(record.state for record in records.tables),
        spool_bytes=records.spool_bytes,
        source_reached=view is not None,
        slot=_slot(view.slot) if view and view.slot else None,
        worker=worker,
        error=_error(records.migration.error),
        notes=(*notes, *note),
    )


def _lag(
    phase: Phase,
    applied: Lsn | None,
    source_lsn: Lsn | None,
    worker: WorkerStatus | None,
    statistics: Mapping[str, Any],
) -> tuple[Lag, list[str]]:
    """The lag, and a note where its seconds are only an upper bound."""
    if phase is Phase.DONE:
        return Lag(0, 0.0), []  # drained by proof; what the source's WAL holds since then is not to be applied
    if applied is None or source_lsn is None:
        return Lag(), []
    size = max(0, source_lsn - applied)
    reported = statistics.get("lag_seconds")
    if size == 0:
        return Lag(0, 0.0), []
    if worker is None or reported is None:
        return Lag(size), []
    if worker.alive:
        return Lag(size, float(reported)), []
    # two durations, each by one clock: what was unapplied at the last heartbeat, or came after it, is no older
    return Lag(size, reported + worker.heartbeat_age), [
        "no worker is running: the lag in seconds is at most this, counted from the last heartbeat"
    ]


def _worker(record: control.Worker | None, lease_timeout: float) -> WorkerStatus | None:
    if record is None:
        return None
    alive = record.heartbeat_age < lease_timeout
    return WorkerStatus(alive, record.host, record.version, record.started_at, record.heartbeat_age)


def _slot(slot: Slot) -> SlotStatus:
    return SlotStatus(slot.name, slot.active_pid is not None, slot.retained_bytes, slot.safe_bytes, slot.wal_status)


def _error(error: Mapping[str, Any] | None) -> LastError | None:
    if error is None:
        return None
    return LastError(*(str(error.get(name, "")) for name in ("side", "message", "hint")))


def _lsn(text: str | None) -> Lsn | None:
    return None if text is None else parse_lsn(text)
