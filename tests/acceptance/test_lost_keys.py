"""A table loses its key while the worker streams: the app goes on working, and so does the stream (laws 4 and 5)."""

import psycopg
import pytest

from replicator.model import Phase
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.migration import differences
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker, WorkerMaker, run_command, wait_caught_up, wait_for_phase

INTERVALS = {"schema_interval": 0.3, "recheck_interval": 0.5, "confirm_delay": 0}
SCHEMA = """
CREATE TABLE notes (id int CONSTRAINT notes_key PRIMARY KEY, body text);
INSERT INTO notes SELECT n, 'note ' || n FROM generate_series(1, 20) n
"""


def start(worker: Worker, target: Database) -> None:
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)


def wait_until_the_app_may(source: Database, update: str) -> None:
    """Until the worker has seen the change, the source refuses; an app tries again."""

    def done() -> bool:
        try:
            source.execute(update)
        except psycopg.errors.ObjectNotInPrerequisiteState:
            return False
        return True

    wait_until(done, timeout=20, what="the app's update")


def test_under_full_the_stream_goes_on_and_asks_only_when_rows_contradict_the_old_key(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given REPLICATOR_KEYLESS=full, when a key is dropped, then every row arrives, equal ones in the end, too."""
    source.execute(SCHEMA)
    worker = make_worker(settings_for(source, target, keyless="full", **INTERVALS))
    start(worker, target)

    source.execute("UPDATE notes SET body = 'before' WHERE id = 1; ALTER TABLE notes DROP CONSTRAINT notes_key")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        source.execute("UPDATE notes SET body = 'too soon' WHERE id = 2")
    source.execute("INSERT INTO notes VALUES (21, 'new')")
    wait_until_the_app_may(source, "UPDATE notes SET body = 'after' WHERE id IN (3, 21)")
    wait_caught_up(source, target, worker)
    assert differences(source, target) == []

    source.execute("INSERT INTO notes VALUES (50, 'twice'), (50, 'twice'); INSERT INTO notes VALUES (5, 'again')")
    source.execute("UPDATE notes SET body = 'once' WHERE ctid = (SELECT min(ctid) FROM notes WHERE id = 50)")
    wait_until(lambda: "waiting until" in worker.log, what="a pause")
    hint = target.value("SELECT error->>'hint' FROM replicator.migration")
    assert (
        hint == 'Run on the target: ALTER TABLE "public"."notes" DROP CONSTRAINT "notes_key"; '
        "the worker goes on by itself then."
    )
    target.execute("ALTER TABLE notes DROP CONSTRAINT notes_key")
    wait_caught_up(source, target, worker)
    assert differences(source, target) == []
    done = run_command(worker.settings, "cutover")
    assert done.returncode == 0, done.stderr


def test_law_4_under_full_rows_that_swap_what_was_their_key_are_not_taken_for_one_another(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a key that the source has dropped, when two rows swap its values, then both arrive as they are."""
    source.execute(SCHEMA)
    worker = make_worker(settings_for(source, target, keyless="full", **INTERVALS))
    start(worker, target)
    source.execute("ALTER TABLE notes DROP CONSTRAINT notes_key")
    wait_until_the_app_may(source, "UPDATE notes SET body = 'after' WHERE id = 3")

    source.execute("UPDATE notes SET id = 3 - id WHERE id IN (1, 2)")

    wait_until(lambda: "waiting until" in worker.log, what="a pause")
    target.execute("ALTER TABLE notes DROP CONSTRAINT notes_key")
    wait_caught_up(source, target, worker)
    assert differences(source, target) == []
    assert target.fetch("SELECT body FROM notes WHERE id IN (1, 2) ORDER BY id") == [("note 2",), ("note 1",)]


def test_a_primary_key_over_other_columns_takes_the_place_of_the_old_one(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a key that keeps its name, when it gets other columns, then the target's follows, and all rows arrive."""
    source.execute(SCHEMA + "; ALTER TABLE notes ADD code text NOT NULL DEFAULT gen_random_uuid()")
    worker = make_worker(settings_for(source, target, **INTERVALS))
    start(worker, target)

    source.execute("UPDATE notes SET body = 'before' WHERE id = 1")
    source.execute("ALTER TABLE notes DROP CONSTRAINT notes_key, ADD CONSTRAINT notes_key PRIMARY KEY (code)")
    source.execute("UPDATE notes SET body = 'after' WHERE id = 2; DELETE FROM notes WHERE id = 3")

    key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'notes_key'"
    wait_until(lambda: target.value(key) == "PRIMARY KEY (code)", what="the new key")
    source.execute("INSERT INTO notes VALUES (4, 'the same number', 'new'); UPDATE notes SET id = 5 WHERE code = 'new'")
    wait_caught_up(source, target, worker)
    assert differences(source, target) == []
    assert "waiting until" not in worker.log
