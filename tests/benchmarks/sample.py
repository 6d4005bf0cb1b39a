"""The database that is copied: one large narrow table, a wide one, TOASTed rows, many small tables, four indexes.

No foreign keys: replicator adds them at cutover, pg_restore at once, so they would not be compared.
"""

from typing import Final

from psycopg import sql

from tests.fixtures.databases import Database

_READING_BYTES: Final = 120
_ORDER_BYTES: Final = 560
_DOCUMENT_BYTES: Final = 16_800
"""What a row takes on disk with its indexes."""

_READINGS_SHARE: Final = 0.45
_ORDERS_SHARE: Final = 0.35
_DOCUMENTS_SHARE: Final = 0.20

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
_SMALL: Final = sql.SQL("""
CREATE TABLE {name} (id integer PRIMARY KEY, label text NOT NULL, since timestamptz NOT NULL);
INSERT INTO {name} SELECT n, 'label ' || n, now() FROM generate_series(1, 50) n;
""")

TABLES: Final = sql.SQL("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")

_SIZE: Final = """
SELECT sum(pg_table_size(oid))::bigint, sum(pg_indexes_size(oid))::bigint
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


def fill(source: Database, megabytes: int, small_tables: int) -> None:
    """Make about so many megabytes (10^6 bytes), indexes counted, and as many small tables besides."""
    total = megabytes * 1_000_000
    for statement, share, row_bytes in (
        (_READINGS, _READINGS_SHARE, _READING_BYTES),
        (_ORDERS, _ORDERS_SHARE, _ORDER_BYTES),
        (_DOCUMENTS, _DOCUMENTS_SHARE, _DOCUMENT_BYTES),
    ):
        rows = sql.Literal(max(1, round(total * share / row_bytes)))
        source.execute(statement.format(rows=rows).as_string())
    for number in range(1, small_tables + 1):
        source.execute(_SMALL.format(name=sql.Identifier(f"small_{number}")).as_string())
    source.execute("VACUUM ANALYZE", superuser=True)


def sizes(source: Database) -> tuple[int, int]:
    """Bytes of the tables, TOAST included, and of their indexes."""
    ((tables, indexes),) = source.fetch(_SIZE)
    return tables, indexes


def table_names(source: Database) -> list[str]:
    """Every table."""
    return sorted(name for (name,) in source.fetch(TABLES.as_string()))
