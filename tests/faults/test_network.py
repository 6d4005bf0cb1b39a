"""A network that fails at random moments, on either side, during the copy and while the worker streams."""

import random
import time
from collections.abc import Callable, Sequence

import pytest

from tests.faults.stage import Stage, seeded
from tests.fixtures.migration import add_ballast
from tests.fixtures.proxy import Proxy

Failure = Callable[[Proxy, random.Random], None]


def cut(proxy: Proxy, _: random.Random) -> None:
    proxy.cut()


def refuse(proxy: Proxy, chance: random.Random) -> None:
    proxy.down()
    time.sleep(chance.uniform(0, 1))
    proxy.up()


def swallow(proxy: Proxy, chance: random.Random) -> None:
    """And never let through what was on its way: what waits for it must not wait for ever."""
    proxy.deaf()
    time.sleep(chance.uniform(0.2, 2))
    proxy.cut()
    proxy.hear()


def stall(proxy: Proxy, chance: random.Random) -> None:
    proxy.deaf()
    time.sleep(chance.uniform(0.2, 2))
    proxy.hear()


def crawl(proxy: Proxy, chance: random.Random) -> None:
    proxy.slow(delay=chance.uniform(0, 0.2), rate=100_000)
    time.sleep(chance.uniform(0.5, 1.5))
    proxy.slow()


FAILURES: Sequence[Failure] = (cut, refuse, swallow, stall, crawl)


@pytest.mark.fault("network", "any of these on either side, at random moments of copy and stream", "goes on")
@pytest.mark.parametrize("moment", ["copy", "stream"])
@pytest.mark.long
def test_a_network_that_fails_at_random_moments(own_stage: Stage, moment: str) -> None:
    migration, chance = own_stage.migration, seeded()
    proxies = (own_stage.to_source, own_stage.to_target)
    if moment == "copy":
        add_ballast(migration.source)
        migration.worker.start()
    else:
        migration.start()
    for fail in chance.sample([*FAILURES] * 2, 2 * len(FAILURES)):
        time.sleep(chance.uniform(0, 1.5))
        fail(chance.choice(proxies), chance)

    migration.wait_streaming()

    migration.assert_equal()
