"""The cutover on real servers, its worker a stand-in that applies markers only (tests/fixtures/streaming.py)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from bootstrap.fingerprint import read_app
from replicator import control
from replicator.config import Settings
from replicator.cutover import CutoverReport, abort, cutover
from replicator.cutover.obstacle import ObstructedError
from replicator.cutover.plan import Step
from replicator.cutover.switch import Switch
from replicator.errors import CommandBusyError, CutoverError, ServerUnavailableError, Side
from replicator.exclusive import only_command
from replicator.model import Phase
from replicator.postgres import Connection, connected
from tests.fixtures.databases import Database, drop, new_target
from tests.fixtures.streaming import streaming
from tests.fixtures.worker import phase

_TABLES = """
CREATE TABLE parents (id serial PRIMARY KEY, name text);
CREATE TABLE children (id int PRIMARY KEY, parent_id int);
"""
_FOREIGN_KEY = (
    "FK CONSTRAINT",
    "children children_parent_fkey",
    "ALTER TABLE ONLY public.children\n"
    "    ADD CONSTRAINT children_parent_fkey FOREIGN KEY (parent_id) REFERENCES public.parents(id);",
)
_TRIGGER = (
    "TRIGGER",
    "children stamp",
    "CREATE TRIGGER stamp BEFORE INSERT ON public.children FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger();\n\nALTER TABLE public.children DISABLE TRIGGER stamp;",
)
_POLICIES = [
    ("ROW SECURITY", "parents", "ALTER TABLE public.parents ENABLE ROW LEVEL SECURITY;"),
    ("POLICY", "parents mine", "CREATE POLICY mine ON public.parents USING ((name = CURRENT_USER));"),
]
_FOREIGN_ROLE = ("POLICY", "parents theirs", "CREATE POLICY theirs ON public.parents TO nobody_has_this USING (true);")


def _both(source: Database, target: Database, statements: str = _TABLES) -> None:
    source.execute(statements)
    target.execute(statements)


async def _cutover(settings: Settings, **options: Any) -> CutoverReport:
    return await cutover(settings, print, **options)


def _refuses_writes(source: Database, message: str = "this database has moved") -> None:
    for write in ("INSERT INTO parents (name) VALUES ('x')", "DELETE FROM children", "TRUNCATE parents"):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match=message):
            source.execute(write)


def _takes_writes(source: Database) -> None:
    source.execute("INSERT INTO parents (name) VALUES ('x')")


# --- the whole of it --------------------------------------------------------------------------------------------------


async def test_after_a_cutover_the_source_says_where_the_database_went(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target) as settings:
        report = await _cutover(settings)
        assert phase(target) is Phase.DONE
    _refuses_writes(source, f"moved to 127.0.0.1:{target.server.port}/{target.name}")
    assert report.downtime_seconds is not None
    assert 0 < report.downtime_seconds < 10
    assert [item.step for item in report.steps] == [step.value for step in Step]
    assert (report.left_out, report.unfinished) == ((), ())


async def test_what_had_to_wait_arrives(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target, deferred=[_FOREIGN_KEY, _TRIGGER, *_POLICIES]) as settings:
        await _cutover(settings)
    assert target.fetch("SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f'") == [
        ("children_parent_fkey", True)
    ]
    assert target.fetch("SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal") == [("stamp", "D")]
    assert target.fetch("SELECT polname FROM pg_policy") == [("mine",)]
    assert target.value("SELECT relrowsecurity FROM pg_class WHERE relname = 'parents'")


async def test_it_works_from_postgresql_15_on(source_15: Database, target: Database) -> None:
    _both(source_15, target, _PARTITIONED)
    async with streaming(source_15, target, deferred=[_PARTITIONED_KEY]) as settings:
        await _cutover(settings)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        source_15.execute("DELETE FROM parts_2a")


async def test_running_it_again_changes_nothing(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target, deferred=[_FOREIGN_KEY]) as settings:
        first = await _cutover(settings)
        again = await _cutover(settings)
    assert again.downtime_seconds == first.downtime_seconds
    assert again.steps == ()


async def test_a_rehearsal_changes_nothing(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target, deferred=[_FOREIGN_KEY]) as settings:
        report = await _cutover(settings, rehearse=True)
        assert phase(target) is Phase.STREAMING
    assert report.rehearsed
    assert report.drain_seconds is not None
    _takes_writes(source)
    assert target.fetch("SELECT FROM pg_constraint WHERE contype = 'f'") == []
    assert source.fetch("SELECT FROM pg_namespace WHERE nspname = 'replicator_fence'") == []


# --- sequences --------------------------------------------------------------------------------------------------------

_SEQUENCES = """
CREATE TABLE parents (id serial PRIMARY KEY, name text);
CREATE TABLE children (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, other int GENERATED BY DEFAULT AS IDENTITY);
CREATE SEQUENCE "Free Numbers" INCREMENT 5 CACHE 10;
CREATE SEQUENCE countdown INCREMENT -1 MINVALUE -1000 MAXVALUE 10 START 10;
CREATE SEQUENCE never;
CREATE SEQUENCE set_not_called AS smallint CYCLE;
CREATE SCHEMA only_sequences; CREATE SEQUENCE only_sequences.s;
"""


async def test_sequences_of_all_kinds_give_what_the_source_would_have_given(source: Database, target: Database) -> None:
    _both(source, target, _SEQUENCES)
    source.execute(
        "INSERT INTO parents (name) SELECT 'x' FROM generate_series(1, 7);"
        "INSERT INTO children DEFAULT VALUES; INSERT INTO children DEFAULT VALUES;"
        """SELECT nextval('"Free Numbers"'); SELECT nextval('countdown'), nextval('countdown');"""
        "SELECT setval('set_not_called', 77, false); SELECT nextval('only_sequences.s')"
    )
    names = [
        "parents_id_seq", "children_id_seq", "children_other_seq", '"Free Numbers"', "countdown", "never",
        "set_not_called", "only_sequences.s",
    ]  # fmt: skip
    async with streaming(source, target) as settings:
        rehearsal = await _cutover(settings, rehearse=True)
        report = await _cutover(settings)
    for name in names:
        query = f"SELECT last_value, is_called FROM {name}"
        assert target.fetch(query) == source.fetch(query), name
        assert target.fetch(f"SELECT nextval('{name}')") == source.fetch(f"SELECT nextval('{name}')"), name
    assert report.sequences == rehearsal.sequences == len(names)


# --- what stands in the way -------------------------------------------------------------------------------------------


async def test_a_statement_that_the_target_refuses_is_found_before_the_fence(
    source: Database, target: Database
) -> None:
    _both(source, target)
    async with streaming(source, target, deferred=[_FOREIGN_ROLE, _FOREIGN_KEY]) as settings:
        with pytest.raises(CutoverError, match=r"policy public.parents theirs.*nobody_has_this"):
            await _cutover(settings)
        assert phase(target) is Phase.STREAMING
        _takes_writes(source)
        report = await _cutover(settings, omit_failing=True)
    assert "theirs" in report.left_out[0]
    assert target.value("SELECT convalidated FROM pg_constraint WHERE contype = 'f'")
    assert target.fetch("SELECT FROM pg_policy") == []


async def test_without_a_worker_nothing_is_fenced(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target, works=False, lease_timeout=2) as settings:
        target.execute("UPDATE replicator.worker SET heartbeat_at = now() - interval '1 hour'")
        with pytest.raises(CutoverError, match="no worker has given a sign of life"):
            await _cutover(settings)
    _takes_writes(source)


async def test_a_worker_that_does_not_catch_up_leaves_the_source_open(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target, works=False, cutover_timeout=1) as settings:
        with pytest.raises(CutoverError, match=r"did not catch up within 0.5 s.*the source takes writes"):
            await _cutover(settings)
    _takes_writes(source)


async def test_a_table_that_was_created_meanwhile_stops_the_cutover(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target) as settings:
        source.execute("CREATE TABLE later (id int PRIMARY KEY)")
        with pytest.raises(CutoverError, match=r"public.later was created"):
            await _cutover(settings)


async def test_an_unlogged_table_is_left_out_and_said_so(source: Database, target: Database) -> None:
    _both(source, target, _TABLES + "CREATE UNLOGGED TABLE cache (id int PRIMARY KEY);")
    async with streaming(source, target) as settings:
        report = await _cutover(settings)
    assert report.left_out == ("table public.cache",)


async def test_a_partitioned_table_that_was_excluded_is_left_out_with_all_its_partitions(
    source: Database, target: Database
) -> None:
    partitioned = (
        "CREATE TABLE odd (id int) PARTITION BY LIST (id); CREATE TABLE odd_1 PARTITION OF odd FOR VALUES IN (1);"
        "CREATE TABLE odd_2 PARTITION OF odd (PRIMARY KEY (id)) FOR VALUES IN (2);"
    )
    _both(source, target, _TABLES + partitioned)
    async with streaming(source, target, keyless="exclude") as settings:
        report = await _cutover(settings)
    assert report.left_out == ("table public.odd_1", "table public.odd_2")


async def test_an_update_of_an_insert_only_table_stops_the_cutover(source: Database, target: Database) -> None:
    _both(source, target, _TABLES + "CREATE TABLE log (line text);")
    source.execute("INSERT INTO log VALUES ('a')")
    async with streaming(source, target, keyless="insert-only") as settings:
        await _cutover(settings, rehearse=True)
        source.execute("UPDATE log SET line = 'b'; SELECT pg_stat_force_next_flush()")
        with pytest.raises(CutoverError, match=r"public.log is replicated for inserts only"):
            await _cutover(settings)
        report = await _cutover(settings, omit_failing=True)
    assert "public.log" in report.left_out[0]


async def test_law_4_an_update_of_an_insert_only_table_just_before_the_fence_stops_the_cutover(
    source: Database, target: Database
) -> None:
    """Given a session that has just reported its counts, when it updates and idles, then its update is seen."""
    _both(source, target, _TABLES + "CREATE TABLE log (line text);")
    source.execute("INSERT INTO log VALUES ('a')")
    async with streaming(source, target, keyless="insert-only", cutover_timeout=30) as settings:
        ready = asyncio.Event()
        with psycopg.connect(source.dsn) as writer, psycopg.connect(source.dsn, autocommit=True) as session:
            writer.execute("INSERT INTO children VALUES (1)")  # the fence waits for it
            running = asyncio.create_task(cutover(settings, lambda line: ready.set() if "ready" in line else None))
            await ready.wait()
            session.execute("SELECT pg_stat_force_next_flush()")
            session.execute("INSERT INTO parents (name) VALUES ('counted')")
            session.execute("UPDATE log SET line = 'b'")
            writer.commit()
            with pytest.raises(CutoverError, match=r"public.log is replicated for inserts only"):
                await running


async def test_law_4_a_table_that_is_made_while_statistics_are_awaited_stops_the_cutover(
    source: Database, target: Database
) -> None:
    """Given an insert-only table, whose statistics a reader keeps open, when a table is made inside the fence and
    gets a row, then nothing is switched without them."""
    _both(source, target, _TABLES + "CREATE TABLE log (line text);")
    async with streaming(source, target, keyless="insert-only", cutover_timeout=30) as settings:
        drained = asyncio.Event()
        with psycopg.connect(source.dsn) as reader:
            reader.execute("SELECT count(*) FROM log")
            running = asyncio.create_task(
                cutover(settings, lambda line: drained.set() if line.startswith("sequences") else None)
            )
            async with asyncio.timeout(20):
                await drained.wait()
            await asyncio.sleep(1)
            assert not running.done()
            source.execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)")
            with pytest.raises(CutoverError, match=r"public\.late was created on the source"):
                await running
    _takes_writes(source)


@pytest.mark.parametrize(
    ("drop", "statement"),
    [
        ("DROP INDEX parents_name", "CREATE INDEX parents_name ON public.parents USING btree (name)"),
        (
            "ALTER TABLE parents DROP CONSTRAINT parents_name_key",
            "ALTER TABLE public.parents ADD CONSTRAINT parents_name_key UNIQUE (name)",
        ),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'parents_lower'::regclass",
            "DROP INDEX public.parents_lower; "
            "CREATE UNIQUE INDEX parents_lower ON public.parents USING btree (lower(name))",
        ),
        (
            "DROP INDEX parts_name; CREATE INDEX parts_name ON ONLY parts (name); CREATE INDEX ON part (name)",
            "DROP INDEX public.parts_name; CREATE INDEX parts_name ON public.parts USING btree (name)",
        ),
    ],
)
async def test_law_4_an_index_that_the_target_lacks_stops_the_cutover_with_the_statement(
    source: Database, target: Database, drop: str, statement: str
) -> None:
    """Given a key or index that somebody has dropped on the target, or that is not valid there, then it is named."""
    _both(
        source,
        target,
        _TABLES + "CREATE INDEX parents_name ON parents (name); ALTER TABLE parents ADD UNIQUE (name);"
        "CREATE UNIQUE INDEX parents_lower ON parents (lower(name));"
        "CREATE TABLE parts (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);"
        "CREATE INDEX parts_name ON parts (name); CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10)",
    )
    async with streaming(source, target) as settings:
        target.execute(drop, superuser=True)
        with pytest.raises(CutoverError, match="no index on the target like") as refused:
            await _cutover(settings, rehearse=True)
        assert statement in refused.value.hint
        target.execute(statement)
        await _cutover(settings)
    _refuses_writes(source)


_DEVIATING = """
CREATE DOMAIN amount AS numeric({}); CREATE TYPE span AS RANGE (subtype = {});
CREATE TABLE priced (id int PRIMARY KEY, a amount, s span, v text COLLATE "{}");
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO ({});
"""


async def test_law_4_what_is_another_one_under_its_name_stops_the_cutover(source: Database, target: Database) -> None:
    """Given a domain, a range, a partition and a column that a deploy has made anew on the source under their names,
    then each is named, with what makes the target's like it: rows may have been rounded there."""
    _both(source, target)
    source.execute(_DEVIATING.format("20, 6", "float8", "C", 100))
    target.execute(_DEVIATING.format("12, 2", "float4", "POSIX", 10))
    async with streaming(source, target) as settings:
        with pytest.raises(CutoverError) as refused:
            await _cutover(settings, rehearse=True)
        assert isinstance(refused.value, ObstructedError)
        told = {o.message.split(" is ")[0]: o.remedy for o in refused.value.obstacles if " on the source" in o.message}
        assert told.keys() == {
            "type public.amount", "type public.span", "partition public.parted_1", "column public.priced.v",
        }  # fmt: skip
        for kind in ("partition public.parted_1", "column public.priced.v"):
            target.execute(told[kind].removeprefix("Run on the target: "))
        target.execute(
            "ALTER DOMAIN amount RENAME TO amount_old; CREATE DOMAIN amount AS numeric(20, 6);"
            "ALTER TABLE priced ALTER a TYPE amount USING a::text::amount; DROP DOMAIN amount_old;"
            "ALTER TYPE span RENAME TO span_old;"
            "CREATE TYPE span AS RANGE (subtype = float8, multirange_type_name = m);"
            "ALTER TABLE priced ALTER s TYPE span USING s::text::span"
        )
        await _cutover(settings)
    _refuses_writes(source)


