"""Fixtures by theme: see the modules named here. Async tests run on asyncio by anyio (pyproject: anyio_mode)."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from replicator.compiled import compiled

settings.register_profile("shared machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = [
    "tests.fixtures.servers",
    "tests.fixtures.databases",
    "tests.fixtures.proxy",
    "tests.fixtures.worker",
    "tests.fixtures.migration",
    "tests.fixtures.shared",
    "tests.fixtures.tls",
]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_sessionstart() -> None:
    """What was compiled must be what the source says, or the tests would judge something else."""
    for name in compiled():
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        binary = Path(spec.origin)
        source = binary.with_name(name.rpartition(".")[2]).with_suffix(".py")
        if any(binary.stat().st_mtime < part.stat().st_mtime for part in (source, source.with_suffix(".pxd"))):
            pytest.exit(f"{name} was changed since it was compiled: run make", returncode=2)
