"""The status of a migration and the verdict on it: pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from replicator.lsn import Lsn, format_lsn
from replicator.model import Phase, TableState

_COPIED: Final = (TableState.COPIED, TableState.READY)
_DOOMED: Final = ("unreserved", "lost")
"""pg_replication_slots.wal_status of a slot whose WAL is about to go, or is gone."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the target is behind; None is what is not known.

    ``bytes`` counts WAL that the source has not sent yet. ``seconds`` is the age, by the source's clock, of the oldest
    position that is not applied; without a live worker, it is an upper bound.
    """

    bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """The slot on the source, sizes in bytes; ``safe_bytes`` is None where the WAL that it keeps has no limit."""

    name: str
    active: bool
    retained_bytes: int | None
    safe_bytes: int | None
    wal_status: str | None

    @property
    def in_danger(self) -> bool:
        """Whether three quarters of what it may keep are used up: the share at which the alert fires, too."""
        return self.safe_bytes is not None and 3 * self.safe_bytes < (self.retained_bytes or 0)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The last worker that had the lease; ``heartbeat_age`` in seconds by the target's clock."""

    alive: bool
    host: str
    version: str
    started_at: datetime
    heartbeat_age: float


@dataclass(frozen=True, slots=True)
class LastError:
    """Why the worker stopped last."""

    side: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """What the migration consists of on the source."""

    id: UUID
    slot: str
    publications: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that `status` shows. ``phase`` is None before a migration; ``notes`` say what could not be read.

    ``spool_bytes`` is what was received during the copy and waits on the target, None if nothing is spooled.
    """

    phase: Phase | None = None
    phase_since: datetime | None = None
    migration: MigrationStatus | None = None
    applied_lsn: Lsn | None = None
    source_lsn: Lsn | None = None
    lag: Lag = Lag()
    tables: Mapping[TableState, int] | None = None
    spool_bytes: int | None = None
    source_reached: bool = False
    slot: SlotStatus | None = None
    worker: WorkerStatus | None = None
    error: LastError | None = None
    notes: tuple[str, ...] = ()

    @property
    def tables_total(self) -> int:
        """How many tables are migrated."""
        return sum((self.tables or {}).values())

    @property
    def tables_copied(self) -> int:
        """How many of them have all the rows of their snapshot."""
        return sum((self.tables or {}).get(state, 0) for state in _COPIED)

    @property
    def worker_alive(self) -> bool:
        """Whether a worker renews its heartbeat."""
        return self.worker is not None and self.worker.alive

    @property
    def problems(self) -> tuple[str, ...]:
        """What an operator has to look at. None before a migration, and none after its cutover."""
        if self.phase in (None, Phase.DONE):
            return ()
        return (*self._worker_problems(), *self._slot_problems())

    @property
    def healthy(self) -> bool:
        """Whether `status` exits with 0."""
        return not self.problems

    def _worker_problems(self) -> list[str]:
        found = []
        if not self.worker_alive:
            found.append("no worker is running: start `replicator run`")
        if self.error is not None:
            found.append(f"{self.error.side}: {self.error.message}")
        return found

    def _slot_problems(self) -> list[str]:
        # before progress is recorded there need not be a slot
        if not self.source_reached or self.applied_lsn is None:
            return []
        if self.slot is None:
            return ["the replication slot is gone from the source: changes are lost"]
        if self.slot.wal_status in _DOOMED:
            return [f"the slot's WAL is {self.slot.wal_status} (see max_slot_wal_keep_size)"]
        found = []
        if self.slot.in_danger:
            found.append(
                f"the slot is lost after {self.slot.safe_bytes} more bytes of WAL (see max_slot_wal_keep_size)"
            )
        if self.phase is Phase.STREAMING and self.worker_alive and not self.slot.active:
            found.append("the worker does not stream from the slot now")
        return found

    def to_json(self) -> dict[str, Any]:
        """The document of `status --json`: sizes in bytes, times in ISO 8601, durations in seconds, null if unknown."""
        return {
            "phase": self.phase.value if self.phase else "none",
            "phase_since": _time(self.phase_since),
            "healthy": self.healthy,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "lag": {"bytes": self.lag.bytes, "seconds": self.lag.seconds},
            "applied_lsn": _lsn(self.applied_lsn),
            "source_lsn": _lsn(self.source_lsn),
            "tables": self._tables_json(),
            "spool": None if self.spool_bytes is None else {"bytes": self.spool_bytes},
            "slot": self._slot_json(),
            "worker": self._worker_json(),
            "error": self._error_json(),
            "migration": self._migration_json(),
        }

    def _tables_json(self) -> dict[str, Any]:
        states = {state.value: (self.tables or {}).get(state, 0) for state in TableState}
        return {"total": self.tables_total, "copied": self.tables_copied, "states": states}

    def _slot_json(self) -> dict[str, Any] | None:
        if self.slot is None:
            return None
        return {
            "name": self.slot.name,
            "active": self.slot.active,
            "retained_bytes": self.slot.retained_bytes,
            "safe_bytes": self.slot.safe_bytes,
            "wal_status": self.slot.wal_status,
        }

    def _worker_json(self) -> dict[str, Any]:
        if self.worker is None:
            return {"alive": False}
        return {
            "alive": self.worker.alive,
            "host": self.worker.host,
            "version": self.worker.version,
            "started_at": _time(self.worker.started_at),
            "heartbeat_age": round(self.worker.heartbeat_age, 3),
        }

    def _error_json(self) -> dict[str, Any] | None:
        if self.error is None:
            return None
        return {"side": self.error.side, "message": self.error.message, "hint": self.error.hint}

    def _migration_json(self) -> dict[str, Any] | None:
        if self.migration is None:
            return None
        return {
            "id": str(self.migration.id),
            "slot": self.migration.slot,
            "publications": list(self.migration.publications),
        }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _lsn(lsn: Lsn | None) -> str | None:
    return None if lsn is None else format_lsn(lsn)
