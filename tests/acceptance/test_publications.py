"""Publications that the user made, through one migration: what they send arrives, and nothing else does.

Several overlap. Every table is copied, and written to while the worker streams; the tests are by table.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from replicator.check import Finding, check
from replicator.cutover import cutover
from replicator.errors import CutoverError
from replicator.model import Phase
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.shared import Shared
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker, WorkerMaker, wait_caught_up, wait_for_phase
from tests.torture.model import quoted

TABLES: Final = """
CREATE TABLE filtered (id int PRIMARY KEY, place text NOT NULL, body text);
ALTER TABLE filtered REPLICA IDENTITY FULL;
CREATE TABLE overlapping (id int PRIMARY KEY, body text);
CREATE TABLE listed (id int PRIMARY KEY, shown text, hidden text DEFAULT 'hidden');
CREATE TABLE grown (id int PRIMARY KEY, body text);
CREATE TABLE kept (id int PRIMARY KEY, body text);
CREATE TABLE refiltered (id int PRIMARY KEY, body text);
CREATE TABLE unpublished (id int PRIMARY KEY, body text);
CREATE SCHEMA whole; CREATE TABLE whole.first (id int PRIMARY KEY, body text);
CREATE TABLE whole.leafwise (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
CREATE TABLE whole.leafwise_1 PARTITION OF whole.leafwise FOR VALUES FROM (0) TO (50);
CREATE TABLE leafwise_2 PARTITION OF whole.leafwise FOR VALUES FROM (50) TO (1000);
CREATE TABLE rooted (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
CREATE TABLE rooted_1 PARTITION OF rooted FOR VALUES FROM (0) TO (50);
CREATE TABLE rooted_2 PARTITION OF rooted FOR VALUES FROM (50) TO (1000);
CREATE TABLE reidentified (id int PRIMARY KEY, code text NOT NULL, body text);
CREATE UNIQUE INDEX by_code ON reidentified (code)
"""

HOSTILE: Final = "c'h\"o\\$$; DROP TABLE kept; --\n%s{}"
PUBLICATIONS: Final = f"""
CREATE PUBLICATION {quoted(HOSTILE)} FOR TABLE filtered WHERE (place = 'here'), overlapping WHERE (id < 20),
  listed (id, shown), reidentified, rooted_1;
CREATE PUBLICATION more FOR TABLE overlapping WHERE (id > 40), reidentified;
CREATE PUBLICATION again FOR TABLE overlapping WHERE (id = 30);
CREATE PUBLICATION inserts FOR TABLE grown WITH (publish = 'insert');
CREATE PUBLICATION endless FOR TABLE kept WITH (publish = 'insert, update, delete');
CREATE PUBLICATION altered FOR TABLE refiltered WHERE (id < 20);
CREATE PUBLICATION of_schema FOR TABLES IN SCHEMA whole;
CREATE PUBLICATION via_root FOR TABLE rooted WITH (publish_via_partition_root)
"""

NAMES: Final = f"{HOSTILE},more,again,inserts,endless,altered,of_schema,via_root"

ROWS: Final = """
INSERT INTO filtered SELECT n, CASE n % 2 WHEN 0 THEN 'here' ELSE 'there' END, 'copied' FROM generate_series(1, 60) n;
INSERT INTO overlapping SELECT n, 'copied' FROM generate_series(1, 60) n;
INSERT INTO listed SELECT n, 'copied', 'secret' FROM generate_series(1, 60) n;
INSERT INTO grown SELECT n, 'copied' FROM generate_series(1, 60) n;
INSERT INTO kept SELECT n, 'copied' FROM generate_series(1, 60) n;
INSERT INTO refiltered SELECT n, 'copied' FROM generate_series(1, 60) n;
INSERT INTO unpublished SELECT n, 'copied' FROM generate_series(1, 60) n;
INSERT INTO whole.first SELECT n, 'copied' FROM generate_series(1, 60) n;
INSERT INTO whole.leafwise SELECT n, 'copied' FROM generate_series(1, 60) n;
INSERT INTO rooted SELECT n, 'copied' FROM generate_series(1, 60) n;
INSERT INTO reidentified SELECT n, 'code ' || n, 'copied' FROM generate_series(1, 60) n
"""

CHANGES: Final = """
-- into the filter, out of it, within it, outside of it; with its key, and back again in one transaction
UPDATE filtered SET place = 'here', body = 'came' WHERE id IN (1, 3);
UPDATE filtered SET place = 'there' WHERE id IN (2, 4);
UPDATE filtered SET body = 'stayed' WHERE id IN (5, 6);
UPDATE filtered SET id = id + 100, place = 'here' WHERE id = 7;
UPDATE filtered SET id = id + 100, place = 'there' WHERE id = 8;
UPDATE filtered SET id = id + 100 WHERE id IN (9, 10);
BEGIN; UPDATE filtered SET place = 'there' WHERE id = 12; UPDATE filtered SET body = 'away' WHERE id = 12;
UPDATE filtered SET place = 'here' WHERE id = 12; COMMIT;
DELETE FROM filtered WHERE id IN (13, 14);
INSERT INTO filtered VALUES (200, 'here', 'new'), (201, 'there', 'new');

UPDATE overlapping SET body = 'changed' WHERE id IN (5, 25, 30, 50);
DELETE FROM overlapping WHERE id IN (8, 26);
UPDATE overlapping SET id = 26 WHERE id = 6; UPDATE overlapping SET id = 7000 WHERE id = 7;
UPDATE overlapping SET id = 8 WHERE id = 28; DELETE FROM overlapping WHERE id IN (10, 35, 55);
INSERT INTO overlapping VALUES (100, 'new'); INSERT INTO overlapping VALUES (0, 'new');

UPDATE listed SET shown = 'changed', hidden = 'also' WHERE id < 10; UPDATE listed SET hidden = 'alone' WHERE id = 20;
INSERT INTO listed VALUES (100, 'new', 'secret'); DELETE FROM listed WHERE id = 30;

INSERT INTO grown VALUES (100, 'new'); TRUNCATE grown; INSERT INTO grown VALUES (101, 'new');
UPDATE kept SET body = 'changed' WHERE id = 1; TRUNCATE kept; INSERT INTO kept VALUES (100, 'new');
UPDATE unpublished SET body = 'not sent'; INSERT INTO unpublished VALUES (100, 'not sent');

UPDATE whole.first SET body = 'changed' WHERE id < 10; TRUNCATE whole.first; INSERT INTO whole.first VALUES (1, 'new');
UPDATE whole.leafwise SET body = 'changed' WHERE id IN (1, 55); UPDATE whole.leafwise SET id = id + 100 WHERE id = 5;
INSERT INTO whole.leafwise VALUES (70, 'new'), (0, 'new'); DELETE FROM whole.leafwise WHERE id IN (2, 56);
UPDATE rooted SET body = 'changed' WHERE id IN (1, 55); UPDATE rooted SET id = id + 100 WHERE id = 5;
INSERT INTO rooted VALUES (70, 'new'), (0, 'new'); DELETE FROM rooted WHERE id IN (2, 56)
"""

LATER: Final = """
UPDATE refiltered SET body = 'after' WHERE id IN (2, 51); DELETE FROM refiltered WHERE id IN (3, 52);
CREATE TABLE whole.later (id int PRIMARY KEY, body text); INSERT INTO whole.later VALUES (1, 'new')
"""
"""Under another row filter, and in a table more of the schema."""

# every identity that a table may have, with changes on both sides of each change of it
IDENTITIES: Final = tuple(
    f"UPDATE reidentified SET body = 'before {n}' WHERE id = {n}; {change};"
    f"UPDATE reidentified SET code = 'changed {n}' WHERE id = 10 + {n}; DELETE FROM reidentified WHERE id = 20 + {n};"
    f"UPDATE reidentified SET id = 500 + {n} WHERE id = 30 + {n}; UPDATE reidentified SET body = 'x' WHERE id = {n}"
    for n, change in enumerate(
        (
            "ALTER TABLE reidentified REPLICA IDENTITY USING INDEX by_code",
            "ALTER TABLE reidentified REPLICA IDENTITY FULL",
            "ALTER TABLE reidentified REPLICA IDENTITY USING INDEX by_code; ALTER TABLE reidentified DROP CONSTRAINT "
            "reidentified_pkey; ALTER TABLE reidentified ADD PRIMARY KEY (id, code)",
            "ALTER TABLE reidentified REPLICA IDENTITY DEFAULT",
        ),
        start=1,
    )
)


@dataclass(frozen=True, slots=True)
class Migrated:
    """Both sides after everything has arrived, and what `check` had said at first; the worker still streams."""

    source: Database
    target: Database
    worker: Worker
    findings: Sequence[Finding]


@pytest.fixture(scope="module")
def migrated(shared: Shared) -> Migrated:
    source, target = shared.source, shared.target
    worker = shared.make_worker(publications=NAMES, schema_interval=0.3)
    source.execute(TABLES)
    source.execute(PUBLICATIONS, superuser=True)
    source.execute(ROWS)
    findings = asyncio.run(check(worker.settings))
    worker.start()
    shared.wait_streaming()
    source.execute("UPDATE grown SET body = 'not sent' WHERE id = 1; DELETE FROM grown WHERE id = 2")
    source.execute(CHANGES)
    for statements in IDENTITIES:
        source.execute(statements)
    source.execute("UPDATE refiltered SET body = 'before' WHERE id IN (1, 50)")
    source.execute("ALTER PUBLICATION altered SET TABLE refiltered WHERE (id > 30)", superuser=True)
    source.execute(LATER)
    wait_until(lambda: target.fetch("SELECT FROM refiltered WHERE id = 60"), what="the table with its new filter")
    wait_caught_up(source, target, worker)
    return Migrated(source, target, worker, findings)


SENT: Final[Mapping[str, str]] = {
    "filtered": "SELECT * FROM filtered WHERE place = 'here'",
    "overlapping": "SELECT * FROM overlapping WHERE id < 20 OR id > 40 OR id = 30",
    "listed": "SELECT id, shown, 'hidden' AS hidden FROM listed",
    "refiltered": "SELECT * FROM refiltered WHERE id > 30",
    "whole.later": "TABLE whole.later",
    "whole.first": "TABLE whole.first",
    "whole.leafwise": "TABLE whole.leafwise",
    "rooted": "TABLE rooted",
    "reidentified": "TABLE reidentified",
}
"""What of a table's rows on the source is published."""


@pytest.mark.parametrize("table", SENT)
def test_the_target_has_what_is_published_and_nothing_else(migrated: Migrated, table: str) -> None:
    there = migrated.target.fetch(f"SELECT * FROM {table} ORDER BY 1")
    assert there == migrated.source.fetch(f"{SENT[table]} ORDER BY 1") != []


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("grown", "SELECT n, 'copied' FROM generate_series(1, 60) n UNION VALUES (100, 'new'), (101, 'new')"),
        ("kept", "SELECT n, CASE n WHEN 1 THEN 'changed' ELSE 'copied' END FROM generate_series(1, 60) n"
                 " UNION VALUES (100, 'new')"),
        ("unpublished", "SELECT 1, '' WHERE false"),
    ],
)  # fmt: skip
def test_what_is_not_published_does_not_arrive(migrated: Migrated, table: str, rows: str) -> None:
    assert migrated.target.fetch(f"TABLE {table} ORDER BY 1") == migrated.source.fetch(f"{rows} ORDER BY 1")


