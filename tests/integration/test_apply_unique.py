"""Unique and exclusion constraints besides the key: inside a batch their values may change hands in any order."""

from collections.abc import Iterator

import pytest

from replicator.errors import ApplyError, DivergenceError
from replicator.model import UNCHANGED, Relation, ReplicaIdentity
from tests.fixtures.applying import Applier
from tests.fixtures.changes import delete, insert, truncate, update
from tests.fixtures.databases import Database

LONG = "long value " * 1000


async def swap(applier: Applier, t: Relation) -> None:
    """Two rows exchange their unique values by way of a third, in one batch."""
    await applier.apply(update(t, "1", "9"), update(t, "2", "1"), update(t, "1", "2"))


@pytest.mark.parametrize(
    "constraint",
    ["UNIQUE", "UNIQUE DEFERRABLE INITIALLY IMMEDIATE", "UNIQUE DEFERRABLE INITIALLY DEFERRED", "EXCLUDE (u WITH =)"],
)
async def test_two_rows_swap_their_values_in_one_batch(applier: Applier, constraint: str) -> None:
    column = "" if constraint.startswith("EXCLUDE") else constraint
    extra = f", {constraint}" if not column else ""
    applier.execute(f"CREATE TABLE t (id int PRIMARY KEY, u int {column}{extra})")
    applier.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
    t = await applier.relation("t")

    await swap(applier, t)
    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, 2), (2, 1)]

    # the session goes on, whatever was rolled back inside it
    await swap_back(applier, t)
    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, 1), (2, 2)]


async def swap_back(applier: Applier, t: Relation) -> None:
    await applier.apply(update(t, "1", "9"), update(t, "2", "2"), update(t, "1", "1"))


async def test_ranges_that_may_not_overlap_change_hands_in_one_batch(applier: Applier) -> None:
    applier.execute(
        "CREATE TABLE t (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&));"
        "INSERT INTO t VALUES (1, '[1,5)'), (2, '[5,9)')"
    )
    t = await applier.relation("t")

    await applier.apply(update(t, "1", "empty"), update(t, "2", "[2,6)"), update(t, "1", "[6,9)"))

    assert applier.rows("SELECT id, during::text FROM t ORDER BY id") == [(1, "[6,9)"), (2, "[2,6)")]


async def test_values_that_were_not_sent_survive_a_swap(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, big text)")
    applier.execute("INSERT INTO t VALUES (1, 1, %s), (2, 2, %s), (3, 3, 'short')", [LONG + "1", LONG + "2"])
    t = await applier.relation("t")

    await applier.apply(
        update(t, "1", "9", UNCHANGED),
        update(t, "2", "1", UNCHANGED),
        update(t, "1", "2", UNCHANGED),
        delete(t, key=["3", None, None]),
        insert(t, "4", "3", "new"),
    )

    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, 2, LONG + "1"), (2, 1, LONG + "2"), (4, 3, "new")]


async def test_a_new_row_takes_the_value_that_an_updated_or_deleted_row_gave_up(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE); INSERT INTO t VALUES (1, 1), (2, 2)")
    t = await applier.relation("t")

    await applier.apply(
        update(t, "1", "5"), insert(t, "3", "1"), delete(t, key=["2", None]), insert(t, "4", "2"), update(t, "1", "6")
    )

    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, 6), (3, 1), (4, 2)]


