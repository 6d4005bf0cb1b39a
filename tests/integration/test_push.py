"""Pushing to a Pushgateway: a receiver over real HTTP that can be made to fail."""

import asyncio
import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from structlog.testing import capture_logs

from monitoring.exposure import exposed
from monitoring.health import Health
from monitoring.metrics import Metrics
from replicator.config import Settings
from replicator.errors import ConfigurationError
from replicator.model import Phase


class Receiver(ThreadingHTTPServer):
    """Keeps what was pushed; answers with ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 202
        self.pushes: list[tuple[str, str, str | None]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.pushes.append((self.path, body, self.headers.get("authorization")))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def settings(url: str | None, **others: object) -> Settings:
    return Settings.model_validate(
        {
            "SOURCE_DATABASE_URL": "postgresql://source/app",
            "TARGET_DATABASE_URL": "postgresql://target/app",
            "pushgateway_url": url,
            "http_port": 0,
            "push_interval": 0.05,
            **others,
        }
    )


def leader() -> Health:
    health = Health(lease_timeout=15)
    health.renew(0.0)
    return health


async def pushes(receiver: Receiver, count: int) -> None:
    async with asyncio.timeout(10):
        while len(receiver.pushes) < count:
            await asyncio.sleep(0.01)


def test_metrics_are_pushed_again_and_again_as_one_group(receiver: Receiver) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with exposed(settings(receiver.address, instance="my app/eu"), metrics, leader()):
            metrics.set_phase(Phase.STREAMING)
            await pushes(receiver, 3)

    asyncio.run(scenario())
    path, body, _ = receiver.pushes[-1]
    assert path == "/metrics/job/replicator/instance/my%20app%2Feu"
    assert 'replicator_phase{phase="streaming"} 1.0' in body


def test_the_last_figures_are_pushed_when_the_worker_stops(receiver: Receiver) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with exposed(settings(receiver.address, push_interval=3600), metrics, leader()):
            await pushes(receiver, 1)
            metrics.divergences.inc()

    asyncio.run(scenario())
    assert "replicator_divergences_total 1.0" in receiver.pushes[-1][1]


def test_a_worker_that_waits_for_the_lease_does_not_overwrite_the_other_ones_figures(receiver: Receiver) -> None:
    """Law 6: deploys overlap two workers."""
    health = leader()
    health.wait_for_lease()

    async def scenario() -> None:
        async with exposed(settings(receiver.address), Metrics(), health):
            await asyncio.sleep(0.3)

    asyncio.run(scenario())
    assert receiver.pushes == []


def test_an_outage_is_logged_once_and_its_end_once(receiver: Receiver) -> None:
    receiver.status = 500

    async def scenario() -> None:
        async with exposed(settings(receiver.address), Metrics(), leader()):
            await pushes(receiver, 4)
            receiver.status = 202
            await pushes(receiver, 8)

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("cannot push metrics", "warning"),
        ("metrics are pushed again", "info"),
    ]


def test_a_pushgateway_that_is_away_never_harms_the_worker() -> None:
    with Receiver() as gone:
        address = gone.address

    async def scenario() -> str:
        async with exposed(settings(address), Metrics(), leader()):
            await asyncio.sleep(0.3)
            return "worked on"

    with capture_logs() as logs:
        assert asyncio.run(scenario()) == "worked on"
    assert len(logs) == 1


def test_a_password_in_the_url_travels_in_a_header_and_shows_in_no_log(receiver: Receiver) -> None:
    """Law 9."""
    receiver.status = 401

    async def scenario() -> None:
        async with exposed(settings(f"http://me:s3cret@{receiver.address}"), Metrics(), leader()):
            await pushes(receiver, 1)

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert receiver.pushes[0][2] == "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert logs
    assert "s3cret" not in repr(logs)


def test_without_a_pushgateway_nothing_runs() -> None:
    async def scenario() -> int:
        async with exposed(settings(None), Metrics(), leader()):
            return len(asyncio.all_tasks())

    assert asyncio.run(scenario()) == 1


@pytest.mark.parametrize("url", ["http://host:no-port", "http://"])
def test_an_unreadable_url_is_a_configuration_error(url: str) -> None:
    async def scenario() -> None:
        async with exposed(settings(url), Metrics(), leader()):
            pass

    with pytest.raises(ConfigurationError, match="REPLICATOR_PUSHGATEWAY_URL"):
        asyncio.run(scenario())