def test_partitions_travel_by_root_or_by_leaf_as_they_are_published(migrated: Migrated) -> None:
    units = migrated.target.fetch("SELECT name FROM replicator.tables WHERE name ~ 'leafwise|rooted' ORDER BY 1")
    assert units == [("leafwise_1",), ("leafwise_2",), ("rooted",)]


def test_what_the_publications_leave_out_was_told_before_anything_began(migrated: Migrated) -> None:
    assert [finding.message for finding in migrated.findings] == [
        "no row will be moved of public.unpublished",
        "updates or deletes are not published, or not of all rows, of public.grown",
        "TRUNCATE is not published of public.grown, public.kept",
    ]


def test_the_cutover_tells_what_the_publications_leave_out(migrated: Migrated) -> None:
    """Given updates and a TRUNCATE that were not sent, then it refuses, or lists them with all that stays behind."""
    migrated.source.execute("CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY); SELECT lo_create(0)")
    with pytest.raises(CutoverError) as refused:
        asyncio.run(cutover(migrated.worker.settings, print, rehearse=True))
    assert "public.grown is replicated for inserts only" in refused.value.message
    assert "public.kept was truncated or rewritten since its copy" in refused.value.message

    report = asyncio.run(cutover(migrated.worker.settings, print, rehearse=True, omit_failing=True))

    assert {"table public.unpublished", "table public.scratch", "large objects"} <= set(report.left_out)
    assert any("public.kept" in line for line in report.left_out)


