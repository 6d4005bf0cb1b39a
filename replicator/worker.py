"""The long-running worker: sessions, one after the other, until one ends with an error that does not pass."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

import structlog

from monitoring.health import Health
from monitoring.metrics import Metrics
from monitoring.push import pushing
from monitoring.server import http_server
from replicator.config import Settings
from replicator.errors import ReplicatorError, Side, UnknownHostError
from replicator.lease import Lease, hold_lease
from replicator.postgres import connected, is_retryable, retry_policy
from replicator.session import Session

log = structlog.get_logger(__name__)

_STEADY: Final = 30
"""Seconds of streaming after which a loss counts as a new one, with the shortest pause before the next attempt."""


async def run(settings: Settings, *, stream: bool = True) -> None:
    """Work until cancelled, or, with ``stream`` False, until the bootstrap is done.

    Raises the error that stopped the worker for good.
    """
    metrics, health = Metrics(), Health(settings.lease_timeout)
    async with http_server(settings, metrics, health), pushing(settings, metrics, health):
        await Worker(settings, metrics, health).run(stream=stream)


class Worker:
    """Runs sessions; between two of them is a pause that grows while they fail, with jitter."""

    def __init__(self, settings: Settings, metrics: Metrics, health: Health) -> None:
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._has_connected = False

    async def run(self, *, stream: bool) -> None:
        """Run sessions until one raises an error that does not pass, or this task is cancelled."""
        lost = True
        while lost:
            async for attempt in retry_policy(self._settings.retry_timeout, self._may_retry):
                with attempt:
                    lost = await self._attempt(stream=stream)

    def _may_retry(self, error: BaseException) -> bool:
        """A host name that has never resolved is a wrong URL, not an outage."""
        return is_retryable(error) and (self._has_connected or not isinstance(error, UnknownHostError))

    async def _attempt(self, *, stream: bool) -> bool:
        """Run one session. False if its work is done, True if it was lost after it had streamed for a while."""
        session: Session | None = None
        try:
            async with self._lease() as lease, connected(self._settings.source, Side.SOURCE, "worker") as source:
                self._has_connected = self._health.source_connected = self._health.target_connected = True
                session = Session(self._settings, self._metrics, self._health, lease, source)
                await session.run(stream=stream)
        except ReplicatorError as error:
            self._metrics.count_error(error)
            if not self._may_retry(error):
                raise
            self._metrics.reconnects.labels(side=error.side.value).inc()
            log.warning("session lost, trying again", side=error.side.value, reason=error.message)
            if session is None or not session.has_streamed_for(_STEADY, time.monotonic()):
                raise
            return True
        finally:
            self._health.source_connected = self._health.target_connected = False
            self._health.step_back()
        return False

    @contextlib.asynccontextmanager
    async def _lease(self) -> AsyncIterator[Lease]:
        told = False

        def waiting() -> None:
            nonlocal told
            if not told:
                log.info("another worker has the lease, waiting for it")
            told = True

        async with hold_lease(self._settings.target, self._settings.lease_timeout, waiting) as lease:
            yield lease
