"""The keeper: a transaction that keeps a round's snapshot alive and gives it to every job.

The snapshot that the creation of a slot exports dies with the next command on that connection. The keeper imports it
and exports it again, so that the connection of the slot is free (and a temporary slot gone) while the round lasts.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from replicator.errors import Side, SnapshotLostError, SourceError
from replicator.postgres import Connection, connected, translate


@dataclass(frozen=True, slots=True)
class Keeper:
    """The keeper's session, in its transaction, and the id under which other sessions import its snapshot."""

    connection: Connection
    snapshot: str
    block_bytes: int

    async def release(self) -> None:
        """Let the source clean up again, as soon as no job needs the snapshot any more."""
        await self.connection.close()


@contextlib.asynccontextmanager
async def keep_snapshot(dsn: str, exported: str) -> AsyncIterator[Keeper]:
    """Import a snapshot that another session exports just now, and keep it while the block runs.

    Read-only and without an xid: it must not be what the next slot waits for. Raises SnapshotLostError.
    """
    async with connected(dsn, Side.SOURCE, "worker snapshot") as connection:
        try:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(exported)))
            cursor = await connection.execute(
                "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.current_setting('block_size')::integer"
            )
            row = await cursor.fetchone()
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject) as error:
            raise SnapshotLostError(f"the snapshot of the new slot is gone ({error.sqlstate})") from None
        except psycopg.Error as error:
            raise translate(error, Side.SOURCE, "keeping the snapshot", otherwise=SourceError) from None
        if row is None:
            raise SourceError("the source exported no snapshot")
        yield Keeper(connection, *row)
