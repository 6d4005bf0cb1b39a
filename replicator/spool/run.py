"""Spooling beside other work: while tables are copied, and while what was spooled is being applied."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog

from replicator import control
from replicator.config import Settings
from replicator.control import Migration
from replicator.errors import Side
from replicator.incoming import Incoming
from replicator.lease import Lease
from replicator.lsn import format_lsn
from replicator.model import SpoolMode
from replicator.postgres import Connection, connected, reporting
from replicator.source.slot import read_keep_bytes, read_slot
from replicator.source.stream import Received, ReplicationStream
from replicator.spool.writer import SpoolWriter

log = structlog.get_logger(__name__)

_SHARE: Final = 0.2
"""Of max_slot_wal_keep_size: when the slot keeps more than that, spooling begins, and catches up."""


@dataclass(frozen=True, slots=True)
class Spooling:
    """Spools for one session."""

    settings: Settings
    lease: Lease
    source: Connection
    incoming: Incoming

    async def is_used(self) -> bool:
        """Whether something was spooled that may not be applied yet."""
        progress = await control.read_progress(self.lease.connection)
        return progress is not None and progress.spooled is not None

    async def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``, and spool if need be until it ends. Raises what either raises.

        The writer is never cut off in a commit that this session would have to guess about later.
        """
        stop = asyncio.Event()
        spooling = asyncio.create_task(self._run(stop))
        working = asyncio.create_task(work)
        working.add_done_callback(lambda _: stop.set())
        try:
            # spooling ends early if it fails, or if there is no need for it
            await asyncio.wait((working, spooling), return_when=asyncio.FIRST_EXCEPTION)
            if not working.done():
                working.cancel()
            await asyncio.wait((working, spooling))
            for task in (spooling, working):
                task.result()
        finally:
            for task in (working, spooling):
                task.cancel()
            await asyncio.gather(working, spooling, return_exceptions=True)

    async def _run(self, stop: asyncio.Event) -> None:
        migration = await self._until_needed(stop)
        if migration is None:
            return
        async with connected(self.settings.target, Side.TARGET, "worker spool") as target:
            writer = await SpoolWriter.begin(target, self.lease.epoch)
            async with self.incoming.open(migration, lambda: writer.lsn) as stream:
                log.info("spooling", slot=migration.slot, from_lsn=format_lsn(writer.lsn))
                while (received := await _next(stream, stop)) is not None:
                    await writer.add(received, self.settings.status_interval)

    async def _until_needed(self, stop: asyncio.Event) -> Migration | None:
        """The migration, as soon as its slot keeps too much; None if that did not happen before ``stop``."""
        while self.settings.spool is not SpoolMode.NEVER and not stop.is_set():
            migration = await control.read_migration(self.lease.connection)
            if migration is not None and await self._is_needed(migration):
                return migration
            await _within(self.settings.status_interval, stop)
        return None

    async def _is_needed(self, migration: Migration) -> bool:
        progress = await control.read_progress(self.lease.connection)
        if progress is None:
            return False  # the slot is being made
        if progress.spooled is not None or self.settings.spool is SpoolMode.ALWAYS:
            return True
        with reporting(Side.SOURCE, "reading the slot"):
            limit = await read_keep_bytes(self.source)
            slot = await read_slot(self.source, migration.slot)
        return limit is not None and slot is not None and slot.retained_bytes > limit * _SHARE


async def _next(stream: ReplicationStream, stop: asyncio.Event) -> Received | None:
    """What the stream receives next, or None when it is time to stop."""
    arriving, stopping = asyncio.create_task(stream.next()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((arriving, stopping), return_when=asyncio.FIRST_COMPLETED)
        return None if stop.is_set() else arriving.result()
    finally:
        arriving.cancel()
        stopping.cancel()
        await asyncio.gather(arriving, stopping, return_exceptions=True)


async def _within(seconds: float, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
