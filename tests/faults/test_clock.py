"""The time of day of the worker's machine is stepped by hours: nothing that it does may depend on it."""

import json
import re
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replicator.demo.worker import command, environment
from tests.faults.clock import SteppedClock
from tests.faults.stage import Stage
from tests.fixtures.migration import Migration
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import run_command

STEPS = (5, -3, 24 * 400, -24 * 400, 0)
"""Hours ahead of the machine's clock, one after the other."""

_EPOCH = "SELECT epoch FROM replicator.lease"
_TOLD = re.compile(r'"timestamp": "([^"]+)"')


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SteppedClock:
    """For all that the test starts after its servers."""
    clock = SteppedClock(tmp_path)
    for name, value in clock.variables.items():
        monkeypatch.setenv(name, value)
    return clock


def has_clock(migration: Migration, hours: float) -> bool:
    """Whether the last line of its log was written at that time."""
    told = datetime.fromisoformat(_TOLD.findall(migration.worker.current_log)[-1])
    return abs(told - datetime.now(UTC) - timedelta(hours=hours)) < timedelta(minutes=5)


@pytest.mark.fault("worker", "its clock is stepped by hours, forwards and backwards", "goes on as if nothing were")
@pytest.mark.long
def test_steps_of_the_workers_clock_change_nothing(own_stage: Stage, clock: SteppedClock) -> None:
    migration = own_stage.migration
    migration.start()
    epoch = migration.target.value(_EPOCH)
    for hours in STEPS:
        clock.step(hours)
        time.sleep(migration.settings.lease_timeout)
        report = json.loads(run_command(migration.settings, "status", "--json").stdout)
        assert report["worker"]["alive"]
        assert 0 <= report["lag"]["seconds"] < 10
    assert migration.target.value(_EPOCH) == epoch, "the lease was lost"
    assert "session lost" not in migration.worker.current_log
    migration.assert_equal()

    # a start and a cutover between steps: deadlines of the fence, the time-outs of the drain
    clock.step(-7)
    assert migration.worker.stop() == 0
    assert has_clock(migration, -7), "the shim does not work here"
    migration.start()
    with subprocess.Popen([command(), "cutover"], env=environment(migration.settings)) as cutover:
        for hours in STEPS * 10:
            if cutover.poll() is not None:
                break
            clock.step(hours)
            time.sleep(0.1)
        wait_until(lambda: cutover.poll() is not None, what="the cutover ends")
    assert cutover.returncode == 0
    migration.assert_finished()
