"""Letting frames gather while the source is busy.

It sends every frame by itself, and each costs it a way through the whole network stack, unless it has to wait for us:
then frames queue up on its side and travel in large pieces. Measured on one machine, 480,000 updates: 8.8 seconds of
its processor while it never waited, 3.9 while it often did; and it is what everybody else waits for.

So while many come, the socket is left alone for a moment, and then about as much is read as had gathered by then.
Whether the source has had to wait shows right after that: only then as much again is there at once. As long as it is,
the moments become shorter, so that it waits no longer than it has to; else longer.
"""

import math
from typing import Final

_BUSY: Final = 30_000
"""Frames a second from which on the source counts as busy: 10,000 transactions of one row."""

_LOOK: Final = 0.001
"""Seconds for which frames are counted at least."""

AT_ONCE: Final = 0.001
"""Seconds after which what had queued up on the source has arrived, in the same region."""

_SHORTEST: Final = 0.003
_LONGEST: Final = 0.1
_FIRST: Final = 0.03
"""Seconds that a moment may take. Shorter ones would tell nothing, longer ones would keep the source waiting."""

_AS_MUCH: Final = 2 / 3
_SHORTER: Final = 0.8
_LONGER: Final = 1.5


class Gathering:
    """How busy the source is, and for how long to leave it alone. Pure; the clock is one that never goes back.

    ``moment`` is in seconds. ``until``: read no further than to so many bytes in all.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._since = 0.0
        self._gathered = 0
        self.moment = _FIRST
        self.until = math.inf

    def is_busy(self, frames: int, now: float) -> bool:
        """Whether to let frames gather now. ``frames``: how many there were so far."""
        elapsed = now - self._since
        if elapsed < _LOOK:
            return False
        busy = frames - self._frames > _BUSY * elapsed
        self._frames, self._since = frames, now
        if not busy:
            self.moment = _FIRST
        return busy

    def look(self, waiting: int) -> None:
        """Learn from how many bytes are waiting AT_ONCE after those that had gathered before were read."""
        had_to_wait = waiting > _AS_MUCH * self._gathered
        self.moment = max(_SHORTEST, self.moment * _SHORTER) if had_to_wait else min(_LONGEST, self.moment * _LONGER)

    def end(self, received: int, waiting: int) -> None:
        """A moment has passed. So many bytes were read before, and so many are waiting."""
        self._gathered = waiting
        self.until = received + waiting

    def go_on(self) -> None:
        """The source is not busy: read all that comes."""
        self.until = math.inf
