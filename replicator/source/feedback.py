"""What the source is told while it streams: what was received, what it need not keep. And whether it still speaks."""

import time
from typing import Final

from psycopg.pq.abc import PGconn

from replicator.errors import ReplicatorError, ServerUnavailableError, Side
from replicator.lsn import Lsn, format_lsn
from replicator.source.frames import status_update

_SILENCE: Final = 60.0
"""Seconds without a word from the source, though asked, after which it counts as lost; as wal_receiver_timeout."""


class Feedback:
    """The status updates of one START_REPLICATION.

    ``received``: everything that the source committed before it has arrived.
    """

    def __init__(self, connection: PGconn, received: Lsn, confirmed: Lsn) -> None:
        self._connection = connection
        self.received = received
        self._confirmed = confirmed
        self._heard, self._heard_at = True, 0.0

    def advance(self, lsn: Lsn) -> None:
        """Note that everything before ``lsn`` has arrived; a position before an earlier one changes nothing."""
        self.received = max(self.received, lsn)

    def hear(self) -> None:
        """Note that the source has said something, or is not listened to."""
        self._heard = True

    def confirm(self, lsn: Lsn) -> None:
        """Let the source forget what lies before ``lsn``. The next update says so."""
        if lsn > self.received:
            raise ReplicatorError(f"confirming {format_lsn(lsn)}, but only {format_lsn(self.received)} was received")
        self._confirmed = max(self._confirmed, lsn)

    def send(self, *, reply_requested: bool = False) -> None:
        """Send an update. Raises psycopg.Error."""
        update = status_update(self.received, self._confirmed, time.time(), reply_requested=reply_requested)
        self._connection.put_copy_data(update)
        # what the socket does not take now goes with the next update
        self._connection.flush()

    def remind(self) -> None:
        """Send an update, and ask for an answer if there was none for long.

        Raises ServerUnavailableError when the source has been silent for too long, or psycopg.Error.
        """
        self.send(reply_requested=self._silence() > _SILENCE / 2)

    def _silence(self) -> float:
        """For how many seconds the source has said nothing."""
        now = time.monotonic()
        if self._heard:
            self._heard, self._heard_at = False, now
        silence = now - self._heard_at
        if silence > _SILENCE:
            raise ServerUnavailableError(f"the source has said nothing for {silence:.0f} s", side=Side.SOURCE)
        return silence
