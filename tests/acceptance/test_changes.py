"""Every kind of change that an application makes arrives, through one migration.

Each kind has tables of its own, named by the test's parameter. A transaction that began before the worker did, and one
that was prepared then, keep the slot waiting at first. The worker's buffer is small, so that large transactions come
in pieces.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import psycopg
import pytest

from replicator.config import MIB
from tests.fixtures.databases import Database
from tests.fixtures.shared import Shared
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker, wait_caught_up

SUBTRANSACTIONS: Final = 10_000
LARGE: Final = 20_000
"""Rows of the large transaction; some MiB."""

Writer = Callable[[Database], None]


# --- what the app does, by table --------------------------------------------------------------------------------------

_ROWS: Final = "SELECT n, 'row ' || n FROM generate_series(1, 50) n"

_NAMES: Final = (
    "old prepared truncated truncated_too emptied_and_filled subtransactions savepoints copied frozen upserted merged "
    "replica foreign_origin messages large cursors modifying_cte"
)
TABLES: Final[Mapping[str, str]] = {
    **dict.fromkeys(_NAMES.split(), "(id int PRIMARY KEY, body text)"),
    "restarted": "(id serial PRIMARY KEY, body text)",
    "referring": "(id int PRIMARY KEY, body text, restarted int REFERENCES restarted)",
}

IN_ONE_SESSION: Final = f"""
-- several at once, amid other changes of the same transaction
BEGIN;
UPDATE truncated SET body = 'before'; INSERT INTO truncated_too VALUES (900, 'before');
TRUNCATE truncated, truncated_too;
INSERT INTO truncated VALUES (1, 'after'); INSERT INTO truncated_too SELECT n, 'after' FROM generate_series(1, 60) n;
COMMIT;
TRUNCATE restarted RESTART IDENTITY CASCADE;
INSERT INTO restarted (body) VALUES ('one'), ('two');
INSERT INTO referring VALUES (1, 'refers', 1);
BEGIN;
TRUNCATE emptied_and_filled;
INSERT INTO emptied_and_filled VALUES (1, 'gone');
TRUNCATE emptied_and_filled;
INSERT INTO emptied_and_filled VALUES (1, 'kept');
SAVEPOINT a; TRUNCATE emptied_and_filled; ROLLBACK TO a;
COMMIT;

DO $$ BEGIN
  FOR n IN 1..{SUBTRANSACTIONS} LOOP
    BEGIN
      INSERT INTO subtransactions VALUES (1000 + n, 'sub');
      IF n % 3 = 0 THEN RAISE EXCEPTION 'rolled back'; END IF;
    EXCEPTION WHEN raise_exception THEN NULL; END;
  END LOOP;
END $$;

BEGIN;
SAVEPOINT a; INSERT INTO savepoints VALUES (100, 'rolled back');
SAVEPOINT b; UPDATE savepoints SET body = 'rolled back'; ROLLBACK TO b;
DELETE FROM savepoints; ROLLBACK TO a;
INSERT INTO savepoints VALUES (100, 'kept'); RELEASE a;
SAVEPOINT c; UPDATE savepoints SET id = 101 WHERE id = 100; RELEASE c;
SAVEPOINT d; DELETE FROM savepoints WHERE id = 101; ROLLBACK TO d;
COMMIT;
BEGIN; DELETE FROM savepoints; ROLLBACK;

INSERT INTO upserted VALUES (1, 'new'), (51, 'new') ON CONFLICT (id) DO UPDATE SET body = upserted.body || '!';
INSERT INTO upserted SELECT n, 'ignored' FROM generate_series(40, 60) n ON CONFLICT DO NOTHING;

MERGE INTO merged USING (SELECT generate_series(30, 70) AS id) s ON merged.id = s.id
  WHEN MATCHED AND s.id % 2 = 0 THEN DELETE
  WHEN MATCHED THEN UPDATE SET body = 'merged'
  WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged');

WITH gone AS (DELETE FROM modifying_cte WHERE id <= 10 RETURNING *), changed AS (
  UPDATE modifying_cte SET id = id + 1000 WHERE id > 40 RETURNING *)
INSERT INTO modifying_cte SELECT id + 100, body FROM gone UNION ALL SELECT id + 100, body FROM changed;

BEGIN;
DECLARE c CURSOR FOR SELECT * FROM cursors ORDER BY id FOR UPDATE;
FETCH 3 FROM c; UPDATE cursors SET body = 'current' WHERE CURRENT OF c;
FETCH 1 FROM c; DELETE FROM cursors WHERE CURRENT OF c;
COMMIT;

