"""Laws 1, 4 and 9 of the applying side: what is refused leaves nothing behind, and is named without its values."""

from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest

from replicator import control
from replicator.errors import (
    ApplyError,
    DivergenceError,
    FencedError,
    ReplicatorError,
    ServerUnavailableError,
    Side,
    TransientError,
)
from replicator.lsn import Lsn
from replicator.model import Change, Relation, ReplicaIdentity
from replicator.postgres import connected
from tests.fixtures.applying import START, Applier
from tests.fixtures.changes import delete, insert, truncate, update
from tests.fixtures.proxy import ProxyMaker

ROWS = "SELECT * FROM t ORDER BY id"
FOUND = [(1, "one"), (2, "two")]
SECRET = "a-secret-value"


async def given_table(applier: Applier) -> Relation:
    applier.execute("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'one'), (2, 'two')")
    return await applier.relation("t")


def assert_names_no_value(error: ReplicatorError) -> None:
    assert SECRET not in f"{error!r} {error} {error.hint}"
    assert error.__cause__ is None


def assert_nothing_happened(applier: Applier, progress: int = START) -> None:
    """Seen from another session, while the worker's own one may still be open."""
    assert applier.rows(ROWS) == FOUND
    assert applier.progress() == progress


# --- law 1: progress and epoch ----------------------------------------------------------------------------------------


async def test_law_1_a_worker_whose_epoch_is_another_rolls_back(applier: Applier) -> None:
    t = await given_table(applier)
    await applier.open()
    applier.execute("UPDATE replicator.progress SET epoch = gen_random_uuid()")

    with pytest.raises(FencedError):
        await applier.apply(insert(t, "3", SECRET), update(t, "1", SECRET), delete(t, key=["2", None]))

    await applier.close()
    assert_nothing_happened(applier)


async def test_law_1_a_worker_whose_lease_was_taken_rolls_back(applier: Applier) -> None:
    t = await given_table(applier)
    await applier.open()
    async with connected(applier.database.dsn, Side.TARGET, "test") as connection:
        await control.take_lease(connection, uuid4())

    with pytest.raises(FencedError):
        await applier.apply(insert(t, "3", SECRET))

    await applier.close()
    assert_nothing_happened(applier)


async def test_law_1_progress_that_somebody_moved_rolls_back(applier: Applier) -> None:
    t = await given_table(applier)
    await applier.open()
    applier.execute("UPDATE replicator.progress SET lsn = '0/FFFF'")

    with pytest.raises(FencedError):
        await applier.apply(insert(t, "3", SECRET))

    await applier.close()
    assert_nothing_happened(applier, 0xFFFF)


async def test_law_1_pieces_that_were_applied_roll_back_with_the_last_one(applier: Applier) -> None:
    t = await given_table(applier)
    await applier.run_piece(insert(t, "3", SECRET), lsn=2000)
    await applier.run_piece(update(t, "1", SECRET), lsn=2000)
    applier.execute("UPDATE replicator.progress SET epoch = gen_random_uuid()")

    with pytest.raises(FencedError):
        await applier.finish_pieces(delete(t, key=["2", None]), lsn=2000)

    await applier.close()
    assert_nothing_happened(applier)


async def test_law_1_an_idle_advance_of_a_fenced_worker_is_refused(plain_applier: Applier) -> None:
    target = await plain_applier.open()
    plain_applier.execute("UPDATE replicator.progress SET epoch = gen_random_uuid()")

    with pytest.raises(FencedError):
        await target.advance(Lsn(5000))

    assert plain_applier.progress() == START


async def test_law_1_a_transaction_from_before_progress_is_not_applied_again(applier: Applier) -> None:
    """A table without a key would take its rows twice, and nothing would tell."""
    applier.execute("CREATE TABLE t (id int, a text); INSERT INTO t VALUES (1, 'one'), (2, 'two')")
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)
    applied = applier.transaction(insert(t, "3", "three"))
    await applier.apply_batch(applied)

    with pytest.raises(ReplicatorError, match="0/454"):
        await applier.apply_batch(applied)

    await applier.close()
    assert applier.rows(ROWS) == [*FOUND, (3, "three")]


# --- law 4: divergence ------------------------------------------------------------------------------------------------


DIVERGENT: dict[str, tuple[str, Callable[[Relation], Change]]] = {
    "update": ("update", lambda t: update(t, "3", SECRET)),
    "move": ("update", lambda t: update(t, "4", SECRET, key=["3", None])),
    "delete": ("delete", lambda t: delete(t, key=["3", None])),
    "insert": ("insert", lambda t: insert(t, "1", SECRET)),
    "move onto another": ("update", lambda t: update(t, "1", SECRET, key=["2", None])),
}


@pytest.mark.parametrize("case", DIVERGENT)
async def test_law_4_a_change_that_does_not_fit_stops_and_commits_nothing(applier: Applier, case: str) -> None:
    t = await given_table(applier)
    operation, change = DIVERGENT[case]

    with pytest.raises(DivergenceError, match=rf"{operation}.* public\.t .*0/44C to 0/454$") as caught:
        await applier.apply(insert(t, "9", SECRET), change(t))

    assert_names_no_value(caught.value)
    assert_nothing_happened(applier)
    await applier.close()
    assert_nothing_happened(applier)


