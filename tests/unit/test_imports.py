"""What a command loads: a worker that takes over is as late as its imports take."""

import subprocess
import sys
from typing import Final

import pytest

_LOADED: Final = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sys.modules)
"""


def loaded(*modules: str) -> set[str]:
    """The modules that a new Python has once it has imported these."""
    ended = subprocess.run(
        [sys.executable, "-c", _LOADED, *modules], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ended.stdout.split())


def test_the_command_line_loads_no_command() -> None:
    """Given only `replicator --help`, then no driver, no settings and no command is loaded for it."""
    found = loaded("replicator.cli")

    assert {name for name in found if name.startswith("replicator.")} == {"replicator.cli", "replicator.errors"}
    assert not found & {"psycopg", "pydantic", "rich", "sqlalchemy", "structlog"}


@pytest.fixture(scope="module")
def of_the_worker() -> set[str]:
    return loaded("replicator.cli", "replicator.worker")


@pytest.mark.parametrize("other", ["demo", "cutover", "status", "cleanup", "check"])
def test_the_worker_loads_no_other_command(other: str, of_the_worker: set[str]) -> None:
    """Given `replicator run`, then what only other commands do is not loaded."""
    assert f"replicator.{other}" not in of_the_worker


@pytest.mark.parametrize("library", ["asyncpg", "httpx", "starlette", "uvicorn"])
def test_the_worker_loads_no_library_that_a_restart_may_not_need(library: str, of_the_worker: set[str]) -> None:
    """Given a migration whose tables are copied, and neither HTTP nor a Pushgateway, then their libraries are not
    loaded."""
    assert library not in of_the_worker
