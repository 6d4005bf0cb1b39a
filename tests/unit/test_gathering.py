"""When frames are left to gather: only behind many in a short time."""

import pytest

from replicator.source.gathering import Gathering

SECONDS_PER_FRAME_OF_A_BUSY_SOURCE = 1 / 100_000


@pytest.fixture
def gathering() -> Gathering:
    """One that has looked at second 10, when there had been 500 frames."""
    made = Gathering()
    made.seconds(500, 10.0)
    return made


def test_a_busy_source_is_left_alone_for_a_moment(gathering: Gathering) -> None:
    assert 0 < gathering.seconds(500 + 100, 10.002) < 0.1


def test_each_frame_of_a_source_with_some_thousand_transactions_a_second_is_taken_at_once(gathering: Gathering) -> None:
    for second in range(1, 6):
        assert gathering.seconds(500 + second * 9_000, 10.0 + second) == 0


def test_a_few_frames_at_once_are_no_busy_source(gathering: Gathering) -> None:
    assert gathering.seconds(500 + 20, 10.002) == 0


def test_frames_are_counted_for_a_while_before_they_tell_anything(gathering: Gathering) -> None:
    """The frames of one transaction come together: they are many only if more go on coming."""
    assert gathering.seconds(500 + 25, 10.0001) == 0
    assert gathering.seconds(500 + 25, 10.0012) == 0


def test_it_goes_on_while_what_has_gathered_is_much(gathering: Gathering) -> None:
    moment = gathering.seconds(700, 10.002)
    busy = int(moment / SECONDS_PER_FRAME_OF_A_BUSY_SOURCE)

    assert gathering.seconds(700 + busy, 10.002 + moment) == moment


def test_it_ends_when_little_has_gathered(gathering: Gathering) -> None:
    moment = gathering.seconds(700, 10.002)

    assert gathering.seconds(710, 10.002 + moment) == 0
