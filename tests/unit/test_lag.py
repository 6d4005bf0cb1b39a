"""Lag in seconds: the age, by the source's clock, of the oldest WAL position that is not applied."""

from hypothesis import given
from hypothesis import strategies as st

from replicator.lag import LagTracker
from replicator.lsn import Lsn

POSITIONS = st.integers(0, 50).map(Lsn)
TIMES = st.integers(0, 1000).map(float)
SAMPLES = st.lists(st.tuples(TIMES, POSITIONS), max_size=60)


def track(samples: list[tuple[float, Lsn]], capacity: int = 1000) -> LagTracker:
    tracker = LagTracker(capacity)
    for time, position in samples:
        tracker.sample(time, position)
    return tracker


def exact(samples: list[tuple[float, Lsn]], progress: Lsn, now: float) -> float:
    unreached = [time for time, position in samples if position > progress]
    return max(0.0, now - min(unreached)) if unreached else 0.0


def test_before_the_first_sample_the_lag_is_unknown() -> None:
    assert LagTracker().seconds(Lsn(5), 100.0) is None


def test_an_idle_source_has_no_lag_however_long_ago_its_last_change_was() -> None:
    tracker = track([(float(second), Lsn(7)) for second in range(3600)])

    assert tracker.seconds(Lsn(7), 3600.0) == 0
    assert len(tracker) == 0


def test_lag_counts_from_when_the_oldest_unapplied_position_was_first_seen() -> None:
    # the WAL stood still at 20 from second 10 on: its age goes on growing although nothing new is written
    tracker = track([(0.0, Lsn(10)), *((float(second), Lsn(20)) for second in range(10, 60))])

    assert tracker.seconds(Lsn(15), 60.0) == 50.0


def test_a_received_commit_tells_the_lag_from_before_a_restart() -> None:
    # given a worker that starts at 1000 s and sees only the end of the WAL
    tracker = track([(1000.0, Lsn(900))])
    assert tracker.seconds(Lsn(100), 1000.0) == 0

    # when it receives a transaction that was committed an hour before
    tracker.sample(-2600.0, Lsn(120))

    assert tracker.seconds(Lsn(100), 1000.0) == 3600.0


@given(SAMPLES, POSITIONS, TIMES)
def test_it_equals_the_definition_for_samples_in_any_order(
    samples: list[tuple[float, Lsn]], progress: Lsn, now: float
) -> None:
    tracker = track(samples)

    assert tracker.seconds(progress, now) == (exact(samples, progress, now) if samples else None)


@given(SAMPLES.filter(bool), POSITIONS, TIMES, st.floats(-1e6, 1e6).map(round))
def test_a_skewed_source_clock_changes_nothing(
    samples: list[tuple[float, Lsn]], progress: Lsn, now: float, skew: int
) -> None:
    skewed = track([(time + skew, position) for time, position in samples])

    assert skewed.seconds(progress, now + skew) == track(samples).seconds(progress, now)


@given(SAMPLES, POSITIONS, POSITIONS, TIMES)
def test_forgetting_what_was_reached_changes_no_later_answer(
    samples: list[tuple[float, Lsn]], one: Lsn, other: Lsn, now: float
) -> None:
    tracker = track(samples)
    tracker.seconds(min(one, other), now)

    assert tracker.seconds(max(one, other), now) == track(samples).seconds(max(one, other), now)


@given(SAMPLES.filter(bool), POSITIONS, st.integers(2, 8))
def test_thinned_out_it_holds_few_samples_and_never_says_too_little(
    samples: list[tuple[float, Lsn]], progress: Lsn, capacity: int
) -> None:
    tracker = track(samples, capacity)

    assert len(tracker) <= capacity
    lag = tracker.seconds(progress, 1000.0)
    assert lag is not None
    assert lag >= exact(samples, progress, 1000.0)
    assert (lag == 0) == (exact(samples, progress, 1000.0) == 0)


def test_a_day_of_lag_is_right_within_one_percent_in_bounded_memory() -> None:
    day = 86_400
    samples = [(float(second), Lsn(1000 * second)) for second in range(day)]
    tracker = track(samples, 1024)

    for progress_second in range(0, day, 997):
        truth = exact(samples[progress_second : progress_second + 2], Lsn(1000 * progress_second), float(day))
        lag = tracker.seconds(Lsn(1000 * progress_second), float(day))
        assert lag is not None
        assert truth <= lag <= truth + 0.01 * day
    assert len(tracker) <= 1024