async def test_a_column_that_is_numbered_otherwise_stops_the_cutover_with_the_statement(
    source: Database, target: Database
) -> None:
    """Given identities that a deploy has made, changed and dropped, then each is named with what makes it so."""
    _both(
        source,
        target,
        "CREATE TABLE made (id int PRIMARY KEY DEFAULT 1); CREATE TABLE gone (id int GENERATED ALWAYS AS IDENTITY);"
        "CREATE TABLE changed (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
    )
    async with streaming(source, target, keyless="exclude") as settings:
        source.execute(
            "ALTER TABLE made ALTER id DROP DEFAULT, ALTER id ADD GENERATED BY DEFAULT AS IDENTITY;"
            "ALTER TABLE gone ALTER id DROP IDENTITY; ALTER TABLE changed ALTER id SET GENERATED BY DEFAULT"
        )
        with pytest.raises(CutoverError) as refused:
            await _cutover(settings, rehearse=True)
        assert isinstance(refused.value, ObstructedError)
        remedies = [o.remedy for o in refused.value.obstacles if "numbers a column otherwise" in o.message]
        assert len(remedies) == 3
        for remedy in remedies:
            target.execute(remedy)
        await _cutover(settings)
    identities = "SELECT attrelid::regclass::text, attidentity::text FROM pg_attribute WHERE attname = 'id'"
    wanted = [("changed", "d"), ("gone", ""), ("made", "d")]
    assert [row for row in sorted(target.fetch(identities)) if row[0] in ("changed", "gone", "made")] == wanted