@pytest.mark.parametrize("operation", ["update", "delete"])
async def test_law_4_a_keyless_image_that_is_not_there_stops(applier: Applier, operation: str) -> None:
    applier.execute("CREATE TABLE t (id int, a text); INSERT INTO t VALUES (1, 'one'), (2, 'two')")
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)
    old = ["1", SECRET]
    change = update(t, "1", "x", old=old) if operation == "update" else delete(t, old=old)

    with pytest.raises(DivergenceError, match=r"public\.t .*0/454") as caught:
        await applier.apply(delete(t, old=["1", "one"]), change)

    assert_names_no_value(caught.value)
    assert_nothing_happened(applier)


async def test_law_4_a_divergence_in_a_piece_names_its_transaction(plain_applier: Applier) -> None:
    t = await given_table(plain_applier)

    with pytest.raises(DivergenceError, match=r"in transaction 0/7D0$"):
        await plain_applier.run_piece(update(t, "3", SECRET), lsn=2000)


async def test_law_4_the_count_is_of_rows_not_of_statements(applier: Applier) -> None:
    t = await given_table(applier)
    applier.execute("INSERT INTO t SELECT n, '' FROM generate_series(100, 200) n WHERE n <> 150")

    changes: list[Change] = [update(t, str(n), SECRET) for n in range(100, 201)]

    with pytest.raises(DivergenceError, match=r"update of 101 row\(s\) in public\.t found 100"):
        await applier.apply(*changes)


# --- law 4: other refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "change", "named"),
    [
        (f"CHECK (a <> '{SECRET}')", "insert", "t_a_check"),
        (f"CHECK (a <> '{SECRET}')", "update", "t_a_check"),
        ("NOT NULL", "null", "a"),
        ('COLLATE "C"', "wrong type", "InvalidTextRepresentation"),
        ('COLLATE "C"', "too long", "StringDataRightTruncation"),
    ],
)
async def test_law_4_other_refusals_name_table_and_constraint(
    applier: Applier, refusal: str, change: str, named: str
) -> None:
    applier.execute(f"CREATE TABLE t (id int PRIMARY KEY, a text {refusal}, n int, v varchar(3))")
    applier.execute("INSERT INTO t VALUES (1, 'one', 1)")
    t = await applier.relation("t")
    changes: dict[str, Change] = {
        "insert": insert(t, "2", SECRET, None, None),
        "update": update(t, "1", SECRET, None, None),
        "null": update(t, "1", None, None, None),
        "wrong type": insert(t, "2", "x", SECRET, None),
        "too long": insert(t, "2", "x", None, SECRET),
    }

    with pytest.raises(ApplyError, match=rf"public\.t.*{named}.*0/454") as caught:
        await applier.apply(changes[change])

    assert not caught.value.retryable
    assert_names_no_value(caught.value)
    assert applier.rows("SELECT id, a FROM t") == [(1, "one")]


async def test_law_4_a_refused_truncate_names_its_tables(plain_applier: Applier) -> None:
    t = await given_table(plain_applier)
    plain_applier.execute("CREATE TABLE u (id int REFERENCES t)")

    with pytest.raises(ApplyError, match=r"truncate of public\.t: .*0/454"):
        await plain_applier.apply(truncate(t))

    assert_nothing_happened(plain_applier)


async def test_a_lock_that_is_not_granted_in_time_is_worth_another_try(applier: Applier) -> None:
    t = await given_table(applier)
    await (await applier.open())._connection.execute("SET lock_timeout = '50ms'")

    with psycopg.connect(applier.database.dsn) as other:
        other.execute("LOCK TABLE t")
        with pytest.raises(TransientError, match="55P03") as caught:
            await applier.apply(insert(t, "3", SECRET))

    assert caught.value.retryable
    assert_nothing_happened(applier)


# --- lost connections -------------------------------------------------------------------------------------------------

_END_WORKER = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE application_name = 'replicator worker apply' AND datname = current_database()"
)


async def test_a_session_that_ends_before_the_commit_leaves_nothing(applier: Applier) -> None:
    t = await given_table(applier)
    await applier.run_piece(insert(t, "3", SECRET), update(t, "1", SECRET), lsn=2000)
    assert applier.rows(_END_WORKER) == [(True,)]

    with pytest.raises(ServerUnavailableError) as caught:
        await applier.finish_pieces(delete(t, key=["2", None]), lsn=2000)

    assert caught.value.retryable
    assert_names_no_value(caught.value)
    assert_nothing_happened(applier)


async def test_a_session_that_ends_between_batches_is_worth_another_try(applier: Applier) -> None:
    t = await given_table(applier)
    await applier.apply(update(t, "1", "one"))
    progress = applier.progress()
    assert applier.rows(_END_WORKER) == [(True,)]

    with pytest.raises(ServerUnavailableError):
        await applier.apply(insert(t, "3", SECRET))

    assert_nothing_happened(applier, progress)


async def test_law_1_a_commit_whose_answer_was_lost_is_not_applied_twice(
    applier: Applier, make_proxy: ProxyMaker
) -> None:
    t = await given_table(applier)
    proxy = make_proxy(applier.database.server.port)
    applier.dsn = proxy.dsn(applier.database.dsn)
    await applier.open()
    applied = applier.transaction(insert(t, "3", "three"))
    proxy.lose_next_commit()

    with pytest.raises(ServerUnavailableError):
        await applier.apply_batch(applied)

    assert proxy.lost_answers == 1
    target = await applier.open()
    assert target.progress == applied.end_lsn == applier.progress()
    await applier.apply(update(t, "3", "four"))
    assert applier.rows(ROWS) == [*FOUND, (3, "four")]
