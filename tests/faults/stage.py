"""One migration that is taken through many faults: it streams by way of two proxies, under live writers."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.fixtures.databases import Database, drop, new_source, new_target
from tests.fixtures.migration import Migration, begin
from tests.fixtures.proxy import Proxy
from tests.fixtures.servers import AnyServer
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import run_command

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
            stage = make_stage(source, target, self._folder)
            stack.push(stage.closing.pop_all())
            stage.closing = stack.pop_all()
            return stage


def make_stage(source: Database, target: Database, folder: Path, **changes: Any) -> Stage:
    """A migration that is not started yet, by way of two proxies; ``changes`` are settings by field name."""
    with ExitStack() as stack:
        to_source, to_target = Proxy(source.server.port), Proxy(target.server.port)
        for proxy in (to_source, to_target):
            proxy.start()
            stack.callback(proxy.close)
        urls = {"SOURCE_DATABASE_URL": to_source.dsn(source.dsn), "TARGET_DATABASE_URL": to_target.dsn(target.dsn)}
        migration = begin(source, target, folder, **(urls | changes))
        stack.callback(migration.close)
        return Stage(migration, to_source, to_target, stack.pop_all())


# --- what the tests ask of it -----------------------------------------------------------------------------------------


def wait_told(migration: Migration, words: str, times: int = 1, timeout: float = 30) -> None:
    """Wait until the worker has said so since it was started."""
    wait_until(lambda: migration.worker.current_log.count(words) >= times, timeout, f"the worker says: {words}")


def wait_progress(migration: Migration) -> None:
    """Wait until progress has moved."""
    before = migration.target.value(_PROGRESS)
    wait_until(lambda: migration.target.value(_PROGRESS) != before, what="progress")


_PROGRESS = "SELECT lsn FROM replicator.progress"


def seeded() -> random.Random:
    """Chance, which the printed seed brings again."""
    seed = int(os.environ.get("REPLICATOR_TEST_SEED", time.time_ns()))
    print("REPLICATOR_TEST_SEED", seed)
    return random.Random(seed)


def assert_stops_with(migration: Migration, side: str, *words: str) -> None:
    """The worker ends with an error that has these words, its remedy among them; a second one ends just so (law 4)."""
    for again in (False, True):
        if again:
            migration.worker.start()
        assert migration.worker.wait(2 * SECONDS) == 1
        assert f"error: {side}: " in migration.worker.current_log
        for word in words:
            assert word in " ".join(migration.worker.current_log.split()), word


def begin_again(migration: Migration) -> None:
    """What the errors that do not pass ask for: clean up, empty the target, and start the migration again."""
    done = run_command(migration.settings, "cleanup")
    assert done.returncode == 0, done.stderr
    migration.target.execute(_EMPTY)
    migration.start()


_EMPTY = """
DO $$ DECLARE found text; BEGIN
  FOR found IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', found);
  END LOOP;
END $$;
CREATE SCHEMA public
"""


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
