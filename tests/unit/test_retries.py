"""When another attempt comes, and when there is none any more."""

import asyncio

import pytest
import tenacity

from replicator.errors import ServerUnavailableError, Side
from replicator.retries import retry_policy

PATIENCE = 0.2


class Flaky:
    """Goes well for ``seconds`` first, then fails ``failures`` times, each after a moment."""

    def __init__(self, seconds: float, failures: int) -> None:
        self._seconds = [seconds]
        self._failures = failures
        self.attempts = 0

    async def work(self) -> None:
        self.attempts += 1
        await asyncio.sleep(self._seconds.pop() if self._seconds else PATIENCE / 4)
        if self.attempts <= self._failures:
            raise ServerUnavailableError("away", side=Side.TARGET)


async def attempted(flaky: Flaky) -> None:
    async for attempt in retry_policy(PATIENCE).copy(wait=tenacity.wait_none()):
        with attempt:
            await flaky.work()


async def test_what_went_well_before_the_first_failure_uses_up_no_patience() -> None:
    flaky = Flaky(2 * PATIENCE, failures=1)

    await attempted(flaky)

    assert flaky.attempts == 2


async def test_failures_that_go_on_end_with_the_last_one() -> None:
    flaky = Flaky(0, failures=1000)

    with pytest.raises(ServerUnavailableError):
        await attempted(flaky)

    assert 2 < flaky.attempts < 100


def pause(failures: int) -> float:
    """Seconds before the next attempt after so many."""
    policy = retry_policy(0)
    state = tenacity.RetryCallState(policy, None, (), {})
    state.attempt_number = failures
    return policy.wait(state)


def test_pauses_between_attempts_double_up_to_half_a_minute() -> None:
    assert 0.5 <= pause(1) <= 1.5
    assert 4 <= pause(4) <= 5
    assert pause(100) == 30


def test_workers_that_failed_together_do_not_come_back_together() -> None:
    assert len({pause(1) for _ in range(10)}) == 10
