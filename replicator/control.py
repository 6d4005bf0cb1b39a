"""The control tables on the target: the one place where the worker and the operators' commands meet.

Statements are SQLAlchemy Core; they run on psycopg connections, because progress must commit in the same transaction
as the rows (law 1). The caller owns the connection and the transaction.

``lease`` and ``progress`` are two rows on purpose: copy, index and step transactions hold ``FOR SHARE`` on the lease
for as long as they run, while every apply transaction updates progress and every heartbeat updates ``worker``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString, cast
from uuid import UUID

import sqlalchemy as sa
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import UserDefinedType

from replicator.errors import FencedError
from replicator.lsn import Lsn, format_lsn, parse_lsn
from replicator.model import Phase, TableName, TableState
from replicator.postgres import Connection

SCHEMA: Final = "replicator"


class _PgLsn(UserDefinedType[str]):
    """pg_lsn: travels as text."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "pg_lsn"


_DIALECT: Final = psycopg_dialect()  # type: ignore[no-untyped-call]
_NOW: Final = sa.func.clock_timestamp()
_METADATA: Final = sa.MetaData(schema=SCHEMA)


def _one_row_table(name: str, *columns: sa.Column[Any]) -> sa.Table:
    only = sa.Column("only", sa.Boolean, primary_key=True, server_default=sa.true())
    return sa.Table(name, _METADATA, only, *columns, sa.CheckConstraint('"only"'))


def _timestamp(name: str, *, default: bool = False) -> sa.Column[Any]:
    kind = sa.TIMESTAMP(timezone=True)
    return sa.Column(name, kind, server_default=_NOW, nullable=False) if default else sa.Column(name, kind)


