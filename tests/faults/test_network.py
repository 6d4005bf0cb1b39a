"""A network that fails at random moments, on either side, during the copy and while the worker streams."""

import random
import time
from collections.abc import Callable, Sequence

import pytest

from tests.faults.conftest import StageFactory
from tests.faults.stage import Stage, seeded, wait_told
from tests.fixtures.databases import Database
from tests.fixtures.migration import add_ballast
from tests.fixtures.proxy import Proxy
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker

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


@pytest.mark.fault("network", "nothing comes from the source for three times the lease", "keeps the lease, goes on")
@pytest.mark.parametrize("moment", ["stream", "connect"])
def test_a_source_that_says_nothing_does_not_make_the_worker_look_dead(
    source: Database, target: Database, new_stage: StageFactory, moment: str
) -> None:
    lease = 3
    stage = new_stage(source, target, lease_timeout=lease)
    migration = stage.migration
    migration.start()
    second = Worker(migration.settings, migration.worker.log_file.with_suffix(".second"))
    second.start()
    wait_until(lambda: "another worker has the lease" in second.log, what="the second waits")

    stage.to_source.deaf()
    if moment == "connect":
        stage.to_source.cut()
        wait_told(migration, "session lost, trying again")
    time.sleep(3 * lease)
    second.kill()
    stage.to_source.hear()

    assert "the other worker is silent" not in second.log + migration.worker.log
    migration.assert_equal()
