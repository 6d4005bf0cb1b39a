"""What no fault excuses: a crowd of sessions on a server, attempts without a pause, sessions that are left behind."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg

from tests.faults.stage import SECONDS, Stage
from tests.fixtures.databases import Database
from tests.fixtures.waiting import wait_until

_INTERVAL: Final = 0.3
"""Seconds between looks."""

_SESSIONS: Final = 20
"""Of two workers at once, copies and indexes included."""

_BURST: Final = 60
_RATE: Final = 8
"""Connections to one side, and lines of the log: what starts cost, and what may come in each second after them."""

_OURS: Final = """
SELECT count(*) FROM pg_stat_activity
 WHERE application_name LIKE 'replicator %' AND datname = current_database() AND backend_type <> 'parallel worker'
"""


def sessions(database: Database) -> int:
    """How many of ours the server has; none while it is away."""
    with suppress(psycopg.Error):
        found: int = database.value(_OURS, superuser=True)
        return found
    return 0


@contextmanager
def watched(stage: Stage) -> Iterator[None]:
    """Look on while the block runs, and say at its end whether the worker was modest."""
    sides = (stage.migration.source, stage.migration.target)
    peaks, over = [0, 0], threading.Event()

    def look() -> None:
        while not over.wait(_INTERVAL):
            peaks[:] = [max(peak, sessions(side)) for peak, side in zip(peaks, sides, strict=True)]

    thread = threading.Thread(target=look, daemon=True)
    began, before = time.monotonic(), _trouble(stage)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    seconds = time.monotonic() - began
    attempts = [after - before for after, before in zip(_trouble(stage), before, strict=True)]
    print(f"in {seconds:.1f} s: sessions {peaks}, connections and lines of the log {attempts}")
    assert max(peaks) <= _SESSIONS
    assert max(attempts) <= _BURST * _starts(stage) + _RATE * seconds


def _trouble(stage: Stage) -> list[int]:
    """Connections to the source, to the target, and lines of the log."""
    file = stage.migration.worker.log_file
    lines = file.read_bytes().count(b"\n") if file.exists() else 0
    return [stage.to_source.accepted, stage.to_target.accepted, lines]


def _starts(stage: Stage) -> int:
    return max(1, stage.migration.worker.starts)


def assert_nothing_left(stage: Stage) -> None:
    """A worker that has ended leaves no session behind."""
    assert not stage.migration.worker.running
    for side in (stage.migration.source, stage.migration.target):
        wait_until(lambda side=side: sessions(side) == 0, SECONDS, "our sessions end")  # type: ignore[misc]


def assert_servers_stop(stage: Stage) -> None:
    """Both servers shut down fast while the worker runs."""
    for side in (stage.migration.source, stage.migration.target):
        side.server.stop(timeout=SECONDS)
        side.server.start()
