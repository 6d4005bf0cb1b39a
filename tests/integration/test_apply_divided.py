"""Batches of which some tables go row by row and others through staging: one transaction all the same (law 1)."""

import pytest

from replicator.apply import writer
from replicator.errors import DivergenceError
from tests.fixtures.applying import START, Applier
from tests.fixtures.changes import delete, insert, update

MANY = writer._FEW + 1
STAGES = "SELECT count(*) FROM pg_class WHERE relname LIKE 'replicator\\_stage%'"


@pytest.fixture
def applier(plain_applier: Applier) -> Applier:
    """Two tables, of which one will have many changes."""
    plain_applier.execute("CREATE TABLE few (id int PRIMARY KEY, u int UNIQUE); INSERT INTO few VALUES (1, 1), (2, 2)")
    plain_applier.execute("CREATE TABLE many (id int PRIMARY KEY, v text)")
    plain_applier.execute(f"INSERT INTO many SELECT n, 'old' FROM generate_series(1, {MANY}) n")
    return plain_applier


async def test_each_table_goes_its_own_way(applier: Applier) -> None:
    few, many = await applier.relation("few"), await applier.relation("many")

    await applier.apply(
        *(update(many, str(n), "new") for n in range(1, MANY + 1)),
        insert(few, "3", "3"),
        update(few, "1", "9"),
        delete(few, key=["2", None]),
    )

    assert applier.rows("SELECT * FROM few ORDER BY id") == [(1, 9), (3, 3)]
    assert applier.rows("SELECT v, count(*) FROM many GROUP BY v") == [("new", MANY)]
    assert applier.rows(STAGES) == [(1,)]
    assert applier.progress() == applier.target.progress > START


async def test_what_is_refused_row_by_row_is_undone_and_goes_through_staging(applier: Applier) -> None:
    few, many = await applier.relation("few"), await applier.relation("many")

    await applier.apply(
        *(insert(many, str(MANY + n), "new") for n in range(1, MANY + 1)),
        update(few, "1", "7"),
        update(few, "2", "1"),
        update(few, "1", "2"),
        insert(few, "3", "3"),
    )

    assert applier.rows("SELECT * FROM few ORDER BY id") == [(1, 2), (2, 1), (3, 3)]
    assert applier.rows("SELECT v, count(*) FROM many GROUP BY v ORDER BY v") == [("new", MANY), ("old", MANY)]


async def test_only_the_table_that_was_refused_goes_through_staging_from_then_on(applier: Applier) -> None:
    applier.execute("CREATE TABLE other (id int PRIMARY KEY, u int UNIQUE)")
    few, other = await applier.relation("few"), await applier.relation("other")

    await applier.apply(insert(other, "1", "1"), update(few, "1", "7"), update(few, "2", "1"), update(few, "1", "2"))
    await applier.apply(insert(other, "2", "2"))

    writers = applier.target._writers
    assert (writers[few].always_stages, writers[other].always_stages) == (True, False)
    assert applier.rows("SELECT count(*) FROM other") == [(2,)]


async def test_law_4_a_row_that_is_not_there_is_told_with_its_table_and_nothing_is_left(applier: Applier) -> None:
    few, many = await applier.relation("few"), await applier.relation("many")
    applier.execute("DELETE FROM few WHERE id = 2")

    with pytest.raises(DivergenceError, match=r"update of 1 row\(s\) in public\.few found 0"):
        await applier.apply(
            *(delete(many, key=[str(n), None]) for n in range(1, MANY + 1)),
            insert(few, "3", "3"),
            update(few, "2", "5"),
        )
    await applier.close()

    assert applier.rows("SELECT * FROM few") == [(1, 1)]
    assert applier.rows("SELECT count(*) FROM many") == [(MANY,)]
    assert applier.progress() == START


async def test_law_4_a_divergence_of_the_staged_table_undoes_what_went_row_by_row(applier: Applier) -> None:
    few, many = await applier.relation("few"), await applier.relation("many")
    applier.execute("DELETE FROM many WHERE id = 5")

    with pytest.raises(DivergenceError, match=rf"update of {MANY} row\(s\) in public\.many found {MANY - 1}"):
        await applier.apply(*(update(many, str(n), "new") for n in range(1, MANY + 1)), insert(few, "3", "3"))
    await applier.close()

    assert applier.rows("SELECT * FROM few ORDER BY id") == [(1, 1), (2, 2)]
    assert applier.progress() == START


async def test_few_rows_that_are_large_go_through_staging(applier: Applier) -> None:
    """Their parameters would be copied as a whole several times."""
    many = await applier.relation("many")

    await applier.apply(update(many, "1", "x" * (writer._LITTLE + 1)))
    assert applier.rows(STAGES) == [(1,)]

    assert applier.rows("SELECT length(v) FROM many WHERE id = 1") == [(writer._LITTLE + 1,)]
