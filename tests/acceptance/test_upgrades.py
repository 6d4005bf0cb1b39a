"""A migration goes on with a later version of the worker than the one that began it."""

from functools import partial
from typing import Final

import pytest

from tests.fixtures.databases import Database
from tests.fixtures.migration import MigrationMaker
from tests.fixtures.waiting import wait_until

UNKNOWN: Final = ["labels", "computed"]
"""What a version recorded of no shape before it knew of it."""

HALF: Final = "half int GENERATED ALWAYS AS (id / 2) STORED"


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        f"ALTER TABLE notes DROP COLUMN body, ADD COLUMN {HALF.replace('half', 'body')}",
        "ALTER TABLE notes DROP COLUMN half, ADD COLUMN half int GENERATED ALWAYS AS (id / 3) STORED",
    ],
)
def test_shapes_that_an_earlier_version_recorded_are_completed(
    source: Database, target: Database, make_migration: MigrationMaker, change: str
) -> None:
    """Given shapes without enums' values and generated columns, then the worker resumes, and follows what comes."""
    migration = make_migration(source, target, rows=20, recheck_interval=0.5, schema_interval=0.3)
    source.execute(
        f"CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE notes (id int PRIMARY KEY, body text, mood mood, {HALF});"
        "INSERT INTO notes SELECT n, 'note', 'sad' FROM generate_series(1, 50) n"
    )
    migration.start()
    migration.worker.kill()
    target.execute("UPDATE replicator.tables SET shape = shape - %s::text[]", [UNKNOWN])

    migration.worker.start()
    wait_until(partial(_are_complete, target), what="shapes of this version")
    source.execute(change)

    wait_until(lambda: "the table comes again" in migration.worker.log, what="a round")
    migration.finish()


def _are_complete(target: Database) -> bool:
    return target.fetch("SELECT FROM replicator.tables WHERE NOT shape ?& %s::text[]", [UNKNOWN]) == []
