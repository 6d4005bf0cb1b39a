"""One transaction that is much larger than the worker's buffer, beside the app's small ones (laws 1 and 2)."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.config import MIB
from tests.fixtures.databases import Database
from tests.fixtures.migration import Migration, MigrationMaker
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker

ROWS = 60_000
_LARGE = f"""
BEGIN;
INSERT INTO bulk SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, {ROWS}) n;
UPDATE bulk SET body = 'short' WHERE id % 20 = 0;
DELETE FROM bulk WHERE id % 50 = 1;
COMMIT
"""
_COMMITTED = ROWS - ROWS // 50


def memory(worker: Worker) -> int:
    """The most memory that the process has had resident so far, in bytes."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def counting(target: Database) -> Iterator[set[int]]:
    """The numbers of rows that anybody could see in the large table while the block ran."""
    seen: set[int] = set()
    stopping = threading.Event()

    def look() -> None:
        while not stopping.wait(0.1):
            seen.add(target.value("SELECT count(*) FROM bulk"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        thread.join()


@pytest.fixture
def streaming(source: Database, target: Database, make_migration: MigrationMaker) -> Migration:
    migration = make_migration(source, target, buffer_bytes=MIB)
    source.execute("CREATE TABLE bulk (id int PRIMARY KEY, body text NOT NULL)")
    migration.start()
    return migration


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
def test_it_is_applied_whole_in_bounded_memory_even_when_interrupted(streaming: Migration) -> None:
    migration, target = streaming, streaming.target
    with counting(target) as seen:
        migration.source.execute(_LARGE)
        wait_until(lambda: target.value("SELECT pg_relation_size('bulk')") > MIB, what="a part of it is there")

        assert migration.worker.stop(15) == 0

        assert target.value("SELECT count(*) FROM bulk") == 0
        migration.start()
        before = memory(migration.worker)
        wait_until(lambda: target.value("SELECT count(*) FROM bulk"), timeout=120, what="all of it is there")
        after = memory(migration.worker)

    assert seen <= {0, _COMMITTED}
    print(f"memory in MiB: {before / MIB:.0f} before, {after / MIB:.0f} after")
    assert after - before < 16 * MIB
    migration.finish()
