"""Law 3: the slot is confirmed up to what is durable, and later than that, since a failover may lose the newest."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from replicator.lsn import Lsn
from replicator.source.confirmation import Confirmation

START = Lsn(1000)


def test_law_3_nothing_is_confirmed_before_the_delay_has_passed() -> None:
    confirmation = Confirmation(START, delay=60)

    confirmation.record(Lsn(2000), now=100)

    assert confirmation.due(now=100) == START
    assert confirmation.due(now=159.9) == START
    assert confirmation.due(now=160) == Lsn(2000)


def test_law_3_each_progress_waits_for_its_own_delay() -> None:
    confirmation = Confirmation(START, delay=60)
    for second in range(10):
        confirmation.record(Lsn(2000 + second), now=100 + second)

    assert confirmation.due(now=163) == Lsn(2003)


def test_without_a_delay_what_is_durable_is_confirmed_at_once() -> None:
    confirmation = Confirmation(START, delay=0)

    confirmation.record(Lsn(2000), now=100)

    assert confirmation.due(now=100) == Lsn(2000)


def test_the_slot_is_held_back_by_a_tenth_of_what_it_may_retain_at_most() -> None:
    confirmation = Confirmation(START, delay=60)

    confirmation.record(Lsn(50_000), now=100)

    assert confirmation.due(now=100, keep_bytes=100_000) == Lsn(40_000)
    assert confirmation.due(now=100, keep_bytes=None) == Lsn(40_000), "it never goes back"


def test_a_tenth_that_is_more_than_the_progress_holds_everything_back() -> None:
    confirmation = Confirmation(START, delay=60)

    confirmation.record(Lsn(2000), now=100)

    assert confirmation.due(now=100, keep_bytes=1_000_000) == START


@given(
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 100)), max_size=50),
    delay=st.floats(0.5, 20),
)
def test_law_3_what_is_confirmed_was_durable_for_the_delay_and_soon_follows(
    steps: list[tuple[float, int]], delay: float
) -> None:
    confirmation = Confirmation(START, delay)
    history: list[tuple[float, Lsn]] = [(0.0, START)]
    confirmed = [START]
    for seconds, bytes_ in steps:
        now, progress = history[-1][0] + seconds, Lsn(history[-1][1] + bytes_)
        history.append((now, progress))
        confirmation.record(progress, now)
        confirmed.append(confirmation.due(now))

        durable = max((lsn for at, lsn in history if now - at >= delay), default=START)
        assert confirmed[-1] <= durable
        old = max((lsn for at, lsn in history if now - at >= delay + 1.001), default=START)
        assert confirmed[-1] >= old, "what is thinned out costs a second at most"
    assert all(before <= after for before, after in pairwise(confirmed))
