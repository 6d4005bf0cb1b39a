"""What the fault tests share: two servers of their own, which they may stop and restart, and gates on the target."""

from collections.abc import Iterator

import pytest

from tests.fixtures.databases import Database
from tests.fixtures.gates import Gates, gates_on
from tests.fixtures.servers import SOURCE_MAJOR, TARGET_MAJOR, AnyServer, new_server


@pytest.fixture(scope="session")
def source_server() -> Iterator[AnyServer]:
    """Instead of the one that all other tests share."""
    with new_server(SOURCE_MAJOR) as server:
        yield server


@pytest.fixture(scope="session")
def target_server() -> Iterator[AnyServer]:
    """Instead of the one that all other tests share."""
    with new_server(TARGET_MAJOR) as server:
        yield server


@pytest.fixture
def gates(target: Database) -> Iterator[Gates]:
    """Gates on ``target``, all open."""
    with gates_on(target) as gates:
        yield gates
