"""Every operation on a real target, row by row and through the staging tables."""

import pytest

from replicator.errors import ApplyError, SchemaMismatchError, UnknownTableError
from replicator.lsn import Lsn
from replicator.model import UNCHANGED, LogicalMessage, ReplicaIdentity, TableState
from tests.fixtures.applying import Applier
from tests.fixtures.changes import delete, insert, relation, transaction, truncate, update

LONG = "long value " * 1000
STAGES = "SELECT count(*) FROM pg_class WHERE relname LIKE 'replicator\\_stage\\_%'"


# --- insert, update, delete -------------------------------------------------------------------------------------------


async def test_insert_update_and_delete(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b text); INSERT INTO t SELECT 1, 'x', 'y'")
    applier.execute("INSERT INTO t VALUES (2, 'gone', NULL)")
    t = await applier.relation("t")

    await applier.apply(
        insert(t, "3", "tab\tnewline\nreturn\rback\\slash", r"\N"),
        update(t, "1", None, ""),
        delete(t, key=["2", None, None]),
    )

    expected = [(1, None, ""), (3, "tab\tnewline\nreturn\rback\\slash", r"\N")]
    assert applier.rows("SELECT * FROM t ORDER BY id") == expected


async def test_a_handful_of_rows_needs_no_staging_table_and_more_do(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x'), (2, 'y')")
    t = await applier.relation("t")

    await applier.apply(insert(t, "3", "z"), update(t, "1", "z"), delete(t, key=["2", None]))

    assert applier.rows(STAGES) == [(1 if applier.staged else 0,)]


async def test_a_key_of_several_columns_in_another_order_than_the_table(applier: Applier) -> None:
    applier.execute(
        "CREATE TABLE t (a int, x text, b text, PRIMARY KEY (b, a)); INSERT INTO t VALUES (1, 'x', 'B'), (2, 'x', 'B')"
    )
    t = await applier.relation("t")

    await applier.apply(update(t, "1", "z", "B"), delete(t, key=["2", None, "B"]), insert(t, "2", "new", "C"))

    assert applier.rows("SELECT * FROM t ORDER BY a") == [(1, "z", "B"), (2, "new", "C")]


async def test_a_changed_key_takes_the_row_along(applier: Applier) -> None:
    applier.execute(
        "CREATE TABLE t (id int PRIMARY KEY, big text, b int); ALTER TABLE t ALTER big SET STORAGE EXTERNAL"
    )
    applier.execute("INSERT INTO t SELECT n, repeat(n::text, 5000), n FROM generate_series(1, 3) n")
    t = await applier.relation("t")

    await applier.apply(
        update(t, "9", UNCHANGED, "1", key=["1", None, None]),
        update(t, "1", UNCHANGED, "2", key=["2", None, None]),
        update(t, "2", "short", "10", key=["9", None, None]),
        update(t, "4", UNCHANGED, "30", key=["3", None, None]),
    )

    rows = applier.rows("SELECT id, left(big, 5), length(big), b FROM t ORDER BY id")
    assert rows == [(1, "22222", 5000, 2), (2, "short", 5, 10), (4, "33333", 5000, 30)]


async def test_a_value_that_was_not_sent_stays(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, big text, other text, b int)")
    applier.execute("INSERT INTO t SELECT n, %s, %s, n FROM generate_series(1, 4) n", [LONG, LONG])
    t = await applier.relation("t")

    await applier.apply(
        update(t, "1", UNCHANGED, UNCHANGED, "10"),
        update(t, "2", UNCHANGED, "new", "20"),
        update(t, "3", "new", UNCHANGED, "30"),
        update(t, "4", UNCHANGED, UNCHANGED, "4"),
    )

    assert applier.rows("SELECT big, other, b FROM t ORDER BY id") == [
        (LONG, LONG, 10),
        (LONG, "new", 20),
        ("new", LONG, 30),
        (LONG, LONG, 4),
    ]


async def test_an_update_that_sets_nothing_still_needs_its_row(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, big text); INSERT INTO t VALUES (1, 'x')")
    t = await applier.relation("t")

    await applier.apply(update(t, "1", UNCHANGED))

    assert applier.rows("SELECT * FROM t") == [(1, "x")]


async def test_a_table_that_is_all_key(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (a int, b int, PRIMARY KEY (a, b)); INSERT INTO t VALUES (1, 1), (2, 2)")
    t = await applier.relation("t")

    await applier.apply(
        update(t, "1", "1"), delete(t, key=["2", "2"]), insert(t, "3", "3"), update(t, "3", "4", key=["3", "3"])
    )

    assert applier.rows("SELECT * FROM t ORDER BY a") == [(1, 1), (3, 4)]


async def test_replica_identity_full_with_a_primary_key_finds_rows_by_it(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, doc json); INSERT INTO t VALUES (1, '{}'), (2, '[]')")
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)

    await applier.apply(
        update(t, "3", UNCHANGED, old=["1", "{}"]), delete(t, old=["2", "[]"]), insert(t, "4", '{"a": 1}')
    )

    assert applier.rows("SELECT id, doc::text FROM t ORDER BY id") == [(3, "{}"), (4, '{"a": 1}')]


async def test_replica_identity_index_finds_rows_by_it(applier: Applier) -> None:
    applier.execute(
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE); INSERT INTO t VALUES (1, 'a'), (2, 'b')"
    )
    t = await applier.relation("t", identity=ReplicaIdentity.INDEX, key=["code"])

    await applier.apply(update(t, "3", "a"), update(t, "2", "c", key=[None, "b"]))

    assert applier.rows("SELECT * FROM t ORDER BY code") == [(3, "a"), (2, "c")]


