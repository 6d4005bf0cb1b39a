"""What a deploy makes anew under a name that stays: the worker follows, or the cutover tells, never neither."""

import re
from typing import Final

import psycopg
import pytest

from tests.fixtures.databases import Database
from tests.fixtures.migration import differences
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, run_command, start_streaming, wait_caught_up

TABLES: Final = """
CREATE TABLE t1 (id int PRIMARY KEY, v text, n int); CREATE TABLE t2 (id int PRIMARY KEY, v text, n int);
CREATE UNIQUE INDEX by_v ON t1 (v); CREATE INDEX by_n ON t1 (n); CREATE STATISTICS st ON v, n FROM t1;
INSERT INTO t1 SELECT n, 'v' || n, n FROM generate_series(1, 9) n;
CREATE TABLE p (id int, r int, v text, PRIMARY KEY (id, r)) PARTITION BY RANGE (r); CREATE INDEX p_u ON p (v, r);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (30)
 PARTITION BY RANGE (r); CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (10) TO (20);
INSERT INTO p VALUES (1, 1, 'a'), (2, 12, 'b')
"""
INDEXES: Final = """
SELECT concat_ws(' ', pg_get_indexdef(x.indexrelid), x.indisvalid, i.inhparent::regclass)
  FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
 WHERE c.relnamespace = 'public'::regnamespace
 UNION ALL
SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
 ORDER BY 1
"""
COLLATIONS: Final = """
SELECT attrelid::regclass::text, attname, attcollation::regcollation::text FROM pg_attribute
 WHERE attrelid::regclass::text IN ('t1', 'p', 'p1', 'p2', 'p2a') ORDER BY 1, 2
"""
COLUMNS: Final = """
SELECT attname, format_type(atttypid, atttypmod), pg_get_expr(adbin, adrelid)
  FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE attrelid = 't'::regclass AND attnum > 0 ORDER BY attnum
"""


@pytest.mark.parametrize(
    "deploy",
    [
        "DROP INDEX by_v; CREATE UNIQUE INDEX by_v ON t2 (v)",
        "DROP INDEX by_n; CREATE INDEX by_n ON t2 (n)",
        "DROP INDEX by_v, by_n; CREATE UNIQUE INDEX by_v ON t2 (v); CREATE INDEX by_n ON p (id)",
        "DROP STATISTICS st; CREATE STATISTICS st (mcv) ON id, n FROM t1",
        "DROP STATISTICS st; CREATE STATISTICS st ON v, n FROM t2",
        "DROP INDEX p_u; CREATE UNIQUE INDEX p_u ON p (v, r)",
        "DROP INDEX p_u; CREATE INDEX p_u ON t1 (v, n)",
        "ALTER TABLE p DROP CONSTRAINT p_pkey, ADD CONSTRAINT p_pkey PRIMARY KEY (r, id)",
        "ALTER TABLE p ADD CONSTRAINT p_k UNIQUE (r, v)",
    ],
)
def test_law_4_indexes_and_statistics_that_are_others_under_their_names_are_the_sources_after_the_cutover(
    source: Database, target: Database, make_worker: WorkerMaker, deploy: str
) -> None:
    """Given one that is of another table, or columns, or has partitions' indexes below it, then no other is lost."""
    source.execute(TABLES)
    settings, worker = start_streaming(source, target, make_worker)

    source.execute(deploy)
    source.execute("INSERT INTO t2 VALUES (1, 'x', 1); INSERT INTO p VALUES (3, 3, 'c'), (4, 14, 'd')")
    wait_caught_up(source, target, worker)
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert target.fetch(INDEXES) == source.fetch(INDEXES)
    assert differences(source, target) == []


