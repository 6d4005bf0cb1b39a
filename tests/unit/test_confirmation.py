"""Law 3: the slot is confirmed only up to what a failover of the target could not lose any more."""

from hypothesis import given
from hypothesis import strategies as st

from replicator.lsn import Lsn
from replicator.source.confirmation import Confirmation

START = Lsn(100)


def test_nothing_is_confirmed_before_the_delay() -> None:
    confirmation = Confirmation(START, delay=60)
    confirmation.record(Lsn(200), now=0)

    assert confirmation.due(59.9) == START
    assert confirmation.due(60) == 200
    assert confirmation.due(1000) == 200


def test_progress_that_went_back_is_not_covered() -> None:
    """A target that has lost commits: what was durable before tells nothing any more."""
    confirmation = Confirmation(START, delay=60)
    confirmation.record(Lsn(200), now=0)

    assert confirmation.covers(Lsn(200))
    assert not confirmation.covers(Lsn(199))


def test_each_progress_waits_for_its_own_delay() -> None:
    confirmation = Confirmation(START, delay=60)
    for second in range(0, 100, 10):
        confirmation.record(Lsn(200 + second), now=second)

    assert confirmation.due(75) == 210
    assert confirmation.due(85) == 220


def test_without_a_delay_progress_is_confirmed_at_once() -> None:
    confirmation = Confirmation(START, delay=0)
    for n in range(10):
        confirmation.record(Lsn(200 + n), now=n / 10)

        assert confirmation.due(n / 10) == 200 + n


def test_the_same_progress_again_does_not_begin_a_new_delay() -> None:
    confirmation = Confirmation(START, delay=60)
    for second in range(60):
        confirmation.record(Lsn(200), now=second)

    assert confirmation.due(60) == 200


def test_steady_small_advances_are_confirmed_all_the_same() -> None:
    confirmation = Confirmation(START, delay=2)
    for n in range(100):
        confirmation.record(Lsn(200 + n), now=n / 10)

    assert confirmation.due(9.9) >= 200 + 60


def test_a_tenth_of_the_wal_that_the_source_keeps_is_the_most_that_is_held_back() -> None:
    confirmation = Confirmation(START, delay=60)
    confirmation.record(Lsn(10_000), now=0)

    assert confirmation.due(1, keep_bytes=20_000) == 8_000
    assert confirmation.due(2, keep_bytes=None) == 8_000
    assert confirmation.due(60, keep_bytes=20_000) == 10_000


def test_a_large_allowance_does_not_take_a_confirmation_back() -> None:
    confirmation = Confirmation(START, delay=60)
    confirmation.record(Lsn(200), now=0)

    assert confirmation.due(1, keep_bytes=10**12) == START


@given(
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1000), st.booleans()), max_size=60),
    delay=st.floats(0, 20),
)
def test_law_3_only_progress_that_was_durable_for_the_delay_is_confirmed(
    steps: list[tuple[float, int, bool]], delay: float
) -> None:
    confirmation = Confirmation(START, delay)
    now, progress, confirmed = 0.0, int(START), int(START)
    durable = [(now - delay, int(START))]
    for passed, written, looks in steps:
        now, progress = now + passed, progress + written
        confirmation.record(Lsn(progress), now)
        durable.append((now, progress))
        if looks:
            due = confirmation.due(now)
            assert confirmed <= due <= max(lsn for since, lsn in durable if now - since >= delay)
            confirmed = due
