"""A server that comes back as it was at an earlier moment, as after a restore or a failover that lost commits."""

import subprocess
from pathlib import Path

import pytest

from replicator.demo.servers import Server
from tests.fixtures.servers import AnyServer


def data_of(server: AnyServer) -> Path:
    """The data directory of an embedded server; skips the test where servers are containers."""
    if not isinstance(server, Server):
        pytest.skip("needs the server's files")
    return server.folder / "data"


def save(server: AnyServer) -> None:
    """Keep a copy of its data as they are now. Restarts it."""
    data = data_of(server)
    server.stop()
    subprocess.run(["cp", "-a", data, data.with_name("saved")], check=True)
    server.start()


def restore(server: AnyServer, *, timeline: bool = False) -> None:
    """Put back what was saved; with ``timeline`` as a server that was a standby, and was promoted just now."""
    data = data_of(server)
    server.stop()
    subprocess.run(["rm", "-rf", data], check=True)
    data.with_name("saved").rename(data)
    if timeline:
        become_standby(server)
        promote(server)
    else:
        server.start()


def become_standby(server: AnyServer) -> None:
    """Restart it in recovery: it answers queries, and takes no writes."""
    server.stop()
    (data_of(server) / "standby.signal").touch()
    server.start()


def promote(server: AnyServer) -> None:
    """End its recovery, on a new timeline."""
    with server.administer() as connection:
        connection.execute("SELECT pg_promote()")
