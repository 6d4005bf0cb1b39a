"""Rounds: what changes on the source between the snapshot and the copy, and bootstraps that were cut off."""

import importlib
import itertools
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from bootstrap.copy import Relay
from bootstrap.run import bootstrap
from bootstrap.transfer import Transfer
from monitoring.metrics import Metrics
from replicator.config import MIB
from replicator.errors import CopyError, FencedError, ReplicatorError, ServerUnavailableError, Side, SnapshotLostError
from replicator.model import TableName, TableState
from replicator.worker import run as run_worker
from tests.fixtures.bootstrapping import assert_equal, read_deferred, read_records, run_bootstrap, take_lease
from tests.fixtures.databases import Database, settings_for

BIG = """
CREATE TABLE {0} (id int PRIMARY KEY, v text);
INSERT INTO {0} SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 8000) n;
"""
"""A table of more than 5 MiB, so that it has a job of its own, or several of 1 MiB each."""

SMALL = """
CREATE TABLE small_changed (id int PRIMARY KEY, v text);
CREATE TABLE small_left (id int PRIMARY KEY, v text);
INSERT INTO small_changed VALUES (1, 'a');
INSERT INTO small_left VALUES (1, 'a');
"""

VARIED = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE t (id serial PRIMARY KEY, m mood UNIQUE);
CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE VIEW v AS SELECT id, m FROM t GROUP BY id;
INSERT INTO t (m) VALUES ('sad'), ('ok');
INSERT INTO p VALUES (1);
"""

END_COPY = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^COPY'"
)
END_KEEPER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'replicator worker snapshot'
"""

SLOTS = "SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()"


@pytest.fixture
def before_copy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Do something after the first round's snapshot and before its first chunk."""
    copy = Transfer.copy

    def arrange(disturb: Callable[[], None]) -> None:
        disturbances = [disturb]

        async def disturbed_copy(self: Transfer, jobs: Any) -> frozenset[TableName]:
            if disturbances:
                disturbances.pop()()
            return await copy(self, jobs)

        monkeypatch.setattr(Transfer, "copy", disturbed_copy)

    return arrange


