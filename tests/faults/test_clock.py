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
from tests.faults.conftest import StageFactory
from tests.faults.stage import SECONDS, Stage, wait_told
from tests.fixtures.databases import Database
from tests.fixtures.migration import Migration
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import run_command

STEPS = (5, -3, 24 * 400, -24 * 400, 0)
"""Hours ahead of the machine's clock, one after the other."""

_LOST = "session lost"
_FENCE = "SELECT FROM pg_namespace WHERE nspname = 'replicator_fence'"
_PROGRESS = "SELECT lsn FROM replicator.progress"
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
    assert _LOST not in migration.worker.current_log
    migration.assert_equal()

    # a start and a cutover between steps: deadlines of the fence, the time-outs of the drain
    clock.step(-7)
    assert migration.worker.stop() == 0
    assert has_clock(migration, -7), "the shim does not work here"
    migration.start()
    own_stage.to_target.slow(delay=0.05)
    with subprocess.Popen([command(), "cutover"], env=environment(migration.settings)) as cutover:
        wait_until(lambda: migration.source.fetch(_FENCE), interval=0.02, what="the fence")
        for hours in STEPS:
            clock.step(hours)
            time.sleep(0.1)
        wait_until(lambda: cutover.poll() is not None, what="the cutover ends")
    assert cutover.returncode == 0
    migration.assert_finished()


@pytest.mark.fault("worker", "its clock is stepped while the source is silent", "listens on, records idle progress")
@pytest.mark.long
def test_steps_of_the_clock_make_no_silence_longer(own_stage: Stage, clock: SteppedClock) -> None:
    migration = own_stage.migration
    migration.start()
    with migration.app.paused():
        for hours in STEPS:
            time.sleep(1)
            clock.step(hours)
            time.sleep(1)
            assert _LOST not in migration.worker.current_log
            assert_advances(migration)

    migration.assert_equal()


def assert_advances(migration: Migration) -> None:
    """Progress moves although the source has nothing for the target."""
    before = migration.target.value(_PROGRESS)
    migration.source.execute("SELECT txid_current()")
    wait_until(lambda: migration.target.value(_PROGRESS) != before, SECONDS, "an idle advance")


@pytest.mark.fault("worker", "its clock is stepped while the target is away", "gives up no sooner and no later")
@pytest.mark.parametrize("hours", [5, -5])
@pytest.mark.long
def test_steps_of_the_clock_change_no_patience(
    source: Database, target: Database, new_stage: StageFactory, clock: SteppedClock, hours: float
) -> None:
    stage = new_stage(source, target, retry_timeout=SECONDS / 2)
    migration = stage.migration
    stage.to_target.down()
    migration.worker.start()
    wait_told(migration, _LOST)

    clock.step(hours)

    wait_told(migration, _LOST, times=3)
    assert migration.worker.wait(2 * SECONDS) == 1
    stage.to_target.up()
    migration.start()
    migration.assert_equal()
