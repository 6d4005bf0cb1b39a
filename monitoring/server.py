"""Metrics and health over HTTP, read only, in the worker's own event loop."""

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

import structlog
import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitoring.health import Health
from monitoring.metrics import Metrics
from replicator.config import Settings
from replicator.errors import ConfigurationError

log = structlog.get_logger(__name__)

_GRACE: Final = 1
"""Seconds that open requests get when the server stops."""


def application(metrics: Metrics, health: Health) -> Starlette:
    """Make the ASGI application: /metrics, /healthz and /readyz."""

    async def show_metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    async def alive(_: Request) -> Response:
        """An answer is proof enough: it comes from the event loop that does the worker's work."""
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        obstacles = health.obstacles(time.monotonic())
        if obstacles:
            return JSONResponse({"status": "not ready", "reasons": obstacles}, status_code=503)
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/metrics", show_metrics, methods=["GET"]),
            Route("/healthz", alive, methods=["GET"]),
            Route("/readyz", ready, methods=["GET"]),
        ]
    )


class _Server(uvicorn.Server):
    """Signals are the worker's, not uvicorn's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def http_server(settings: Settings, metrics: Metrics, health: Health) -> AsyncIterator[None]:
    """Serve while the block runs. Raises ConfigurationError at the start."""
    with _listen(settings.http_host, settings.http_port) as listener:
        server = _Server(_uvicorn_config(application(metrics, health)))
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="http server")
        log.info("serving metrics and health", host=settings.http_host, port=settings.http_port)
        try:
            yield
        finally:
            server.should_exit = True
            await serving


def _uvicorn_config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason, hint = "the port is in use", "Set REPLICATOR_HTTP_PORT to a free port, or to 0 to serve no HTTP."
        else:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else "the address is unknown"
            hint = "Correct REPLICATOR_HTTP_HOST and REPLICATOR_HTTP_PORT."
        raise ConfigurationError(f"cannot listen on {host} port {port}: {reason}", hint=hint) from None
