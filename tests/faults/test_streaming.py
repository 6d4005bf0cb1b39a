"""What may happen while the worker streams. One migration is taken through all of it, under live writers.

Each test disturbs it, then holds both sides against each other row by row: nothing is lost, nothing repeated (law 1).
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from replicator.demo.servers import Server, StopMode
from tests.faults.stage import SECONDS, Stage, blocked_target
from tests.fixtures.databases import Database
from tests.fixtures.migration import Migration
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker

_EPOCH = "SELECT epoch FROM replicator.lease"


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


# --- the worker -------------------------------------------------------------------------------------------------------


@pytest.mark.fault("worker", "kill -9 at random moments while it streams", "goes on where it was")
def test_killed_at_random_moments(migration: Migration) -> None:
    seed = time.time_ns()
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(4):
        time.sleep(chance.uniform(0, 3))
        migration.worker.kill()
        migration.worker.start()

    migration.assert_equal()


@pytest.mark.fault("worker", "SIGTERM in a transaction", "exits 0 within seconds, leaves nothing half applied")
def test_sigterm_ends_a_blocked_worker_at_once_and_leaves_nothing_half_applied(migration: Migration) -> None:
    with blocked_target(migration):
        before = migration.target.value("SELECT lsn FROM replicator.progress")

        assert migration.worker.stop(SECONDS) == 0

    assert migration.target.value("SELECT lsn FROM replicator.progress") == before
    migration.start()
    migration.assert_equal()


@pytest.mark.fault("worker", "two at once, and the first is killed", "the second waits, then takes over")
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


@pytest.mark.fault(
    "worker", "SIGSTOP in a transaction, SIGCONT when it was replaced", "the other takes over, it writes no more"
)
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


@pytest.mark.fault("both", "restart: smart, fast, immediate", "reconnects")
@pytest.mark.parametrize("mode", list(StopMode))
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_restart_is_survived(migration: Migration, side: str, mode: StopMode) -> None:
    server = (migration.source if side == "source" else migration.target).server
    server.stop(mode, timeout=SECONDS)
    server.start()

    migration.assert_equal()


@pytest.mark.fault("source", "fast shutdown while the target is blocked", "lets it shut down, then reconnects")
def test_a_fast_shutdown_of_the_source_does_not_wait_for_a_blocked_target(migration: Migration) -> None:
    with blocked_target(migration):
        migration.source.server.stop(timeout=SECONDS)
        migration.source.server.start()

    migration.assert_equal()


@pytest.mark.fault("network", "both connections are cut and refused for a while", "reconnects")
def test_a_network_that_drops_is_survived(stage: Stage) -> None:
    for proxy in (stage.to_source, stage.to_target):
        proxy.down()
    time.sleep(1)
    for proxy in (stage.to_source, stage.to_target):
        proxy.up()

    stage.migration.assert_equal()


@pytest.mark.fault("network", "is cut between COMMIT and its answer", "applies nothing twice")
def test_a_commit_whose_answer_is_lost_is_not_repeated(stage: Stage) -> None:
    for number in range(1, 4):
        stage.to_target.lose_next_commit()
        wait_until(lambda number=number: stage.to_target.lost_answers == number, what="a lost answer")  # type: ignore[misc]

    stage.migration.assert_equal()


# --- what does not pass -----------------------------------------------------------------------------------------------


@pytest.mark.fault("source", "the password is changed", "ends with the error, shows the old one once")
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
