"""Deploys while tables are being copied: what the snapshot does not see any more comes again, by itself."""

import asyncio
from typing import Any

import psycopg
import pytest

from bootstrap import schema
from bootstrap.indexes import rename_indexes
from bootstrap.pgdump import dump_schemas
from bootstrap.schema import STEP
from bootstrap.types import note_types, rename_types
from replicator.errors import Side, TransientError
from replicator.postgres import connected
from tests.fixtures.bootstrapping import assert_equal, run_bootstrap, take_lease
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.gates import gates_on
from tests.fixtures.waiting import wait_until

TABLES = """
CREATE TABLE left_alone (id int PRIMARY KEY, v text);
CREATE TABLE widened (id int PRIMARY KEY, v text);
CREATE TABLE of_new_type (id int PRIMARY KEY, v text);
CREATE TABLE parts (id int, v numeric(6,2), PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (3);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (3) TO (100) PARTITION BY HASH (id);
CREATE TABLE parts_2_0 PARTITION OF parts_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_2_1 PARTITION OF parts_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE wide_parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE wide_parts_1 PARTITION OF wide_parts FOR VALUES FROM (0) TO (100);
CREATE TABLE old_column (id int, v text NOT NULL UNIQUE, PRIMARY KEY (id)); CREATE INDEX by_v ON old_column (v, id);
CREATE TABLE old_table (id int PRIMARY KEY, v text);
CREATE TABLE old_parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE INDEX ON old_parts (v);
CREATE TABLE old_parts_1 PARTITION OF old_parts FOR VALUES FROM (0) TO (3);
CREATE TABLE old_parts_2 PARTITION OF old_parts FOR VALUES FROM (3) TO (100);
CREATE TABLE narrowed (id int PRIMARY KEY, v text NOT NULL);
CREATE TABLE narrow_parts (id int PRIMARY KEY, v text NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE narrow_parts_1 PARTITION OF narrow_parts FOR VALUES FROM (0) TO (100);
INSERT INTO left_alone SELECT n, n FROM generate_series(1, 5) n;
INSERT INTO widened TABLE left_alone; INSERT INTO of_new_type TABLE left_alone;
INSERT INTO parts SELECT n, n / 8.0 FROM generate_series(1, 5) n;
INSERT INTO wide_parts SELECT n FROM generate_series(1, 5) n;
INSERT INTO old_column TABLE left_alone; INSERT INTO old_table TABLE left_alone; INSERT INTO old_parts TABLE left_alone;
INSERT INTO narrowed TABLE left_alone; INSERT INTO narrow_parts TABLE left_alone;
"""
INDEXES = """
SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index
 WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) ORDER BY 1
"""
WAITING_DUMP = """
SELECT FROM pg_stat_activity WHERE application_name = 'replicator pg_dump' AND wait_event_type = 'Lock'
   AND datname = current_database()
"""
DEPLOY = """
SET lock_timeout = '10s';
ALTER TABLE widened ADD COLUMN uuid uuid NOT NULL DEFAULT gen_random_uuid();
CREATE TYPE mood AS ENUM ('sad', 'glad');
ALTER TABLE of_new_type ADD COLUMN mood mood DEFAULT (ARRAY['sad', 'glad'])[1 + floor(random() * 2)::int]::mood;
ALTER TABLE parts ALTER v TYPE numeric(12,6) USING v / 3;
ALTER TABLE wide_parts ADD COLUMN at timestamptz DEFAULT clock_timestamp();
ALTER TABLE old_column RENAME v TO w; ALTER TABLE old_table RENAME TO new_table;
ALTER TABLE old_parts RENAME v TO w;
ALTER TABLE narrowed DROP COLUMN v; ALTER TABLE narrow_parts DROP COLUMN v;
"""


