"""Connecting to either server: pinned sessions, errors told apart, and identifier quoting.

Rows travel as the text that PostgreSQL prints (law 7), so both sides print and read under the same settings. Supabase
ships ``extra_float_digits = 0``, which would round floats silently, and a ``statement_timeout`` of two minutes.
"""

import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from replicator.errors import (
    ConfigurationError,
    ConnectionRefusedForGoodError,
    ReplicatorError,
    ServerUnavailableError,
    Side,
    SourceError,
    TargetError,
    TooManyConnectionsError,
    TransientError,
    UnknownHostError,
)
from replicator.login import open_connection, side_of
from replicator.model import TableName

Connection = AsyncConnection[TupleRow]

CONNECT_TIMEOUT: Final = 15
"""Seconds to reach a server; libpq's connect_timeout."""

_RENDERING: Final = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "default_transaction_isolation": "read committed",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "statement_timeout": "0",
    "row_security": "off",
}
_SOURCE_ONLY: Final = {"search_path": "pg_catalog", "idle_in_transaction_session_timeout": "0"}
_TARGET_ONLY: Final = {"idle_in_transaction_session_timeout": "60s", "synchronous_commit": "on"}

LATER_SETTINGS: Final = """
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'
"""
"""Sets what only PostgreSQL 17 and later know: as a start-up option, an older server would refuse the session."""

_KEEPALIVES: Final[Mapping[str, Any]] = {
    "keepalives": 1,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 40_000,
}


def session_settings(side: Side) -> Mapping[str, str]:
    """The settings of every session on that side, for SET or for asyncpg's ``server_settings``."""
    return _RENDERING | (_SOURCE_ONLY if side is Side.SOURCE else _TARGET_ONLY)


async def connect(
    dsn: str, side: Side, purpose: str, *, replication: bool = False, autocommit: bool = True
) -> Connection:
    """Open a session with the pinned settings; ``purpose`` shows in pg_stat_activity.

    Raises UnknownHostError, ServerUnavailableError, TooManyConnectionsError (all retryable),
    ConnectionRefusedForGoodError or ConfigurationError.
    """
    options: dict[str, Any] = {
        "application_name": f"replicator {purpose}",
        "connect_timeout": CONNECT_TIMEOUT,
    }
    if replication:
        options["replication"] = "database"
    try:
        connection = await open_connection(dsn, side, **_KEEPALIVES, **options)
    except psycopg.ProgrammingError:
        # libpq quotes the string that it cannot read, password and all
        raise ConfigurationError(
            f"the {side.value}'s URL is not a PostgreSQL connection string",
            hint="Write it as postgresql://user:password@host:5432/database; percent-encode special characters.",
        ) from None
    except psycopg.Error as error:
        raise connect_error(error, side, dsn) from None
    try:
        with reporting(side, "preparing the session"):
            await connection.execute(_preparation(side))
            if autocommit is False:
                await connection.set_autocommit(False)
    except BaseException:  # cancelled, too: nobody else knows of this connection
        await connection.close()
        raise
    return connection


@contextlib.asynccontextmanager
async def connected(dsn: str, side: Side, purpose: str) -> AsyncIterator[Connection]:
    """A session as `connect` opens it, closed at the end of the block."""
    connection = await connect(dsn, side, purpose)
    try:
        yield connection
    finally:
        await connection.close()


def _preparation(side: Side) -> sql.Composed:
    """All in one round trip, without parameters: a replication connection speaks the simple protocol only."""
    statements = [
        sql.SQL("SET {} = {}").format(
            sql.Identifier(name), sql.Literal(value) if name != "search_path" else sql.Identifier(value)
        )
        for name, value in session_settings(side).items()
    ]
    return sql.SQL("; ").join([*statements, sql.SQL(LATER_SETTINGS)])


