"""Cleanup: both servers as if replicator had never been there, the data aside."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bootstrap.pgdump import find_pg_dump
from replicator import control
from replicator.cleanup import cleanup
from replicator.cutover import cutover
from replicator.cutover.plan import Step
from replicator.errors import CleanupError, CutoverError, Side
from replicator.model import SchemaMode
from replicator.postgres import connected
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.streaming import streaming
from tests.fixtures.waiting import wait_until

_TABLES = """
CREATE TABLE parents (id serial PRIMARY KEY, name text);
CREATE TABLE keyless (line text);
CREATE TABLE by_index (id int NOT NULL);
CREATE UNIQUE INDEX by_index_id ON by_index (id);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id;
"""


def _state(database: Database) -> tuple[str, list[tuple[Any, ...]]]:
    """Everything that pg_dump shows, and what it does not: slots, and the identities of tables."""
    program = find_pg_dump(settings_for(database, database), 180_000)
    command: list[str | Path] = [program, "--schema-only", "--dbname", database.superuser_dsn]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # the key of psql's restricted mode is drawn anew each time
    text = "\n".join(line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))
    rest = database.fetch(
        "SELECT slot_name::text, '' FROM pg_replication_slots WHERE database = current_database()"
        " UNION ALL SELECT relname::text, relreplident::text FROM pg_class WHERE relkind = 'r' AND relreplident <> 'd'"
        " AND relnamespace = 'public'::regnamespace"
        " UNION ALL SELECT nspname::text, '' FROM pg_namespace WHERE nspname LIKE 'replicator%%' ORDER BY 1"
    )
    return text, rest


async def test_nothing_is_left_after_a_finished_cutover(source: Database, target: Database) -> None:
    for database in (source, target):
        database.execute(_TABLES)
    before = _state(source), _state(target)
    async with streaming(source, target, keyless="full") as settings:
        assert source.value("SELECT relreplident FROM pg_class WHERE relname = 'keyless'") == "f"
        await cutover(settings, print)
    removed = "\n".join(await cleanup(settings))
    assert (_state(source), _state(target)) == before
    for part in ("the source takes writes again", "slot replicator_", "publication replicator_", "control tables"):
        assert part in removed
    assert "source: the replica identity of public.keyless is what it was" in removed
    source.execute("INSERT INTO parents (name) VALUES ('back')")


async def test_nothing_is_left_of_a_migration_that_is_given_up(source: Database, target: Database) -> None:
    for database in (source, target):
        database.execute(_TABLES)
    before = _state(source), _state(target)
    async with streaming(source, target, keyless="insert-only") as settings:
        pass
    await cleanup(settings)
    assert (_state(source), _state(target)) == before


async def test_a_second_cleanup_finds_nothing(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE parents (id int PRIMARY KEY)")
    async with streaming(source, target) as settings:
        pass
    assert await cleanup(settings) != []
    assert await cleanup(settings) == []


@pytest.mark.parametrize(
    "loss",
    [
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()",
        "DROP TRIGGER replicator_fence ON parents",
        "DROP TABLE parents",
        "DROP SCHEMA replicator_fence CASCADE",
        "DO $$ BEGIN EXECUTE 'DROP PUBLICATION ' || (SELECT pubname FROM pg_publication); END $$",
    ],
)
async def test_it_works_when_a_part_is_missing(source: Database, target: Database, loss: str) -> None:
    for database in (source, target):
        database.execute("CREATE TABLE parents (id int PRIMARY KEY)")
    async with streaming(source, target) as settings:
        await cutover(settings, print)
    source.execute(loss)
    await cleanup(settings)
    assert _state(source)[1] == []
    assert source.fetch("SELECT FROM pg_publication") == []
    assert target.fetch("SELECT FROM pg_namespace WHERE nspname = 'replicator'") == []


async def test_control_tables_whose_making_was_interrupted_go_too(source: Database, target: Database) -> None:
    settings = settings_for(source, target)
    async with connected(settings.target, Side.TARGET, "test") as connection:
        await control.create(connection)
    target.execute("DROP TABLE replicator.migration, replicator.progress")
    assert len(await cleanup(settings)) == 1
    assert target.fetch("SELECT FROM pg_namespace WHERE nspname = 'replicator'") == []


async def test_a_schema_of_the_apps_own_that_has_our_name_stays(source: Database, target: Database) -> None:
    target.execute("CREATE SCHEMA replicator; CREATE TABLE replicator.robots (id int)")
    assert await cleanup(settings_for(source, target)) == []
    assert target.value("SELECT count(*) FROM replicator.robots") == 0


async def test_another_migrations_slot_and_fence_are_left_alone(source: Database, target: Database) -> None:
    source.execute("SELECT pg_create_logical_replication_slot('replicator_0123abcd', 'pgoutput')")
    source.execute("CREATE SCHEMA replicator_fence")
    assert await cleanup(settings_for(source, target)) == []
    assert len(_state(source)[1]) == 2


async def test_a_running_worker_is_not_cut_off(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE parents (id int PRIMARY KEY)")
    async with streaming(source, target) as settings:
        with pytest.raises(CleanupError, match="a worker is running"):
            await cleanup(settings)
    await cleanup(settings)


@contextlib.contextmanager
def _streaming_as(source: Database, application_name: str, slot: str) -> Iterator[int]:
    """A walsender on the slot; yields its pid."""
    stream = psycopg.connect(source.dsn, replication="database", autocommit=True, application_name=application_name)
    with contextlib.closing(stream):
        command = f"START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '{slot}')"
        stream.pgconn.send_query(command.encode())
        wait_until(
            lambda: source.value("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [slot]), what="stream"
        )
        yield stream.info.backend_pid


async def test_our_own_walsender_that_outlived_its_worker_is_ended(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE parents (id int PRIMARY KEY)")
    async with streaming(source, target) as settings:
        pass
    with _streaming_as(source, "replicator worker", target.value("SELECT slot FROM replicator.migration")):
        await cleanup(settings)
    assert _state(source)[1] == []


async def test_a_stranger_on_the_slot_is_named_not_ended(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.cleanup._PATIENCE", 0.5)
    source.execute("CREATE TABLE parents (id int PRIMARY KEY)")
    async with streaming(source, target) as settings:
        pass
    slot = target.value("SELECT slot FROM replicator.migration")
    with (
        _streaming_as(source, "other", slot) as pid,
        pytest.raises(CleanupError, match=f"slot {slot} is in use by process {pid}"),
    ):
        await cleanup(settings)


async def test_a_cutover_in_the_middle_is_finished_first(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for database in (source, target):
        database.execute("CREATE TABLE parents (id int PRIMARY KEY)")
    record = control.record_step

    async def refuse(connection: Any, name: str, detail: Any = None) -> None:
        if name == Step.SEAL.recorded_name:
            raise CutoverError("stopped")
        await record(connection, name, detail)

    async with streaming(source, target) as settings:
        with monkeypatch.context() as patch:
            patch.setattr(control, "record_step", refuse)
            with pytest.raises(CutoverError, match="stopped; the point of no return is passed"):
                await cutover(settings, print)
    target.execute("UPDATE replicator.worker SET heartbeat_at = now() - interval '1 hour'")
    with pytest.raises(CleanupError, match="point of no return"):
        await cleanup(settings)


async def test_a_schema_of_the_users_own_gets_back_what_was_silenced(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE parents (id int PRIMARY KEY)")
    target.execute("CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES parents)")
    before = _state(target)
    target.execute("ALTER TABLE c DROP CONSTRAINT c_p_fkey")
    restore = "ALTER TABLE ONLY public.c ADD CONSTRAINT c_p_fkey FOREIGN KEY (p) REFERENCES public.parents(id);"
    async with streaming(
        source, target, deferred=[("FK CONSTRAINT", "c c_p_fkey", restore)], REPLICATOR_SCHEMA=SchemaMode.EXISTING
    ) as settings:
        pass
    removed = "\n".join(await cleanup(settings))
    assert "put back fk constraint public.c c_p_fkey" in removed
    assert _state(target) == before