async def test_a_row_with_an_identity_column_is_replaced_whole(applier: Applier) -> None:
    applier.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, n int GENERATED ALWAYS AS IDENTITY, big text,
                        double int GENERATED ALWAYS AS (u * 2) STORED)
        """
    )
    applier.execute("INSERT INTO t (id, u, big) VALUES (1, 1, %s), (2, 2, 'short')", [LONG])
    t = await applier.relation("t")

    await applier.apply(
        update(t, "1", "9", "1", UNCHANGED),
        update(t, "2", "1", "2", "short"),
        update(t, "1", "2", "1", UNCHANGED),
        insert(t, "3", None, "70", ""),
    )

    assert applier.rows("SELECT id, u, n, big, double FROM t ORDER BY id") == [
        (1, 2, 1, LONG, 4),
        (2, 1, 2, "short", 2),
        (3, None, 70, "", None),
    ]


async def test_a_unique_index_of_one_partition_counts_too(applier: Applier) -> None:
    applier.execute(
        "CREATE TABLE t (id int PRIMARY KEY, u int) PARTITION BY RANGE (id);"
        "CREATE TABLE leaf PARTITION OF t DEFAULT; CREATE UNIQUE INDEX ON leaf (u); INSERT INTO t VALUES (1, 1), (2, 2)"
    )
    t = await applier.relation("t")

    await swap(applier, t)

    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, 2), (2, 1)]


async def test_after_refusals_the_prepared_statements_still_serve(plain_applier: Applier) -> None:
    applier = plain_applier
    applier.execute("CREATE TABLE v (id int PRIMARY KEY)")
    v = await applier.relation("v")
    contested = []
    for n in range(4):
        applier.execute(f"CREATE TABLE t{n} (id int PRIMARY KEY, u int UNIQUE)")
        applier.execute(f"INSERT INTO t{n} VALUES (1, 1), (2, 2)")
        contested.append(await applier.relation(f"t{n}"))

    for n, t in enumerate(contested):
        # what is in the pipeline behind the statement that is refused is not run, and not prepared either
        await applier.apply(update(t, "1", "9"), update(t, "2", "1"), update(t, "1", "2"), insert(v, str(n)))
    for n in range(4):
        await applier.apply(insert(v, str(100 + n)), delete(v, key=[str(n)]))

    assert applier.rows("SELECT id FROM v ORDER BY id") == [(100,), (101,), (102,), (103,)]


async def test_a_last_piece_that_is_refused_row_by_row_keeps_the_first_ones(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE); INSERT INTO t VALUES (1, 1), (2, 2)")
    t = await applier.relation("t")

    await applier.run_piece(insert(t, "3", "3"), lsn=2000)
    await applier.finish_pieces(update(t, "1", "9"), update(t, "2", "1"), update(t, "1", "2"), lsn=2000)

    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, 2), (2, 1), (3, 3)]


# --- law 4 ------------------------------------------------------------------------------------------------------------


async def test_law_4_a_value_that_another_row_of_the_target_has_is_a_divergence(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE); INSERT INTO t VALUES (1, 'secret')")
    t = await applier.relation("t")

    with pytest.raises(DivergenceError, match=r"insert in public\.t.* t_u_key.* 0/454") as caught:
        await applier.apply(insert(t, "2", "secret"), insert(t, "3", "other"))

    assert "secret" not in f"{caught.value!r} {caught.value.hint}"


async def test_law_4_a_deferred_constraint_that_objects_at_the_commit_is_named(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    applier.execute("INSERT INTO t VALUES (1, 'secret')")
    t = await applier.relation("t")

    with pytest.raises(ApplyError, match=r"public\.t.* 0/454") as caught:
        await applier.apply(insert(t, "2", "secret"))

    assert "secret" not in f"{caught.value!r} {caught.value.hint}"
    await applier.close()
    assert applier.rows("SELECT * FROM t") == [(1, "secret")]


@pytest.mark.parametrize("partitions", ["", "PARTITION BY RANGE (p)"])
async def test_a_table_whose_values_wait_to_be_checked_is_truncated_in_the_same_batch(
    applier: Applier, partitions: str
) -> None:
    """Given rows that have swapped their unique values, then the target looks at them before its TRUNCATE."""
    applier.execute(f"""
    CREATE TABLE t (p int, id int, u int, PRIMARY KEY (p, id),
                    CONSTRAINT "t u" UNIQUE (p, u) DEFERRABLE INITIALLY DEFERRED) {partitions}
    """)
    if partitions:
        applier.execute('CREATE TABLE "t 1" PARTITION OF t FOR VALUES FROM (0) TO (10)')
    applier.execute("INSERT INTO t VALUES (1, 1, 1), (1, 2, 2)")
    t = await applier.relation("t")

    await applier.apply(update(t, "1", "1", "2"), update(t, "1", "2", "1"), truncate(t), insert(t, "1", "1", "4"))

    assert applier.rows("SELECT * FROM t") == [(1, 1, 4)]


async def test_a_truncate_leaves_the_checks_of_other_tables_as_they_were(applier: Applier) -> None:
    """Given a key that is checked at once, when a TRUNCATE has looked at another one's, then it still is."""
    applier.execute(
        "CREATE TABLE a (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TABLE b (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY IMMEDIATE);"
        "INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1), (2, 2)"
    )
    a, b = await applier.relation("a"), await applier.relation("b")

    await applier.apply(truncate(a), update(b, "1", "2"), update(b, "2", "1"), truncate(b))

    assert applier.rows("SELECT * FROM b") == []