def endpoint(dsn: str) -> str:
    """Host, port and database of a connection string, for messages: never its user's password."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "?"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', parts.get('user', ''))}"


def qualified(name: TableName) -> sql.Identifier:
    """The quoted, schema-qualified name."""
    return sql.Identifier(name.schema, name.name)


# --- errors told apart -----------------------------------------------------------------------------------------------

_REFUSED = re.compile(
    r"password authentication failed|SASL|no password supplied|fe_sendauth|no pg_hba\.conf entry|authentication failed"
    r"|role \".*\" (does not exist|is not permitted)|database \".*\" does not exist|permission denied for database"
    r"|tenant or user not found|must be superuser or replication role"
    r"|permission denied to start WAL sender",
    re.IGNORECASE,
)
_TLS = re.compile(
    r"does not support SSL|rejected SSL upgrade|certificate|private key|channel binding|SSL error: .*alert",
    re.IGNORECASE,
)
_TLS_REMEDY: Final = (
    "Correct sslmode, sslrootcert, sslcert, sslkey or the host name in the URL, or the server's certificate, "
    "then start again."
)
_ACCESS_REMEDY: Final = "Let the server admit this address, or correct user name, database or sslmode in the URL."
_NO_SUCH_OPTION = re.compile(r"connection is bad: (?=invalid|weak|could not match)")
"""How psycopg tells what libpq objects to in a connection string, before it connects."""

_TOO_MANY = re.compile(r"too many (clients|connections)|remaining connection slots|max_wal_senders", re.IGNORECASE)
_NO_HOST = re.compile(r"failed to resolve host|could not translate host name|Name or service not known", re.IGNORECASE)

_RETRYABLE_STATES: Final = ("40001", "40P01", "55P03", "57014", "25006", "25P03", "53")
_UNAVAILABLE_STATES: Final = ("08", "57P01", "57P02", "57P03", "57P05")
_NO_PLACE_STATES: Final = {"22021": "bytes that are no UTF-8", "22P05": "a character that UTF-8 has no place for"}
_PRINTABLE_CLASSES: Final = ("08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58")
"""SQLSTATE classes whose primary message names objects, never values of a row."""


def connect_error(error: psycopg.Error, side: Side, dsn: str) -> ReplicatorError:
    """Tell apart why a connection failed; libpq gives no SQLSTATE there, only text."""
    text = " ".join(str(error).split())
    where = f"cannot connect to the {side.value} at {endpoint(dsn)}"
    if _NO_SUCH_OPTION.search(text):
        return ConfigurationError(f"the {side.value}'s URL: {_NO_SUCH_OPTION.split(text)[-1]}")
    if _TLS.search(text):
        return ConnectionRefusedForGoodError(f"{where}: {_reason(text)}", side=side, hint=_TLS_REMEDY)
    if _REFUSED.search(text):
        hint = _ACCESS_REMEDY if "pg_hba.conf" in text else None
        return ConnectionRefusedForGoodError(f"{where}: {_reason(text)}", side=side, hint=hint)
    if _TOO_MANY.search(text):
        return TooManyConnectionsError(f"{where}: {_reason(text)}", side=side)
    if _NO_HOST.search(text):
        return UnknownHostError(f"{where}: the host name does not resolve", side=side)
    return ServerUnavailableError(f"{where}: {_reason(text)}", side=side)


def _reason(text: str) -> str:
    """The last "FATAL: …" or "failed: …" of libpq's message, which lists every address that it tried."""
    return _OF_PYTHON.sub("", re.split(r"FATAL: +|failed: ", text)[-1]).strip()


_OF_PYTHON = re.compile(r" \(_ssl\.c:\d+\)$")
"""Where in its own source Python's TLS has failed: asyncpg's messages end so."""


def describe(error: psycopg.Error) -> str:
    """Say what the server objected to, without any value of a row: condition, SQLSTATE, and the objects named."""
    state = error.sqlstate
    if state is None:
        return "the connection was lost"
    diagnosis = error.diag
    named = [
        f"{kind} {name}"
        for kind, name in (
            ("table", diagnosis.table_name and f"{diagnosis.schema_name}.{diagnosis.table_name}"),
            ("constraint", diagnosis.constraint_name),
            ("column", diagnosis.column_name),
        )
        if name
    ]
    condition = _NO_PLACE_STATES.get(state, type(error).__name__)
    if state.startswith(_PRINTABLE_CLASSES) and error.diag.message_primary:
        condition = error.diag.message_primary
    return f"{condition} ({', '.join([state, *named])})"


GONE: Final = ("cache lookup failed for ", "could not open relation with OID ", "could not find tuple for ")
"""How the server's own messages begin, in English, when a catalog function meets an object that was just dropped."""


def has_no_place(error: psycopg.Error) -> bool:
    """Whether a text could not be converted, or was no text of the encoding that it should be of."""
    return error.sqlstate in _NO_PLACE_STATES


def translate(
    error: psycopg.Error, side: Side, doing: str, otherwise: type[ReplicatorError] | None = None
) -> ReplicatorError:
    """Turn a driver's error into ours; ``otherwise`` is the class for what is not known to be passing (law 4).

    ``side`` is what the work is about: the error may be of the other, which it asks, too.
    """
    state, known = error.sqlstate, side_of(error)
    if known is not None and known is not side:
        side, otherwise = known, _of_side(known, otherwise)
    message = f"{doing}: {describe(error)}"
    if state is None and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return ServerUnavailableError(message, side=side)
    if state is not None:
        if state.startswith(_UNAVAILABLE_STATES):
            return ServerUnavailableError(message, side=side)
        if state.startswith("28"):
            return ConnectionRefusedForGoodError(message, side=side)
        if state == "53300":
            return TooManyConnectionsError(message, side=side)
        if state.startswith(_RETRYABLE_STATES) or _is_about_what_has_gone(error):
            return TransientError(message, side=side)
    return (otherwise or ReplicatorError)(message, side=side)


def _of_side(side: Side, otherwise: type[ReplicatorError] | None) -> type[ReplicatorError] | None:
    if otherwise is None or not issubclass(otherwise, SourceError | TargetError):
        return otherwise
    return SourceError if side is Side.SOURCE else TargetError


def _is_about_what_has_gone(error: psycopg.Error) -> bool:
    """Whether an object was dropped between a query's snapshot and a function of it: the next look does not see it."""
    return error.sqlstate == "XX000" and (error.diag.message_primary or "").startswith(GONE)


@contextlib.contextmanager
def reporting(side: Side, doing: str, otherwise: type[ReplicatorError] | None = None) -> Iterator[None]:
    """Within the block, a driver's error becomes ours, as `translate` makes it."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, side, doing, otherwise) from None
