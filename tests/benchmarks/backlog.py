"""The backlogs: what the app does while no worker runs, so that the slot holds all of it."""

from dataclasses import dataclass
from typing import Final

from psycopg import sql

from tests.fixtures.databases import Database

_ACCOUNTS: Final = """
CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, balance bigint NOT NULL, note text NOT NULL,
                       updated_at timestamptz NOT NULL)
"""
_FILL_ACCOUNTS: Final = sql.SQL("""
INSERT INTO accounts
SELECT n, 'owner ' || n, n, repeat(md5(n::text), 2), now() FROM generate_series(0, {base_rows}) n
""")
_UPDATE_ACCOUNTS: Final = sql.SQL("""
DO $$
DECLARE
  account bigint;
BEGIN
  PERFORM setseed(0.5);
  FOR n IN 1..{size} LOOP
    account := 1 + floor(random() * {base_rows});
    UPDATE accounts SET balance = balance + n, updated_at = clock_timestamp() WHERE id = account;
    COMMIT;
  END LOOP;
END $$
""")

_EVENTS: Final = """
CREATE TABLE events (id bigint PRIMARY KEY, happened_at timestamptz NOT NULL, account bigint NOT NULL,
                     kind text NOT NULL, amount numeric(12, 2), ratio double precision, paid boolean NOT NULL,
                     token uuid NOT NULL, payload jsonb NOT NULL, note text)
"""
_INSERT_EVENTS: Final = sql.SQL("""
INSERT INTO events
SELECT n, now() + n * interval '1 millisecond', n % 1000, 'kind ' || n % 20, n / 7.0, n / 3.0, n % 2 = 0,
       md5(n::text)::uuid, jsonb_build_object('n', n, 'source', 'web', 'path', '/a/' || n % 100, 'tags', '[]'::jsonb),
       CASE WHEN n % 4 > 0 THEN repeat(md5(n::text), 4) END
  FROM generate_series({first}, {last}) n
""")
_APPEND_EVENTS: Final = sql.SQL("""
DO $$
BEGIN
  FOR begin_at IN {begin}..{end} BY {step} LOOP
    {insert};
    COMMIT;
  END LOOP;
END $$
""")

_WAL_END: Final = "SELECT pg_current_wal_insert_lsn()::text"


@dataclass(frozen=True, slots=True)
class Backlog:
    """A table, what happens to it, and one last change by whose arrival a consumer is done."""

    name: str
    table: str
    schema: str
    fill: sql.Composed
    changes: sql.Composed
    last_change: str
    arrived: str

    def start(self, source: Database) -> None:
        """Make the table as its owner, with the rows that the migration begins with."""
        source.execute(self.schema)
        source.execute(self.fill.as_string())
        source.execute("VACUUM ANALYZE", superuser=True)

    def grow(self, source: Database) -> tuple[int, str]:
        """Make all the changes. Returns the bytes of WAL that they took, and the LSN before the last of them."""
        began = source.value(_WAL_END)
        # the superuser is free of the owner's statement_timeout
        source.execute(self.changes.as_string(), superuser=True)
        last = source.value(_WAL_END)
        source.execute(self.last_change)
        return int(source.value("SELECT %s::pg_lsn - %s::pg_lsn", [last, began])), last


def updates(size: int, base_rows: int) -> Backlog:
    """``size`` transactions, each an update of one random row out of ``base_rows``."""
    return Backlog(
        f"{size} one-row update transactions",
        "accounts",
        _ACCOUNTS,
        _FILL_ACCOUNTS.format(base_rows=sql.Literal(base_rows)),
        _UPDATE_ACCOUNTS.format(size=sql.Literal(size), base_rows=sql.Literal(base_rows)),
        "UPDATE accounts SET balance = -1 WHERE id = 0",
        "SELECT balance = -1 FROM accounts WHERE id = 0",
    )


def inserts(size: int, base_rows: int, rows_per_transaction: int) -> Backlog:
    """``size`` rows of some 330 bytes, behind ``base_rows`` that are there before."""
    insert = _INSERT_EVENTS.format(
        first=sql.SQL("begin_at"),
        last=sql.SQL("least(begin_at + {} - 1, {})").format(
            sql.Literal(rows_per_transaction), sql.Literal(base_rows + size)
        ),
    )
    return Backlog(
        f"{size} inserts",
        "events",
        _EVENTS,
        _INSERT_EVENTS.format(first=sql.Literal(1), last=sql.Literal(base_rows)),
        _APPEND_EVENTS.format(
            begin=sql.Literal(base_rows + 1),
            end=sql.Literal(base_rows + size),
            step=sql.Literal(rows_per_transaction),
            insert=insert,
        ),
        "INSERT INTO events VALUES (0, now(), 0, 'last', NULL, NULL, false, gen_random_uuid(), '{}', NULL)",
        "SELECT true FROM events WHERE id = 0",
    )
