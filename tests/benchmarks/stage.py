"""A stage: a backlog that waits in a slot, and a target as it was before. Every consumer's run begins on copies."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from psycopg import sql

from replicator.config import Settings
from replicator.demo.roles import render_like, supabase_like
from replicator.demo.servers import Server
from replicator.demo.worker import command, environment
from tests.benchmarks.backlog import Backlog
from tests.benchmarks.processes import BenchmarkError, Child
from tests.benchmarks.sample import table_names
from tests.benchmarks.servers import Fingerprint, copied_database, copied_slot, dropped_at_end, fingerprint, settle
from tests.fixtures.databases import Database

_NUMBERS: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Lab:
    """Two servers, a folder for logs, and the seconds that one run may take."""

    source: Server
    target: Server
    folder: Path
    timeout: float


@dataclass(frozen=True, slots=True)
class Stage:
    """``last`` is an LSN before which lies all of the backlog but its last change."""

    lab: Lab
    backlog: Backlog
    source: Database
    base: Database
    slot: str
    publications: tuple[str, ...]
    last: str
    expected: Fingerprint
    wal_bytes: int

    def settle(self) -> None:
        """Checkpoint both servers: no run pays for what was written before it."""
        settle(self.lab.source, self.lab.target)

    def log(self, consumer: str) -> Path:
        """Where a consumer's words go."""
        return self.lab.folder / f"{consumer}.log"

    def settings(self, target: Database) -> dict[str, str]:
        """The environment of a worker for this source and a target."""
        return environment(settings_of(self.source, target, self.backlog.settings))

    @contextlib.contextmanager
    def copied(self, name: str) -> Iterator[tuple[str, Database]]:
        """A copy of the slot and one of the target, for as long as the block runs."""
        with copied_slot(self.source, self.slot, name) as slot, copied_database(self.lab.target, self.base, name) as to:
            yield slot, to

    def check(self, target: Database, consumer: str) -> None:
        """Compare the target with the source: a fast but wrong run is none. Raises BenchmarkError."""
        found = fingerprint(target, [table for table, *_ in self.expected])
        wrong = [ours[0] for ours, theirs in zip(self.expected, found, strict=True) if ours != theirs]
        if wrong:
            raise BenchmarkError(f"{consumer}: the target differs from the source in {', '.join(wrong)}")


@contextlib.contextmanager
def prepared(lab: Lab, backlog: Backlog) -> Iterator[Stage]:
    """Fill a source, bootstrap a target with replicator, stop, let the backlog grow; all gone after the block."""
    name = f"bench_{next(_NUMBERS)}"
    with contextlib.ExitStack() as stack:
        source = Database(lab.source, name, supabase_like(lab.source, name))
        stack.enter_context(dropped_at_end(source))
        base = Database(lab.target, name, render_like(lab.target, name))
        stack.enter_context(dropped_at_end(base))
        backlog.start(source)
        stack.callback(_drop_slots, lab.source, name)
        bootstrap(lab, source, base, backlog.settings)
        ((slot, publications),) = base.fetch("SELECT slot, publications FROM replicator.migration")
        wal_bytes, last = backlog.grow(source)
        expected = fingerprint(source, table_names(source))
        yield Stage(lab, backlog, source, base, slot, tuple(publications), last, expected, wal_bytes)


def bootstrap(lab: Lab, source: Database, target: Database, settings: Mapping[str, Any]) -> None:
    """Copy a database with `replicator bootstrap`. Raises BenchmarkError."""
    variables = environment(settings_of(source, target, settings))
    with Child([command(), "bootstrap"], variables, lab.folder / "bootstrap.log") as child:
        child.succeed(lab.timeout)


def settings_of(source: Database, target: Database, changes: Mapping[str, Any]) -> Settings:
    """The defaults without the HTTP port, and what is different."""
    urls = {"SOURCE_DATABASE_URL": source.dsn, "TARGET_DATABASE_URL": target.dsn}
    return Settings.model_validate({**urls, "http_port": 0, **changes})


def _drop_slots(server: Server, database: str) -> None:
    with server.administer() as connection:
        connection.execute(
            sql.SQL("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = {}").format(
                sql.Literal(database)
            )
        )
