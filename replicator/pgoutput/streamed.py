"""Transactions that the source sends before they commit: their messages read, and what an abort takes back. Pure.

They come in blocks, from Stream Start to Stream Stop; inside, what describes or changes something carries the xid of
its own subtransaction behind its kind. Source: PostgreSQL documentation, "Logical Replication Message Formats".
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable
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
    """Where the messages of each subtransaction lie among those of its transaction.

    What follows the first one is of the subtransaction, or of one inside it, until it ends. So a rollback that is told
    cuts what was kept at this place, as PostgreSQL's own apply worker does. There may be millions (a block with
    EXCEPTION in a loop): 24 bytes each, or 36 where their parent writes between them.
    """

    def __init__(self, xid: int) -> None:
        self._top = xid
        self._ages = array("I")
        self._places = array("Q")
        # each place where another one goes on, in the order of the messages
        self._run_ages = array("I", [0])
        self._run_places = array("Q", [0])

    def add(self, xid: int, place: int) -> None:
        """Note that a message of ``xid`` begins at ``place``, and those that follow it."""
        age = self._age(xid)
        if age == self._run_ages[-1]:
            return
        self._run_ages.append(age)
        self._run_places.append(place)
        index = bisect_left(self._ages, age)
        if age and (index == len(self._ages) or self._ages[index] != age):
            # xids are given in the order of first writes, so this is the end, but for a parent that writes later
            self._ages.insert(index, age)
            self._places.insert(index, place)

    @property
    def xids(self) -> list[int]:
        """Those that were not rolled back, as far as was told."""
        return [(self._top + age) % 2**32 for age in self._ages]

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
        while len(self._run_places) > 1 and self._run_places[-1] >= place:
            self._run_places.pop()
            self._run_ages.pop()
        return place

    def spans(self, xids: Iterable[int], end: int) -> list[tuple[int, int]]:
        """Where the messages of these lie, up to ``end``: the beginning and end of each stretch, in order."""
        wanted = set(map(self._age, xids))
        found: list[tuple[int, int]] = []
        for index, age in enumerate(self._run_ages):
            if age in wanted:
                start = self._run_places[index]
                behind = self._run_places[index + 1] if index + 1 < len(self._run_places) else end
                if found and found[-1][1] == start:
                    start = found.pop()[0]
                found.append((start, behind))
        return found

    def _age(self, xid: int) -> int:
        """Xids wrap around, but not within one transaction."""
        return (xid - self._top) % 2**32


def _unpack(message: struct.Struct, payload: bytes) -> tuple[int, ...]:
    try:
        return message.unpack(payload)
    except struct.error:
        raise wire.unreadable(payload) from None