BEGIN;
INSERT INTO large SELECT n, repeat(md5(n::text), 4) FROM generate_series(1001, 1000 + {LARGE}) n;
SELECT pg_logical_emit_message(true, 'replicator', 'not ours');
UPDATE large SET body = 'short' WHERE id % 7 = 0;
DELETE FROM large WHERE id % 5 = 0;
SAVEPOINT a; UPDATE large SET body = 'rolled back'; ROLLBACK TO a;
UPDATE large SET id = -id WHERE id % 11 = 0;
COMMIT;
"""


def write_prepared(source: Database) -> None:
    """Other transactions commit while these are prepared; what one of them did is decoded where it is committed."""
    source.execute(
        "BEGIN; UPDATE prepared SET body = 'committed' WHERE id = 1; SAVEPOINT a; DELETE FROM prepared; ROLLBACK TO a;"
        "DELETE FROM prepared WHERE id = 2; PREPARE TRANSACTION 'to be committed';"
        "BEGIN; UPDATE prepared SET body = 'rolled back' WHERE id = 3; INSERT INTO prepared VALUES (99);"
        "PREPARE TRANSACTION 'to be rolled back'"
    )
    source.execute("UPDATE prepared SET body = 'between' WHERE id = 4")
    source.execute("COMMIT PREPARED 'to be committed'")
    source.execute("ROLLBACK PREPARED 'to be rolled back'")
    source.execute("UPDATE prepared SET body = 'afterwards' WHERE id IN (1, 3)")


def write_copied(source: Database) -> None:
    with psycopg.connect(source.dsn) as connection:
        with connection.cursor().copy("COPY copied FROM STDIN") as copy:
            for number in range(1000, 3000):
                copy.write_row((number, "copied\t\\N"))
        connection.execute("TRUNCATE frozen")
        with connection.cursor().copy("COPY frozen FROM STDIN WITH (FREEZE)") as copy:
            for number in range(100):
                copy.write_row((number, None))


def write_as_replica(source: Database) -> None:
    """As an app's own replication or import does: its triggers do not fire, and the changes are changes."""
    source.execute(
        "SET session_replication_role = replica; UPDATE replica SET body = 'as a replica' WHERE id = 1;"
        "INSERT INTO replica VALUES (100, 'as a replica'); DELETE FROM replica WHERE id = 2",
        superuser=True,
    )


def write_from_another_origin(source: Database) -> None:
    """What came to the source from elsewhere by replication."""
    source.execute(
        "SELECT pg_replication_origin_create('elsewhere'), pg_replication_origin_session_setup('elsewhere');"
        "BEGIN; SELECT pg_replication_origin_xact_setup('0/ABCD', now());"
        "UPDATE foreign_origin SET body = 'from elsewhere' WHERE id = 1; DELETE FROM foreign_origin WHERE id = 2;"
        "COMMIT; INSERT INTO foreign_origin VALUES (100, 'from elsewhere')",
        superuser=True,
    )
    source.execute("SELECT pg_replication_origin_drop('elsewhere')", superuser=True)


def write_messages(source: Database) -> None:
    """Of other programs: whatever their prefix and content, they are none of ours, and what is beside them arrives."""
    nonce = "0123456789abcdef" * 2
    with psycopg.connect(source.dsn) as connection:
        for prefix in ("other", "replicator", ""):
            for transactional in (True, False):
                for content in (nonce.encode(), b"\0", b"\xff\xfe\0\xc3", b"", b"x" * 3 * MIB, "ключ".encode()):
                    connection.execute(
                        "SELECT pg_logical_emit_message(%s, %s, %s::bytea)", [transactional, prefix, content]
                    )
            connection.execute("UPDATE messages SET body = body || %s", [prefix])
    source.execute("INSERT INTO messages VALUES (100, 'after all of them')")
    for content in (b"x" * 3 * MIB, b"\xff", b"\0"):
        source.execute("SELECT pg_logical_emit_message(true, 'replicator', %s::bytea)", [content])


WRITERS: Final[tuple[Writer, ...]] = (
    lambda source: source.execute(IN_ONE_SESSION),
    write_prepared,
    write_copied,
    write_as_replica,
    write_from_another_origin,
    write_messages,
)


# --- the migration ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Migrated:
    """Both sides after everything has arrived, and what the worker said."""

    source: Database
    target: Database
    log: str


@pytest.fixture(scope="module")
def migrated(shared: Shared) -> Migrated:
    source, target = shared.source, shared.target
    worker = shared.make_worker(buffer_bytes=MIB, slot_timeout=1)
    source.execute(";".join(f'CREATE TABLE "{name}" {columns}' for name, columns in TABLES.items()))
    source.execute(";".join(f'INSERT INTO "{name}" {_ROWS}' for name in _NAMES.split()))
    source.execute("INSERT INTO restarted (body) VALUES ('old'); INSERT INTO referring VALUES (7, 'old', 1)")
    start_behind_old_transactions(source, worker)
    shared.wait_streaming()
    for write in WRITERS:
        write(source)
    wait_caught_up(source, target, worker)
    return Migrated(source, target, worker.log)


def start_behind_old_transactions(source: Database, worker: Worker) -> None:
    """Let it wait for a running transaction, tell of a prepared one that nobody ends, then go on."""
    waiting = "SELECT FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event_type = 'Lock'"
    with psycopg.connect(source.dsn) as old:
        old.execute("UPDATE old SET body = 'before the slot' WHERE id = 1")
        source.execute("BEGIN; UPDATE old SET body = 'prepared' WHERE id = 2; PREPARE TRANSACTION 'forgotten'")
        worker.start()
        wait_until(lambda: source.fetch(waiting, superuser=True), what="the worker waits", interval=0.01)
        old.execute("UPDATE old SET body = 'while it waits' WHERE id = 3")
        old.commit()
    wait_until(lambda: "running before did not end in time" in worker.log, what="a word about the prepared one")
    assert worker.running
    source.execute("COMMIT PREPARED 'forgotten'")


@pytest.mark.parametrize("table", TABLES)
def test_each_kind_of_change_arrives(migrated: Migrated, table: str) -> None:
    rows = f'SELECT t::text FROM "{table}" t ORDER BY id'
    ours = migrated.source.fetch(rows)
    assert migrated.target.fetch(rows) == ours != []


def test_nothing_had_to_wait_for_its_operator(migrated: Migrated) -> None:
    assert "waiting until" not in migrated.log
