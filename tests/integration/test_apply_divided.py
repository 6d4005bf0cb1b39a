"""Batches of which some tables go row by row and others through staging: one transaction all the same (law 1)."""

from collections.abc import Iterable, Sequence

import pytest

from replicator.apply import writer
from replicator.apply.pipeline import Pipeline
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


async def test_long_rows_of_a_large_batch_have_statements_of_their_own(
    applier: Applier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a batch of short and of long rows, with what COPY would escape in both, and one that is longer than a
    parameter should be, when it is applied, then all are as they were sent, and only long ones went one by one."""
    repeated = list[int]()
    repeat = Pipeline.repeat

    async def counted(self: Pipeline, query: bytes, rows: Iterable[Sequence[bytes | None]]) -> int:
        done = await repeat(self, query, rows)
        repeated.append(done)
        return done

    monkeypatch.setattr(Pipeline, "repeat", counted)
    many = await applier.relation("many")
    await applier.apply(*(delete(many, key=[str(n), None]) for n in range(1, MANY + 1)))
    values = ["short \\ \t one", "x" * 2 * writer._LONG + "\n\\N\t", "y" * (writer._LITTLE + 1), "", None]

    await applier.apply(*(insert(many, str(n), values[n % 5]) for n in range(MANY)))

    found = applier.rows("SELECT id % 5, v, count(*) FROM many GROUP BY 1, 2 ORDER BY 1")
    assert found == [(n, value, len(range(n, MANY, 5))) for n, value in enumerate(values)]
    assert repeated == [found[1][2]]
