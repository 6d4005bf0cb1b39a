"""One migration that is taken through many faults: it streams by way of two proxies, under live writers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.fixtures.databases import drop, new_source, new_target
from tests.fixtures.migration import Migration, begin
from tests.fixtures.proxy import Proxy
from tests.fixtures.servers import AnyServer
from tests.fixtures.waiting import wait_until

SECONDS = 15
"""What "within seconds" may mean on a busy machine."""


@dataclass(slots=True)
class Stage:
    """A migration that streams by way of two proxies; ``sound`` is whether the last test left it so."""

    migration: Migration
    to_source: Proxy
    to_target: Proxy
    closing: ExitStack
    sound: bool = True


class StageMaker:
    """Keeps one stage for all tests, and makes another one after a test that failed."""

    def __init__(self, source: AnyServer, target: AnyServer, folder: Path) -> None:
        self._source = source
        self._target = target
        self._folder = folder
        self._stage: Stage | None = None

    def get(self) -> Stage:
        if self._stage is not None and not self._stage.sound:
            self.close()
        if self._stage is None:
            self._stage = self._make()
        return self._stage

    def close(self) -> None:
        if self._stage is not None:
            self._stage.closing.close()
            self._stage = None

    def _make(self) -> Stage:
        with ExitStack() as stack:
            source, target = new_source(self._source), new_target(self._target)
            for database in (source, target):
                stack.callback(drop, database)
            to_source, to_target = Proxy(self._source.port), Proxy(self._target.port)
            for proxy in (to_source, to_target):
                proxy.start()
                stack.callback(proxy.close)
            migration = begin(
                source,
                target,
                self._folder,
                SOURCE_DATABASE_URL=to_source.dsn(source.dsn),
                TARGET_DATABASE_URL=to_target.dsn(target.dsn),
            )
            stack.callback(migration.close)
            return Stage(migration, to_source, to_target, stack.pop_all())


@contextmanager
def blocked_target(migration: Migration) -> Iterator[None]:
    """Within the block the worker stands in the middle of a transaction, and waits for a lock on the target."""
    with psycopg.connect(migration.target.superuser_dsn) as holder:
        holder.execute("LOCK TABLE writers IN ACCESS EXCLUSIVE MODE")
        wait_until(lambda: migration.target.value(_BLOCKED, superuser=True), what="the worker is blocked")
        yield


_BLOCKED = """
SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE NOT l.granted AND l.relation = 'writers'::regclass AND a.application_name = 'replicator worker apply'
"""