async def test_odd_names_are_only_names(applier: Applier) -> None:
    applier.execute(
        """
        CREATE SCHEMA "100%";
        CREATE TABLE "100%"."t"";drop %s" ("i d" int PRIMARY KEY, "%s" text, "a%b" int, g int, c1 int, "{}" int);
        INSERT INTO "100%"."t"";drop %s" VALUES (1, 'x', 1, 1, 1, 1), (2, 'x', 2, 2, 2, 2)
        """
    )
    t = await applier.relation('t";drop %s', schema="100%")

    await applier.apply(
        insert(t, "3", "%s", "3", "3", "3", "3"),
        update(t, "1", "%", "10", "11", "12", "13"),
        delete(t, key=["2", None, None, None, None, None]),
    )
    await applier.apply(update(t, "4", "%(x)s", "4", "4", "4", "4", key=["3", None, None, None, None, None]))

    assert applier.rows('SELECT * FROM "100%"."t"";drop %s" ORDER BY 1') == [
        (1, "%", 10, 11, 12, 13),
        (4, "%(x)s", 4, 4, 4, 4),
    ]


# --- transactions and pieces ------------------------------------------------------------------------------------------


async def test_law_1_progress_is_the_end_of_the_last_transaction_of_the_batch(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY)")
    t = await applier.relation("t")
    one, two = applier.transaction(insert(t, "1")), applier.transaction(insert(t, "2"))

    await applier.apply_batch(one, two)

    assert applier.target.progress == applier.progress() == two.end_lsn
    assert applier.rows("SELECT id FROM t ORDER BY id") == [(1,), (2,)]


async def test_a_marker_is_stored_with_the_progress_of_its_transaction(applier: Applier) -> None:
    nonce = "0123456789abcdef" * 2
    first = applier.transaction()
    marker = transaction(LogicalMessage("replicator", nonce.encode()), lsn=first.commit_lsn + 10)
    await applier.apply_batch(first, marker)
    await applier.apply()

    assert applier.rows("SELECT marker FROM replicator.progress") == [(nonce,)]


async def test_an_idle_advance_is_persisted(applier: Applier) -> None:
    target = await applier.open()

    await target.advance(Lsn(5000))

    assert target.progress == applier.progress() == 5000


async def test_law_2_pieces_of_a_transaction_become_visible_at_once(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x')")
    t = await applier.relation("t")
    await applier.apply(update(t, "1", "y"))

    lsn = applier.transaction().commit_lsn
    await applier.run_piece(insert(t, "2", "b"), update(t, "1", "z"), lsn=lsn)
    await applier.run_piece(delete(t, key=["1", None]), lsn=lsn)
    assert applier.rows("SELECT * FROM t") == [(1, "y")]

    await applier.finish_pieces(update(t, "2", "c"), insert(t, "1", "again"), lsn=lsn)
    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, "again"), (2, "c")]
    await applier.apply(update(t, "1", "last"))
    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, "last"), (2, "c")]


# --- truncate and relations -------------------------------------------------------------------------------------------


async def test_truncate_of_several_tables_that_refer_to_each_other(applier: Applier) -> None:
    applier.execute(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY); INSERT INTO t DEFAULT VALUES;"
        "CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t); INSERT INTO u VALUES (1, 1)"
    )
    t, u = await applier.relation("t"), await applier.relation("u")

    await applier.apply(insert(u, "2", "1"), truncate(t, u, restart_identity=True), insert(t, "7"))

    assert applier.rows("SELECT id FROM t") == [(7,)]
    assert applier.rows("SELECT id FROM u") == []
    assert applier.rows("INSERT INTO t DEFAULT VALUES RETURNING id") == [(1,)]