def test_a_publication_that_is_dropped_and_made_again_stops_the_worker_with_the_remedy(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given writes while it was not there, which the source cannot decode, then no other rows are lost or skipped."""
    made = "CREATE PUBLICATION one FOR TABLE a; CREATE PUBLICATION other FOR TABLE b"
    source.execute(f"CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); {made}")
    worker = make_worker(settings_for(source, target, publications="one,other"))
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)

    source.execute("DROP PUBLICATION one")
    source.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    assert worker.wait() == 1
    # the walsender says so, or a look at the catalog that came first
    assert "its tables are copied anew" in worker.current_log

    source.execute("CREATE PUBLICATION one FOR TABLE a")
    source.execute("INSERT INTO a VALUES (2); INSERT INTO b VALUES (2)")
    worker.start()
    assert worker.wait() == 1
    assert "drop and make again all the publications" in worker.current_log

    source.execute(f"DROP PUBLICATION one, other; {made}")
    worker.start()
    source.execute("INSERT INTO a VALUES (3); INSERT INTO b VALUES (3)")
    wait_caught_up(source, target, worker)
    for table in ("a", "b"):
        assert target.fetch(f"TABLE {table} ORDER BY id") == [(1,), (2,), (3,)]


def test_law_4_a_row_that_moves_into_a_filter_without_all_of_its_values_waits(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a value out of line that did not change, which nobody sends, then the table is copied again, by request."""
    source.execute(
        "CREATE TABLE docs (tenant int, id int, body text, PRIMARY KEY (tenant, id));"
        "ALTER TABLE docs ALTER COLUMN body SET STORAGE EXTERNAL;"
        "INSERT INTO docs SELECT 4, n, repeat(md5(n::text), 300) FROM generate_series(1, 3) n;"
    )
    source.execute("CREATE PUBLICATION mine FOR TABLE docs WHERE (tenant = 5)", superuser=True)
    worker = make_worker(settings_for(source, target, publications="mine", recheck_interval=0.5))
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)

    source.execute("UPDATE docs SET tenant = 5 WHERE id < 3; INSERT INTO docs VALUES (5, 9, 'new')")
    error = wait_until(lambda: target.value("SELECT error FROM replicator.migration"), what="an error")

    assert "moved a row of public.docs into the publication's row filter" in error["message"]
    assert worker.running
    assert target.value("SELECT count(*) FROM docs") == 0
    statement = error["hint"].removeprefix("Run on the target: ").partition(";")[0]
    target.execute(statement)
    wait_caught_up(source, target, worker)
    assert target.fetch("SELECT * FROM docs ORDER BY id") == source.fetch(
        "SELECT * FROM docs WHERE tenant = 5 ORDER BY id"
    )


def test_law_4_generated_columns_that_a_publication_sends_are_refused_or_copied_again(
    source_18: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given PostgreSQL 18, which can: from the start, and when the publication sent them for a while unseen."""
    source_18.execute("CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    source_18.execute("CREATE PUBLICATION mine FOR TABLE t WITH (publish_generated_columns = stored)")
    settings = settings_for(source_18, target, publications="mine", recheck_interval=0.5, schema_interval=60)
    worker = make_worker(settings)

    worker.start()
    assert worker.wait() != 0
    assert "sends the generated column twice of public.t" in worker.log
    source_18.execute("ALTER PUBLICATION mine SET (publish_generated_columns = none)")
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)

    worker.kill()  # a look at the publication in between would end it
    source_18.execute("ALTER PUBLICATION mine SET (publish_generated_columns = stored)")
    source_18.execute("INSERT INTO t VALUES (1)")
    source_18.execute("ALTER PUBLICATION mine SET (publish_generated_columns = none)")
    source_18.execute("INSERT INTO t VALUES (2)")
    worker.start()
    wait_until(lambda: "the table comes again" in worker.log, what="a round")
    wait_caught_up(source_18, target, worker)
    assert target.fetch("TABLE t ORDER BY id") == [(1, 2), (2, 4)]
