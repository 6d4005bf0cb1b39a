"""Transactions that the source sends before they commit: their messages read, and what an abort takes back. Pure.

They come in blocks, from Stream Start to Stream Stop; inside, what describes or changes something carries the xid of
its own subtransaction behind its kind. Source: PostgreSQL documentation, "Logical Replication Message Formats".
"""

import struct
from array import array
from bisect import bisect_left
from typing import Final, NamedTuple

from replicator.lsn import Lsn
from replicator.pgoutput import wire
from replicator.pgoutput.messages import Begin, Commit

NOT_ORDINARY: Final = bytes((wire.STREAM_START, wire.STREAM_STOP, wire.STREAM_COMMIT, wire.STREAM_ABORT, wire.RELATION))
"""Kinds that concern streamed transactions: theirs, and the descriptions that hold for them and for others."""

_WITH_XID: Final = bytes((wire.RELATION, wire.TYPE, wire.INSERT, wire.UPDATE, wire.DELETE, wire.TRUNCATE, wire.EMITTED))

_START: Final = struct.Struct(">xIB")
_COMMIT: Final = struct.Struct(">xIBQQq")
_ABORT: Final = struct.Struct(">xII")


class StreamStart(NamedTuple):
    """A block of the top-level transaction ``xid`` begins; ``first``: nothing of it was sent before."""

    xid: int
    first: bool


class StreamCommit(NamedTuple):
    """The transaction has committed; as Begin and Commit of one that was not streamed."""

    xid: int
    commit_lsn: Lsn
    end_lsn: Lsn
    committed_at: int

    @property
    def as_begin(self) -> Begin:
        """The message with which it would have begun."""
        return Begin(self.commit_lsn, self.committed_at, self.xid)

    @property
    def as_commit(self) -> Commit:
        """The message with which it would have ended."""
        return Commit(self.commit_lsn, self.end_lsn, self.committed_at)


class StreamAbort(NamedTuple):
    """The subtransaction ``subxid`` of ``xid`` was rolled back, or the whole, if they are the same."""

    xid: int
    subxid: int


def read_start(payload: bytes) -> StreamStart:
    """Raises ProtocolError if it is none."""
    xid, first = _unpack(_START, payload)
    return StreamStart(xid, bool(first))


def read_commit(payload: bytes) -> StreamCommit:
    """Raises ProtocolError if it is none."""
    xid, _, commit_lsn, end_lsn, committed_at = _unpack(_COMMIT, payload)
    return StreamCommit(xid, Lsn(commit_lsn), Lsn(end_lsn), committed_at)


def read_abort(payload: bytes) -> StreamAbort:
    """Raises ProtocolError if it is none."""
    return StreamAbort(*_unpack(_ABORT, payload))


def read_xid(payload: bytes | memoryview) -> int | None:
    """The subtransaction of a message inside a block, whose rest begins behind ID; None for one that has none.

    Raises ProtocolError for what must not be inside a block.
    """
    kind = payload[0] if payload else None
    if kind == wire.ORIGIN:
        return None
    if kind is None or kind not in _WITH_XID:
        raise wire.unreadable(payload)
    return wire.read_id(payload)


class Subtransactions:
    """Where the first message of each subtransaction lies among the messages of its transaction.

    What follows it is of the subtransaction, or of one inside it, until it ends. So a rollback cuts what was kept at
    this place, as PostgreSQL's own apply worker does. There may be millions (a block with EXCEPTION in a loop): 12
    bytes each.
    """

    def __init__(self, xid: int) -> None:
        self._top = xid
        self._last = 0
        self._ages = array("I")
        self._places = array("Q")

    def add(self, xid: int, place: int) -> None:
        """Note that a message of ``xid`` begins at ``place``; only the first one matters."""
        age = self._age(xid)
        if age in (0, self._last):
            return
        self._last = age
        index = bisect_left(self._ages, age)
        if index == len(self._ages) or self._ages[index] != age:
            # xids are given in the order of first writes, so this is the end, but for a parent that writes later
            self._ages.insert(index, age)
            self._places.insert(index, place)

    def __len__(self) -> int:
        """How many there are that were not rolled back, as far as was told."""
        return len(self._places)

    def abort(self, xid: int, end: int) -> int:
        """Where to cut: the first message of ``xid``, or ``end``, if there is none of it before."""
        age = self._age(xid)
        index = bisect_left(self._ages, age)
        known = index < len(self._ages) and self._ages[index] == age
        place = min(end, self._places[index]) if known else end
        # any other that began behind this place is rolled back too: what is told of it later finds nothing to cut
        while self._places and self._places[-1] >= place:
            self._places.pop()
            self._ages.pop()
        return place

    def _age(self, xid: int) -> int:
        """Xids wrap around, but not within one transaction."""
        return (xid - self._top) % 2**32


def _unpack(message: struct.Struct, payload: bytes) -> tuple[int, ...]:
    try:
        return message.unpack(payload)
    except struct.error:
        raise wire.unreadable(payload) from None
