"""FORCE ROW LEVEL SECURITY: policies that bind the table's owner, which on the target is the role that migrates."""

from tests.fixtures.databases import Database
from tests.fixtures.worker import WorkerMaker, run_command, start_streaming

FORCED = "ALTER TABLE {0} ENABLE ROW LEVEL SECURITY; ALTER TABLE {0} FORCE ROW LEVEL SECURITY"
TABLES = ["owners", "p1", "pets"]


def test_keys_are_validated_and_views_filled_with_all_rows_and_the_policies_hold_after_it(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given policies that show the owner nothing, then the cutover is complete, and they still show it nothing."""
    source.execute(
        "CREATE TABLE owners (id int PRIMARY KEY); CREATE TABLE pets (id int PRIMARY KEY, owner int REFERENCES owners);"
        "CREATE TABLE parts (id int PRIMARY KEY, owner int REFERENCES owners) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF parts FOR VALUES FROM (0) TO (10);"
        "INSERT INTO owners VALUES (1); INSERT INTO pets VALUES (1, 1); INSERT INTO parts VALUES (1, 1);"
        "CREATE VIEW seen AS SELECT * FROM pets; CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM seen"
    )
    source.execute("; ".join(map(FORCED.format, TABLES)))
    settings, _ = start_streaming(source, target, make_worker)

    done = run_command(settings, "cutover")

    assert (done.returncode, done.stdout.count("failed")) == (0, 0), done.stdout + done.stderr
    assert target.value("SELECT bool_and(convalidated) FROM pg_constraint WHERE contype = 'f'")
    assert target.value("SELECT count FROM kept") == source.value("SELECT count FROM kept") == 1
    rules = "SELECT relname::text FROM pg_class WHERE relrowsecurity AND relforcerowsecurity ORDER BY relname"
    assert target.fetch(rules) == [(name,) for name in TABLES]
    assert target.value("SELECT count(*) FROM pets") == 0
