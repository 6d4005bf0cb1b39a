"""Streaming and spooling beside the bootstrap, and applying what is left in the spool after it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from monitoring.metrics import Metrics
from replicator import control
from replicator.config import Settings
from replicator.control import Migration
from replicator.errors import (
    ReplicatorError,
    ServerUnavailableError,
    Side,
    SlotBusyError,
    TooManyConnectionsError,
    TransientError,
)
from replicator.incoming import Incoming
from replicator.lag import LagTracker
from replicator.lease import Lease
from replicator.lsn import INVALID, Lsn, format_lsn
from replicator.model import SpoolMode
from replicator.postgres import Connection, reporting
from replicator.pulse import Counters
from replicator.source.slot import read_keep_bytes, read_slot
from replicator.spool.flow import HoldingFlow
from replicator.spool.target import HoldingTarget
from replicator.spool.window import Window

log = structlog.get_logger(__name__)

_ATTEMPTS: Final = 3
"""Passing errors in a row after which changes wait for the end of the copy, rather than the spool for the target."""

_PASSING: Final = (TransientError, ServerUnavailableError, TooManyConnectionsError)

_SHARE: Final = 0.2
"""Of max_slot_wal_keep_size: when the slot keeps more than that, spooling begins, and catches up."""


@dataclass(frozen=True, slots=True)
class Spooling:
    """Spools for one session."""

    settings: Settings
    lease: Lease
    source: Connection
    incoming: Incoming
    metrics: Metrics
    counters: Counters
    lag: LagTracker
    window: Window = field(default_factory=Window)

    async def is_used(self) -> bool:
        """Whether something was spooled that may not be applied yet."""
        progress = await control.read_progress(self.lease.connection)
        return progress is not None and progress.spooled is not None

    async def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work``, and spool if need be until it ends. Raises what either raises.

        A transaction is never cut off in a commit that this session would have to guess about later.
        """
        stop = asyncio.Event()

        def end(_: object) -> None:
            stop.set()
            self.window.moved.set()

        spooling = asyncio.create_task(self._run(stop))
        working = asyncio.create_task(work)
        working.add_done_callback(end)
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

    async def drain(self, known_at: Lsn, taken: Callable[[Lsn], None]) -> None:
        """Apply what is in the spool, with what comes meanwhile, until it is empty. ``taken``: as `Flow.taken`."""
        migration = await control.read_migration(self.lease.connection)
        if migration is None:
            raise ReplicatorError("no migration is recorded after the bootstrap")
        async with self._flow(migration, known_at) as flow:
            log.info("applying what was spooled", from_lsn=format_lsn(flow.progress))
            try:
                await flow.drain(self.settings.status_interval)
            finally:
                taken(flow.taken)

    async def _run(self, stop: asyncio.Event) -> None:
        """Apply where the window is open, else spool only; a change that is refused now is spooled as well."""
        migration = await self._until_needed(stop)
        self.window.refused, failed = False, 0
        while migration is not None and not stop.is_set():
            try:
                async with self._flow(migration) as flow:
                    while not (stop.is_set() or flow.is_cut):
                        await self._flow_on(flow)
                        failed = 0
            except SlotBusyError:
                await _within(self.settings.status_interval, stop)
            except ReplicatorError as error:
                if self.incoming.may_go_on_after(error):
                    continue
                passing = isinstance(error, _PASSING)
                if not passing and not (self.window.is_used and error.waits_for_operator):
                    raise
                failed += isinstance(error, TransientError)
                if passing and (failed < _ATTEMPTS or not self.window.is_used):
                    # the copy's own sessions tell whether a server is away: what they have copied is not given up
                    log.warning("lost the stream beside the copy, trying again", reason=error.message)
                    await _within(self.settings.status_interval, stop)
                    continue
                log.warning("changes wait for the end of the copy: the target refuses one", reason=error.message)
                self.window.refused = True
            finally:
                self.window.leave()

    async def _flow_on(self, flow: HoldingFlow) -> None:
        """Until the window moves."""
        interval, moved = self.settings.status_interval, self.window.moved
        moved.clear()
        applies = self.window.enter()
        log.info("streaming ready tables" if applies else "spooling", from_lsn=format_lsn(flow.progress))
        await (flow.stream_ready(interval, moved) if applies else flow.hold(interval, moved))
        if not flow.is_cut:  # else what was applied of a transaction is rolled back first
            self.window.leave()

    @contextlib.asynccontextmanager
    async def _flow(self, migration: Migration, known_at: Lsn = INVALID) -> AsyncIterator[HoldingFlow]:
        target = await HoldingTarget.open(self.settings.target, self.lease.epoch, known_at)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(target.close)
            await target.begin()
            stream = await stack.enter_async_context(self.incoming.open(migration, lambda: target.progress))
            yield HoldingFlow(stream, target, self.metrics, self.counters, self.lag)

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


async def _within(seconds: float, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
