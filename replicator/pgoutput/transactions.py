# cython: annotation_typing=False
"""Put the changes of one stream together into transactions, or into pieces of those too large to hold. Compiled."""

from collections.abc import Callable
from typing import Any, Final, cast

from replicator.errors import ProtocolError
from replicator.lsn import INVALID, Lsn, format_lsn
from replicator.model import Change, LogicalMessage, Relation, Transaction
from replicator.pgoutput.decoder import Decoder
from replicator.pgoutput.large import LargeMessage, decode_large
from replicator.pgoutput.messages import Begin, Commit, Emitted, Origin, TypeName

_OVERHEAD: Final = 128
"""Bytes that CPython adds to a change beside its row: two objects and their place in a list. A small row weighs more
for these than for itself, so that a bound that left them out would bound nothing."""

_MESSAGE: Final = 32
"""Bytes of our own logical messages. Longer ones are of other programs, and may be as large as memory."""


class Assembler:
    """Takes the messages of one START_REPLICATION in order; hands out each transaction at its Commit.

    A transaction whose changes pass ``piece_bytes`` is handed out in pieces (``Transaction.complete``).
    """

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        self._decoder = Decoder()
        self._begin: Begin | None = None
        self._changes: list[Change] = []
        self._size = 0
        self._others: Final[dict[type, Callable[[Any], Transaction | None]]] = {
            Emitted: self._on_emitted,
            Relation: _on_description,
            TypeName: _on_description,
            Origin: _on_description,
        }

    @property
    def open(self) -> bool:
        """Whether a transaction has begun and not ended."""
        return self._begin is not None

    @property
    def size(self) -> int:
        """Bytes that the open transaction holds, without the pieces that were handed out."""
        return self._size

    def feed(self, payload: bytes) -> Transaction | None:
        """Take one message. Raises ProtocolError if it cannot be read, or must not come here."""
        message = self._decoder.decode(payload)
        if isinstance(message, Begin):
            self.begin(message)
            return None
        if isinstance(message, Commit):
            return self.commit(message)
        handler = self._others.get(type(message))
        if handler is not None:
            return handler(message)
        return self._add(cast("Change", message), len(payload))

    def feed_large(self, message: LargeMessage) -> Transaction | None:
        """Take one message that is larger than LARGE, with fewer copies; it is not needed after."""
        change = decode_large(message, self._decoder.relations)
        return self.feed(message.read(0, len(message))) if change is None else self._add(change, len(message))

    def _add(self, change: Change, size: int) -> Transaction | None:
        begin = self._begin
        if begin is None:
            raise ProtocolError(f"the source's stream holds {type(change).__name__} outside a transaction")
        self._changes.append(change)
        self._size += size + _OVERHEAD
        if self._size <= self._piece_bytes:
            return None
        return self._hand_out(begin, INVALID, False)

    def begin(self, begin: Begin) -> None:
        """Take a Begin that is read already. Raises ProtocolError if a transaction is open."""
        if self._begin is not None:
            raise ProtocolError(f"the transaction of {format_lsn(begin.commit_lsn)} begins inside another one")
        self._begin = begin

    def commit(self, commit: Commit) -> Transaction:
        """Take a Commit that is read already. Raises ProtocolError if it is not of the open transaction."""
        begin = self._begin
        if begin is None or begin.commit_lsn != commit.commit_lsn:
            raise ProtocolError(f"the source's stream holds the Commit of {format_lsn(commit.commit_lsn)} alone")
        self._begin = None
        return self._hand_out(begin, commit.end_lsn, True)

    def _on_emitted(self, message: Emitted) -> Transaction | None:
        # one that is not transactional may stand anywhere, and nothing of ours is written so
        if not message.transactional or len(message.content) > _MESSAGE:
            return None
        return self._add(LogicalMessage(message.prefix, message.content), len(message.content))

    def _hand_out(self, begin: Begin, end_lsn: Lsn, complete: bool) -> Transaction:
        changes, size = self._changes, self._size
        self._changes, self._size = [], 0
        return Transaction(begin.commit_lsn, end_lsn, begin.committed_at, changes, size, complete)


def _on_description(_: Relation | TypeName | Origin) -> None:
    """Relations are the decoder's to remember; type names and origins tell nothing that is needed."""