@pytest.mark.parametrize("keeps", [True, False])
async def test_law_4_an_identity_that_took_over_from_a_serial_goes_on_with_its_own_numbers(
    source: Database, target: Database, *, keeps: bool
) -> None:
    """Given the serial's sequence, which the target has still, then it is not taken for the identity's."""
    _both(source, target, "CREATE TABLE made (id serial PRIMARY KEY)")
    async with streaming(source, target, keyless="exclude") as settings:
        source.execute("ALTER TABLE made ALTER id DROP DEFAULT")
        if not keeps:
            source.execute("DROP SEQUENCE made_id_seq")
        source.execute(
            "ALTER TABLE made ALTER id ADD GENERATED ALWAYS AS IDENTITY (START 500); INSERT INTO made DEFAULT VALUES"
        )
        with pytest.raises(CutoverError) as refused:
            await _cutover(settings, rehearse=True)
        assert isinstance(refused.value, ObstructedError)
        (remedy,) = [o.remedy for o in refused.value.obstacles if "numbers a column otherwise" in o.message]
        target.execute(remedy)
        await _cutover(settings)
    name = source.value("SELECT pg_get_serial_sequence('made', 'id')")
    assert target.value("SELECT pg_get_serial_sequence('made', 'id')") == name
    assert target.value("INSERT INTO made DEFAULT VALUES RETURNING id") == 501
    sequences = "SELECT relname FROM pg_class WHERE relkind = 'S' AND relname ~ '^made' ORDER BY relname"
    assert target.fetch(sequences) == source.fetch(sequences)


