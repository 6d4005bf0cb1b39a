"""Pushes the metrics to a Pushgateway, for a worker that nobody can scrape (Render's background workers).

The group of series is named by REPLICATOR_INSTANCE, not by the machine: a worker that takes over goes on in the same
group, and no group of a machine that is gone stays behind. The last push is never deleted: its age,
``push_time_seconds``, is what tells that the worker is gone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

import httpx
import structlog
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from monitoring.health import Health
from monitoring.metrics import Metrics
from replicator.config import Settings
from replicator.errors import ConfigurationError

log = structlog.get_logger(__name__)

_TIMEOUT: Final = 3
"""Seconds for one push, so for the last one at shutdown too."""


class Pusher:
    """Pushes one worker's metrics; a failure is logged once an outage and never raised."""

    def __init__(self, client: httpx.AsyncClient, group: str, metrics: Metrics) -> None:
        self._client = client
        self._group = group
        self._metrics = metrics
        self._failing = False

    async def push(self) -> None:
        """Replace the group's series by the current ones."""
        try:
            answer = await self._client.put(
                self._group,
                content=generate_latest(self._metrics.registry),
                headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4},
            )
            answer.raise_for_status()
        except Exception as error:  # whatever it is, it must not stop the worker
            self._note(error)
        else:
            self._note(None)

    def _note(self, error: Exception | None) -> None:
        if error is not None and not self._failing:
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
            log.warning("cannot push metrics", pushgateway=self._group, error=type(error).__name__, status=status)
        if error is None and self._failing:
            log.info("metrics are pushed again", pushgateway=self._group)
        self._failing = error is not None

    async def run(self, interval: float, health: Health) -> None:
        """Push every ``interval`` seconds for as long as this worker has the lease."""
        while True:
            if health.leading:
                await self.push()
            await asyncio.sleep(interval)


@contextlib.asynccontextmanager
async def pushing(address: str, settings: Settings, metrics: Metrics, health: Health) -> AsyncIterator[None]:
    """Push while the block runs, and once more at its end. Raises ConfigurationError if ``address`` is no URL."""
    url = _parse(address)
    # a user and a password in the URL go into a header, where no log shows them
    auth = httpx.BasicAuth(url.username, url.password) if url.username else None
    async with httpx.AsyncClient(timeout=_TIMEOUT, auth=auth) as client:
        pusher = Pusher(client, _group(url, settings.instance), metrics)
        task = asyncio.create_task(pusher.run(settings.push_interval, health), name="metrics pusher")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if health.leading:
                await pusher.push()


def _parse(url: str) -> httpx.URL:
    with contextlib.suppress(httpx.InvalidURL):
        parsed = httpx.URL(url)
        if parsed.host:
            return parsed
    raise ConfigurationError(
        "REPLICATOR_PUSHGATEWAY_URL is not a URL", hint="Write it as http://host:9091 or host:9091."
    )


def _group(url: httpx.URL, instance: str) -> str:
    """The group's address, as the Pushgateway's README gives it under "URL"."""
    bare = str(url.copy_with(username=None, password=None, query=None)).rstrip("/")
    return f"{bare}/metrics/job/replicator/instance/{quote(instance, safe='')}"