async def test_a_truncate_leaves_out_a_table_whose_snapshot_is_younger(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    applier.execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    t, u = await applier.relation("t"), await applier.relation("u", snapshot_lsn=100_000)

    await applier.apply(truncate(t, u), insert(u, "2"))

    assert applier.rows("SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM u)") == [(0, 1)]


async def test_an_inheritance_parent_is_left_alone_by_its_childs_changes_and_leaves_its_child_alone(
    applier: Applier,
) -> None:
    applier.execute(
        "CREATE TABLE parent (id int PRIMARY KEY, a text); CREATE TABLE child () INHERITS (parent);"
        "INSERT INTO parent SELECT n, 'p' FROM generate_series(1, 3) n; INSERT INTO child SELECT * FROM ONLY parent"
    )
    parent = await applier.relation("parent")

    await applier.apply(
        update(parent, "1", "q"), delete(parent, key=["2", None]), update(parent, "4", "q", key=["3", None])
    )
    assert applier.rows("SELECT * FROM ONLY parent ORDER BY id") == [(1, "q"), (4, "q")]
    await applier.apply(truncate(parent))

    assert applier.rows("SELECT count(*) FROM ONLY parent") == [(0,)]
    assert applier.rows("SELECT * FROM child ORDER BY id") == [(1, "p"), (2, "p"), (3, "p")]


async def test_a_relation_that_changes_its_shape_inside_a_batch(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b text DEFAULT 'none')")
    t = await applier.relation("t")
    narrow = relation(["id", "a"], ["id"], oid=t.oid)

    await applier.apply(insert(narrow, "1", "x"), insert(narrow, "2", "x"), update(t, "1", "y", "z"))

    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, "y", "z"), (2, "x", "none")]


async def test_rows_that_travel_by_their_partitioned_root(applier: Applier) -> None:
    applier.execute(
        "CREATE TABLE t (id int, region text, a text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);"
        "CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('eu'); CREATE TABLE t_us PARTITION OF t FOR VALUES IN ('us');"
        "INSERT INTO t VALUES (1, 'eu', 'x'), (2, 'us', 'x'), (3, 'us', 'x')"
    )
    t = await applier.relation("t")

    await applier.apply(
        insert(t, "4", "eu", "new"),
        update(t, "1", "eu", "y"),
        update(t, "2", "eu", "moved", key=["2", "us", None]),
        delete(t, key=["3", "us", None]),
    )
    assert applier.rows("SELECT tableoid::regclass::text, id, a FROM t ORDER BY id") == [
        ("t_eu", 1, "y"),
        ("t_eu", 2, "moved"),
        ("t_eu", 4, "new"),
    ]

    await applier.apply(truncate(t))
    assert applier.rows("SELECT count(*) FROM t") == [(0,)]


async def test_a_truncate_that_lists_a_root_beside_its_leaves(applier: Applier) -> None:
    applier.execute(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id);"
        "CREATE TABLE leaf PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0); INSERT INTO t VALUES (1)"
    )
    leaf, root = await applier.relation("leaf"), relation(["id"], ["id"], oid=1)

    await applier.apply(truncate(root, leaf))

    assert applier.rows("SELECT count(*) FROM t") == [(0,)]


# --- what has no place ------------------------------------------------------------------------------------------------


async def test_law_4_a_table_without_a_snapshot_is_not_skipped(plain_applier: Applier) -> None:
    plain_applier.execute("CREATE TABLE t (id int PRIMARY KEY)")

    with pytest.raises(UnknownTableError, match=r"public\.t"):
        await plain_applier.apply(insert(relation(["id"], ["id"]), "1"))


async def test_law_4_a_table_without_a_snapshot_is_not_skipped_though_it_is_partitioned_here(
    plain_applier: Applier,
) -> None:
    plain_applier.execute("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id)")

    with pytest.raises(UnknownTableError, match=r"public\.t"):
        await plain_applier.apply(insert(relation(["id"], ["id"]), "1"))


@pytest.mark.parametrize("state", [TableState.PENDING, TableState.COPYING, TableState.COPIED])
async def test_law_4_a_table_that_is_not_ready_gets_no_changes(plain_applier: Applier, state: TableState) -> None:
    plain_applier.execute("CREATE TABLE t (id int PRIMARY KEY)")
    t = await plain_applier.relation("t", state=state)

    with pytest.raises(UnknownTableError, match=r"public\.t"):
        await plain_applier.apply(insert(t, "1"))


@pytest.mark.parametrize(
    "definition", ["CREATE VIEW t AS SELECT 1 AS id", "CREATE TABLE t (other int)", "CREATE TABLE u (id int)"]
)
async def test_a_table_or_column_that_the_target_lacks_is_named(plain_applier: Applier, definition: str) -> None:
    plain_applier.execute(f"{definition}; CREATE TABLE known (id int)")
    known = await plain_applier.relation("known")

    with pytest.raises(SchemaMismatchError, match=r"public\.t"):
        await plain_applier.apply(insert(relation(["id"], ["id"], oid=known.oid), "1"))


async def test_a_generated_column_has_no_place_for_a_value(plain_applier: Applier) -> None:
    plain_applier.execute("CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id) STORED)")
    t = await plain_applier.relation("t")

    with pytest.raises(SchemaMismatchError, match=r"g of public\.t is generated"):
        await plain_applier.apply(insert(relation(["id", "g"], ["id"], oid=t.oid), "1", "1"))


async def test_without_progress_nothing_begins(plain_applier: Applier) -> None:
    plain_applier.execute("DELETE FROM replicator.progress")

    with pytest.raises(ApplyError, match="progress"):
        await plain_applier.open()
