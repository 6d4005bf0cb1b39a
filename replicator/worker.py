"""The long-running worker: sessions, one after the other, until one ends with an error that does not pass."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator
from typing import Final, NoReturn

import structlog

from monitoring.exposure import exposed
from monitoring.health import Health
from monitoring.metrics import Metrics
from replicator import control
from replicator.config import Settings
from replicator.errors import MigrationRemovedError, ReplicatorError, Side, UnknownHostError
from replicator.lag import LagTracker
from replicator.lease import Lease, hold_lease
from replicator.model import Phase
from replicator.postgres import Connection, connected
from replicator.retries import is_retryable, retry_policy
from replicator.session import Session

log = structlog.get_logger(__name__)

_STEADY: Final = 30
"""Seconds with both servers after which a loss counts as a new one, with the shortest pause before the next attempt."""


async def run(settings: Settings, *, stream: bool = True) -> None:
    """Work until cancelled, or, with ``stream`` False, until the bootstrap is done.

    Raises the error that stopped the worker for good.
    """
    gc.freeze()  # what was imported stays
    metrics, health = Metrics(), Health(settings.lease_timeout)
    async with exposed(settings, metrics, health):
        await Worker(settings, metrics, health).run(stream=stream)


class Worker:
    """Runs sessions; between two of them is a pause that grows while they fail, with jitter."""

    def __init__(self, settings: Settings, metrics: Metrics, health: Health) -> None:
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._lag = LagTracker()
        self._has_connected = False

    async def run(self, *, stream: bool) -> None:
        """Run sessions until one raises an error that does not pass, or this task is cancelled."""
        goes_on = True
        while goes_on:
            async for attempt in retry_policy(self._settings.retry_timeout, self._may_retry):
                with attempt:
                    is_over = await self._attempt(stream=stream)
            goes_on = stream or not is_over

    def _may_retry(self, error: BaseException) -> bool:
        """A host name that has never resolved is a wrong URL, not an outage."""
        return is_retryable(error) and (self._has_connected or not isinstance(error, UnknownHostError))

    async def _attempt(self, *, stream: bool) -> bool:
        """Run one session; return whether it did all that it was for, False if it was lost after a while.

        That is no failure: the next pause is short again.
        """
        working_since: float | None = None
        try:
            await self._preflight()
            async with self._lease() as lease:
                self._has_connected = self._health.target_connected = True
                if await self._is_done(lease):
                    working_since = time.monotonic()
                    await self._idle(lease)
                async with self._source(lease) as source:
                    working_since = time.monotonic()
                    self._health.source_connected = True
                    session = Session(
                        self._settings, self._metrics, self._health, lag=self._lag, lease=lease, source=source
                    )
                    await session.run(stream=stream)
            return True
        except ReplicatorError as error:
            self._metrics.count_error(error)
            if not self._may_retry(error):
                raise
            self._metrics.reconnects.labels(side=error.side.value).inc()
            log.warning("session lost, trying again", side=error.side.value, reason=error.message)
            if working_since is None or time.monotonic() - working_since < _STEADY:
                raise
            return False
        finally:
            self._health.source_connected = self._health.target_connected = False
            self._health.step_back()
            self._metrics.set_lag(None, None)
            self._metrics.set_target_connections({})

    async def _preflight(self) -> None:
        """A migration that has begun needs none: its worker may be back before what the check needs is loaded."""
        async with connected(self._settings.target, Side.TARGET, "preflight") as target:
            self._has_connected = True
            if await control.exists(target) and await control.read_migration(target) is not None:
                return
        from replicator.preflight import require_ready

        await require_ready(self._settings)

    @staticmethod
    async def _is_done(lease: Lease) -> bool:
        migration = await lease.beat({})
        return migration is not None and migration.phase is Phase.DONE

    @contextlib.asynccontextmanager
    async def _source(self, lease: Lease) -> AsyncIterator[Connection]:
        """A session on the source, which may take long to answer: the heartbeat goes on meanwhile."""
        async with contextlib.AsyncExitStack() as stack:
            session = connected(self._settings.source, Side.SOURCE, "worker")
            connecting = asyncio.create_task(stack.enter_async_context(session))
            try:
                while not (await asyncio.wait([connecting], timeout=self._settings.status_interval))[0]:
                    await lease.beat({})
                    self._health.renew(time.monotonic())
            finally:
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
            yield connecting.result()

    async def _idle(self, lease: Lease) -> NoReturn:
        """After the cutover: hold nothing on the source, and only say that the worker lives."""
        log.info("the migration is done: idle")
        self._metrics.set_phase(Phase.DONE)
        self._health.phase = Phase.DONE
        with contextlib.suppress(MigrationRemovedError):
            while await lease.beat({}) is not None:
                self._health.renew(time.monotonic())
                await asyncio.sleep(self._settings.status_interval)
        # ending would have a host like Render start it again and again, to find that the target is not empty
        await lease.connection.close()
        log.info("the migration was cleaned up: nothing is left to do, this worker can be removed")
        while True:
            await asyncio.Event().wait()

    @contextlib.asynccontextmanager
    async def _lease(self) -> AsyncIterator[Lease]:
        told = False

        def waiting() -> None:
            nonlocal told
            self._health.wait_for_lease()
            if not told:
                log.info("another worker has the lease, waiting for it")
            told = True

        async with hold_lease(self._settings.target, self._settings.lease_timeout, waiting) as lease:
            yield lease