async def test_a_bootstrap_that_is_lost_after_a_while_is_not_over(
    source: Database,
    target: Database,
    before_copy: Callable[[Callable[[], None]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given `replicator bootstrap`, when it loses its snapshot late, then it ends only when all tables are ready."""
    source.execute(BIG.format("big"))
    monkeypatch.setattr("replicator.worker._STEADY", 0)
    before_copy(lambda: source.execute(END_KEEPER, superuser=True))

    settings = settings_for(source, target, split_bytes=MIB)

    await run_worker(settings, stream=False)

    assert {record.state for record in (await read_records(settings)).values()} == {TableState.READY}
    await assert_equal(settings)


class Killed(BaseException):
    """The process ends here: nothing of it runs any more."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """End the first bootstrap when it reaches a function for the ``times``-th time."""

    def arrange(name: str, *, times: int = 1) -> None:
        module, _, attribute = name.rpartition(".")
        original = getattr(importlib.import_module(module), attribute)
        calls = itertools.count(1)

        def reached(*arguments: Any, **options: Any) -> Any:
            if next(calls) == times:
                raise Killed
            return original(*arguments, **options)

        monkeypatch.setattr(name, reached)

    return arrange


def name(table: str) -> TableName:
    return TableName("public", table)


# --- the source changes between the snapshot and the copy -------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["small", "big"])
@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE {0}; INSERT INTO {0} VALUES (1, 'after')",
        "ALTER TABLE {0} ALTER v TYPE bytea USING v::bytea; ALTER TABLE {0} ALTER v TYPE text USING '(' || v || ')'",
        "DROP TABLE {0}; CREATE TABLE {0} (id int PRIMARY KEY, v text); INSERT INTO {0} VALUES (2, 'another table')",
    ],
)
async def test_a_table_emptied_rewritten_or_replaced_comes_again(
    source: Database, target: Database, before_copy: Callable[..., None], change: str, prefix: str
) -> None:
    """Given TRUNCATE, a rewrite or a new table of that name after the snapshot, then COPY's silent nothing is noticed.

    The table gets another round with a later LSN; those beside it stay in the first.
    """
    source.execute(BIG.format("big_changed") + BIG.format("big_left") + SMALL)
    settings = settings_for(source, target, split_bytes=MIB)
    changed = name(f"{prefix}_changed")

    def disturb() -> None:
        source.execute(change.format(changed.name))
        if "DROP" in change:
            publication = target.value("SELECT slot FROM replicator.migration")
            source.execute(f"ALTER PUBLICATION {publication} ADD TABLE {changed.name}")

    before_copy(disturb)

    await run_bootstrap(settings)

    await assert_equal(settings)
    records = await read_records(settings)
    assert {record.state for record in records.values()} == {TableState.READY}
    first_round = records[name("small_left")].snapshot_lsn
    assert records[name("big_left")].snapshot_lsn == first_round
    later = records[changed].snapshot_lsn
    assert later is not None
    assert first_round is not None
    assert later > first_round


async def test_a_table_dropped_meanwhile_is_forgotten(
    source: Database, target: Database, before_copy: Callable[..., None]
) -> None:
    source.execute(
        BIG.format("gone") + "CREATE TABLE gone_too (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY)"
    )
    settings = settings_for(source, target)
    before_copy(lambda: source.execute("DROP TABLE gone, gone_too"))

    await run_bootstrap(settings)

    assert list(await read_records(settings)) == [name("t")]


async def test_writes_after_the_snapshot_are_not_copied(
    source: Database, target: Database, before_copy: Callable[..., None]
) -> None:
    """Law 2: given inserts, updates, deletes and VACUUM after the snapshot, then the copy is as of the snapshot."""
    source.execute(BIG.format("big"))
    settings = settings_for(source, target, split_bytes=MIB)

    def write() -> None:
        source.execute("INSERT INTO big SELECT n, 'new' FROM generate_series(8001, 9000) n")
        source.execute("UPDATE big SET v = 'changed' WHERE id % 3 = 0")
        source.execute("DELETE FROM big WHERE id % 5 = 0")
        source.execute("VACUUM big")

    before_copy(write)

    await run_bootstrap(settings)

    assert target.value("SELECT count(*) FROM big WHERE v = repeat(md5(id::text), 20) AND id <= 8000") == 8000
    assert target.value("SELECT count(*) FROM big") == 8000


# --- bootstraps that were cut off -------------------------------------------------------------------------------------

POINTS = [
    ("bootstrap.start.create_publications", 1),
    ("bootstrap.rounds.create_slot", 1),
    ("bootstrap.rounds.keep_snapshot", 1),
    ("bootstrap.rounds.may_replicate", 1),
    ("bootstrap.schema.make_entries", 2),
    ("bootstrap.rounds.require_empty", 1),
    ("bootstrap.keys.make_entries", 1),
    ("bootstrap.keys.make_entries", 2),
    ("bootstrap.run.make_rest", 1),
    ("bootstrap.run.analyze_roots", 1),
]


@pytest.mark.parametrize(("point", "times"), POINTS)
async def test_a_bootstrap_cut_off_goes_on(
    source: Database,
    target: Database,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: Callable[..., None],
    point: str,
    times: int,
) -> None:
    """Law 8: given a bootstrap that ended at any step, when it runs again, then everything arrives once."""
    monkeypatch.setattr("bootstrap.schema._AT_ONCE", 3)
    source.execute(VARIED + BIG.format("big"))
    settings = settings_for(source, target, index_jobs=1, split_bytes=MIB)
    kill_at(point, times=times)

    with pytest.raises(BaseException) as caught:  # noqa: PT011  # a task group may wrap it
        await run_bootstrap(settings)
    assert "Killed" in repr(caught.value)
    monkeypatch.undo()
    await run_bootstrap(settings)

    await assert_equal(settings)
    assert {record.state for record in (await read_records(settings)).values()} == {TableState.READY}
    assert target.value("SELECT bool_and(indisvalid) FROM pg_index")
    assert target.value("SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
                        "WHERE relnamespace = 'public'::regnamespace") == 5  # fmt: skip
    assert target.fetch("SELECT m::text FROM v ORDER BY id") == [("sad",), ("ok",)]
    assert source.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 1


async def test_copied_tables_stay_and_others_come_again(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an end between the jobs of a round, then whole tables keep their rows, and a split one is emptied first."""
    source.execute(BIG.format("a_whole") + BIG.format("b_split") + BIG.format("b_split2").replace("8000", "16000"))
    settings = settings_for(source, target, split_bytes=6 * MIB, copy_jobs=1)
    copy = Relay.copy
    copied: list[TableName] = []

    async def dying_copy(self: Relay, table: Any, piece: Any, **options: Any) -> Any:
        if len(copied) == 2:
            raise SnapshotLostError("the test ends it here")
        copied.append(table.table)
        return await copy(self, table, piece, **options)

    monkeypatch.setattr(Relay, "copy", dying_copy)
    with pytest.raises(SnapshotLostError):
        await run_bootstrap(settings)
    before = await read_records(settings)
    assert before[name("b_split2")].state is TableState.COPYING
    kept = {table: record for table, record in before.items() if record.state is TableState.READY}
    source.execute("UPDATE b_split2 SET v = 'changed' WHERE id % 2 = 0")
    monkeypatch.undo()

    await run_bootstrap(settings)

    after = await read_records(settings)
    assert {table: after[table] for table in kept} == kept
    assert after[name("b_split2")].snapshot_lsn != before[name("b_split2")].snapshot_lsn
    assert target.value("SELECT count(*) FROM b_split2 WHERE v = 'changed'") == 8000
    await assert_equal(settings)


async def test_a_table_that_was_not_begun_is_never_emptied(source: Database, target: Database) -> None:
    """Law 4: given rows in a target table of the user's own, then they are neither mixed nor removed, ever."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    target.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (7)")
    settings = settings_for(source, target, REPLICATOR_SCHEMA="existing")

    for _ in range(2):
        with pytest.raises(ReplicatorError, match=r"table public\.t is not empty on the target"):
            await run_bootstrap(settings)

    assert target.fetch("SELECT id FROM t") == [(7,)]


# --- connections and leases that are lost -----------------------------------------------------------------------------


async def test_a_source_lost_in_mid_copy_leaves_nothing_half(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a source session that ends in mid-COPY, then the target's COPY fails with it, and a rerun is complete."""
    source.execute(BIG.format("big").replace("8000", "40000"))
    settings = settings_for(source, target)
    chunks = itertools.count()

    def end_at_the_first(self: Any, amount: float = 1) -> None:
        if next(chunks) == 0:
            source.execute(END_COPY, superuser=True)

    monkeypatch.setattr("prometheus_client.Counter.inc", end_at_the_first)
    with pytest.raises(ServerUnavailableError) as caught:
        await run_bootstrap(settings)
    assert caught.value.side is Side.SOURCE
    assert target.value("SELECT count(*) FROM big") == 0
    monkeypatch.undo()

    await run_bootstrap(settings)

    await assert_equal(settings)


async def test_without_the_keeper_nothing_is_copied(
    source: Database, target: Database, before_copy: Callable[..., None]
) -> None:
    """Given a keeper that was lost, then the round ends with a retryable error, never with a copy of something else."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    settings = settings_for(source, target)
    before_copy(lambda: source.execute(END_KEEPER, superuser=True))

    with pytest.raises(SnapshotLostError) as caught:
        await run_bootstrap(settings)
    assert caught.value.retryable
    source.execute("INSERT INTO t VALUES (2)")
    await run_bootstrap(settings)

    await assert_equal(settings)


async def test_a_worker_without_the_lease_copies_nothing(
    source: Database, target: Database, before_copy: Callable[..., None]
) -> None:
    """Law 6: given that another worker takes the lease during a round, then this one ends without a trace."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    settings = settings_for(source, target)
    before_copy(lambda: target.execute("UPDATE replicator.lease SET epoch = gen_random_uuid()"))

    with pytest.raises(FencedError):
        await run_bootstrap(settings)

    assert target.value("SELECT count(*) FROM t") == 0
    await take_lease(settings)
    assert (await read_records(settings))[name("t")].state is TableState.PENDING


async def test_law_4_rows_that_the_target_swallows_are_missed(
    source: Database, target: Database, before_copy: Callable[..., None]
) -> None:
    """Given a trigger that leaves out a row without a word, then the counts of the two sides tell."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)")
    before_copy(
        lambda: target.execute(
            """
            CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql
              AS $$ BEGIN IF NEW.id = 2 THEN RETURN NULL; END IF; RETURN NEW; END $$;
            CREATE TRIGGER swallow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION swallow();
            """
        )
    )

    with pytest.raises(CopyError, match=r"public\.t: the source sent 3 rows, the target took 2"):
        await run_bootstrap(settings_for(source, target))

    assert target.value("SELECT count(*) FROM t") == 0


async def test_law_6_a_worker_without_the_lease_drops_no_slot(
    source: Database, target: Database, kill_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a slot that nobody has recorded, then only who has the lease takes it for an orphan."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    settings = settings_for(source, target)
    kill_at("bootstrap.rounds.keep_snapshot")
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # a task group may wrap it
        await run_bootstrap(settings)
    assert "Killed" in repr(caught.value)
    monkeypatch.undo()
    before = source.fetch(SLOTS)
    assert before

    await take_lease(settings)
    with pytest.raises(FencedError):
        await bootstrap(settings, uuid4(), Metrics())

    assert source.fetch(SLOTS) == before
    await run_bootstrap(settings)
    await assert_equal(settings)


# --- later rounds -----------------------------------------------------------------------------------------------------


async def test_a_table_published_later_comes_with_its_schema(source: Database, target: Database) -> None:
    """Given a new table in the publication, then it is made, copied under a later snapshot, keyed; its key deferred."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    settings = settings_for(source, target)
    await run_bootstrap(settings)
    before = await read_records(settings)
    source.execute("""
        CREATE SCHEMA later;
        CREATE TABLE later.n (id serial PRIMARY KEY, t int REFERENCES t, v text UNIQUE);
        INSERT INTO later.n (t, v) VALUES (1, 'a'), (1, 'b')
    """)
    source.execute(f"ALTER PUBLICATION {target.value('SELECT slot FROM replicator.migration')} ADD TABLE later.n")

    await run_bootstrap(settings)

    await assert_equal(settings)
    after = await read_records(settings)
    assert after[name("t")] == before[name("t")]
    assert after[TableName("later", "n")].state is TableState.READY
    assert target.value("SELECT count(*) FROM pg_indexes WHERE schemaname = 'later'") == 2
    assert target.value("SELECT nextval('later.n_id_seq')") == 1
    assert [item.kind for item in await read_deferred(settings)] == ["FK CONSTRAINT"]


async def test_a_new_partition_comes_with_its_keys(source: Database, target: Database) -> None:
    """Given a partition that is younger than the bootstrap, then it is copied, keyed and attached, indexes included."""
    source.execute("""
        CREATE TABLE p (id int PRIMARY KEY, v text, UNIQUE (id, v)) PARTITION BY RANGE (id);
        CREATE INDEX ON p (v);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        INSERT INTO p VALUES (1, 'a')
    """)
    settings = settings_for(source, target)
    await run_bootstrap(settings)
    source.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20); INSERT INTO p VALUES (11, 'b')")

    await run_bootstrap(settings)

    await assert_equal(settings)
    indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
    assert target.fetch(indexes) == source.fetch(indexes)
    assert target.value("SELECT count(*) FROM p") == 2
    assert target.value("SELECT bool_and(indisvalid) FROM pg_index")


async def test_rows_of_a_large_table_are_visible_to_all_at_once(source: Database, target: Database) -> None:
    """Given a large table, then its pages are marked all-visible: no query has to find that out later."""
    source.execute(BIG.format("big"))

    await run_bootstrap(settings_for(source, target))

    assert target.value("SELECT relallvisible > 0.9 * relpages FROM pg_class WHERE relname = 'big'")


async def test_what_an_interrupted_copy_committed_is_emptied_before_it_comes_again(
    source: Database, target: Database
) -> None:
    """Law 8: given parts of a split table that are committed, when it runs again, then they are not there twice."""
    source.execute("CREATE TABLE t (id int, v text); INSERT INTO t SELECT n, 'x' FROM generate_series(1, 50) n")
    settings = settings_for(source, target, keyless="insert-only")
    await run_bootstrap(settings)
    target.execute("DELETE FROM t WHERE id > 20; UPDATE replicator.tables SET state = 'copying' WHERE name = 't'")

    await run_bootstrap(settings)

    await assert_equal(settings)


async def test_a_table_that_was_replaced_while_the_worker_was_away_comes_again(
    source: Database, target: Database
) -> None:
    """Given another table under the name of one that was copied, then its rows are told apart by its oid."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old'), (2, 'old')")
    settings = settings_for(source, target)
    await run_bootstrap(settings)
    publication = source.value("SELECT pubname FROM pg_publication WHERE pubname !~ 'inserts'")
    source.execute(
        f"""
        DROP TABLE t;
        CREATE TABLE t (id int PRIMARY KEY, v text);
        INSERT INTO t VALUES (1, 'new'), (3, 'new');
        ALTER PUBLICATION {publication} ADD TABLE ONLY t;
        """
    )

    await run_bootstrap(settings)

    await assert_equal(settings)