# --- session_replication_role = replica: deferrable constraints are triggers, and do not fire ------------------------


@pytest.fixture
def replica_role(applied_database: Database) -> Iterator[None]:
    """Let the target's role set session_replication_role, as some hosts do."""
    applied_database.execute("GRANT SET ON PARAMETER session_replication_role TO app", superuser=True)
    yield
    applied_database.execute("REVOKE SET ON PARAMETER session_replication_role FROM app", superuser=True)


@pytest.mark.usefixtures("replica_role")
async def test_where_deferrable_values_are_not_checked_nothing_of_the_source_is_lost(applier: Applier) -> None:
    """Given a row that something else wrote, when the source takes its value, then the source's rows are all there.

    The other row stays, too, and comparing finds it: the server tells nobody in this role.
    """
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    applier.execute("INSERT INTO t VALUES (1, 1), (2, 2), (9, 7)")
    t = await applier.relation("t")

    await swap(applier, t)
    await applier.apply(insert(t, "3", "7"), update(t, "2", "8"))
    await applier.apply(update(t, "3", "6"), delete(t, key=["1", None]))

    assert applier.rows("SELECT * FROM t ORDER BY id") == [(2, 8), (3, 6), (9, 7)]


@pytest.mark.usefixtures("replica_role")
async def test_where_a_deferrable_key_is_not_checked_exactly_the_sources_rows_change(applier: Applier) -> None:
    """Given a deferrable primary key, which is no identity, then rows are found by their whole image."""
    applier.execute("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)

    await applier.apply(update(t, "2", "a", old=["1", "a"]), update(t, "1", "b", old=["2", "b"]), insert(t, "3", "c"))
    await applier.apply(update(t, "3", "a", old=["2", "a"]), delete(t, old=["3", "c"]))

    assert applier.rows("SELECT * FROM t ORDER BY id") == [(1, "b"), (3, "a")]


async def test_law_4_rows_that_swap_a_key_that_only_the_target_has_are_not_taken_for_one_another(
    applier: Applier,
) -> None:
    """Given a key that the source does not enforce at once, when two rows swap it, then the target objects."""
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)

    with pytest.raises(DivergenceError, match="found a row in its place"):
        await applier.apply(update(t, "2", "a", old=["1", "a"]), update(t, "1", "b", old=["2", "b"]))


async def test_a_row_that_prints_differently_by_now_is_still_the_same_row(applier: Applier) -> None:
    """Given a label that was renamed between two changes of a row, then the second one is applied after the first."""
    applier.execute("CREATE TYPE mood AS ENUM ('well'); CREATE TABLE t (id int PRIMARY KEY, m mood, n int);")
    applier.execute("INSERT INTO t VALUES (1, 'well', 0)")
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)

    await applier.apply(
        update(t, "1", "well", "1", old=["1", "well", "0"]), update(t, "1", "well", "2", old=["1", "good", "1"])
    )

    assert applier.rows("SELECT * FROM t") == [(1, "well", 2)]
