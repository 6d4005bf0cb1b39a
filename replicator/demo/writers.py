"""The sample app's writers, at work through the whole migration, and their journal of what was committed."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import psycopg

from replicator.demo.app import WRITERS, AppConnection, connect_app
from replicator.demo.operations import OPERATIONS, Operation, RolledBack, converse

_REFUSED: Final = "25006"
"""read_only_sql_transaction: what an app takes for "write to another server"; the fence raises it."""

_PASSING: Final = (psycopg.errors.TransactionRollback, psycopg.errors.IntegrityConstraintViolation)
"""Deadlocks and violated constraints between writers: any app lives with these."""


@dataclass(slots=True)
class Journal:
    """What the writers were told, in transactions. ``refused_at`` is monotonic seconds of the first refused write.

    ``unknown`` is how many COMMITs had no answer; ``failures`` are errors that an app would not expect.
    """

    committed: int = 0
    rolled_back: int = 0
    conflicts: int = 0
    unknown: int = 0
    refused: int = 0
    refused_at: float | None = None
    refusal: str | None = None
    failures: list[str] = field(default_factory=list)


class Writers:
    """Concurrent writers that do ``rate`` transactions a second together, until the source refuses their writes."""

    def __init__(self, dsn: str, rate: float, seed: int = 0) -> None:
        self.journal = Journal()
        self._dsn = dsn
        self._pause = WRITERS / rate
        self._seed = seed
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[Journal]:
        """Write while the context lasts."""
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(1, WRITERS + 1)]
        try:
            yield self.journal
        finally:
            self._stopping.set()
            await asyncio.gather(*self._tasks)

    async def ended(self, seconds: float) -> bool:
        """Wait until every writer has ended by itself, at the fence or at an error; whether all did in time."""
        _, writing = await asyncio.wait(self._tasks, timeout=seconds)
        return not writing

    async def _write(self, number: int) -> None:
        chance = random.Random(self._seed * WRITERS + number)  # noqa: S311  # repeatable, not secret
        operations, weights = list(OPERATIONS), list(OPERATIONS.values())
        async with await connect_app(self._dsn) as connection:
            due = time.monotonic() + chance.random() * self._pause
            while not self._stopping.is_set():
                (operation,) = chance.choices(operations, weights)
                if not await self._transact(connection, number, operation, chance):
                    return
                # after a stall the rate is kept, the missed transactions are not made up for
                due = max(due + self._pause, time.monotonic() - self._pause)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), max(0, due - time.monotonic()))

    async def _transact(
        self, connection: AppConnection, number: int, operation: Operation, chance: random.Random
    ) -> bool:
        """Whether the writer may go on."""
        try:
            async with connection.transaction():
                await operation(connection, chance)
                await connection.execute("UPDATE writers SET committed = committed + 1 WHERE id = %s", [number])
        except RolledBack:
            self.journal.rolled_back += 1
        except _PASSING:
            self.journal.conflicts += 1
        except psycopg.Error as error:
            self._note(error, operation)
            return False
        else:
            self.journal.committed += 1
        return True

    def _note(self, error: psycopg.Error, operation: Operation) -> None:
        if error.sqlstate == _REFUSED:
            self.journal.refused += 1
            self.journal.refused_at = self.journal.refused_at or time.monotonic()
            self.journal.refusal = self.journal.refusal or error.diag.message_primary
            return
        if error.sqlstate is None:
            self.journal.unknown += 1
        self.journal.failures.append(f"{operation.__name__}: {type(error).__name__} {error.diag.message_primary}")


async def write_once(dsn: str) -> None:
    """Commit one transaction of the app: foreign keys, sequences and a trigger. Raises psycopg.Error."""
    async with await connect_app(dsn) as connection, connection.transaction():
        await converse(connection, random.Random())  # noqa: S311  # not secret
