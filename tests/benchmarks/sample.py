"""The databases that are copied: narrow, wide, TOASTed rows, many tables, and a mixture of all, with their indexes.

No foreign keys: replicator adds them at cutover, pg_restore at once, so they would not be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from tests.fixtures.databases import Database

_NO_TIMEOUT: Final = sql.SQL("SET statement_timeout = 0;")
_READINGS: Final = sql.SQL("""
CREATE TABLE readings (id bigint NOT NULL, sensor integer NOT NULL, taken_at timestamptz NOT NULL,
                       value double precision);
INSERT INTO readings
SELECT n, n % 5000 * 7919 % 5000, timestamptz '2024-01-01' + n * interval '1 second', n / 7.0
  FROM generate_series(1, {rows}) n;
ALTER TABLE readings ADD PRIMARY KEY (id);
CREATE INDEX readings_sensor ON readings (sensor, taken_at);
""")
_ORDERS: Final = sql.SQL("""
CREATE TABLE orders (id bigint NOT NULL, customer bigint NOT NULL, placed_at timestamptz NOT NULL,
                     shipped_at timestamptz, status text NOT NULL, currency char(3) NOT NULL, net numeric(14, 2),
                     tax numeric(14, 2), weight double precision, gift boolean NOT NULL, token uuid NOT NULL,
                     address jsonb NOT NULL, tags text[], street text, city text, note text, remark text,
                     channel smallint, items integer, modified_on date);
INSERT INTO orders
SELECT n, n % 100000 * 7919 % 100000, timestamptz '2024-01-01' + n * interval '1 minute',
       CASE WHEN n % 3 > 0 THEN timestamptz '2024-01-02' + n * interval '1 minute' END, 'status ' || n % 5, 'EUR',
       n / 3.0, n / 19.0, n / 11.0, n % 50 = 0, md5(n::text)::uuid,
       jsonb_build_object('zip', n % 99999, 'country', 'country ' || n % 30, 'lines', n % 4),
       ARRAY['tag ' || n % 7, 'tag ' || n % 11], 'street ' || n, 'city ' || n % 1000, repeat(md5(n::text), 4),
       E'two\\nlines\\tand a \\\\', n % 4, n % 20, date '2024-01-01' + (n % 300)::integer
  FROM generate_series(1, {rows}) n;
ALTER TABLE orders ADD PRIMARY KEY (id);
CREATE INDEX orders_customer ON orders (customer);
CREATE INDEX orders_placed ON orders (placed_at, status);
""")
_DOCUMENTS: Final = sql.SQL("""
CREATE TABLE documents (id bigint NOT NULL, title text NOT NULL, body text NOT NULL);
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO documents SELECT n, 'Document ' || n, repeat(md5(n::text), 500) FROM generate_series(1, {rows}) n;
ALTER TABLE documents ADD PRIMARY KEY (id);
CREATE INDEX documents_title ON documents (title);
""")
_ONE_OF_MANY: Final = sql.SQL("""
CREATE TABLE {name} (id integer PRIMARY KEY, label text NOT NULL, since timestamptz NOT NULL);
INSERT INTO {name} SELECT n, 'label ' || n, now() FROM generate_series(1, {rows}) n;
""")
_SMALL_ROWS: Final = 50
_FEW: Final = 50
_MANY: Final = 500
"""How many small tables are in the mixture, and how many tables `many` has."""


@dataclass(frozen=True, slots=True)
class Large:
    """A large table: what makes it, and the bytes that a row takes on disk with its indexes."""

    statement: sql.SQL
    row_bytes: int


_NARROW: Final = Large(_READINGS, 120)
_WIDE: Final = Large(_ORDERS, 560)
_TOASTED: Final = Large(_DOCUMENTS, 16_800)
_ONE_OF_MANY_BYTES: Final = 105

DATASETS: Final[Mapping[str, Sequence[tuple[Large, float]]]] = {
    "narrow": [(_NARROW, 1.0)],
    "wide": [(_WIDE, 1.0)],
    "toasted": [(_TOASTED, 1.0)],
    "many": [],
    "mixed": [(_NARROW, 0.45), (_WIDE, 0.35), (_TOASTED, 0.20)],
}
"""Large tables with their shares; `many` has none, `mixed` small ones besides."""

TABLES: Final = sql.SQL("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")

_SIZE: Final = """
SELECT sum(pg_table_size(oid))::bigint, sum(pg_indexes_size(oid))::bigint
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


def fill(source: Database, dataset: str, megabytes: int) -> None:
    """Make about so many megabytes (10^6 bytes), indexes counted."""
    total = megabytes * 1_000_000
    for large, share in DATASETS[dataset]:
        rows = sql.Literal(max(1, round(total * share / large.row_bytes)))
        source.execute((_NO_TIMEOUT + large.statement.format(rows=rows)).as_string())
    if dataset == "many":
        _fill_many(source, _MANY, max(1, total // _MANY // _ONE_OF_MANY_BYTES))
    elif dataset == "mixed":
        _fill_many(source, _FEW, _SMALL_ROWS)
    source.execute("VACUUM ANALYZE", superuser=True)


def _fill_many(source: Database, tables: int, rows: int) -> None:
    for number in range(1, tables + 1):
        name = sql.Identifier(f"small_{number}")
        source.execute(_ONE_OF_MANY.format(name=name, rows=sql.Literal(rows)).as_string())


def sizes(source: Database) -> tuple[int, int]:
    """Bytes of the tables, TOAST included, and of their indexes."""
    ((tables, indexes),) = source.fetch(_SIZE)
    return tables, indexes


def table_names(source: Database) -> list[str]:
    """Every table."""
    return sorted(name for (name,) in source.fetch(TABLES.as_string()))
