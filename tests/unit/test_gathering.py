"""When frames are left to gather, for how long, and how far is read after it."""

import math

import pytest

from replicator.source.gathering import Gathering


@pytest.fixture
def gathering() -> Gathering:
    """One that has looked at second 10, when there had been 500 frames."""
    made = Gathering()
    made.is_busy(500, 10.0)
    return made


def test_a_source_that_sends_much_is_left_alone(gathering: Gathering) -> None:
    assert gathering.is_busy(500 + 100, 10.002)
    assert 0 < gathering.moment < 0.1


def test_each_frame_of_a_source_with_some_thousand_transactions_a_second_is_taken_at_once(gathering: Gathering) -> None:
    for second in range(1, 6):
        assert not gathering.is_busy(500 + second * 9_000, 10.0 + second)


def test_a_few_frames_at_once_are_no_busy_source(gathering: Gathering) -> None:
    assert not gathering.is_busy(500 + 20, 10.002)


def test_frames_are_counted_for_a_while_before_they_tell_anything(gathering: Gathering) -> None:
    """The frames of one transaction come together: they are many only if more go on coming."""
    assert not gathering.is_busy(500 + 25, 10.0001)
    assert not gathering.is_busy(500 + 25, 10.0012)


def test_it_goes_on_while_what_has_gathered_is_much_and_ends_when_it_is_little(gathering: Gathering) -> None:
    assert gathering.is_busy(700, 10.002)
    assert gathering.is_busy(700 + 3_000, 10.052)
    assert not gathering.is_busy(3_700 + 30, 10.102)


def test_what_had_gathered_is_read_and_no_more(gathering: Gathering) -> None:
    assert gathering.until == math.inf

    gathering.end(1_000_000, 50_000)
    assert gathering.until == 1_050_000

    gathering.go_on()
    assert gathering.until == math.inf


@pytest.mark.parametrize("waiting", [100_000, 70_000])
def test_where_as_much_is_there_at_once_the_source_waited_and_moments_become_shorter(
    gathering: Gathering, waiting: int
) -> None:
    moments = [gathering.moment]
    for _ in range(30):
        gathering.end(0, 100_000)
        gathering.look(waiting)
        moments.append(gathering.moment)

    assert moments[1] < moments[0]
    assert 0.001 < moments[-1] < 0.005


@pytest.mark.parametrize("waiting", [0, 60_000])
def test_where_it_is_not_the_source_did_not_wait_and_they_become_longer(gathering: Gathering, waiting: int) -> None:
    moments = [gathering.moment]
    for _ in range(30):
        gathering.end(0, 100_000)
        gathering.look(waiting)
        moments.append(gathering.moment)

    assert moments[1] > moments[0]
    assert moments[-1] == 0.1


def test_after_a_quiet_time_moments_begin_anew(gathering: Gathering) -> None:
    first = gathering.moment
    gathering.end(0, 100_000)
    gathering.look(0)
    assert gathering.moment > first

    gathering.is_busy(500, 20.0)

    assert gathering.moment == first
