"""A change that the target does not take: the worker waits for its operator, then goes on by itself (law 4)."""

import json
from typing import Any

import httpx
import pytest

from replicator.demo.servers import free_port
from tests.fixtures.databases import Database
from tests.fixtures.migration import Migration, MigrationMaker
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import run_command, wait_caught_up


@pytest.fixture
def streaming(source: Database, target: Database, make_migration: MigrationMaker) -> Migration:
    """A migration that streams, and looks again every half second."""
    migration = make_migration(source, target, rows=200, recheck_interval=0.5, http_port=free_port())
    migration.start()
    return migration


def recorded_error(migration: Migration) -> dict[str, Any] | None:
    """What `replicator status` would show."""
    error: dict[str, Any] | None = migration.target.value("SELECT error FROM replicator.migration")
    return error


def readiness(migration: Migration) -> httpx.Response:
    """What /readyz says."""
    return httpx.get(f"http://127.0.0.1:{migration.settings.http_port}/readyz")


def test_a_row_that_is_there_already_pauses_the_stream_until_it_is_gone(streaming: Migration) -> None:
    """Given a row of somebody else on the target, when the app inserts its key, then the worker waits, and goes on."""
    streaming.target.execute("INSERT INTO sessions (id, created_at) VALUES (900001, now())")

    streaming.source.execute("INSERT INTO sessions (id, created_at) VALUES (900001, now())")

    error = wait_until(lambda: recorded_error(streaming), what="an error")
    assert error
    assert "public.sessions" in error["message"]
    assert "in transactions " in error["message"]
    assert error["hint"]
    wait_until(lambda: _stream_is_closed(streaming), what="a closed stream")
    status = json.loads(run_command(streaming.settings, "status", "--json").stdout)
    assert status["worker"]["alive"]
    assert status["phase"] == "streaming"
    assert streaming.worker.running
    assert readiness(streaming).status_code == 503
    assert "the stream waits for its operator: insert in public.sessions" in readiness(streaming).text

    streaming.target.execute("DELETE FROM sessions WHERE id = 900001")

    wait_caught_up(streaming.source, streaming.target, streaming.worker)
    wait_until(lambda: recorded_error(streaming) is None, what="no error")
    streaming.assert_equal()
    assert streaming.worker.log.count("waiting until the target takes the change") == 1
    assert streaming.worker.log.count("the target takes the change: going on") == 1
    wait_until(lambda: readiness(streaming).status_code == 200, what="a worker that is ready again")


def _stream_is_closed(migration: Migration) -> bool:
    return not migration.source.value(
        "SELECT bool_or(active) FROM pg_replication_slots WHERE database = current_database()"
    )
