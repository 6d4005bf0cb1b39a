# cython: annotation_typing=False
"""What has arrived and was not taken yet: whole transactions and pieces, bounded by bytes. Pure, and compiled."""

from dataclasses import dataclass
from typing import Final

from replicator.lsn import INVALID, Lsn
from replicator.model import Transaction

_TRANSACTION_BYTES: Final = 300
"""What a transaction weighs beside its changes: a source before 15 sends empty ones, by the thousand."""


_LARGE: Final = 2
"""Times the limit: what exceeds it so far is one row, which is not received beside another one."""


@dataclass(frozen=True, slots=True)
class Received:
    """What came since the last time, in order.

    ``idle_lsn``: everything that the source committed before it was in this or an earlier one, so that it may become
    progress once that is applied. None if the last thing that came was a transaction.
    """

    transactions: list[Transaction]
    idle_lsn: Lsn | None


class Buffer:
    """Collects until it is taken. ``limit`` is in bytes; what exceeds it by one transaction or piece is kept too."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._transactions: list[Transaction] = []
        self._bytes = 0
        self._taken = 0
        self._idle_lsn = INVALID

    def __bool__(self) -> bool:
        """Whether there is something to take."""
        return bool(self._transactions or self._idle_lsn)

    @property
    def full(self) -> bool:
        """Whether nothing more should be added until it is taken, or until what was taken is not needed any more."""
        return self._bytes > self._limit or self._taken > self._limit * _LARGE

    def add(self, transaction: Transaction) -> None:
        """Keep a transaction or a piece; what was idle is not any more."""
        self._transactions.append(transaction)
        self._bytes += transaction.size + _TRANSACTION_BYTES
        self._idle_lsn = INVALID

    def idle(self, lsn: Lsn) -> None:
        """Note that everything before ``lsn`` has arrived, and that no transaction is open."""
        self._idle_lsn = lsn

    def done(self) -> None:
        """Note that what was taken is not needed any more."""
        self._taken = 0

    def take(self) -> Received:
        """Empty it."""
        received = Received(self._transactions, self._idle_lsn or None)
        self._taken = self._bytes
        self._transactions, self._bytes, self._idle_lsn = [], 0, INVALID
        return received