async def test_tables_of_schemas_that_are_not_moved_are_left_as_they_are(source: Database, target: Database) -> None:
    """Given a stand-in for a managed table on the target, then its defaults and checks are none of the cutover's."""
    _both(source, target)
    source.execute("CREATE SCHEMA auth; CREATE TABLE auth.users (id int PRIMARY KEY, n int CHECK (n > 0))")
    target.execute("CREATE SCHEMA auth; CREATE TABLE auth.users (id int PRIMARY KEY DEFAULT 7)")
    async with streaming(source, target) as settings:
        async with (
            connected(settings.source, Side.SOURCE, "worker") as ours,
            connected(settings.target, Side.TARGET, "worker") as theirs,
        ):
            seen = await read_app(settings, ours, await control.read_migration(theirs))
            await control.record_step(theirs, "followed", {"fingerprint": seen})
        await _cutover(settings)
    query = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'auth.users'::regclass"
    assert target.value(query) == "7"


async def test_a_subscription_on_the_source_stops_the_cutover(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target) as settings:
        source.execute(
            "CREATE SUBSCRIPTION inbound CONNECTION 'dbname=elsewhere' PUBLICATION p"
            " WITH (connect = false, slot_name = NONE)",
            superuser=True,
        )
        await _cutover(settings, rehearse=True)
        source.execute("UPDATE pg_subscription SET subenabled = true WHERE subname = 'inbound'", superuser=True)
        try:
            with pytest.raises(CutoverError, match="enabled subscription"):
                await _cutover(settings)
        finally:
            source.execute("ALTER SUBSCRIPTION inbound DISABLE", superuser=True)
            source.execute("DROP SUBSCRIPTION inbound", superuser=True)


