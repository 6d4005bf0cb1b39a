"""The shape of the control tables, and how a statement on them runs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import sqlalchemy as sa
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import UserDefinedType

from replicator.postgres import Connection

SCHEMA: Final = "replicator"


class _PgLsn(UserDefinedType[str]):
    """pg_lsn: travels as text."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "pg_lsn"


_DIALECT: Final = psycopg_dialect()  # type: ignore[no-untyped-call]
NOW: Final = sa.func.clock_timestamp()
METADATA: Final = sa.MetaData(schema=SCHEMA)


def _one_row_table(name: str, *columns: sa.Column[Any]) -> sa.Table:
    only = sa.Column("only", sa.Boolean, primary_key=True, server_default=sa.true())
    return sa.Table(name, METADATA, only, *columns, sa.CheckConstraint('"only"'))


def _timestamp(name: str, *, default: bool = False) -> sa.Column[Any]:
    kind = sa.TIMESTAMP(timezone=True)
    return sa.Column(name, kind, server_default=NOW, nullable=False) if default else sa.Column(name, kind)


MIGRATION: Final = _one_row_table(
    "migration",
    sa.Column("id", sa.Uuid, nullable=False),
    sa.Column("slot", sa.Text, nullable=False),
    sa.Column("publications", postgresql.ARRAY(sa.Text), nullable=False),
    sa.Column("owns_publications", sa.Boolean, nullable=False),
    sa.Column("settings", postgresql.JSONB, nullable=False),
    sa.Column("system_identifier", sa.Text, nullable=False),
    sa.Column("timeline", sa.Integer, nullable=False),
    sa.Column("database", sa.Text, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    _timestamp("phase_since", default=True),
    _timestamp("created_at", default=True),
    sa.Column("error", postgresql.JSONB),
)
LEASE: Final = _one_row_table("lease", sa.Column("epoch", sa.Uuid, nullable=False))
PROGRESS: Final = _one_row_table(
    "progress",
    sa.Column("epoch", sa.Uuid, nullable=False),
    sa.Column("lsn", _PgLsn, nullable=False),
    sa.Column("marker", sa.Text),
    sa.Column("spooled", _PgLsn),
    _timestamp("updated_at", default=True),
)
WORKER: Final = _one_row_table(
    "worker",
    sa.Column("epoch", sa.Uuid, nullable=False),
    sa.Column("backend_pid", sa.Integer, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    _timestamp("started_at", default=True),
    _timestamp("heartbeat_at", default=True),
    sa.Column("statistics", postgresql.JSONB, nullable=False, server_default="{}"),
)
TABLES: Final = sa.Table(
    "tables",
    METADATA,
    sa.Column("schema", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("source_oid", postgresql.OID, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("insert_only", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("snapshot_lsn", _PgLsn),
    sa.Column("rows", sa.BigInteger),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("shape", postgresql.JSONB),
    _timestamp("updated_at", default=True),
)
SPOOL: Final = sa.Table(
    "spool",
    METADATA,
    sa.Column("source_oid", postgresql.OID, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
STEPS: Final = sa.Table(
    "steps",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("detail", postgresql.JSONB, nullable=False),
    _timestamp("done_at", default=True),
)
DEFERRED: Final = sa.Table(
    "deferred",
    METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("statement", sa.Text, nullable=False),
    _timestamp("done_at"),
)
KEYS: Final = sa.Table(
    "keys",
    METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("table_schema", sa.Text),
    sa.Column("table_name", sa.Text),
    sa.Column("statement", sa.Text, nullable=False),
    _timestamp("done_at"),
)

TABLE_NAMES: Final = frozenset(table.name for table in METADATA.tables.values())
"""The names of all control tables."""


def _compiled(statement: sa.Executable) -> tuple[str, dict[str, Any]]:
    # psycopg takes a list in IN only as one parameter each
    options = {"render_postcompile": True}
    compiled = cast("sa.ClauseElement", statement).compile(dialect=_DIALECT, compile_kwargs=options)
    # SQLAlchemy composed it from the tables above: no text from outside is in it
    return compiled.string, dict(compiled.params)


async def run(connection: Connection, statement: sa.Executable) -> AsyncCursor[DictRow]:
    """Run a statement on the caller's connection, in its transaction; rows come as dicts."""
    query, parameters = _compiled(statement)
    cursor = connection.cursor(row_factory=dict_row)
    adapted = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in parameters.items()}
    return await cursor.execute(query.encode(), adapted)


async def run_many(connection: Connection, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]) -> None:
    """Run a statement once for each row of values, in a pipeline: compiled once, without waiting for each answer."""
    if rows:
        compiled = cast("sa.ClauseElement", statement).compile(dialect=_DIALECT, column_keys=list(rows[0]))
        await connection.cursor().executemany(compiled.string.encode(), rows)


async def exists(connection: Connection) -> bool:
    """Whether this target has control tables."""
    cursor = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"{SCHEMA}.migration"])
    row = await cursor.fetchone()
    return bool(row and row[0])


async def create(connection: Connection) -> None:
    """Make the control schema and tables, if they are not there, in one round trip."""
    tables = (CreateTable(table, if_not_exists=True).compile(dialect=_DIALECT) for table in METADATA.sorted_tables)
    await connection.execute("; ".join([f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}", *map(str, tables)]).encode())


async def drop(connection: Connection) -> None:
    """Remove the control schema with all that is in it."""
    await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
