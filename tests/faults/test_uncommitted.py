"""What may happen to a large transaction that the source sends before it commits (laws 1 and 2).

The worker keeps it in a temporary file, which nothing outlives: after any of this the source sends it again.
"""

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from replicator.config import MIB
from tests.faults.stage import Stage
from tests.fixtures.migration import Migration
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks for open files in /proc")

_FILL = "INSERT INTO bulk SELECT n, repeat(md5(n::text), 40) FROM generate_series({0}, {0} + 7999) n"
"""10 MB a time."""


@pytest.fixture
def early(stage: Stage) -> Migration:
    """A migration whose source sends transactions as soon as they are larger than 64 kB."""
    source = stage.migration.source
    source.execute(f"ALTER DATABASE {source.name} SET logical_decoding_work_mem = '64kB'")
    source.execute("CREATE TABLE IF NOT EXISTS bulk (id int PRIMARY KEY, body text)")
    source.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication", superuser=True)
    stage.migration.assert_equal()
    source.execute("TRUNCATE bulk")
    assert stage.migration.worker.stop() == 0
    stage.migration.start()
    wait_until(lambda: rows(stage.migration) == 0, what="the truncate is applied")
    return stage.migration


def kept(worker: Worker) -> int:
    """Bytes in the worker's temporary files."""
    size = 0
    for link in Path(f"/proc/{worker.pid}/fd").iterdir():
        try:
            opened = link.readlink()
            if opened.is_relative_to(tempfile.gettempdir()) and opened.name.endswith("(deleted)"):
                size += link.stat().st_size
        except FileNotFoundError:
            continue
    return size


@contextmanager
def half_sent(migration: Migration, *, saves: bool) -> Iterator[None]:
    """A transaction that has not committed, and that the worker has 10 MB of; perhaps it rolls back a part."""
    with psycopg.connect(migration.source.dsn) as connection:
        connection.execute(_FILL.format(0).encode())
        if saves:
            connection.execute("SAVEPOINT s")
        connection.execute(_FILL.format(10_000).encode())
        wait_until(lambda: kept(migration.worker) > 10 * MIB, what="the worker has some of it")
        yield
        if saves:
            connection.execute("ROLLBACK TO SAVEPOINT s")
            connection.execute(_FILL.format(20_000).encode())


def rows(migration: Migration) -> int:
    count: int = migration.target.value("SELECT count(*) FROM bulk")
    return count


def assert_whole(migration: Migration) -> None:
    migration.assert_equal()
    assert rows(migration) == 16_000
    wait_until(lambda: kept(migration.worker) == 0, what="the file is gone")


@pytest.mark.long
@pytest.mark.fault("worker", "kill -9 while it receives a transaction that has not committed", "receives it again")
def test_killed_while_it_receives_a_transaction_that_has_not_committed(early: Migration) -> None:
    with half_sent(early, saves=False):
        early.worker.kill()
        early.worker.start()
        await_repetition(early.worker)
        assert rows(early) == 0

    assert_whole(early)


@pytest.mark.long
@pytest.mark.fault("network", "cut while a transaction that has not committed is received", "receives it again")
def test_cut_while_it_receives_a_transaction_that_has_not_committed(early: Migration, stage: Stage) -> None:
    with half_sent(early, saves=False):
        cut(stage)

    assert_whole(early)
    assert _FALLEN_BACK not in early.worker.current_log


@pytest.mark.fault("source", "does not tell of a savepoint's rollback", "asks its commit log, leaves the rows out")
def test_a_rollback_that_the_source_does_not_tell_of(early: Migration, stage: Stage) -> None:
    """Given a transaction that is sent again from its beginning, when a savepoint in it is rolled back, then none of
    its rows comes, whether the source tells of it or not (in about one run of four, 17.10 does not), and large
    transactions go on coming before their commits."""
    with half_sent(early, saves=True):
        cut(stage)

    assert_whole(early)
    assert _FALLEN_BACK not in early.worker.current_log


_STREAMING = '"event": "streaming"'
_FALLEN_BACK = "large transactions are received after their commit"
_IN_MEMORY = "large rows are held in memory"


def await_repetition(worker: Worker) -> None:
    """Wait until the source has sent the same again, if it does so before the commit.

    It keeps until then what lies before the place where the stream begins, which an idle advance may have passed.
    """
    with suppress(TimeoutError):
        wait_until(lambda: kept(worker) > 10 * MIB, timeout=5, what="the source sends it again")


def cut(stage: Stage) -> None:
    """Cut the stream, and wait until the source has sent the same again."""
    worker = stage.migration.worker
    before = worker.current_log.count(_STREAMING)
    stage.to_source.cut()
    wait_until(lambda: kept(worker) < 10 * MIB, what="what was kept is gone")
    wait_until(lambda: worker.current_log.count(_STREAMING) > before, what="the stream begins again")
    await_repetition(worker)


@pytest.mark.long
@pytest.mark.fault("worker", "kill -9 in the middle of applying it, and at random moments", "applies it whole")
def test_killed_while_it_applies_what_it_had_received_before(early: Migration) -> None:
    with in_the_middle(early):
        assert rows(early) == 0
        early.worker.kill()
    early.worker.start()

    for seconds in (0.2, 1.5):
        time.sleep(seconds)
        assert rows(early) in {0, 16_000}
        early.worker.kill()
        early.worker.start()

    assert_whole(early)


@contextmanager
def in_the_middle(migration: Migration) -> Iterator[None]:
    """Within the block the worker has applied most of it, and waits at a row that somebody else is inserting, too."""
    with psycopg.connect(migration.target.superuser_dsn) as other:
        other.execute("INSERT INTO bulk VALUES (17990, '')")
        with half_sent(migration, saves=False):
            pass
        wait_until(lambda: migration.target.value(_WAITS, superuser=True), what="the worker waits at that row")
        yield
        other.rollback()


_WAITS = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'replicator worker apply' AND wait_event_type = 'Lock'
"""


@pytest.mark.long
@pytest.mark.fault("worker", "no room for temporary files", "receives large transactions after their commit")
def test_without_room_for_temporary_files_it_receives_transactions_after_their_commit(early: Migration) -> None:
    resource.prlimit(early.worker.pid, resource.RLIMIT_FSIZE, (MIB, MIB))

    with psycopg.connect(early.source.dsn) as connection:
        connection.execute(_FILL.format(0).encode())
        connection.execute(_FILL.format(10_000).encode())
        for title in ("huge", "as huge"):
            connection.execute("INSERT INTO documents (title, body) VALUES (%s, repeat('x', 5000000))", [title])

    assert_whole(early)
    assert _FALLEN_BACK in early.worker.current_log
    assert early.worker.current_log.count(_IN_MEMORY) == 1