def test_law_4_another_collation_of_a_column_keeps_the_cutover_from_beginning(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a column of a table, and one that partitions inherit, then the cutover tells statements that work."""
    source.execute(TABLES)
    settings, _ = start_streaming(source, target, make_worker)
    source.execute('ALTER TABLE t1 ALTER v TYPE text COLLATE "POSIX"; ALTER TABLE p ALTER v TYPE text COLLATE "C"')

    refused = run_command(settings, "cutover")

    assert refused.returncode == 1
    told = re.findall(
        r"column public.*? is COLLATE .*? — Run on the target: (ALTER TABLE .*?COLLATE .*?)[.]?$", refused.stderr, re.M
    )
    assert len(told) == 2, refused.stderr
    for statement in told:
        target.execute(statement)
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert target.fetch(COLLATIONS) == source.fetch(COLLATIONS)


COME: Final = "ALTER TABLE t ALTER v DROP DEFAULT; ALTER TABLE t ALTER v TYPE {0} USING v::text::{0}"
ANEW: Final = "ALTER {0} {1} RENAME TO old; CREATE {0} {1} AS {2}; " + COME.replace("{0}", "{3}")


@pytest.mark.parametrize(
    ("before", "deploy", "value"),
    [
        ("CREATE DOMAIN kind AS numeric(12, 2)", ANEW.format("DOMAIN", "kind", "numeric(20, 6)", "kind"), "7.654321"),
        ("CREATE DOMAIN kind AS varchar(3)", ANEW.format("DOMAIN", "kind", "varchar(20)", "kind"), "abcdefgh"),
        ("CREATE DOMAIN kind AS numeric(12, 2)", ANEW.format("DOMAIN", "kind", "text", "kind"), "1.230"),
        (
            "CREATE TYPE kind AS (v numeric(12, 2))",
            ANEW.format("TYPE", "kind", "(v numeric(20, 6))", "kind"),
            "(1.234567)",
        ),
        (
            "CREATE DOMAIN kind AS numeric(12, 2)",
            ANEW.format("DOMAIN", "kind", "numeric(20, 6)", "kind[]"),
            "{1.234567}",
        ),
        (
            "CREATE DOMAIN base AS numeric(12, 2); CREATE DOMAIN kind AS base",
            "ALTER DOMAIN base RENAME TO old_base; CREATE DOMAIN base AS numeric(20, 6);"
            + ANEW.format("DOMAIN", "kind", "base", "kind"),
            "7.654321",
        ),
    ],
    ids=["digits", "length", "text", "composite", "array", "domain of a domain"],
)
@pytest.mark.parametrize("steps", [1, 2], ids=["dropped", "renamed"])
def test_law_4_no_row_is_cut_or_rounded_by_a_type_that_was_made_anew_under_its_name(
    source: Database, target: Database, make_worker: WorkerMaker, before: str, deploy: str, value: str, steps: int
) -> None:
    """Given a type that a deploy replaces, and drops or keeps under another name, then all rows are the source's."""
    kind = "kind[]" if value.startswith("{") else "kind"
    default = f"'{value}'" if value.startswith(("{", "(", "[")) else "NULL"
    source.execute(
        f"{before}; CREATE TABLE t (id int PRIMARY KEY, v {kind} DEFAULT {default}); INSERT INTO t VALUES (1)"
    )
    settings, worker = start_streaming(source, target, make_worker)

    drops = [f"DROP TYPE {name}" for name in ("old", "old_base") if name in deploy] if steps == 1 else []
    source.execute(
        "; ".join([deploy, f"UPDATE t SET v = '{value}'; ALTER TABLE t ALTER v SET DEFAULT {default}", *drops])
    )
    source.execute(f"INSERT INTO t VALUES (2, '{value}')")
    wait_caught_up(source, target, worker)

    assert differences(source, target) == []
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert target.fetch(COLUMNS) == source.fetch(COLUMNS)
    assert target.fetch("SELECT id, v::text FROM t ORDER BY id") == [(1, value), (2, value)]


def test_law_4_a_name_that_a_dropped_type_had_is_free_for_another_one(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a domain that an earlier deploy dropped and the target keeps, then the new one is the source's."""
    source.execute("CREATE DOMAIN kind AS numeric(12, 2); CREATE TABLE t (id int PRIMARY KEY, v kind)")
    settings, worker = start_streaming(source, target, make_worker)
    ready = worker.log.count("all tables are ready")
    source.execute("ALTER TABLE t DROP COLUMN v; DROP DOMAIN kind")
    wait_until(lambda: worker.log.count("all tables are ready") > ready, what="the drop is followed")

    source.execute("CREATE DOMAIN kind AS numeric(20, 6); CREATE TABLE u (id int PRIMARY KEY, v kind)")
    source.execute("INSERT INTO u VALUES (1, 7.654321)")
    wait_caught_up(source, target, worker)

    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert target.fetch("SELECT v, pg_typeof(v)::text FROM u") == source.fetch("SELECT v, pg_typeof(v)::text FROM u")


def test_law_4_a_range_that_was_made_anew_under_its_name_waits_for_the_statements(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a range of another subtype, then the worker waits before its rows are copied, and goes on by itself."""
    made = "CREATE TYPE kind AS RANGE (subtype = float{})"
    source.execute(f"{made.format(4)}; CREATE TABLE t (id int PRIMARY KEY, v kind DEFAULT '[1,2)', w kind[])")
    source.execute("INSERT INTO t VALUES (1)")
    settings, worker = start_streaming(source, target, make_worker)

    between = f"ALTER TABLE t ALTER w TYPE text; {COME.format('text')}; DROP TYPE kind; {made.format(8)}"
    back = f"{COME.format('kind')}, ALTER w TYPE kind[] USING w::kind[]; UPDATE t SET v = '[1.23456789012,2)'"
    source.execute(f"{between}; {back}")
    hint = wait_until(lambda: target.value("SELECT error->>'hint' FROM replicator.migration"), what="a pause")
    assert run_command(settings, "cutover").returncode == 1
    target.execute(hint.removeprefix("Run on the target: ").removesuffix("; the worker makes it then."))
    source.execute("INSERT INTO t VALUES (2, '[1.23456789012,2)', '{\"[1.23456789012,2)\"}')")

    wait_caught_up(source, target, worker)
    assert differences(source, target) == []
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert target.fetch(COLUMNS) == source.fetch(COLUMNS)


def test_law_4_columns_whose_rows_nobody_sends_keep_no_type_that_was_made_anew(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a domain of an unlogged table and of a computed column, then the cutover tells statements that work."""
    source.execute(
        "CREATE DOMAIN kind AS numeric(12, 2); CREATE UNLOGGED TABLE t (id int PRIMARY KEY, v kind);"
        "CREATE TABLE sums (id int PRIMARY KEY, a numeric, v kind GENERATED ALWAYS AS (a / 3) STORED);"
        "INSERT INTO sums VALUES (1, 1)"
    )
    settings, _ = start_streaming(source, target, make_worker)
    source.execute(
        ANEW.format("DOMAIN", "kind", "numeric(20, 6)", "kind")
        + "; ALTER TABLE sums ALTER v TYPE kind; DROP DOMAIN old"
    )

    refused = run_command(settings, "cutover")

    assert refused.returncode == 1
    for statement in re.findall(r"— Run on the target: (ALTER TABLE .*?)[.]?$", refused.stderr, re.M):
        target.execute(statement)
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    assert target.fetch(COLUMNS) == source.fetch(COLUMNS)
    assert target.fetch("SELECT v FROM sums") == source.fetch("SELECT v FROM sums")


def test_a_new_table_may_have_the_names_of_a_dropped_ones_indexes(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given indexes of a table that is dropped, or still there without them, then a new one's have their names."""
    source.execute(TABLES)
    settings, worker = start_streaming(source, target, make_worker, confirm_delay=0)

    source.execute(
        "DROP TABLE t2; DROP INDEX by_v, by_n;"
        "CREATE TABLE t3 (id int, v text, n int, CONSTRAINT t2_pkey PRIMARY KEY (id));"
        "CREATE UNIQUE INDEX by_v ON t3 (v); CREATE INDEX by_n ON t3 (n); INSERT INTO t3 VALUES (1, 'a', 2)"
    )
    wait_caught_up(source, target, worker)
    source.execute("INSERT INTO t1 SELECT n, 'same', n FROM generate_series(20, 22) n")  # by_v forbids it no more
    wait_until(lambda: "waiting until" in worker.log, what="a pause")
    remedy = target.value("SELECT error->>'hint' FROM replicator.migration").removeprefix("Run on the target: ")
    target.execute(remedy.removesuffix("; the worker goes on by itself then."))
    wait_caught_up(source, target, worker)
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert differences(source, target) == []
    assert sorted(target.fetch(f"{NAMES} AND tablename = 't3'")) == sorted(
        source.fetch(f"{NAMES} AND tablename = 't3'")
    )
    assert target.fetch(f"{NAMES} AND starts_with(indexname, 'replicator_left_')") != []  # of t1 and t2: both are kept


NAMES: Final = "SELECT indexname FROM pg_indexes WHERE schemaname = 'public'"


def test_what_the_target_refuses_of_a_new_table_is_waited_for(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a view of the operator's with the new table's name, then the worker tells, and goes on once it is free."""
    source.execute(TABLES)
    settings, worker = start_streaming(source, target, make_worker, confirm_delay=0)
    target.execute("CREATE VIEW t3 AS SELECT 1 AS id")

    source.execute("CREATE TABLE t3 (id int PRIMARY KEY); INSERT INTO t3 VALUES (1); INSERT INTO t2 VALUES (1, 'b', 3)")
    wait_until(lambda: "waiting until" in worker.log, what="a pause")
    error = target.value("SELECT error FROM replicator.migration")
    assert "table public.t3" in error["message"]
    assert error["hint"] == "Drop or rename what has that name on the target; the worker goes on by itself then."
    target.execute("DROP VIEW t3")
    wait_caught_up(source, target, worker)
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert differences(source, target) == []


COMPOSED: Final = """
CREATE TYPE pair AS (x text, y text); CREATE TYPE outer_one AS (n int, inner_one pair);
CREATE TABLE t (id int PRIMARY KEY, c pair, d outer_one[]); CREATE TABLE quiet (id int PRIMARY KEY, c pair);
INSERT INTO t VALUES (1, ROW('x', 'y'), ARRAY[ROW(1, ROW('x', 'y'))::outer_one]);
INSERT INTO quiet VALUES (1, ROW('x', 'y'))
"""


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TYPE pair DROP ATTRIBUTE y; ALTER TYPE pair ADD ATTRIBUTE y text",
        "ALTER TYPE pair DROP ATTRIBUTE x; ALTER TYPE pair RENAME ATTRIBUTE y TO x;"
        "ALTER TYPE pair ADD ATTRIBUTE y text",
        "ALTER TYPE pair ADD ATTRIBUTE z int; UPDATE t SET c = ROW('a', 'b', 3) WHERE id = 2",
        "ALTER TYPE pair DROP ATTRIBUTE x; INSERT INTO t VALUES (3, ROW('b'), NULL)",
        "ALTER TYPE pair RENAME ATTRIBUTE x TO z; ALTER TYPE pair RENAME ATTRIBUTE y TO x; UPDATE t SET c.x = 'new'",
    ],
)
@pytest.mark.parametrize("is_behind", [True, False])
def test_law_4_composite_types_get_the_attributes_of_the_source(
    source: Database, target: Database, make_worker: WorkerMaker, change: str, *, is_behind: bool
) -> None:
    """Given attributes that are others, under the same names perhaps, then the values are those of the source."""
    source.execute(COMPOSED)
    settings, worker = start_streaming(source, target, make_worker, confirm_delay=0)

    if is_behind:
        worker.kill()
    source.execute("INSERT INTO t VALUES (2, ROW('v', 'w'), NULL)")
    source.execute(change)
    if is_behind:
        worker.start()
    wait_caught_up(source, target, worker)
    wait_until(lambda: differences(source, target) == [], what="equal sides")
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    assert differences(source, target) == []
    named = "SELECT to_jsonb(c) FROM t ORDER BY id"
    assert target.fetch(named) == source.fetch(named)


SHOUTS: Final = "CREATE FUNCTION f(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT {}($1) $$;"


def test_law_4_an_index_follows_its_function_to_its_new_name(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given another function that takes the old name over, then the target's index finds what the source's does."""
    source.execute(
        SHOUTS.format("upper") + "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a');"
        "CREATE INDEX by_f ON t (f(v))"
    )
    settings, worker = start_streaming(source, target, make_worker, confirm_delay=0)

    source.execute("ALTER FUNCTION f(text) RENAME TO louder; " + SHOUTS.format("lower"))
    wait_caught_up(source, target, worker)
    done = run_command(settings, "cutover")

    assert done.returncode == 0, done.stderr
    made = "SELECT pg_get_indexdef('by_f'::regclass)"
    assert target.value(made) == source.value(made)
    with psycopg.connect(target.dsn, autocommit=True) as session:
        session.execute("SET enable_seqscan = off")
        assert session.execute("SELECT id FROM t WHERE louder(v) = 'A'").fetchall() == [(1,)]
