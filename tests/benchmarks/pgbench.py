"""pgbench, of the source's own installation, as its owner."""

import subprocess
from pathlib import Path

from replicator.demo.servers import Server
from tests.benchmarks.processes import BenchmarkError, client_environment
from tests.benchmarks.servers import program
from tests.fixtures.databases import Database


def pgbench(source: Database, *arguments: str) -> None:
    """Run it to its end. Raises BenchmarkError."""
    assert isinstance(source.server, Server)
    command: list[str | Path] = [program(source.server, "pgbench"), *arguments]
    ended = subprocess.run(command, env=client_environment(source.dsn), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise BenchmarkError(f"pgbench: {ended.stderr.strip()}")
