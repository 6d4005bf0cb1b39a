"""What the parts of the bootstrap share: both servers, the migration, and how far each table has come."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from uuid import UUID

from monitoring.metrics import Metrics
from replicator import control
from replicator.catalog import PublishedTable, published_tables
from replicator.config import Settings
from replicator.control import Migration, TableRecord
from replicator.errors import Side, SourceError
from replicator.model import SchemaMode, TableName, TableState
from replicator.postgres import Connection, reporting

Copying = Callable[[], AbstractAsyncContextManager[None]]
"""What is entered while tables are copied and get their keys, and those that are ready are left alone."""


@dataclass(frozen=True, slots=True)
class Work:
    """One run of the bootstrap. ``states`` are those that were shown last."""

    settings: Settings
    epoch: UUID
    metrics: Metrics
    source: Connection
    target: Connection
    migration: Migration
    copying: Copying
    states: dict[TableName, TableState] = field(default_factory=dict)

    @property
    def makes_schema(self) -> bool:
        """Whether the target's tables are ours to make and to change."""
        return self.settings.schema_mode is SchemaMode.COPY

    async def published(self, source: Connection) -> list[PublishedTable]:
        """The published tables, as a session of the source sees them."""
        with reporting(Side.SOURCE, "reading the published tables", SourceError):
            return await published_tables(source, self.migration.publications)

    async def known(self, published: Iterable[PublishedTable]) -> dict[TableName, TableRecord]:
        """What is recorded, by published name: a renamed table goes on as before until the target's is renamed too."""
        names = {table.oid: table.table for table in published}
        records = (await control.read_tables(self.target)).values()
        return {names.get(r.source_oid, r.table) if r.state is TableState.READY else r.table: r for r in records}

    def show(self, states: Mapping[TableName, TableState]) -> None:
        """Let the metrics tell these states."""
        self.states.update(states)
        self.metrics.set_copy_tables(Counter(self.states.values()))


def needing_round(
    published: Iterable[PublishedTable], records: Mapping[TableName, TableRecord]
) -> list[PublishedTable]:
    """The tables that are not copied, or are not the ones that were."""
    return [table for table in published if not _is_copied(records.get(table.table), table.oid)]


def _is_copied(record: TableRecord | None, oid: int) -> bool:
    done = (TableState.COPIED, TableState.READY)
    return record is not None and record.source_oid == oid and record.state in done
