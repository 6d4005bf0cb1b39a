"""Deploys whose columns and checks call functions that name others without their schema, as an app's functions do."""

import psycopg
import pytest

from replicator.model import Phase
from tests.acceptance.cases.shapes import FUNCTIONS
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.migration import differences
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, run_command, wait_caught_up, wait_for_phase


def test_columns_and_checks_by_functions_come_by_themselves(
    source: Database, target: Database, make_worker: WorkerMaker
) -> None:
    """Given such functions, when a deploy adds a column, a default and a check by them, then the target has them."""
    source.execute(FUNCTIONS)
    source.execute("CREATE TABLE words (id int PRIMARY KEY, word text); INSERT INTO words VALUES (1, 'a')")
    settings = settings_for(source, target, schema_interval=0.3, recheck_interval=0.5, confirm_delay=0)
    worker = make_worker(settings)
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)

    source.execute("ALTER TABLE words ADD CONSTRAINT fine CHECK (is_fine(word)), ADD code text DEFAULT next_code()")
    source.execute("INSERT INTO words VALUES (2, 'b')")
    source.execute("ALTER TABLE words ADD loud text GENERATED ALWAYS AS (shouted(word)) STORED")
    source.execute("INSERT INTO words VALUES (3, 'c')")

    wait_caught_up(source, target, worker, timeout=30)
    wait_until(lambda: differences(source, target) == [], what="equal sides")
    assert "waiting until" not in worker.log
    done = run_command(settings, "cutover")
    assert done.returncode == 0, done.stderr
    target.execute("INSERT INTO words VALUES (4, 'd')")
    assert target.fetch("SELECT code LIKE 'code-%', loud FROM words WHERE id = 4") == [(True, "Dforbidden")]
    with pytest.raises(psycopg.errors.CheckViolation):
        target.execute("INSERT INTO words VALUES (5, 'forbidden')")
