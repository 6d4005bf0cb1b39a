"""Cutover and cleanup beside the real worker: whole migrations in other shapes than the demo's."""

import psycopg
import pytest

from replicator.cleanup import cleanup
from replicator.cutover import cutover
from replicator.model import KeylessPolicy, Phase, SchemaMode
from replicator.status import read_status
from replicator.verify import compare
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, phase, wait_caught_up, wait_for_phase

_SCHEMA = """
CREATE TABLE parents (id serial PRIMARY KEY, name text);
CREATE TABLE parts (id int, day int, parent_id int REFERENCES parents ON DELETE CASCADE, PRIMARY KEY (id, day))
  PARTITION BY RANGE (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (100);
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE INSERT ON parents FOR EACH ROW EXECUTE FUNCTION shout();
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM parts;
"""
_FILL = """
INSERT INTO parents (name) SELECT 'p' || g FROM generate_series(1, 50) g;
INSERT INTO parts SELECT g, g % 100, g % 50 + 1 FROM generate_series(1, 500) g;
"""
_CHANGES = """
DELETE FROM parents WHERE id <= 5;
UPDATE parts SET day = 99 WHERE day = 1;
UPDATE parents SET name = 'quiet' WHERE id = 6;
INSERT INTO parents (name) VALUES ('late');
"""
_MADE = """
SELECT conname::text FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND convalidated
UNION ALL SELECT tgname || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1
"""


@pytest.mark.parametrize("mode", list(SchemaMode))
async def test_a_migration_ends_with_equal_rows_and_every_object(
    source: Database, target: Database, make_worker: WorkerMaker, mode: SchemaMode
) -> None:
    source.execute(_SCHEMA)
    source.execute(_FILL)
    if mode is SchemaMode.EXISTING:
        target.execute(_SCHEMA)
    settings = settings_for(source, target, REPLICATOR_SCHEMA=mode)
    worker = make_worker(settings)
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)
    source.execute(_CHANGES)
    wait_caught_up(source, target, worker)

    # another machine, where nobody has set REPLICATOR_SCHEMA
    report = await cutover(settings_for(source, target), print)

    assert (report.left_out, report.unfinished) == ((), ())
    assert [item for item in await compare(source.dsn, target.dsn) if not item.equal] == []
    assert target.fetch(_MADE) == [("parts_parent_id_fkey",), ("shoutO",)]
    assert target.value("SELECT n FROM totals") == source.value("SELECT count(*) FROM parts")
    target.execute("INSERT INTO parents (name) VALUES ('on the target')")
    assert target.value("SELECT name FROM parents ORDER BY id DESC LIMIT 1") == "ON THE TARGET"
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="has moved"):
        source.execute("DELETE FROM parts_1")

    # the worker notices and idles: its slot is free, and a cleanup may come while it is there
    wait_until(lambda: source.fetch("SELECT FROM pg_replication_slots WHERE active") == [], what="an idle worker")
    assert worker.running
    assert (await read_status(settings)).phase is Phase.DONE
    await cleanup(settings)
    assert source.fetch("SELECT FROM pg_publication") == []
    source.execute("DELETE FROM parts_1")

    # it stays: a host would start it again and again
    ours = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'replicator%' AND datname = current_database()"
    wait_until(lambda: target.fetch(ours) == [], what="a worker that holds nothing any more")
    assert worker.running
    assert worker.stop() == 0


async def test_an_insert_only_table_that_is_updated_is_found_by_the_cutover(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    source.execute("CREATE TABLE log (line text); INSERT INTO log VALUES ('before'); UPDATE log SET line = 'earlier'")
    settings = settings_for(source, target, keyless=KeylessPolicy.INSERT_ONLY)
    worker = make_worker(settings)
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)
    source.execute("INSERT INTO log VALUES ('streamed')")
    await cutover(settings, print, rehearse=True)
    source.execute("UPDATE log SET line = 'after the copy'")

    def is_found() -> bool:
        return source.fetch("SELECT FROM pg_stat_user_tables WHERE relname = 'log' AND n_tup_upd > 1") != []

    wait_until(is_found, what="statistics of the source")
    with pytest.raises(Exception, match=r"public\.log is replicated for inserts only"):
        await cutover(settings, print)
    assert phase(target) is Phase.STREAMING
