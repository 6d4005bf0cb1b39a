"""The worker's metrics: exactly the names of the design page, in a registry of their own.

A gauge that has not been measured yet is NaN, never 0: an unknown lag must not look like none, and no alert's
comparison holds for NaN.
"""

from collections.abc import Mapping
from math import inf, nan
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from replicator.errors import ReplicatorError, Side
from replicator.model import Phase, TableState

OPERATIONS: Final = ("insert", "update", "delete", "truncate")
"""The values of the label ``operation``."""

_APPLY_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BATCH_CHANGES: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


class Metrics:
    """Prometheus objects, one attribute a metric, named without ``replicator_`` and ``_total``."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the second series of each counter would only be noise
        self.registry: Final = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._make_lag()
        self._make_apply()
        self._make_copy()
        self._make_slot()
        self._make_trouble()

    def _make_lag(self) -> None:
        self.lag_bytes = self._gauge("lag_bytes", "WAL of the source that is not applied yet, unsent included")
        self.lag_seconds = self._gauge(
            "lag_seconds", "Age of the oldest WAL position not applied yet, by the source's clock"
        )
        self.phase = Gauge("replicator_phase", "1 for the phase of the migration", ["phase"], registry=self.registry)
        for phase in Phase:
            self.phase.labels(phase=phase.value)

    def _make_apply(self) -> None:
        self.applied_transactions = Counter(
            "replicator_applied_transactions_total", "Source transactions applied", registry=self.registry
        )
        self.applied_changes = Counter(
            "replicator_applied_changes_total", "Changes applied, of rows", ["operation"], registry=self.registry
        )
        for operation in OPERATIONS:
            self.applied_changes.labels(operation=operation)
        self.apply_seconds = Histogram(
            "replicator_apply_seconds", "Seconds to apply a batch", registry=self.registry, buckets=_APPLY_SECONDS
        )
        self.batch_changes = Histogram(
            "replicator_batch_changes", "Changes in a batch", registry=self.registry, buckets=_BATCH_CHANGES
        )

    def _make_copy(self) -> None:
        self.copy_bytes = Counter("replicator_copy_bytes_total", "Bytes of COPY text relayed", registry=self.registry)
        self.copy_tables = Gauge("replicator_copy_tables", "Tables by state", ["state"], registry=self.registry)
        for state in TableState:
            self.copy_tables.labels(state=state.value)

    def _make_slot(self) -> None:
        self.slot_retained_bytes = self._gauge("slot_retained_bytes", "WAL that the slot keeps on the source")
        self.slot_safe_bytes = self._gauge(
            "slot_safe_bytes", "WAL that may still be written before the slot is lost; +Inf without a limit"
        )
        self.slot_active = self._gauge("slot_active", "1 while a process streams from the slot")

    def _make_trouble(self) -> None:
        self.reconnects = Counter(
            "replicator_reconnects_total", "Connections made anew after a loss", ["side"], registry=self.registry
        )
        self.errors = Counter(
            "replicator_errors_total", "Errors, by whose side they are on", ["side"], registry=self.registry
        )
        for side in (Side.SOURCE, Side.TARGET):
            self.reconnects.labels(side=side.value)
        for side in Side:
            self.errors.labels(side=side.value)
        self.divergences = Counter(
            "replicator_divergences_total", "Changes that did not fit the target's rows", registry=self.registry
        )
        self.target_connections = Gauge(
            "replicator_target_connections", "Open connections to the target", ["kind"], registry=self.registry
        )

    def _gauge(self, name: str, documentation: str) -> Gauge:
        gauge = Gauge(f"replicator_{name}", documentation, registry=self.registry)
        gauge.set(nan)
        return gauge

    def set_phase(self, phase: Phase) -> None:
        """Show this phase as the current one."""
        for other in Phase:
            self.phase.labels(phase=other.value).set(other is phase)

    def set_lag(self, lag_bytes: int | None, seconds: float | None) -> None:
        """Show the lag; None is what is not known."""
        self.lag_bytes.set(nan if lag_bytes is None else lag_bytes)
        self.lag_seconds.set(nan if seconds is None else seconds)

    def set_copy_tables(self, counts: Mapping[TableState, int]) -> None:
        """Show how many tables are in each state; a state that is not in ``counts`` has none."""
        for state in TableState:
            self.copy_tables.labels(state=state.value).set(counts.get(state, 0))

    def set_slot(self, *, active: bool, retained_bytes: int, safe_bytes: int | None) -> None:
        """Show the slot's state; ``safe_bytes`` is None where the source has no max_slot_wal_keep_size."""
        self.slot_active.set(active)
        self.slot_retained_bytes.set(retained_bytes)
        self.slot_safe_bytes.set(inf if safe_bytes is None else safe_bytes)

    def set_target_connections(self, counts: Mapping[str, int]) -> None:
        """Show our sessions on the target, by what they are for."""
        self.target_connections.clear()
        for kind, count in counts.items():
            self.target_connections.labels(kind=kind).set(count)

    def count_error(self, error: ReplicatorError) -> None:
        """Count an error on its side."""
        self.errors.labels(side=error.side.value).inc()
