"""Reading the spool as if it were the stream: the flow does not know the difference."""

import asyncio
from collections.abc import Callable
from typing import Final

from replicator import control
from replicator.errors import Side, TargetError
from replicator.lsn import INVALID, Lsn
from replicator.postgres import Connection, reporting
from replicator.source.stream import Received
from replicator.spool.lines import Reader

_CHUNKS_AT_ONCE: Final = 8
_POLL: Final = 0.2
"""Seconds between looks for another chunk, while the writer still writes."""


class SpoolReader:
    """Hands out what lies behind progress, and drops what progress has passed."""

    def __init__(self, connection: Connection, progress: Callable[[], Lsn]) -> None:
        self._connection = connection
        self._progress = progress
        self._lines = Reader()
        self._number = 0
        self.received = INVALID
        """The end of the last transaction that was handed out."""
        self.caught_up = asyncio.Event()
        """Set when everything that was in the spool is applied."""

    async def next(self) -> Received:
        """Wait for transactions. Whoever asks again has applied what came before, but for pieces of a large one."""
        while True:
            with reporting(Side.TARGET, "reading the spool", TargetError):
                await control.forget_chunks(self._connection, self._progress())
                chunks = await control.read_chunks(self._connection, self._number, _CHUNKS_AT_ONCE)
            if not chunks:
                self.caught_up.set()
                await asyncio.sleep(_POLL)
                continue
            self._number = chunks[-1].number
            # a chunk may begin with transactions that were applied before the worker was stopped
            left = [item for c in chunks for item in self._lines.decode(c.data) if item.commit_lsn >= self._progress()]
            if left:
                self.received = max(self.received, left[-1].end_lsn)
                return Received(left, None)
