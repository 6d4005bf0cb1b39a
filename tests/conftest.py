"""Fixtures by theme: see the modules named here. Async tests run on asyncio by anyio (pyproject: anyio_mode)."""

import pytest

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
