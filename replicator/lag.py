"""Lag in seconds, by the source's clock alone: pure, no I/O, no clock of its own.

A sample says "by source time t, the WAL had come to position l". The lag is the age of the oldest position that is
not applied: now, less the earliest known time at which the WAL was beyond progress. So it is 0 on an idle source
however long ago the last change was, it grows while anything is unapplied, and no other machine's clock enters it.
"""

from bisect import bisect_left, bisect_right
from typing import Final

from replicator.lsn import Lsn

CAPACITY: Final = 1024


class LagTracker:
    """Remembers when the source's WAL came to which position; holds at most ``capacity`` samples.

    When it is full, neighbours are merged under the earlier time: the lag may then be reported too high by about
    4 / ``capacity`` of the time that the samples span, never too low.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._known = False
        # both strictly ascending: what another sample implies is not kept
        self._positions: list[Lsn] = []
        self._times: list[float] = []

    def __len__(self) -> int:
        return len(self._positions)

    def sample(self, source_time: float, wal_lsn: Lsn) -> None:
        """Record that the WAL had come to ``wal_lsn`` by ``source_time`` (seconds, the source's clock).

        Samples may come in any order: the current end of the WAL, and each received commit with its own time, which
        tells the true lag after a restart.
        """
        self._known = True
        at = bisect_left(self._positions, wal_lsn)
        if at < len(self) and self._times[at] <= source_time:
            return
        first_implied = bisect_left(self._times, source_time)
        after = bisect_right(self._positions, wal_lsn)
        self._positions[first_implied:after] = [wal_lsn]
        self._times[first_implied:after] = [source_time]
        if len(self) > self._capacity:
            self._thin_out()

    def seconds(self, progress_lsn: Lsn, now: float) -> float | None:
        """The lag at ``now`` (the source's clock); 0 if progress has reached every sample, None before the first.

        Forgets what progress has reached: ``progress_lsn`` must never go back.
        """
        reached = bisect_right(self._positions, progress_lsn)
        del self._positions[:reached], self._times[:reached]
        if not self._known:
            return None
        return max(0.0, now - self._times[0]) if self._times else 0.0

    def _thin_out(self) -> None:
        """Merge neighbours that lie closer than a fixed share of the whole span."""
        resolution = 2 * (self._times[-1] - self._times[0]) / self._capacity
        positions, times = self._positions[:1], self._times[:1]
        for time, position in zip(self._times[1:], self._positions[1:], strict=True):
            if time - times[-1] < resolution:
                positions[-1] = position
            else:
                times.append(time)
                positions.append(position)
        self._positions, self._times = positions, times
