"""Sessions of asyncpg, which the relay needs for its large chunks, and their errors in our words.

Both drivers' errors are told apart in one place (`replicator.postgres`), so asyncpg's become psycopg's first.
"""

import asyncio
import contextlib
import ctypes
import socket
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import psycopg
from psycopg.pq import DiagnosticField

from bootstrap.endpoint import connect_arguments
from replicator.errors import CopyError, ReplicatorError, Side
from replicator.postgres import LATER_SETTINGS, connect_error, has_no_place, translate

if TYPE_CHECKING:
    Session = asyncpg.Connection[asyncpg.Record]
else:
    Session = asyncpg.Connection  # generic only for the type checker

_TCP_OPTIONS: Final = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 300_000}
"""In seconds, the last in milliseconds: long, because a target that is busy elsewhere reads nothing for a while."""

_CHUNK_BYTES: Final = 1024 * 1024
"""What asyncio reads at once; its own 256 KiB cost four times as many rounds through the event loop."""

_KEPT_BYTES: Final = 16 * _CHUNK_BYTES


class _KeptAlive(Session):
    """A connection that reads large chunks, and notices when its peer is gone, as libpq's do (postgres.connect)."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:  # noqa: ANN401  # asyncpg's own
        super().__init__(protocol, transport, *rest)
        if hasattr(transport, "max_size"):  # asyncio's own, without TLS
            transport.max_size = _CHUNK_BYTES
        peer: socket.socket = transport.get_extra_info("socket")
        if peer.family in (socket.AF_INET, socket.AF_INET6):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _TCP_OPTIONS.items():
                if hasattr(socket, option):
                    peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


@contextlib.asynccontextmanager
async def connected(dsn: str, side: Side, settings: Mapping[str, str]) -> AsyncIterator[Session]:
    """A session with the pinned settings and these, ended without ceremony at the end of the block.

    Raises what `postgres.connect` does.
    """
    arguments = connect_arguments(dsn, side, "worker copy", settings)
    _keep_freed_memory()
    try:
        connection = await asyncpg.connect(**arguments, connection_class=_KeptAlive, statement_cache_size=10)
    except DRIVER_ERRORS as error:
        raise connect_error(_as_psycopg(error), side, dsn) from None
    try:
        await _pin(connection, side)
        yield connection
    finally:
        # an open transaction or COPY ends with its connection; a polite close would wait for it
        connection.terminate()


def _keep_freed_memory() -> None:
    """Let the C library keep what chunks leave behind: page faults were a third of the relay's processor time.

    Freeing a large block makes glibc give memory back only in larger ones (mallopt(3), M_MMAP_THRESHOLD).
    """
    bytearray(_KEPT_BYTES)


def return_freed_memory() -> None:
    """Give back what `_keep_freed_memory` made the C library keep: as much as a huge row, and of no use after a copy.

    Where the library is not glibc, there is nothing to do.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def _pin(connection: Session, side: Side) -> None:
    try:
        await connection.execute(LATER_SETTINGS)
    except DRIVER_ERRORS as error:
        raise translate_error(error, side, "preparing the session") from None


# --- errors -----------------------------------------------------------------------------------------------------------

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""asyncpg's own classes, and OSError, of which TimeoutError is one."""

_NO_PLACE_REMEDY: Final = (
    "Correct the text on the source (reading it fails there after SET client_encoding = 'UTF8'), "
    "then start `replicator run` again: finished tables are kept."
)


def _as_psycopg(error: Exception) -> psycopg.Error:
    """The same error as psycopg would raise it, so that both drivers' errors are told apart in one place."""
    if not isinstance(error, asyncpg.PostgresError):
        lost = isinstance(error, OSError) or "closed" in str(error)
        return (psycopg.OperationalError if lost else psycopg.DatabaseError)(str(error) or "timeout expired")
    if error.sqlstate.startswith("08"):
        return psycopg.OperationalError(error.message or str(error))  # the driver's own has no message
    fields = {
        DiagnosticField.SQLSTATE: error.sqlstate,
        DiagnosticField.MESSAGE_PRIMARY: error.message,
        DiagnosticField.CONSTRAINT_NAME: error.constraint_name,
        DiagnosticField.COLUMN_NAME: error.column_name,
    }
    try:
        kind = psycopg.errors.lookup(error.sqlstate)
    except KeyError:
        kind = psycopg.DatabaseError
    return kind(error.message, info={field: text.encode() if text else None for field, text in fields.items()})


def translate_error(error: Exception, side: Side, doing: str) -> ReplicatorError:
    """Turn an error of asyncpg into ours; what is not known to be passing is a CopyError."""
    known = _as_psycopg(error)
    failure = translate(known, side, doing, otherwise=CopyError)
    if has_no_place(known):
        failure.hint = _NO_PLACE_REMEDY
    return failure
