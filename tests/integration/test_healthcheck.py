"""The image's HEALTHCHECK, run as Docker runs it, against a real server."""

import asyncio
import json
import re
import sys
from pathlib import Path

from monitoring.health import Health
from monitoring.metrics import Metrics
from monitoring.server import http_server
from replicator.demo.servers import free_port
from tests.integration.test_http_server import settings

DOCKERFILE = (Path(__file__).parents[2] / "Dockerfile").read_text()


async def healthcheck(port: int) -> int:
    (command,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*?\])$", re.sub(r"\\\n\s*", "", DOCKERFILE), re.MULTILINE)
    _, *arguments = json.loads(command)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env={"REPLICATOR_HTTP_PORT": str(port)}, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


async def test_a_worker_that_serves_is_healthy() -> None:
    port = free_port()

    async with http_server(settings(port), Metrics(), Health(lease_timeout=15)):
        assert await healthcheck(port) == 0


async def test_a_worker_that_is_gone_is_not_healthy() -> None:
    assert await healthcheck(free_port()) == 1
