"""Showing metrics and health to whoever watches: over HTTP, and by pushes. What is not asked for is not loaded."""

import contextlib
from collections.abc import AsyncIterator

from monitoring.health import Health
from monitoring.metrics import Metrics
from replicator.config import Settings


@contextlib.asynccontextmanager
async def exposed(settings: Settings, metrics: Metrics, health: Health) -> AsyncIterator[None]:
    """Serve unless REPLICATOR_HTTP_PORT is 0, and push if there is a REPLICATOR_PUSHGATEWAY_URL, during the block.

    Raises ConfigurationError at the start.
    """
    async with contextlib.AsyncExitStack() as stack:
        if settings.http_port:
            from monitoring.server import http_server

            await stack.enter_async_context(http_server(settings, metrics, health))
        if settings.pushgateway_url is not None:
            from monitoring.push import pushing

            url = settings.pushgateway_url.get_secret_value()
            await stack.enter_async_context(pushing(url, settings, metrics, health))
        yield
