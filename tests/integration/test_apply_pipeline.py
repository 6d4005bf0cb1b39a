"""Prepared statements: what the session has prepared serves for the next ones, and is missed by none of them."""

import psycopg
import pytest

from replicator.apply import pipeline
from replicator.apply.pipeline import Pipeline, Statement
from tests.fixtures.applying import Applier
from tests.fixtures.changes import insert, update

INSERT = b"INSERT INTO t VALUES ($1)"


async def test_statements_that_the_session_has_lost_are_prepared_anew(plain_applier: Applier) -> None:
    """Given a batch whose statements are prepared, when the driver deallocates all, then the next one is applied
    once, and row by row."""
    plain_applier.execute("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE)")
    t = await plain_applier.relation("t")
    await plain_applier.apply(insert(t, "1", "1"))
    await plain_applier.target._connection.execute("DEALLOCATE ALL")

    await plain_applier.apply(insert(t, "2", "2"))

    assert plain_applier.rows("SELECT id FROM t ORDER BY id") == [(1,), (2,)]
    assert not plain_applier.target._writers[t].always_stages


async def test_no_more_stay_prepared_than_should(plain_applier: Applier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more tables than statements may stay prepared, when each is written to in turn, twice, then all rows are
    there, and those statements that were used last are prepared."""
    monkeypatch.setattr(pipeline, "_PREPARED", 5)
    relations = []
    for n in range(6):
        plain_applier.execute(f"CREATE TABLE t{n} (id int PRIMARY KEY, v text)")
        relations.append(await plain_applier.relation(f"t{n}"))

    for number in ("1", "2"):
        for t in relations:
            await plain_applier.apply(insert(t, number, "a"))
            await plain_applier.apply(update(t, number, "b"))

    for n in range(6):
        assert plain_applier.rows(f"SELECT * FROM t{n} ORDER BY id") == [(1, "b"), (2, "b")]
    cursor = await plain_applier.target._connection.execute(
        "SELECT statement FROM pg_prepared_statements WHERE name LIKE 'replicator%'"
    )
    kept = [statement for (statement,) in await cursor.fetchall()]
    assert len(kept) == 5
    assert sum('"t5"' in statement for statement in kept) == 2


async def test_the_first_statement_that_fails_is_the_one_that_is_told(plain_applier: Applier) -> None:
    """Given statements of which two would fail, when they run, then the first one's error is raised, and a transaction
    is left that can only be rolled back."""
    plain_applier.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await plain_applier.open()
    session = plain_applier.target._connection
    tried = Pipeline(session)

    with pytest.raises(psycopg.errors.UniqueViolation):
        await tried.begin([Statement(INSERT, [b"1"]), Statement(INSERT, [b"1"]), Statement(b"SELECT 1/0", [])])

    assert session.info.transaction_status is psycopg.pq.TransactionStatus.INERROR
    await session.execute("ROLLBACK")
    assert await tried.begin([Statement(INSERT, [b"2"]), Statement(b"UPDATE t SET id = 3 WHERE id = 4", [])]) == [1, 0]


async def test_a_session_that_is_ended_meanwhile_is_told_as_such(plain_applier: Applier) -> None:
    """Given a statement during which the server ends the session, then its reason is raised, and nobody waits."""
    await plain_applier.open()

    with pytest.raises(psycopg.errors.AdminShutdown):
        await Pipeline(plain_applier.target._connection).begin(
            [Statement(b"SELECT pg_terminate_backend(pg_backend_pid())", []), Statement(b"SELECT 1", [])]
        )


async def test_more_than_the_network_holds_passes_in_both_directions(
    plain_applier: Applier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given megabytes of parameters and of answers, then neither side waits for the other for ever."""
    monkeypatch.setattr(pipeline, "_BYTES_AT_ONCE", 100_000_000)
    await plain_applier.open()
    big = Statement(b"SELECT $1::text || pg_catalog.repeat('x', 1000000)", [b"y" * 1_000_000])

    assert await Pipeline(plain_applier.target._connection).begin([big] * 20) == [1] * 20


async def test_more_statements_than_go_in_one_round_trip(
    plain_applier: Applier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given statements for several round trips, when the session loses those that it has prepared and the first trip
    uses none of them, then all are run once, in their order."""
    monkeypatch.setattr(pipeline, "_AT_ONCE", 2)
    plain_applier.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await plain_applier.open()
    session = plain_applier.target._connection
    tried = Pipeline(session)
    await tried.begin([Statement(INSERT, [b"1"])])
    await session.execute("COMMIT")
    await session.execute("DEALLOCATE ALL")
    del tried._names[b"BEGIN"]  # which would be missed first

    others = [Statement(b"UPDATE t SET id = id WHERE id > $1", [b"%d" % n]) for n in range(3)]
    assert await tried.begin([*others, *(Statement(INSERT, [b"%d" % n]) for n in (2, 3, 4))]) == [1, 0, 0, 1, 1, 1]
    await session.execute("COMMIT")

    assert plain_applier.rows("SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,), (4,)]


async def begun(applier: Applier) -> Pipeline:
    """A pipeline whose session has an open transaction."""
    await applier.open()
    session = applier.target._connection
    await session.execute("BEGIN")
    return Pipeline(session)


async def test_a_statement_that_is_repeated_takes_several_round_trips(
    plain_applier: Applier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given more rows than go in one round trip, megabytes of them, then all are there, and their number is told."""
    monkeypatch.setattr(pipeline, "_AT_ONCE", 2)
    plain_applier.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    tried = await begun(plain_applier)

    query = b"INSERT INTO t VALUES ($1, $2)"
    assert await tried.repeat(query, [[b"%d" % n, b"y" * n * 100_000] for n in range(21)]) == 21
    assert await tried.repeat(query, [[b"21", None]]) == 1
    await plain_applier.target._connection.execute("COMMIT")

    assert plain_applier.rows("SELECT count(*), sum(length(v)) FROM t") == [(22, 21_000_000)]


@pytest.mark.parametrize("bad", [0, 1, 7, 8])
async def test_the_first_row_that_fails_is_told_and_ends_the_repetition(
    plain_applier: Applier, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    """Given a row that fails in the first, a middle or the last round trip, then its error is raised, the transaction
    can only be rolled back, and the session serves on."""
    monkeypatch.setattr(pipeline, "_AT_ONCE", 2)
    plain_applier.execute("CREATE TABLE t (id int CHECK (id >= 0) PRIMARY KEY)")
    tried = await begun(plain_applier)
    session = plain_applier.target._connection

    with pytest.raises(psycopg.errors.CheckViolation):
        await tried.repeat(INSERT, [[b"-1"] if n == bad else [b"%d" % n] for n in range(9)])

    assert session.info.transaction_status is psycopg.pq.TransactionStatus.INERROR
    await session.execute("ROLLBACK")
    assert await tried.begin([Statement(INSERT, [b"2"])]) == [1]


async def test_a_session_that_is_ended_during_a_repetition_is_told_as_such(plain_applier: Applier) -> None:
    """Given rows during which the server ends the session, then its reason is raised, and nobody waits."""
    tried = await begun(plain_applier)

    with pytest.raises(psycopg.errors.AdminShutdown):
        await tried.repeat(b"SELECT pg_terminate_backend($1::int + pg_backend_pid())", [[b"0"]] * 3)
