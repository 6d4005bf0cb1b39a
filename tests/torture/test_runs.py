"""A few dozen invented runs of those that `make torture` plays by the hundred: whatever an app does must arrive."""

import pytest

from tests.fixtures.servers import AnyServer
from tests.torture.campaign import Campaign

RUNS = 30
TOGETHER = 5


@pytest.mark.parametrize("first", range(0, RUNS, TOGETHER))
def test_invented_schemas_and_transactions_arrive(
    source_server: AnyServer, target_server: AnyServer, first: int
) -> None:
    """Laws 1, 2, 4 and 7: given an app at work and a worker that is killed at times, then both sides are equal."""
    campaign = Campaign(source_server, target_server, print)

    failures = campaign.run(range(first, first + TOGETHER), TOGETHER, jobs=1)

    assert not failures, "\n".join(map(str, failures))
