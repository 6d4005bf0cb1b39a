"""Which progress may be confirmed to the slot: only what the target could not lose (law 3). Pure.

A failover of the target to an asynchronous standby may lose its last commits, the progress row among them. Resuming
from that row is right if the slot still has the WAL, so the slot is held back by a time, or by an amount of WAL where
that comes first.
"""

from collections import deque
from typing import Final

from replicator.lsn import Lsn

_SHARE: Final = 0.1
"""Of max_slot_wal_keep_size, that holding back may cost."""


class Confirmation:
    """Remembers which progress was durable when; ``delay`` is in seconds, by the caller's monotonic clock."""

    def __init__(self, start: Lsn, delay: float) -> None:
        self._confirmed = start
        self._newest = start
        self._delay = delay
        self._waiting: deque[tuple[float, Lsn]] = deque()

    def covers(self, progress: Lsn) -> bool:
        """Whether all that was durable before is so at ``progress``: if not, the target has lost commits."""
        return progress >= self._newest

    def record(self, progress: Lsn, now: float) -> None:
        """Note that ``progress`` is durable on the target. Within a second, only the last one matters."""
        if progress == self._newest:
            return
        if len(self._waiting) > 1 and now - self._waiting[-2][0] < 1:
            self._waiting.pop()
        self._waiting.append((now, progress))
        self._newest = progress

    def due(self, now: float, keep_bytes: int | None = None) -> Lsn:
        """What to confirm at ``now``; ``keep_bytes`` is the source's max_slot_wal_keep_size, None if unlimited."""
        while self._waiting and now - self._waiting[0][0] >= self._delay:
            self._confirmed = self._waiting.popleft()[1]
        if keep_bytes is not None:
            self._confirmed = max(self._confirmed, Lsn(self._newest - int(keep_bytes * _SHARE)))
        return self._confirmed
