"""What may happen while the worker streams. One migration is taken through all of it, under live writers.

Each test disturbs it, then holds both sides against each other row by row: nothing is lost, nothing repeated (law 1).
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from replicator.demo.servers import Server, StopMode
from tests.fixtures.databases import Database, drop, new_source, new_target
from tests.fixtures.migration import Migration, begin
from tests.fixtures.proxy import Proxy
from tests.fixtures.servers import AnyServer
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker

SECONDS = 15
"""What "within seconds" may mean on a busy machine."""

_EPOCH = "SELECT epoch FROM replicator.lease"


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


@pytest.fixture(scope="module")
def stages(
    source_server: AnyServer, target_server: AnyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StageMaker]:
    maker = StageMaker(source_server, target_server, tmp_path_factory.mktemp("streaming"))
    yield maker
    maker.close()


@pytest.fixture
def stage(stages: StageMaker) -> Iterator[Stage]:
    """It streams, and must do so again at the end; a worker of its own for each test begins with short pauses."""
    stage = stages.get()
    stage.sound = False
    stage.migration.start()
    yield stage
    print(stage.migration.worker.current_log)
    assert stage.migration.worker.stop(SECONDS) == 0
    stage.sound = True


@pytest.fixture
def migration(stage: Stage) -> Migration:
    return stage.migration


@pytest.fixture
def second(migration: Migration, tmp_path: Path) -> Iterator[Worker]:
    """Another worker for the same migration, not started yet."""
    worker = Worker(migration.settings, tmp_path / "second.log")
    yield worker
    if worker.running:
        worker.kill()
    print(worker.log)


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


# --- the worker -------------------------------------------------------------------------------------------------------


def test_killed_at_random_moments(migration: Migration) -> None:
    seed = time.time_ns()
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(4):
        time.sleep(chance.uniform(0, 3))
        migration.worker.kill()
        migration.worker.start()

    migration.assert_equal()


def test_sigterm_ends_a_blocked_worker_at_once_and_leaves_nothing_half_applied(migration: Migration) -> None:
    with blocked_target(migration):
        before = migration.target.value("SELECT lsn FROM replicator.progress")

        assert migration.worker.stop(SECONDS) == 0

    assert migration.target.value("SELECT lsn FROM replicator.progress") == before
    migration.start()
    migration.assert_equal()


def test_a_second_worker_waits_and_takes_over_when_the_first_is_killed(migration: Migration, second: Worker) -> None:
    epoch = migration.target.value(_EPOCH)
    second.start()
    wait_until(lambda: "another worker has the lease" in second.log, what="the second waits")
    migration.assert_equal()
    assert migration.target.value(_EPOCH) == epoch

    migration.worker.kill()
    wait_until(lambda: migration.target.value(_EPOCH) != epoch, what="the second has the lease")

    replace(migration, worker=second).assert_equal()
    assert second.stop(SECONDS) == 0
    migration.start()


def test_a_frozen_worker_is_replaced_and_writes_nothing_when_it_goes_on(migration: Migration, second: Worker) -> None:
    first, epoch = migration.worker, migration.target.value(_EPOCH)
    with blocked_target(migration):
        os.kill(first.pid, signal.SIGSTOP)
    second.start()
    wait_until(lambda: migration.target.value(_EPOCH) != epoch, what="the second has the lease")
    epoch = migration.target.value(_EPOCH)

    os.kill(first.pid, signal.SIGCONT)
    wait_until(lambda: "another worker has the lease" in first.current_log, what="the first waits")

    migration.assert_equal()
    assert migration.target.value(_EPOCH) == epoch
    assert second.stop(SECONDS) == 0


# --- the servers and the network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(StopMode))
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_restart_is_survived(migration: Migration, side: str, mode: StopMode) -> None:
    server = (migration.source if side == "source" else migration.target).server
    server.stop(mode, timeout=SECONDS)
    server.start()

    migration.assert_equal()


def test_a_fast_shutdown_of_the_source_does_not_wait_for_a_blocked_target(migration: Migration) -> None:
    with blocked_target(migration):
        migration.source.server.stop(timeout=SECONDS)
        migration.source.server.start()

    migration.assert_equal()


def test_a_network_that_drops_is_survived(stage: Stage) -> None:
    for proxy in (stage.to_source, stage.to_target):
        proxy.down()
    time.sleep(1)
    for proxy in (stage.to_source, stage.to_target):
        proxy.up()

    stage.migration.assert_equal()


def test_a_commit_whose_answer_is_lost_is_not_repeated(stage: Stage) -> None:
    for number in range(1, 4):
        stage.to_target.lose_next_commit()
        wait_until(lambda number=number: stage.to_target.lost_answers == number, what="a lost answer")  # type: ignore[misc]

    stage.migration.assert_equal()


# --- what does not pass -----------------------------------------------------------------------------------------------


def test_a_password_that_is_refused_is_shown_once(migration: Migration) -> None:
    """Given a worker that streams, when its password is changed and its sessions end, then it gives up (law 5)."""
    server = migration.source.server
    if not isinstance(server, Server):
        pytest.skip("reads the log of an embedded server")
    before = server.log_file.read_text().count(_FAILED_LOGIN)
    with password_changed(migration.source):
        migration.source.execute(_END_SESSIONS, superuser=True)

        assert migration.worker.wait(SECONDS) == 1

    assert server.log_file.read_text().count(_FAILED_LOGIN) == before + 1
    assert "error: source: " in migration.worker.current_log
    migration.start()
    migration.assert_equal()


_FAILED_LOGIN = "password authentication failed"
_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'replicator %'"


@contextmanager
def password_changed(source: Database) -> Iterator[None]:
    """Within the block, new sessions of the source's role need another password. The app's own go on."""
    role, password = (str(conninfo_to_dict(source.dsn)[name]) for name in ("user", "password"))
    change = sql.SQL("ALTER ROLE {} PASSWORD {}")
    source.execute(change.format(sql.Identifier(role), sql.Literal("another")).as_string(), superuser=True)
    try:
        yield
    finally:
        source.execute(change.format(sql.Identifier(role), sql.Literal(password)).as_string(), superuser=True)


# --- at last ----------------------------------------------------------------------------------------------------------


def test_after_all_that_the_cutover_loses_nothing(migration: Migration) -> None:
    migration.cut_over()
    migration.app.stop()
    migration.assert_same_rows()
