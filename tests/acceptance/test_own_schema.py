"""A target that the user made (REPLICATOR_SCHEMA=existing), of another shape than the source, while the worker streams.

One migration for all tests of the module; each changes tables of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fixtures.databases import Database
from tests.fixtures.shared import Shared
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker, wait_caught_up

SOURCE = """
CREATE TABLE typed (id int PRIMARY KEY, name text, small int, at timestamptz, doc json, tags varchar(9)[], kind text);
INSERT INTO typed VALUES (1, 'one', 1, '2020-01-01', '{"a":  1}', '{a,NULL}', 'x');
INSERT INTO typed VALUES (2, 'two', 2, NULL, NULL, '{}', 'y');

CREATE TABLE rooted (id int, at int, body text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE rooted_1 PARTITION OF rooted FOR VALUES FROM (0) TO (10);
CREATE TABLE rooted_2 PARTITION OF rooted FOR VALUES FROM (10) TO (20);
CREATE TABLE flat (id int, at int, PRIMARY KEY (id, at)) PARTITION BY LIST (at);
CREATE TABLE flat_1 PARTITION OF flat FOR VALUES IN (1);
CREATE TABLE flat_2 PARTITION OF flat FOR VALUES IN (2);
CREATE TABLE split (id int PRIMARY KEY, at int);
CREATE TABLE leafwise (id int, at int, PRIMARY KEY (id, at)) PARTITION BY LIST (at);
CREATE TABLE leaf_1 PARTITION OF leafwise FOR VALUES IN (1);
CREATE TABLE leaf_2 PARTITION OF leafwise FOR VALUES IN (2);
CREATE TABLE cut (id int, at int, PRIMARY KEY (id, at)) PARTITION BY LIST (at);
CREATE TABLE cut_1 PARTITION OF cut FOR VALUES IN (1);
CREATE TABLE cut_2 PARTITION OF cut FOR VALUES IN (2);
INSERT INTO rooted SELECT n, n, repeat(md5(n::text), 300) FROM generate_series(1, 14) n;
INSERT INTO flat SELECT n, 1 + n % 2 FROM generate_series(1, 4) n;
INSERT INTO split SELECT n, n FROM generate_series(1, 4) n;
INSERT INTO leafwise SELECT n, 1 + n % 2 FROM generate_series(1, 4) n;
INSERT INTO cut SELECT n, 1 + n % 2 FROM generate_series(1, 4) n;

CREATE TABLE numbered (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text);
INSERT INTO numbered (id, v) VALUES (1, 'a'), (2, 'b');
CREATE TABLE owners (id int PRIMARY KEY);
CREATE TABLE owned (id int PRIMARY KEY, owner int REFERENCES owners ON DELETE CASCADE);
INSERT INTO owners VALUES (1), (2);
INSERT INTO owned VALUES (1, 1), (2, 2);
CREATE TABLE watched (id int PRIMARY KEY, v int);
INSERT INTO watched VALUES (1, 1);
CREATE TABLE guarded (id int PRIMARY KEY, v int);
INSERT INTO guarded VALUES (1, 1);
CREATE TABLE conflicting (id int PRIMARY KEY, v text UNIQUE);

CREATE PUBLICATION mine FOR TABLE typed, split, numbered, owners, owned, watched, guarded, conflicting;
CREATE PUBLICATION via_root FOR TABLE rooted, flat WITH (publish_via_partition_root);
CREATE PUBLICATION by_leaf FOR TABLE leafwise, cut;
"""

TARGET = """
CREATE TABLE typed (kind varchar(20) DEFAULT 'none', added timestamptz NOT NULL DEFAULT '2001-01-01', doc jsonb,
                    small bigint, tags text[], number int GENERATED ALWAYS AS IDENTITY, at text, name varchar(50),
                    loud text GENERATED ALWAYS AS (upper(name)) STORED, id numeric PRIMARY KEY);

CREATE TABLE rooted (note text DEFAULT 'new', body text, at int, id int, PRIMARY KEY (id, at)) PARTITION BY HASH (at);
CREATE TABLE hash_1 PARTITION OF rooted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hash_2 PARTITION OF rooted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
ALTER TABLE hash_2 ALTER body SET STORAGE EXTERNAL;
CREATE TABLE flat (note text DEFAULT 'new', at int, id int, PRIMARY KEY (id, at));
CREATE TABLE split (note text DEFAULT 'new', at int, id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF split FOR VALUES FROM (0) TO (10);
CREATE TABLE high PARTITION OF split FOR VALUES FROM (10) TO (20);
CREATE TABLE leafwise (note text DEFAULT 'new', at int, id int, PRIMARY KEY (id, at)) PARTITION BY LIST (at);
CREATE TABLE leaf_1 PARTITION OF leafwise FOR VALUES IN (1);
CREATE TABLE leaf_2 PARTITION OF leafwise FOR VALUES IN (2);
CREATE TABLE cut_1 (at int, note text DEFAULT 'new', id int PRIMARY KEY);
CREATE TABLE cut_2 (id int, at int, note text DEFAULT 'new', PRIMARY KEY (id, at));

CREATE TABLE numbered (note text DEFAULT 'new', id int PRIMARY KEY, v text, n int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE owners (id int PRIMARY KEY);
CREATE TABLE owned (id int PRIMARY KEY, owner int REFERENCES owners ON DELETE CASCADE);
CREATE TABLE watched (id int PRIMARY KEY, v int);
CREATE TABLE seen (trigger text, operation text);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN INSERT INTO seen VALUES (TG_NAME, TG_OP); RETURN NEW; END $$;
CREATE TRIGGER ordinary AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION watch();
CREATE TRIGGER always AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION watch();
CREATE TRIGGER replica AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION watch();
ALTER TABLE watched ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica;
CREATE TABLE guarded (id int PRIMARY KEY, v int);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY hide ON guarded USING (false);
CREATE TABLE conflicting (id int PRIMARY KEY, v text UNIQUE);
"""


@dataclass(frozen=True, slots=True)
class Moving:
    """Both sides, and the worker that streams between them."""

    source: Database
    target: Database
    worker: Worker

    def change(self, statements: str) -> None:
        """Run them in one transaction on the source, and wait until the target has them."""
        self.source.execute(statements)
        wait_caught_up(self.source, self.target, self.worker)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.target.fetch(query)


@pytest.fixture(scope="module")
def moving(shared: Shared) -> Iterator[Moving]:
    """A migration into the user's schema that streams; its role may set session_replication_role."""
    source, target = shared.source, shared.target
    source.execute(SOURCE)
    target.execute(TARGET)
    target.execute("GRANT SET ON PARAMETER session_replication_role TO app", superuser=True)
    worker = shared.make_worker(
        REPLICATOR_SCHEMA="existing",
        publications="mine,via_root,by_leaf",
        recheck_interval=0.3,
        schema_interval=0.3,
        confirm_delay=0,
    )
    worker.start()
    try:
        shared.wait_streaming()
        yield Moving(source, target, worker)
    finally:
        target.execute("REVOKE SET ON PARAMETER session_replication_role FROM app", superuser=True)


def test_another_order_and_other_types_of_columns_take_the_same_text(moving: Moving) -> None:
    """Given varchar for text, bigint and numeric for int, jsonb for json, text for timestamptz, then values fit."""
    moving.change("""
        INSERT INTO typed VALUES (3, 'three', 3, '2021-01-01 00:00:00+00', '[1]', '{"b,c"}', 'z');
        UPDATE typed SET name = 'ONE', id = 10 WHERE id = 1;
        UPDATE typed SET small = 22 WHERE id = 2
    """)

    assert moving.rows("SELECT id, name, small, at, doc::text, tags, kind, loud, number FROM typed ORDER BY id") == [
        (2, "two", 22, None, None, [], "y", "TWO", 2),
        (3, "three", 3, "2021-01-01 00:00:00+00", "[1]", ["b,c"], "z", "THREE", 3),
        (10, "ONE", 1, "2020-01-01 00:00:00+00", '{"a": 1}', ["a", None], "x", "ONE", 1),
    ]


def test_columns_that_only_the_target_has_keep_defaults_and_local_values(moving: Moving) -> None:
    """Given values that the user put into such columns, when rows are updated in any way, then they stay."""
    moving.target.execute("UPDATE numbered SET note = 'mine ' || id; UPDATE split SET note = 'mine ' || id")

    moving.change("""
        UPDATE numbered SET v = 'x' WHERE id = 1;
        UPDATE numbered SET id = 20, n = DEFAULT WHERE id = 2;
        INSERT INTO numbered (id, v) VALUES (3, 'c');
        UPDATE split SET id = 11, at = 11 WHERE id = 1;
        UPDATE split SET at = 22 WHERE id = 2
    """)

    assert moving.rows("SELECT id, n, v, note FROM numbered ORDER BY id") == [
        (1, 1, "x", "mine 1"), (3, 4, "c", "new"), (20, 3, "b", "mine 2"),
    ]  # fmt: skip
    assert moving.rows("SELECT tableoid::regclass::text, id, at, note FROM split ORDER BY id") == [
        ("low", 2, 22, "mine 2"), ("low", 3, 3, "mine 3"), ("low", 4, 4, "mine 4"), ("high", 11, 11, "mine 1"),
    ]  # fmt: skip


def test_rows_that_move_between_partitions_of_the_source_arrive_in_those_of_the_target(moving: Moving) -> None:
    """Given other partitions, none, or the same ones as tables, when rows move, then each is where it belongs."""
    moving.change("""
        UPDATE rooted SET at = at + 10 WHERE id < 4;
        UPDATE rooted SET at = 5 WHERE id = 12;
        UPDATE flat SET at = 3 - at WHERE id < 3;
        UPDATE leafwise SET at = 3 - at WHERE id < 3;
        UPDATE cut SET at = 3 - at WHERE id < 3;
        DELETE FROM cut WHERE id = 3
    """)

    rows = "SELECT id, at, md5(body) FROM rooted ORDER BY id"
    assert moving.rows(rows) == moving.source.fetch(rows)
    for table in ("flat", "leafwise", "leaf_1", "leaf_2", "cut_1", "cut_2"):
        rows = f"SELECT id, at FROM {table} ORDER BY id"
        expected = moving.source.fetch(rows)
        assert moving.rows(rows) == expected
        assert expected


def test_a_truncated_leaf_of_a_table_that_travels_under_its_root_is_followed(moving: Moving) -> None:
    """Given TRUNCATE of one leaf, which is not sent under a root, then its rows go on the target too."""
    moving.source.execute("TRUNCATE rooted_1")
    moving.source.execute("INSERT INTO rooted VALUES (7, 7, 'after')")

    rows = "SELECT id, at, md5(body) FROM rooted ORDER BY id"
    wait_until(lambda: moving.rows(rows) == moving.source.fetch(rows), what="the leaf's rows are gone")


def test_a_truncated_leaf_that_travels_by_itself_is_emptied(moving: Moving) -> None:
    moving.change("TRUNCATE leaf_2, cut_2; INSERT INTO leafwise VALUES (9, 2)")

    assert moving.rows("SELECT id FROM leaf_2") == [(9,)]
    assert moving.rows("SELECT id FROM cut_2") == []
    assert moving.rows("SELECT count(*) > 0 FROM leaf_1") == [(True,)]


def test_only_triggers_that_are_meant_for_replicated_rows_fire(moving: Moving) -> None:
    """Given ordinary, ALWAYS and REPLICA triggers, then the last two fire, once for each row that comes or changes."""
    moving.change("UPDATE watched SET v = 2 WHERE id = 1")

    assert moving.rows("SELECT trigger, operation, count(*) FROM seen GROUP BY 1, 2 ORDER BY 1, 2") == [
        ("always", "INSERT", 1), ("always", "UPDATE", 1), ("replica", "INSERT", 1), ("replica", "UPDATE", 1),
    ]  # fmt: skip


def test_a_cascade_of_the_source_is_not_repeated_by_the_targets_foreign_key(moving: Moving) -> None:
    moving.change("DELETE FROM owners WHERE id = 1; INSERT INTO owned VALUES (3, 2)")

    assert moving.rows("SELECT id, owner FROM owned ORDER BY id") == [(2, 2), (3, 2)]


def test_row_level_security_of_the_target_hides_no_row_from_the_stream(moving: Moving) -> None:
    """Given a policy that hides every row, and forced on the owner, then rows come, change and go all the same."""
    moving.change("INSERT INTO guarded VALUES (2, 2), (3, 3); UPDATE guarded SET v = 10 WHERE id = 1")
    moving.change("DELETE FROM guarded WHERE id = 2")

    rows = "SELECT id, v FROM guarded ORDER BY id"
    assert moving.target.fetch(rows, superuser=True) == [(1, 10), (3, 3)]


@pytest.mark.parametrize(
    ("there", "came"), [((1, "a"), (1, "b")), ((2, "c"), (3, "c"))], ids=["by its key", "by another unique value"]
)
def test_a_row_that_is_there_already_stops_the_stream_until_it_is_gone(
    moving: Moving, there: tuple[int, str], came: tuple[int, str]
) -> None:
    """Law 4: given a row of the user's in its place, then the error tells table, LSN and remedy, and it goes on."""
    moving.target.execute("INSERT INTO conflicting VALUES (%s, %s)", there)

    moving.source.execute("INSERT INTO conflicting VALUES (%s, %s)", came)

    error = wait_until(lambda: moving.target.value("SELECT error FROM replicator.migration"), what="an error")
    assert "insert in public.conflicting found a row in its place" in error["message"]
    assert "in transactions " in error["message"]
    assert error["hint"]
    assert moving.rows(f"SELECT v FROM conflicting WHERE id = {there[0]}") == [(there[1],)]
    moving.target.execute("DELETE FROM conflicting WHERE id = %s", there[:1])
    wait_caught_up(moving.source, moving.target, moving.worker)
    assert moving.rows(f"SELECT v FROM conflicting WHERE id = {came[0]}") == [(came[1],)]