@pytest.mark.parametrize("via_root", [False, True])
async def test_tables_that_a_deploy_changes_before_they_are_copied_come_again(
    source: Database, target: Database, via_root: bool
) -> None:
    """Given columns with volatile defaults, of other types, names or none after the snapshot, then rows arrive."""
    source.execute(TABLES)
    publications, deploy = "", DEPLOY + "ALTER TABLE old_parts_2 RENAME TO new_parts_2"
    if via_root:
        source.execute("CREATE PUBLICATION mine FOR ALL TABLES WITH (publish_via_partition_root)", superuser=True)
        publications, deploy = "mine", DEPLOY
    settings = settings_for(source, target, publications=publications)
    with gates_on(target) as gates:
        gates.hold(STEP)
        working = asyncio.create_task(run_bootstrap(settings))
        await asyncio.to_thread(gates.wait_reached, STEP)
        source.execute(deploy)
        gates.release()
        await working
        gates.remove()

    await assert_equal(settings)
    assert target.fetch(INDEXES) == source.fetch(INDEXES)
    assert target.value("SELECT count(DISTINCT uuid) FROM widened") == 5
    assert target.value("SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
                        " WHERE attrelid = 'parts_2_1'::regclass AND attname = 'v'") == "numeric(12,6)"  # fmt: skip


async def test_a_table_that_is_dropped_while_pg_dump_runs_ends_only_the_round(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given pg_dump, which waits for the lock of a table that it has read of, when the table's drop commits."""
    source.execute("CREATE TABLE stays (id int PRIMARY KEY); CREATE TABLE goes (id int PRIMARY KEY)")

    async def dump_meanwhile(*arguments: Any) -> str:
        monkeypatch.undo()
        with psycopg.connect(source.dsn) as dropping:
            dropping.execute("DROP TABLE goes")
            dumping = asyncio.create_task(dump_schemas(*arguments))
            await asyncio.to_thread(wait_until, lambda: source.fetch(WAITING_DUMP, superuser=True))
            dropping.commit()
        return await dumping

    monkeypatch.setattr(schema, "dump_schemas", dump_meanwhile)
    settings = settings_for(source, target)
    with pytest.raises(TransientError, match=r'pg_dump failed: .*relation "public.goes" does not exist'):
        await run_bootstrap(settings)

    await run_bootstrap(settings)

    await assert_equal(settings)


async def test_an_index_whose_new_name_is_taken_on_the_target_keeps_its_own(source: Database, target: Database) -> None:
    """Given a renamed index, when what the source has dropped still has the name on the target, then nothing stops,
    and once that is out of the way the index is renamed."""
    settings = settings_for(source, target)
    epoch = await take_lease(settings)
    table = "CREATE TABLE t (id int); CREATE INDEX {} ON t (id)"
    source.execute(table.format("wanted"))
    target.execute(table.format("old") + "; CREATE TABLE wanted (id int)")
    async with (
        connected(settings.source, Side.SOURCE, "test") as ours,
        connected(settings.target, Side.TARGET, "test") as theirs,
    ):
        await rename_indexes(ours, theirs, epoch, ["public"])
        assert target.value("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 't'::regclass") == "old"

        target.execute("DROP TABLE wanted")
        await rename_indexes(ours, theirs, epoch, ["public"])
    assert target.value("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 't'::regclass") == "wanted"


async def test_a_type_takes_over_the_name_of_one_that_the_source_has_dropped(
    source: Database, target: Database
) -> None:
    """Given an enum that lost a value in the usual steps, when the old one still has the name on the target, then the
    new one gets it, and the old one stays under another."""
    settings = settings_for(source, target)
    epoch = await take_lease(settings)
    for database in (source, target):
        database.execute("CREATE TYPE status AS ENUM ('a', 'b', 'c'); CREATE TYPE status_new AS ENUM ('a', 'b')")
        database.execute("CREATE TABLE t (s status_new)")
    target.execute("CREATE TABLE left_over (s status)")
    async with (
        connected(settings.source, Side.SOURCE, "test") as ours,
        connected(settings.target, Side.TARGET, "test") as theirs,
    ):
        source.execute("DROP TYPE status")
        await note_types(ours, theirs, ["public"])
        source.execute("ALTER TYPE status_new RENAME TO status")

        await rename_types(ours, theirs, epoch, ["public"])

    assert target.value("SELECT pg_typeof(s)::text FROM t RIGHT JOIN (SELECT 1) u ON true") == "status"
    target.execute("INSERT INTO left_over VALUES ('c')")
