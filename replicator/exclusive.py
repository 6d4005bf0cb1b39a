"""One operator's command at a time: cutover, its abort and cleanup must not meet on one migration."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final, LiteralString

from replicator.errors import CommandBusyError
from replicator.postgres import Connection

_LOCK: Final = (0x7265706C, 2)
"""An advisory lock beside the worker's (`replicator.lease`); it ends with its session."""

_TRY_LOCK: Final[LiteralString] = "SELECT pg_catalog.pg_try_advisory_lock(%s, %s)"
_UNLOCK: Final[LiteralString] = "SELECT pg_catalog.pg_advisory_unlock(%s, %s)"


@contextlib.asynccontextmanager
async def only_command(target: Connection) -> AsyncIterator[None]:
    """Hold the lock while the block runs. Raises CommandBusyError at once if another session has it."""
    row = await (await target.execute(_TRY_LOCK, _LOCK)).fetchone()
    if not (row and row[0]):
        raise CommandBusyError("another cutover or cleanup of this migration is running")
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # a session that is lost has lost the lock as well
            await target.execute(_UNLOCK, _LOCK)