async def test_tables_of_another_owner_stop_the_cutover(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target) as settings:
        source.execute("ALTER TABLE parents OWNER TO CURRENT_USER", superuser=True)
        source.execute("GRANT ALL ON parents TO postgres", superuser=True)
        with pytest.raises(CutoverError, match=r"does not own public.parents"):
            await _cutover(settings)


async def test_two_cutovers_do_not_meet(source: Database, target: Database) -> None:
    _both(source, target)
    async with (
        streaming(source, target) as settings,
        connected(settings.target, Side.TARGET, "test") as other,
        only_command(other),
    ):
        with pytest.raises(CommandBusyError):
            await _cutover(settings)


async def test_a_writer_that_does_not_end_leaves_the_source_unfenced(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target, cutover_timeout=2) as settings:
        with psycopg.connect(source.dsn) as app:
            app.execute("INSERT INTO parents (name) VALUES ('long')")
            with pytest.raises(CutoverError, match=r"could not get its locks.*the source takes writes"):
                await _cutover(settings)
            app.execute("INSERT INTO parents (name) VALUES ('goes on')")
        assert phase(target) is Phase.STREAMING
    assert source.value("SELECT count(*) FROM parents") == 2


# --- interruptions at every step (law 8) ------------------------------------------------------------------------------


