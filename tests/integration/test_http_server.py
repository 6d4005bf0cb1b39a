"""Metrics and health over real HTTP, served from the event loop that the worker runs in."""

import asyncio
import os
import signal
import socket
import time

import httpx
import pytest

from monitoring.exposure import exposed
from monitoring.health import Health
from monitoring.metrics import Metrics
from monitoring.server import http_server
from replicator.config import Settings
from replicator.demo.servers import free_port
from replicator.errors import ConfigurationError
from replicator.model import Phase


def settings(port: int, host: str = "127.0.0.1") -> Settings:
    return Settings.model_validate(
        {
            "SOURCE_DATABASE_URL": "postgresql://source/app",
            "TARGET_DATABASE_URL": "postgresql://target/app",
            "http_port": port,
            "http_host": host,
        }
    )


def healthy() -> Health:
    health = Health(lease_timeout=15, phase=Phase.STREAMING, leading=True, source_connected=True, target_connected=True)
    health.renew(time.monotonic())
    return health


def fetch(path: str, health: Health, metrics: Metrics | None = None, method: str = "GET") -> httpx.Response:
    port = free_port()

    async def scenario() -> httpx.Response:
        async with (
            http_server(settings(port), metrics or Metrics(), health),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            return await client.request(method, path)

    return asyncio.run(scenario())


def test_metrics_are_served_as_prometheus_reads_them() -> None:
    metrics = Metrics()
    metrics.set_phase(Phase.STREAMING)
    metrics.applied_changes.labels(operation="update").inc(3)

    answer = fetch("/metrics", healthy(), metrics)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'replicator_phase{phase="streaming"} 1.0' in answer.text
    assert 'replicator_applied_changes_total{operation="update"} 3.0' in answer.text


def test_a_lag_that_is_not_measured_yet_is_not_shown_as_none() -> None:
    assert "replicator_lag_bytes NaN" in fetch("/metrics", healthy()).text


def test_a_process_that_is_not_ready_is_alive_all_the_same() -> None:
    assert fetch("/healthz", Health(lease_timeout=15)).status_code == 200


def test_a_streaming_worker_with_both_sides_is_ready() -> None:
    answer = fetch("/readyz", healthy())

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_worker_that_lost_the_source_is_not_ready_and_says_why() -> None:
    health = healthy()
    health.source_connected = False

    answer = fetch("/readyz", health)

    assert answer.status_code == 503
    assert answer.json() == {"status": "not ready", "reasons": ["the source is not connected"]}


def test_a_worker_that_waits_for_the_lease_is_not_ready() -> None:
    """Law 6: one worker at a time."""
    health = healthy()
    health.wait_for_lease()

    assert fetch("/readyz", health).status_code == 503


def told(answer: httpx.Response) -> list[str]:
    """All but the figures of the process, which change by themselves."""
    return [line for line in answer.text.splitlines() if not line.startswith(("process_", "python_"))]


def test_nothing_can_be_changed_over_http() -> None:
    """Given any method that may change something, or parameters, then it is refused, or they mean nothing."""
    paths, port = ("/metrics", "/healthz", "/readyz"), free_port()
    words = {"name[]": "nothing", "phase": "done", "_method": "DELETE", "reset": "1"}

    async def scenario() -> tuple[set[int], list[list[str]], list[list[str]]]:
        async with (
            http_server(settings(port), Metrics(), healthy()),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            before = [await client.get(path) for path in paths]
            refused = {
                (await client.request(method, path, content=b"phase=done", params=words)).status_code
                for path in paths
                for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
            }
            override = {"x-http-method-override": "DELETE"}
            after = [await client.get(path, params=words, headers=override) for path in paths]
            assert (await client.get("/")).status_code == 404
        return refused, [told(answer) for answer in before], [told(answer) for answer in after]

    refused, before, after = asyncio.run(scenario())
    assert refused == {405}
    assert after == before


def test_a_port_in_use_is_one_clear_error() -> None:
    async def scenario(port: int) -> None:
        async with http_server(settings(port), Metrics(), healthy()):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1 port {port}: the port is in use") as caught:
            asyncio.run(scenario(port))
    assert "REPLICATOR_HTTP_PORT" in caught.value.hint


def test_an_address_that_is_not_ours_is_a_configuration_error() -> None:
    async def scenario() -> None:
        async with http_server(settings(free_port(), host="192.0.2.1"), Metrics(), healthy()):
            pass

    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1"):
        asyncio.run(scenario())


def test_port_zero_serves_nothing() -> None:
    async def scenario() -> int:
        async with exposed(settings(0), Metrics(), healthy()):
            return len(asyncio.all_tasks())

    assert asyncio.run(scenario()) == 1


def test_the_port_is_free_again_once_stopped() -> None:
    port = free_port()

    async def scenario() -> None:
        for _ in range(2):
            async with http_server(settings(port), Metrics(), healthy()):
                pass

    asyncio.run(scenario())


def test_signals_reach_the_worker_and_not_the_http_server() -> None:
    async def scenario() -> bool:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with http_server(settings(free_port()), Metrics(), healthy()):
            await asyncio.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(stop.wait(), 5)
        return stop.is_set()

    assert asyncio.run(scenario())