_migration: Final = _one_row_table(
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
_lease: Final = _one_row_table("lease", sa.Column("epoch", sa.Uuid, nullable=False))
_progress: Final = _one_row_table(
    "progress",
    sa.Column("epoch", sa.Uuid, nullable=False),
    sa.Column("lsn", _PgLsn, nullable=False),
    sa.Column("marker", sa.Text),
    _timestamp("updated_at", default=True),
)
_worker: Final = _one_row_table(
    "worker",
    sa.Column("epoch", sa.Uuid, nullable=False),
    sa.Column("backend_pid", sa.Integer, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    _timestamp("started_at", default=True),
    _timestamp("heartbeat_at", default=True),
    sa.Column("statistics", postgresql.JSONB, nullable=False, server_default="{}"),
)
_tables: Final = sa.Table(
    "tables",
    _METADATA,
    sa.Column("schema", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("source_oid", postgresql.OID, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("insert_only", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("snapshot_lsn", _PgLsn),
    sa.Column("rows", sa.BigInteger),
    sa.Column("bytes", sa.BigInteger),
    _timestamp("updated_at", default=True),
)
_steps: Final = sa.Table(
    "steps",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("detail", postgresql.JSONB, nullable=False),
    _timestamp("done_at", default=True),
)
_deferred: Final = sa.Table(
    "deferred",
    _METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("statement", sa.Text, nullable=False),
    _timestamp("done_at"),
)
_keys: Final = sa.Table(
    "keys",
    _METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("table_schema", sa.Text),
    sa.Column("table_name", sa.Text),
    sa.Column("statement", sa.Text, nullable=False),
    _timestamp("done_at"),
)

TABLES: Final = frozenset(table.name for table in _METADATA.tables.values())
"""The names of all control tables."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What was recorded when the migration began, and where it stands. ``error`` is the last stop's reason."""

    id: UUID
    slot: str
    publications: tuple[str, ...]
    owns_publications: bool
    settings: Mapping[str, Any]
    system_identifier: str
    timeline: int
    database: str
    phase: Phase = Phase.BOOTSTRAP
    phase_since: datetime | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The end LSN of the last applied transaction (law 1), and the nonce of the last marker in it."""

    epoch: UUID
    lsn: Lsn
    marker: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Worker:
    """The worker that holds the lease; ``heartbeat_age`` is seconds by the target's clock."""

    epoch: UUID
    backend_pid: int
    host: str
    version: str
    started_at: datetime
    heartbeat_age: float
    statistics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TableRecord:
    """How far one table has come. ``snapshot_lsn`` is its round's L: earlier transactions are in its snapshot."""

    table: TableName
    source_oid: int
    state: TableState
    insert_only: bool = False
    snapshot_lsn: Lsn | None = None
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Deferred:
    """A statement that waits for the cutover, because what it makes would fire on applied rows."""

    position: int
    kind: str
    schema: str
    name: str
    statement: str
    done: bool = False


@dataclass(frozen=True, slots=True)
class KeyStatement:
    """A statement that waits for the data: a key, an index. ``table`` is None where it needs several tables' keys."""

    position: int
    kind: str
    schema: str
    name: str
    table: TableName | None
    statement: str


def _compiled(statement: sa.Executable) -> tuple[str, dict[str, Any]]:
    # psycopg takes a list in IN only as one parameter each
    options = {"render_postcompile": True}
    compiled = cast("sa.ClauseElement", statement).compile(dialect=_DIALECT, compile_kwargs=options)
    # SQLAlchemy composed it from the tables above: no text from outside is in it
    return compiled.string, dict(compiled.params)


async def _run(connection: Connection, statement: sa.Executable) -> AsyncCursor[DictRow]:
    query, parameters = _compiled(statement)
    cursor = connection.cursor(row_factory=dict_row)
    adapted = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in parameters.items()}
    return await cursor.execute(query.encode(), adapted)


# --- the schema -------------------------------------------------------------------------------------------------------


async def exists(connection: Connection) -> bool:
    """Whether this target has control tables."""
    cursor = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"{SCHEMA}.migration"])
    row = await cursor.fetchone()
    return bool(row and row[0])


async def create(connection: Connection) -> None:
    """Make the control schema and tables, if they are not there."""
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
    for table in _METADATA.sorted_tables:
        await connection.execute(str(CreateTable(table, if_not_exists=True).compile(dialect=_DIALECT)).encode())


async def drop(connection: Connection) -> None:
    """Remove the control schema with all that is in it."""
    await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


# --- the migration and its phase --------------------------------------------------------------------------------------


async def read_migration(connection: Connection) -> Migration | None:
    """The recorded migration, or None before the first `run`. The control tables must exist."""
    cursor = await _run(connection, sa.select(_migration))
    row = await cursor.fetchone()
    if row is None:
        return None
    del row["only"], row["created_at"]
    row |= {"phase": Phase(row["phase"]), "publications": tuple(row["publications"])}
    return Migration(**row)


async def start_migration(connection: Connection, migration: Migration) -> None:
    """Record the migration, before anything is made on the source, so that a crash leaves no orphan unnamed."""
    await _run(
        connection,
        _migration.insert().values(
            id=migration.id,
            slot=migration.slot,
            publications=list(migration.publications),
            owns_publications=migration.owns_publications,
            settings=dict(migration.settings),
            system_identifier=migration.system_identifier,
            timeline=migration.timeline,
            database=migration.database,
            phase=migration.phase.value,
        ),
    )


async def forget_migration(connection: Connection) -> None:
    """Remove the record of a migration that has no progress yet, so that another can be recorded."""
    await _run(connection, _migration.delete())


async def set_phase(connection: Connection, phase: Phase) -> None:
    """Enter a phase; entering the current one again changes nothing."""
    await _run(
        connection,
        _migration.update().where(_migration.c.phase != phase.value).values(phase=phase.value, phase_since=_NOW),
    )


async def record_error(connection: Connection, error: Mapping[str, Any] | None) -> None:
    """Keep the reason of the last stop for `status` (side, message, hint), or forget it."""
    value = sa.null() if error is None else dict(error)
    await _run(connection, _migration.update().values(error=value))


# --- the lease and the worker (law 6) ---------------------------------------------------------------------------------


async def take_lease(connection: Connection, epoch: UUID) -> None:
    """Make ``epoch`` the only one that may write. Waits for transactions that hold the old epoch's row."""
    async with connection.transaction():
        await _run(
            connection,
            postgresql.insert(_lease).values(epoch=epoch).on_conflict_do_update(
                index_elements=["only"], set_={"epoch": epoch}
            ),
        )  # fmt: skip
        await _run(connection, _progress.update().values(epoch=epoch))


async def hold_epoch(connection: Connection, epoch: UUID) -> None:
    """Hold the lease's row ``FOR SHARE`` until the end of this transaction. Raises FencedError if it is another's."""
    cursor = await _run(connection, sa.select(_lease.c.epoch).where(_lease.c.epoch == epoch).with_for_update(read=True))
    if await cursor.fetchone() is None:
        raise FencedError("another worker has taken the lease")


async def register_worker(connection: Connection, epoch: UUID, host: str, version: str) -> None:
    """Record who holds the lease; the session's own backend is the one whose end frees it."""
    values = {
        "epoch": epoch,
        "backend_pid": sa.func.pg_backend_pid(),
        "host": host,
        "version": version,
        "started_at": _NOW,
        "heartbeat_at": _NOW,
    }
    statement = postgresql.insert(_worker).values(**values)
    await _run(connection, statement.on_conflict_do_update(index_elements=["only"], set_=values))


async def heartbeat(connection: Connection, epoch: UUID, statistics: Mapping[str, Any]) -> None:
    """Say that the worker lives, with what `status` shows of it. Raises FencedError if the lease is another's."""
    cursor = await _run(
        connection,
        _worker.update().where(_worker.c.epoch == epoch).values(heartbeat_at=_NOW, statistics=dict(statistics)),
    )
    if cursor.rowcount != 1:
        raise FencedError("another worker has taken the lease")


async def read_worker(connection: Connection) -> Worker | None:
    """The last worker that held the lease, alive or not."""
    age = sa.cast(sa.extract("epoch", _NOW - _worker.c.heartbeat_at), sa.Float).label("heartbeat_age")
    columns = [_worker.c[name] for name in ("epoch", "backend_pid", "host", "version", "started_at", "statistics")]
    cursor = await _run(connection, sa.select(*columns, age))
    row = await cursor.fetchone()
    return None if row is None else Worker(**row)


# --- progress (law 1) -------------------------------------------------------------------------------------------------


async def read_progress(connection: Connection) -> Progress | None:
    """Progress, or None before the first snapshot is recorded."""
    cursor = await _run(connection, sa.select(_progress))
    row = await cursor.fetchone()
    if row is None:
        return None
    return Progress(row["epoch"], parse_lsn(row["lsn"]), row["marker"], row["updated_at"])


async def start_progress(connection: Connection, epoch: UUID, lsn: Lsn) -> None:
    """Record where the stream begins: the main slot's consistent point."""
    await _run(connection, _progress.insert().values(epoch=epoch, lsn=format_lsn(lsn)))


ADVANCE: Final[LiteralString] = """
UPDATE replicator.progress
   SET lsn = %(new)s, marker = coalesce(%(marker)s, marker), updated_at = clock_timestamp()
 WHERE epoch = %(epoch)s AND lsn = %(old)s::pg_lsn
"""
"""Law 1's compare-and-set, the last statement of every apply transaction; must change exactly one row."""


def advance_parameters(epoch: UUID, old: Lsn, new: Lsn, marker: str | None) -> dict[str, Any]:
    """The parameters of ADVANCE."""
    return {"epoch": epoch, "old": format_lsn(old), "new": format_lsn(new), "marker": marker}


async def advance(connection: Connection, epoch: UUID, old: Lsn, new: Lsn, marker: str | None = None) -> None:
    """Move progress from ``old`` to ``new``, or raise FencedError: then the caller must roll back."""
    cursor = await connection.execute(ADVANCE, advance_parameters(epoch, old, new, marker))
    assert_advanced(cursor.rowcount, old)


def assert_advanced(changed: int, old: Lsn) -> None:
    """Raise FencedError unless ADVANCE changed its one row: then the caller must roll back."""
    if changed != 1:
        raise FencedError(f"progress is not {format_lsn(old)} of this worker any more")


# --- tables -----------------------------------------------------------------------------------------------------------


async def read_tables(connection: Connection) -> dict[TableName, TableRecord]:
    """Every table of the migration with its state."""
    cursor = await _run(connection, sa.select(_tables).order_by(_tables.c.schema, _tables.c.name))
    return {record.table: record for record in map(_table_record, await cursor.fetchall())}


def _table_record(row: DictRow) -> TableRecord:
    lsn = row["snapshot_lsn"]
    return TableRecord(
        TableName(row["schema"], row["name"]),
        row["source_oid"],
        TableState(row["state"]),
        row["insert_only"],
        None if lsn is None else parse_lsn(lsn),
        row["rows"],
        row["bytes"],
    )


async def add_tables(connection: Connection, records: Iterable[TableRecord]) -> None:
    """Add tables, or begin known ones anew (a new source oid, or a new round)."""
    for record in records:
        key = {"schema": record.table.schema, "name": record.table.name}
        values = {
            "source_oid": record.source_oid,
            "state": record.state.value,
            "insert_only": record.insert_only,
            "snapshot_lsn": None if record.snapshot_lsn is None else format_lsn(record.snapshot_lsn),
            "rows": record.rows,
            "bytes": record.bytes,
            "updated_at": _NOW,
        }
        statement = postgresql.insert(_tables).values(**key, **values)
        await _run(connection, statement.on_conflict_do_update(index_elements=["schema", "name"], set_=values))


async def set_table_states(connection: Connection, names: Sequence[TableName], state: TableState) -> None:
    """Record one state for several tables. Raises FencedError unless all of them are known."""
    chosen = sa.tuple_(_tables.c.schema, _tables.c.name).in_(list(names))
    cursor = await _run(connection, _tables.update().where(chosen).values(state=state.value, updated_at=_NOW))
    if cursor.rowcount != len(names):
        raise FencedError("another worker has changed the list of tables")


async def remove_tables(connection: Connection, names: Sequence[TableName]) -> None:
    """Forget tables that do not exist or are not published any more."""
    for name in names:
        await _run(connection, _tables.delete().where(_tables.c.schema == name.schema, _tables.c.name == name.name))


# --- steps and deferred statements (law 8) ----------------------------------------------------------------------------


async def read_steps(connection: Connection) -> dict[str, Mapping[str, Any]]:
    """The steps that are done, by name, with what each recorded."""
    cursor = await _run(connection, sa.select(_steps.c.name, _steps.c.detail))
    return {row["name"]: row["detail"] for row in await cursor.fetchall()}


async def record_step(connection: Connection, name: str, detail: Mapping[str, Any] | None = None) -> None:
    """Record a step as done; recording it again replaces its detail."""
    values = {"detail": dict(detail or {}), "done_at": _NOW}
    statement = postgresql.insert(_steps).values(name=name, **values)
    await _run(connection, statement.on_conflict_do_update(index_elements=["name"], set_=values))


async def forget_steps(connection: Connection, names: Sequence[str]) -> None:
    """Forget steps, so that they are done again."""
    await _run(connection, _steps.delete().where(_steps.c.name.in_(names)))


async def replace_deferred(connection: Connection, statements: Iterable[Deferred]) -> None:
    """Replace the statements that wait for the cutover."""
    await _run(connection, _deferred.delete())
    await add_deferred(connection, statements)


async def add_deferred(connection: Connection, statements: Iterable[Deferred]) -> None:
    """Add statements that wait for the cutover; their positions must be new."""
    for item in statements:
        await _run(
            connection,
            _deferred.insert().values(
                position=item.position, kind=item.kind, schema=item.schema, name=item.name, statement=item.statement
            ),
        )


async def read_deferred(connection: Connection) -> list[Deferred]:
    """The statements that wait for the cutover, in their order."""
    columns = [_deferred.c[name] for name in ("position", "kind", "schema", "name", "statement")]
    done = _deferred.c.done_at.is_not(None).label("done")
    cursor = await _run(connection, sa.select(*columns, done).order_by(_deferred.c.position))
    return [Deferred(**row) for row in await cursor.fetchall()]


async def mark_deferred(connection: Connection, positions: Sequence[int]) -> None:
    """Record deferred statements as run, in the transaction that ran them."""
    await _run(connection, _deferred.update().where(_deferred.c.position.in_(positions)).values(done_at=_NOW))


# --- keys and indexes, made after the data ----------------------------------------------------------------------------


async def add_keys(connection: Connection, statements: Iterable[KeyStatement]) -> None:
    """Add statements that wait for the data; their positions must be new."""
    for item in statements:
        values = {
            "position": item.position,
            "kind": item.kind,
            "schema": item.schema,
            "name": item.name,
            "table_schema": item.table and item.table.schema,
            "table_name": item.table and item.table.name,
            "statement": item.statement,
        }
        await _run(connection, _keys.insert().values(**values))


async def read_keys(connection: Connection) -> list[KeyStatement]:
    """The statements that are not run yet, in their order."""
    columns = [_keys.c[n] for n in ("position", "kind", "schema", "name", "table_schema", "table_name", "statement")]
    cursor = await _run(connection, sa.select(*columns).where(_keys.c.done_at.is_(None)).order_by(_keys.c.position))
    return [_key_statement(row) for row in await cursor.fetchall()]


def _key_statement(row: DictRow) -> KeyStatement:
    schema, name = row.pop("table_schema"), row.pop("table_name")
    return KeyStatement(table=None if schema is None else TableName(schema, name), **row)


async def mark_keys(connection: Connection, positions: Sequence[int]) -> None:
    """Record statements as run, in the transaction that ran them."""
    await _run(connection, _keys.update().where(_keys.c.position.in_(positions)).values(done_at=_NOW))


async def next_position(connection: Connection) -> int:
    """A position behind all statements that wait, whether for the data or for the cutover."""
    last = [
        sa.select(sa.func.coalesce(sa.func.max(table.c.position), 0)).scalar_subquery() for table in (_keys, _deferred)
    ]
    cursor = await _run(connection, sa.select((sa.func.greatest(*last) + 1).label("position")))
    row = await cursor.fetchone()
    return int(row["position"]) if row else 1