class Crash(BaseException):
    """As if the process had been killed: nothing may be tidied up."""


@asynccontextmanager
async def _dying(monkeypatch: pytest.MonkeyPatch, step: Step, *, recorded: bool) -> AsyncIterator[None]:
    """Die at a step: before it is recorded, or right after; no undoing, as with kill -9."""
    do, record = Switch.do, control.record_step

    async def record_or_die(connection: Any, name: str, detail: Any = None) -> None:
        if name == step.recorded_name and not recorded:
            raise Crash
        await record(connection, name, detail)
        if name == step.recorded_name:
            raise Crash

    async def nothing(*_: Any, **__: Any) -> str:
        return "dead"

    with monkeypatch.context() as patch:
        patch.setattr(control, "record_step", record_or_die)
        patch.setattr("replicator.cutover.run.take_back", nothing)
        with pytest.raises(Crash):
            yield
    assert Switch.do is do


@pytest.mark.parametrize("recorded", [False, True], ids=["before its record", "after its record"])
async def test_a_cutover_that_is_killed_at_every_step_goes_on_where_it_was(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    _both(source, target)
    source.execute("INSERT INTO parents (name) VALUES ('a')")
    async with streaming(source, target, deferred=[_FOREIGN_KEY, _TRIGGER]) as settings:
        for step in Step:
            async with _dying(monkeypatch, step, recorded=recorded):
                await _cutover(settings)
            assert (phase(target) is Phase.DONE) == _is_open(target)
        report = await _cutover(settings)
        assert phase(target) is Phase.DONE
    assert report.downtime_seconds is not None
    assert report.unfinished == ()
    _refuses_writes(source)
    assert target.value("SELECT last_value FROM parents_id_seq") == 1
    assert target.value("SELECT convalidated FROM pg_constraint WHERE contype = 'f'")
    assert target.value("SELECT count(*) FROM replicator.steps WHERE name LIKE 'cutover:%%'") == len(Step)


def _is_open(target: Database) -> bool:
    return target.fetch("SELECT FROM replicator.steps WHERE name = 'cutover:open'") != []


async def test_a_fence_that_lapsed_after_the_point_of_no_return_is_raised_and_drained_anew(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _both(source, target)
    async with streaming(source, target, cutover_timeout=2) as settings:
        async with _dying(monkeypatch, Step.POINT_OF_NO_RETURN, recorded=True):
            await _cutover(settings)
        await asyncio.sleep(2.2)
        _takes_writes(source)  # it has lifted itself, and the app goes on
        with pytest.raises(CutoverError, match="point of no return"):
            await abort(settings)
        await _cutover(settings)
    _refuses_writes(source)
    assert target.value("SELECT last_value FROM parents_id_seq") == 1


async def test_a_rerun_after_the_point_of_no_return_closes_nothing_that_it_cannot_drain(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a fence that lifted itself and a worker that is gone, then the source stays open until one works."""
    _both(source, target)
    async with streaming(source, target, cutover_timeout=1) as settings:
        async with _dying(monkeypatch, Step.POINT_OF_NO_RETURN, recorded=True):
            await _cutover(settings)
        await asyncio.sleep(1.2)
        with monkeypatch.context() as patch:
            patch.setattr("replicator.cutover.switch.require_worker", _no_worker)
            with pytest.raises(CutoverError, match="nobody works"):
                await _cutover(settings)
            _takes_writes(source)
        await _cutover(settings)
    _refuses_writes(source)


async def _no_worker(target: Connection, lease_timeout: float) -> None:
    raise CutoverError("nobody works")


async def test_law_4_a_deploy_after_the_survey_stops_the_cutover(source: Database, target: Database) -> None:
    """Given a fence that waits for a writer, when a policy is made meanwhile, then nothing is switched without it."""
    _both(source, target)
    ready = asyncio.Event()

    def report(line: str) -> None:
        if line.startswith("ready"):
            ready.set()

    async with streaming(source, target) as settings:
        with psycopg.connect(source.dsn) as writer:
            writer.execute("INSERT INTO parents (name) VALUES ('under way')")
            running = asyncio.create_task(cutover(settings, report))
            await ready.wait()
            source.execute("CREATE FUNCTION made_meanwhile() RETURNS int LANGUAGE sql AS 'SELECT 1'")
            writer.commit()
            with pytest.raises(CutoverError, match=r"schema has changed since .* the source takes writes"):
                await running
        _takes_writes(source)
        await _cutover(settings)
    _refuses_writes(source)


async def test_what_is_left_out_is_known_by_its_name(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given statements that were numbered anew after the point of no return, then no other one is left out."""
    _both(source, target)
    async with streaming(source, target, deferred=[_FOREIGN_ROLE, _FOREIGN_KEY]) as settings:
        async with _dying(monkeypatch, Step.SEAL, recorded=True):
            await _cutover(settings, omit_failing=True)
        target.execute("UPDATE replicator.deferred SET position = -position")
        target.execute("UPDATE replicator.deferred SET position = 3 + position")
        report = await _cutover(settings, omit_failing=True)
    assert [line for line in report.left_out if "theirs" in line] == list(report.left_out)
    assert target.fetch("SELECT conname FROM pg_constraint WHERE contype = 'f'") == [("children_parent_fkey",)]


@pytest.mark.parametrize("step", [Step.FENCE, Step.DRAIN, Step.SEQUENCES, Step.CONFIRM])
async def test_a_failure_before_the_point_of_no_return_lifts_the_fence(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    _both(source, target)
    do = Switch.do

    async def fail(self: Switch, current: Step) -> dict[str, Any]:
        detail = await do(self, current)
        if current is step:
            raise CutoverError("something happened")
        return detail

    async with streaming(source, target) as settings:
        with monkeypatch.context() as patch:
            patch.setattr(Switch, "do", fail)
            with pytest.raises(CutoverError, match="something happened; the fence is lifted, the source takes writes"):
                await _cutover(settings)
        _takes_writes(source)
        assert phase(target) is Phase.STREAMING
        assert target.fetch("SELECT name FROM replicator.steps WHERE name LIKE 'cutover:%%'") == []
        await _cutover(settings)


async def test_ctrl_c_before_the_point_of_no_return_lifts_the_fence(source: Database, target: Database) -> None:
    _both(source, target)
    fenced = asyncio.Event()

    def report(line: str) -> None:
        if line.startswith("fenced"):
            fenced.set()

    async with streaming(source, target) as settings:
        running = asyncio.create_task(cutover(settings, report))
        await fenced.wait()
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()  # an impatient operator
        with pytest.raises(asyncio.CancelledError):
            await running
        assert phase(target) is Phase.STREAMING
    _takes_writes(source)


async def test_law_8_nothing_is_undone_where_the_point_of_no_return_was_recorded_without_an_answer(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a connection that is lost after the record, then the source stays fenced, and a rerun goes on."""
    _both(source, target)
    record = control.record_step

    async def lose_the_answer(connection: Any, name: str, detail: Any = None) -> None:
        await record(connection, name, detail)
        if name == Step.POINT_OF_NO_RETURN.recorded_name:
            raise ServerUnavailableError("the connection was lost", side=Side.TARGET)

    async with streaming(source, target) as settings:
        with monkeypatch.context() as patch:
            patch.setattr(control, "record_step", lose_the_answer)
            with pytest.raises(CutoverError, match="the connection was lost; the point of no return is passed"):
                await _cutover(settings)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            source.execute("INSERT INTO parents (name) VALUES ('too late')")
        await _cutover(settings)
    _refuses_writes(source)


async def test_abort_lifts_the_fence_of_a_cutover_that_was_killed(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _both(source, target)
    async with streaming(source, target, cutover_timeout=60) as settings:
        async with _dying(monkeypatch, Step.SEQUENCES, recorded=True):
            await _cutover(settings)
        _refuses_writes(source, "is moving to")
        await abort(settings)
        assert phase(target) is Phase.STREAMING
        _takes_writes(source)
        await abort(settings)


async def test_abort_and_rehearsal_refuse_after_the_end(source: Database, target: Database) -> None:
    _both(source, target)
    async with streaming(source, target) as settings:
        await _cutover(settings)
        with pytest.raises(CutoverError, match="point of no return") as refused:
            await abort(settings)
        assert "`replicator cleanup`, which opens it for writes" in refused.value.hint
        with pytest.raises(CutoverError, match="nothing to rehearse"):
            await _cutover(settings, rehearse=True)
    _refuses_writes(source)


async def test_tampering_with_the_fence_is_noticed_and_undone(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _both(source, target)
    do = Switch.do

    async def tamper(self: Switch, current: Step) -> dict[str, Any]:
        detail = await do(self, current)
        if current is Step.DRAIN:
            source.execute("ALTER TABLE parents DISABLE TRIGGER replicator_fence")
        return detail

    async with streaming(source, target) as settings:
        with monkeypatch.context() as patch:
            patch.setattr(Switch, "do", tamper)
            with pytest.raises(CutoverError, match="altered, so that writes may have passed"):
                await _cutover(settings)
    _takes_writes(source)


# --- finishing --------------------------------------------------------------------------------------------------------


async def test_rows_that_contradict_a_foreign_key_are_told_after_the_switch(source: Database, target: Database) -> None:
    _both(source, target)
    target.execute("INSERT INTO children VALUES (1, 404)")
    async with streaming(source, target, deferred=[_FOREIGN_KEY]) as settings:
        report = await _cutover(settings)
        assert phase(target) is Phase.DONE
        assert len(report.unfinished) == 1
        assert "children_parent_fkey" in report.unfinished[0]
        target.execute("DELETE FROM children")
        again = await _cutover(settings)
    assert again.unfinished == ()
    assert target.value("SELECT convalidated FROM pg_constraint WHERE contype = 'f'")


_VIEWS = """
CREATE MATERIALIZED VIEW z_first AS SELECT count(*) AS n FROM parents WITH NO DATA;
CREATE VIEW between AS SELECT n FROM z_first;
CREATE MATERIALIZED VIEW a_second AS SELECT n + 1 AS n FROM between WITH NO DATA;
"""


async def test_materialized_views_are_refreshed_in_the_order_of_their_needs(source: Database, target: Database) -> None:
    _both(source, target, _TABLES + _VIEWS)
    async with streaming(source, target) as settings:
        target.execute("INSERT INTO parents (name) VALUES ('applied late')")
        report = await _cutover(settings)
    assert report.unfinished == ()
    assert target.value("SELECT n FROM a_second") == 2


_PARTITIONED = """
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE parts (id int, parent_id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (id);
CREATE TABLE parts_2a PARTITION OF parts_2 FOR VALUES FROM (10) TO (50);
CREATE TABLE hollow (id int PRIMARY KEY) PARTITION BY RANGE (id);
INSERT INTO parents VALUES (1); INSERT INTO parts VALUES (1, 1), (11, 1);
"""
_PARTITIONED_KEY = (
    "FK CONSTRAINT",
    "parts parts_parent_fkey",
    "ALTER TABLE public.parts\n"
    "    ADD CONSTRAINT parts_parent_fkey FOREIGN KEY (parent_id) REFERENCES public.parents(id) ON DELETE CASCADE;",
)
_HOLLOW_KEY = (
    "FK CONSTRAINT",
    "hollow hollow_fkey",
    "ALTER TABLE public.hollow\n    ADD CONSTRAINT hollow_fkey FOREIGN KEY (id) REFERENCES public.parents(id);",
)
_COMMENT = ("COMMENT", "CONSTRAINT", "COMMENT ON CONSTRAINT parts_parent_fkey ON public.parts IS 'kept';")


@pytest.mark.parametrize("major", [17, 18])
async def test_foreign_keys_of_partitioned_tables_arrive_on_the_root(
    source: Database, source_server: Any, target_server: Any, major: int
) -> None:
    target = new_target(source_server if major == 17 else target_server)
    try:
        _both(source, target, _PARTITIONED)
        async with streaming(source, target, deferred=[_PARTITIONED_KEY, _HOLLOW_KEY, _COMMENT]) as settings:
            report = await _cutover(settings)
        assert report.unfinished == ()
        assert target.fetch(
            "SELECT conrelid::regclass::text, conparentid = 0, convalidated FROM pg_constraint"
            " WHERE contype = 'f' AND confrelid = 'parents'::regclass AND conrelid <> 0 ORDER BY 1"
        ) == [
            ("hollow", True, True),
            ("parts", True, True),
            ("parts_1", False, True),
            ("parts_2", False, True),
            ("parts_2a", False, True),
        ]
        assert (
            target.value(
                "SELECT obj_description(oid) FROM pg_constraint WHERE conname = 'parts_parent_fkey' AND conparentid = 0"
            )
            == "kept"
        )
    finally:
        drop(target)
