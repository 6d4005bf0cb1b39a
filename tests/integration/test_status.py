"""`replicator status` against real servers: lag is the source's WAL end less progress, and a lost side is told."""

import asyncio
import io
from uuid import uuid4

import pytest
from rich.console import Console

from replicator import control, postgres
from replicator.config import Settings
from replicator.demo.roles import RENDER_ROLE, SUPABASE_ROLE
from replicator.demo.servers import StopMode
from replicator.errors import ConnectionRefusedForGoodError, ServerUnavailableError, Side
from replicator.lsn import parse_lsn
from replicator.model import Phase, TableName, TableState
from replicator.status import StatusReader, read_status, watch
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.proxy import ProxyMaker

SLOT = "replicator_test"
END_OF_WAL = "SELECT pg_current_wal_flush_lsn()::text"


async def begin(settings: Settings, source: Database, phase: Phase = Phase.STREAMING) -> None:
    """Record a migration whose progress is the end of the source's WAL, as a worker that has just caught up would."""
    source.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
    epoch, end = uuid4(), source.value(END_OF_WAL)
    target = await postgres.connect(settings.target, Side.TARGET, "test")
    await control.create(target)
    await control.start_migration(
        target, control.Migration(uuid4(), SLOT, (SLOT,), True, {}, "1", 1, source.name, phase)
    )
    await control.take_lease(target, epoch)
    await control.register_worker(target, epoch, "testhost", "0.1.0")
    await control.heartbeat(target, epoch, {"lag_seconds": 0.25, "source_lsn": end})
    await control.start_progress(target, epoch, parse_lsn(end))
    await control.add_tables(
        target,
        [
            control.TableRecord(TableName("public", "a"), 1, TableState.READY),
            control.TableRecord(TableName("public", "b"), 2, TableState.PENDING),
        ],
    )
    await target.close()


async def test_before_a_migration_there_is_no_phase_and_nothing_is_wrong(settings: Settings) -> None:
    status = await read_status(settings)

    assert (status.phase, status.healthy) == (None, True)


async def test_it_leaves_an_untouched_target_untouched(settings: Settings, target: Database) -> None:
    await read_status(settings)

    assert target.value("SELECT to_regnamespace('replicator') IS NULL")


async def test_lag_in_bytes_is_the_end_of_the_sources_wal_less_progress(settings: Settings, source: Database) -> None:
    # given a worker that has caught up, and then stands still
    await begin(settings, source)
    applied = source.value("SELECT pg_current_wal_flush_lsn()::text")

    # when the app writes
    source.execute("CREATE TABLE t (x text); INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 1000)")

    # then all of that is lag, although nothing was sent yet
    status = await read_status(settings)
    assert status.lag.bytes is not None
    assert status.lag.bytes >= 500_000
    assert status.applied_lsn is not None
    assert status.applied_lsn <= parse_lsn(applied)


async def test_a_live_worker_is_told_from_a_dead_one_by_its_heartbeat(settings: Settings, source: Database) -> None:
    await begin(settings, source)
    assert (await read_status(settings)).worker_alive

    late = settings.model_copy(update={"lease_timeout": 0.05})
    await asyncio.sleep(0.1)

    status = await read_status(late)
    assert not status.worker_alive
    assert not status.healthy


async def test_tables_are_counted_by_state(settings: Settings, source: Database) -> None:
    await begin(settings, source)

    tables = (await read_status(settings)).to_json()["tables"]

    assert (tables["total"], tables["copied"]) == (2, 1)


async def test_a_slot_that_nobody_uses_while_streaming_is_a_problem(settings: Settings, source: Database) -> None:
    await begin(settings, source)

    status = await read_status(settings)

    assert status.slot is not None
    assert not status.slot.active
    assert status.slot.retained_bytes is not None
    assert any("does not stream" in problem for problem in status.problems)


async def test_a_slot_that_is_gone_is_a_problem_and_lag_is_still_measured(settings: Settings, source: Database) -> None:
    await begin(settings, source)
    source.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")

    status = await read_status(settings)

    assert any("slot is gone" in problem for problem in status.problems)
    assert status.lag.bytes is not None


async def test_the_last_error_is_shown_with_its_remedy(settings: Settings, source: Database) -> None:
    await begin(settings, source)
    target = await postgres.connect(settings.target, Side.TARGET, "test")
    await control.record_error(target, {"side": "target", "message": "disk full", "hint": "Free some."})
    await target.close()

    error = (await read_status(settings)).to_json()["error"]

    assert error == {"side": "target", "message": "disk full", "hint": "Free some."}


async def test_without_the_source_the_rest_is_still_shown(source: Database, target: Database) -> None:
    settings = settings_for(source, target)
    await begin(settings, source)

    status = await read_status(settings_for("postgresql://me@127.0.0.1:1/app", target))

    assert status.phase is Phase.STREAMING
    assert status.lag.bytes == 0
    assert "source: cannot connect" in status.notes[0]


async def test_a_refused_password_is_tried_once_however_long_one_watches(
    source: Database, target: Database, make_proxy: ProxyMaker
) -> None:
    """Law 5: Supabase bans the address after three."""
    await begin(settings_for(source, target), source)
    proxy = make_proxy(source.server.port)
    wrong = proxy.dsn(source.server.dsn(SUPABASE_ROLE, source.name, "wrong"))

    async with StatusReader(settings_for(wrong, target)) as reader:
        await reader.read()
        # a second attempt would meet a refused connection instead of a refused password
        proxy.down()
        status = await reader.read()

    assert "password authentication failed" in status.notes[0]


async def test_a_target_that_refuses_us_is_an_error_of_the_command(source: Database, target: Database) -> None:
    wrong = settings_for(source, target.server.dsn(RENDER_ROLE, target.name, "wrong"))

    with pytest.raises(ConnectionRefusedForGoodError):
        await read_status(wrong)


async def test_watching_survives_a_restart_of_the_target(source: Database, private_target: Database) -> None:
    settings = settings_for(source, private_target)
    await begin(settings, source)

    async with StatusReader(settings) as reader:
        await reader.read()
        private_target.server.stop(StopMode.FAST)
        with pytest.raises(ServerUnavailableError):
            await reader.read()
        private_target.server.start()

        assert (await reader.read()).phase is Phase.STREAMING


async def test_watching_ends_when_the_cutover_is_done(settings: Settings, source: Database) -> None:
    await begin(settings, source)
    output = io.StringIO()
    watching = asyncio.create_task(watch(settings, Console(file=output, width=150), interval=0.05))
    await asyncio.sleep(0.3)
    assert not watching.done()

    target = await postgres.connect(settings.target, Side.TARGET, "test")
    await control.set_phase(target, Phase.DONE)
    await target.close()

    async with asyncio.timeout(10):
        await watching
    assert "done" in output.getvalue()
