"""The workloads of the catch-up benchmark. Their sizes keep native replication busy for some five seconds."""

from collections.abc import Callable
from typing import Final

from psycopg import sql

from tests.benchmarks.backlog import Backlog, Work, statements
from tests.benchmarks.pgbench import pgbench
from tests.fixtures.databases import Database

_TRANSACTIONS: Final = sql.SQL("""
DO $$
DECLARE
  chosen bigint;
BEGIN
  PERFORM setseed(0.5);
  FOR n IN 1..{count} LOOP
    {body};
    COMMIT;
  END LOOP;
END $$
""")


def transactions_of(count: int, body: sql.SQL | sql.Composed) -> Work:
    """So many transactions, which know their number as ``n`` and have a variable ``chosen``."""
    return statements(_TRANSACTIONS.format(count=sql.Literal(count), body=body), superuser=True)


def _fill(rows: int, *composed: sql.SQL) -> Work:
    """Run SQL that may name the number of rows."""
    return statements(*(statement.format(rows=sql.Literal(rows)) for statement in composed))


# --- pgbench ----------------------------------------------------------------------------------------------------------

_CLIENTS: Final = 4
_BRANCHES: Final = 5


def tpcb(transactions: int) -> Backlog:
    """pgbench's own tables and script; its history has no key, so it is published for inserts only."""

    def initialise(source: Database) -> None:
        pgbench(source, "--initialize", "--quiet", f"--scale={_BRANCHES}")

    def run(source: Database) -> None:
        each = max(1, transactions // _CLIENTS)
        seed = "--random-seed=7"
        pgbench(source, "--no-vacuum", "--protocol=prepared", seed, f"--client={_CLIENTS}", f"--transactions={each}")

    title = f"TPC-B: {transactions:,} transactions of pgbench, scale {_BRANCHES}"
    return Backlog("tpcb", title, initialise, run, {"keyless": "insert-only"})


# --- single rows ------------------------------------------------------------------------------------------------------

_ACCOUNTS: Final = sql.SQL("""
CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, balance bigint NOT NULL, note text NOT NULL,
                       updated_at timestamptz NOT NULL)
""")
_FILL_ACCOUNTS: Final = sql.SQL("""
INSERT INTO accounts
SELECT n, 'owner ' || n, n, repeat(md5(n::text), 2), now() FROM generate_series(1, {rows}) n
""")
_ACCOUNT_ROWS: Final = 100_000


def fill_accounts(rows: int) -> Work:
    """Make a table of so many rows."""
    return _fill(rows, _ACCOUNTS, _FILL_ACCOUNTS)


def updates(transactions: int) -> Backlog:
    """One random row each, out of a hundred thousand."""
    body = sql.SQL("""
    chosen := 1 + floor(random() * {rows});
    UPDATE accounts SET balance = balance + n, updated_at = clock_timestamp() WHERE id = chosen
    """).format(rows=sql.Literal(_ACCOUNT_ROWS))
    return Backlog(
        "updates",
        f"{transactions:,} single-row updates",
        fill_accounts(_ACCOUNT_ROWS),
        transactions_of(transactions, body),
    )


def deletes(transactions: int) -> Backlog:
    """One row each, in an order that is not the key's."""
    rows = 2 * transactions
    body = sql.SQL("DELETE FROM accounts WHERE id = 1 + (n::bigint * 7919) % {rows}").format(rows=sql.Literal(rows))
    return Backlog(
        "deletes",
        f"{transactions:,} single-row deletes",
        fill_accounts(rows),
        transactions_of(transactions, body),
    )


_WIDE_COLUMNS: Final = 40


def wide_inserts(transactions: int) -> Backlog:
    """One row of forty columns each: numbers, times, text."""
    kinds = ("bigint", "numeric(12, 2)", "timestamptz", "text", "double precision")
    values = ("n", "n / 7.0", "now() + n * interval '1 second'", "'some words ' || n", "n / 3.0")
    columns = [f"c{number} {kinds[number % 5]}" for number in range(_WIDE_COLUMNS)]
    row = [values[number % 5] for number in range(_WIDE_COLUMNS)]
    table = sql.SQL("CREATE TABLE wide (id bigint PRIMARY KEY, {})").format(_joined(columns))
    body = sql.SQL("INSERT INTO wide VALUES (n, {})").format(_joined(row))
    title = f"{transactions:,} single-row inserts of {_WIDE_COLUMNS + 1} columns"
    return Backlog("wide-inserts", title, statements(table), transactions_of(transactions, body))


def _joined(fragments: list[str]) -> sql.Composed:
    # constants of this module
    return sql.SQL(", ").join(sql.SQL(fragment) for fragment in fragments)


# --- many rows a transaction ------------------------------------------------------------------------------------------

_EVENTS: Final = sql.SQL("""
CREATE TABLE events (id bigint PRIMARY KEY, happened_at timestamptz NOT NULL, account bigint NOT NULL,
                     kind text NOT NULL, amount numeric(12, 2), ratio double precision, paid boolean NOT NULL,
                     token uuid NOT NULL, payload jsonb NOT NULL, note text)
""")
_INSERT_EVENTS: Final = sql.SQL("""
INSERT INTO events
SELECT i, now() + i * interval '1 millisecond', i % 1000, 'kind ' || i % 20, i / 7.0, i / 3.0, i % 2 = 0,
       md5(i::text)::uuid, jsonb_build_object('n', i, 'source', 'web', 'path', '/a/' || i % 100, 'tags', '[]'::jsonb),
       CASE WHEN i % 4 > 0 THEN repeat(md5(i::text), 4) END
  FROM generate_series((n - 1) * {size} + 1, n * {size}) i
""")


def thousands(transactions: int) -> Backlog:
    """A thousand inserts a transaction."""
    body = _INSERT_EVENTS.format(size=sql.Literal(1000))
    title = f"{transactions:,} transactions of 1,000 inserts"
    return Backlog("thousands", title, statements(_EVENTS), transactions_of(transactions, body))


_READINGS: Final = sql.SQL("""
CREATE TABLE readings (id bigint PRIMARY KEY, sensor integer NOT NULL, taken_at timestamptz NOT NULL,
                       value double precision)
""")
_INSERT_READINGS: Final = sql.SQL("""
INSERT INTO readings
SELECT i, i % 5000, timestamptz '2024-01-01' + i * interval '1 second', i / 7.0 FROM generate_series(1, {rows}) i
""")


def large(rows: int) -> Backlog:
    """All rows in one transaction."""
    title = f"one transaction of {rows:,} inserts"
    return Backlog("large", title, statements(_READINGS), _fill(rows, _INSERT_READINGS))


# --- what costs the target --------------------------------------------------------------------------------------------

_ORDERS: Final = sql.SQL("""
CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint NOT NULL, token uuid NOT NULL, placed_at timestamptz
                     NOT NULL, status text NOT NULL, amount numeric(12, 2) NOT NULL, note text);
CREATE INDEX ON orders (customer);
CREATE UNIQUE INDEX ON orders (token);
CREATE INDEX ON orders (placed_at);
CREATE INDEX ON orders (status, placed_at);
CREATE INDEX ON orders (amount);
""")
_FILL_ORDERS: Final = sql.SQL("""
INSERT INTO orders
SELECT -i, i % 5000, gen_random_uuid(), now() - i * interval '1 second', 'status ' || i % 5, i / 7.0, 'a note'
  FROM generate_series(1, {rows}) i
""")
_CHANGE_ORDERS: Final = sql.SQL("""
INSERT INTO orders
SELECT i, i % 5000, gen_random_uuid(), now(), 'new', i / 7.0, 'a note' FROM generate_series(5 * n - 4, 5 * n) i;
chosen := floor(random() * {last});
UPDATE orders SET status = 'sent', amount = amount + 1 WHERE id BETWEEN -chosen - 5 AND -chosen - 1
""")
_ORDER_ROWS: Final = 50_000


def indexes(transactions: int) -> Backlog:
    """Five inserts and five updates each, in a table with five indexes besides its key."""
    return Backlog(
        "indexes",
        f"{transactions:,} transactions of 5 inserts and 5 updates, 5 indexes besides the key",
        _fill(_ORDER_ROWS, _ORDERS, _FILL_ORDERS),
        transactions_of(transactions, _CHANGE_ORDERS.format(last=sql.Literal(_ORDER_ROWS - 5))),
    )


_DOCUMENTS: Final = sql.SQL("""
CREATE TABLE documents (id bigint PRIMARY KEY, views bigint NOT NULL, title text NOT NULL, body text NOT NULL);
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL;
""")
_DOCUMENT: Final = sql.SQL("SELECT i, 0, 'Document ' || i, repeat(md5(i::text), 256)")
_FILL_DOCUMENTS: Final = sql.SQL("INSERT INTO documents {document} FROM generate_series(1, {rows}) i")
_INSERT_DOCUMENT: Final = sql.SQL("INSERT INTO documents {document} FROM generate_series(n, n) i")
_DOCUMENT_ROWS: Final = 5_000


def toast_updates(transactions: int) -> Backlog:
    """One row each, whose 8 kB out of line stay as they are: the source does not send them."""
    fill = _FILL_DOCUMENTS.format(document=_DOCUMENT, rows=sql.Literal(_DOCUMENT_ROWS))
    body = sql.SQL("""
    chosen := 1 + floor(random() * {rows});
    UPDATE documents SET views = views + 1 WHERE id = chosen
    """).format(rows=sql.Literal(_DOCUMENT_ROWS))
    title = f"{transactions:,} single-row updates beside unchanged TOAST"
    return Backlog("toast-updates", title, statements(_DOCUMENTS, fill), transactions_of(transactions, body))


def toast_inserts(transactions: int) -> Backlog:
    """One row each, with 8 kB out of line."""
    body = _INSERT_DOCUMENT.format(document=_DOCUMENT)
    title = f"{transactions:,} single-row inserts of 8 kB of TOAST"
    return Backlog("toast-inserts", title, statements(_DOCUMENTS), transactions_of(transactions, body))


_MANY_TABLES: Final = sql.SQL("""
DO $$ BEGIN
  FOR number IN 1..{tables} LOOP
    EXECUTE format('CREATE TABLE item_%s (id bigint PRIMARY KEY, label text NOT NULL, stock bigint NOT NULL)', number);
    EXECUTE format('INSERT INTO item_%s SELECT -i, ''item '' || i, i FROM generate_series(1, 100) i', number);
  END LOOP;
END $$
""")
_CHANGE_MANY: Final = sql.SQL("""
chosen := 1 + floor(random() * {tables});
EXECUTE format('INSERT INTO item_%s VALUES ($1, $2, 0)', chosen) USING n, 'item ' || n;
chosen := 1 + floor(random() * {tables});
EXECUTE format('UPDATE item_%s SET stock = stock + 1 WHERE id = $1', chosen) USING -1 - n % 100
""")


def fill_tables(tables: int) -> Work:
    """Make so many tables of a hundred rows each."""
    return statements(_MANY_TABLES.format(tables=sql.Literal(tables)))


def many_tables(transactions: int, tables: int = 200) -> Backlog:
    """An insert and an update each, in two tables at random."""
    return Backlog(
        "many-tables",
        f"{transactions:,} transactions of an insert and an update in {tables} tables at random",
        fill_tables(tables),
        transactions_of(transactions, _CHANGE_MANY.format(tables=sql.Literal(tables))),
    )


# --- all of them ------------------------------------------------------------------------------------------------------

WORKLOADS: Final[dict[str, tuple[Callable[[int], Backlog], int]]] = {
    "tpcb": (tpcb, 240_000),
    "updates": (updates, 480_000),
    "wide-inserts": (wide_inserts, 240_000),
    "thousands": (thousands, 600),
    "large": (large, 1_000_000),
    "deletes": (deletes, 480_000),
    "indexes": (indexes, 24_000),
    "toast-updates": (toast_updates, 480_000),
    "toast-inserts": (toast_inserts, 60_000),
    "many-tables": (many_tables, 240_000),
}
"""Each with its transactions (of ``large``: rows) at scale 1."""


def workload(name: str, scale: float) -> Backlog:
    """One of them in that size. Raises KeyError."""
    make, size = WORKLOADS[name]
    return make(max(1, round(size * scale)))
