"""Thousands of small tables: none may take a connection or a transaction of its own, or hold the stream up for good.

`REPLICATOR_TEST_TABLES=5000 python -m pytest -s tests/acceptance/test_many_tables.py` plays it at full size.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from replicator.catalog import read_fingerprint
from replicator.errors import Side
from replicator.model import Phase
from replicator.postgres import connected
from tests.fixtures.bootstrapping import run_bootstrap
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, wait_caught_up, wait_for_phase

TABLES: Final = int(os.environ.get("REPLICATOR_TEST_TABLES", "500"))
SCHEMAS: Final = 10

MAKE: Final = f"""
DO $$ BEGIN
  FOR n IN 1 .. {TABLES} LOOP
    EXECUTE format('CREATE TABLE many_%1$s.t_%2$s (id serial PRIMARY KEY, name text NOT NULL UNIQUE, size int)',
                   n % {SCHEMAS}, n);
    EXECUTE format('CREATE INDEX ON many_%1$s.t_%2$s (size)', n % {SCHEMAS}, n);
    EXECUTE format('INSERT INTO many_%1$s.t_%2$s (name, size) SELECT v, v FROM generate_series(1, 3) v',
                   n % {SCHEMAS}, n);
    IF n % 100 = 0 THEN COMMIT; END IF;
  END LOOP;
END $$
"""
CHANGE: Final = f"""
DO $$ BEGIN
  FOR n IN 1 .. {TABLES} LOOP
    EXECUTE format('UPDATE many_%1$s.t_%2$s SET size = size + 1; DELETE FROM many_%1$s.t_%2$s WHERE id = 3',
                   n % {SCHEMAS}, n);
    COMMIT;
  END LOOP;
END $$
"""
"""Every table in a transaction of its own: the source needs few locks at a time, a batch of all of them many."""

COUNTED: Final = "SELECT sessions, xact_commit FROM pg_stat_database WHERE datname = current_database()"


def make(source: Database) -> None:
    for number in range(SCHEMAS):
        source.execute(f"CREATE SCHEMA many_{number}")
    source.execute(MAKE)


def counted(database: Database) -> tuple[int, int]:
    """Sessions and transactions so far, as another database's session sees them once all have reported."""
    found: list[tuple[int, int]] = []

    def settled() -> bool:
        time.sleep(0.3)
        query = COUNTED.replace("current_database()", f"'{database.name}'")
        with database.server.administer() as connection:
            ((sessions, transactions),) = connection.execute(query.encode()).fetchall()
        found.append((sessions, transactions))
        return found[-1:] == found[-2:-1]

    wait_until(settled, what="statistics")
    return found[-1]


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{TABLES} tables: {what} {time.monotonic() - began:.2f} s")


async def test_many_small_tables_share_connections_and_transactions(source: Database, target: Database) -> None:
    """Given many small tables, when bootstrapped, then few sessions are opened, and a transaction moves many tables."""
    make(source)
    settings = settings_for(source, target)
    before = [counted(database) for database in (source, target)]

    with timed("bootstrap"):
        await run_bootstrap(settings)

    after = [counted(database) for database in (source, target)]
    assert target.fetch("SELECT count(*), sum(rows) FROM replicator.tables WHERE state = 'ready'") == [
        (TABLES, 3 * TABLES)
    ]
    for side, (sessions, transactions), (sessions_then, transactions_then) in zip(
        ("source", "target"), before, after, strict=True
    ):
        opened, committed = sessions_then - sessions, transactions_then - transactions
        print(f"{TABLES} tables: {side} sessions {opened}, transactions {committed}")
        assert opened <= 20
        assert committed <= 120 + TABLES / 5
    async with connected(settings.source, Side.SOURCE, "test") as connection:
        with timed("one poll of the catalog"):
            await read_fingerprint(connection, [])


@pytest.mark.timeout(900)
@pytest.mark.skipif("REPLICATOR_TEST_TABLES" not in os.environ, reason="only at full size, by hand")
def test_a_backlog_that_touches_many_tables_fits_into_the_targets_lock_table(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given changes of more tables than a transaction can lock, when they wait, then all arrive without a new try."""
    make(source)
    with target.server.administer() as connection:
        ((locks,),) = connection.execute(
            "SELECT current_setting('max_locks_per_transaction')::int * current_setting('max_connections')::int"
        ).fetchall()
    worker = make_worker(settings_for(source, target, confirm_delay=0))
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker, timeout=300)
    worker.kill()
    source.execute(CHANGE)

    worker.start()
    with timed(f"caught up with a change of each ({locks} locks at most)"):
        wait_caught_up(source, target, worker, timeout=500)

    stages = "SELECT count(*) FROM pg_class WHERE relname LIKE 'replicator_stage%' AND relkind = 'r'"
    assert target.value(stages) <= 300
    assert "session lost" not in worker.current_log
