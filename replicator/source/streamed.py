# cython: annotation_typing=False
"""Keeping transactions that the source sends before they commit until they do. Compiled.

Nothing of them is durable, and nothing needs to be: whenever a stream begins, the source sends what has not committed
again from its beginning.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from replicator.errors import ProtocolError
from replicator.model import Transaction
from replicator.pgoutput.streamed import StreamCommit, read_abort, read_commit, read_start, read_xid
from replicator.pgoutput.transactions import Assembler
from replicator.pgoutput.wire import RELATION, STREAM_ABORT, STREAM_COMMIT, STREAM_START, STREAM_STOP, read_id
from replicator.source.kept import Kept, Message, StoredMessage, disk_error

_NUMBER: Final = struct.Struct(">Q")
"""Behind a kept description: its place in the order in which descriptions came."""

_STOP: Final = bytes((STREAM_STOP,))
_AT_ONCE: Final = 1000
"""Messages that are read before other tasks get their turn: some milliseconds."""


@dataclass
class _Replay:
    """A transaction that has committed, while its messages are read again."""

    commit: StreamCommit
    kept: Kept
    described: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def description(self, message: bytes) -> bytes:
        """Remember a description with its number; return it without."""
        description, number = message[: -_NUMBER.size], message[-_NUMBER.size :]
        self.described[read_id(description)] = (*_NUMBER.unpack(number), description)
        return description


def _is_description(message: bytes | StoredMessage) -> bool:
    return isinstance(message, bytes) and message[0] == RELATION


class Streamed:
    """What has come of transactions that have not ended, during one START_REPLICATION."""

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler
        self._kept: dict[int, Kept] = {}
        self._block: Kept | None = None
        self.in_block = False
        """Whether the next message carries an xid, unless it ends the block."""
        self.replaying = False
        """Whether `next_piece` has to be called, and called again, before another message is taken."""
        self.undecided = False
        """Whether `decide` has to be called before that: a transaction has committed, but perhaps not all of it."""
        self._descriptions = 0
        self._newest: dict[int, tuple[int, bytes]] = {}
        self._replay: _Replay | None = None
        self.size = 0
        """Bytes that are kept."""

    def close(self) -> None:
        """Forget all of it."""
        self._replay = self._block = None
        self.in_block = self.replaying = self.undecided = False
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()
        self.size = 0

    def take(self, payload: Message) -> None:
        """Take a message of a block, or of one of the kinds NOT_ORDINARY.

        Raises ProtocolError, or LocalDiskError if there is no place to keep it.
        """
        try:
            if self._block is not None:
                self._take_inside(self._block, payload)
            else:
                self._take_outside(bytes(payload))
        except OSError as error:
            raise disk_error(error) from None

    @property
    def subtransactions(self) -> list[int]:
        """The xids of what has to be decided on."""
        return self._replay.kept.subtransactions if self._replay is not None and self.undecided else []

    def decide(self, rolled_back: Iterable[int]) -> None:
        """Tell which of `subtransactions` were rolled back: they are left out of the transaction."""
        assert self._replay is not None
        self._replay.kept.leave_out(rolled_back)
        self.undecided, self.replaying = False, True

    def next_piece(self) -> Transaction | None:
        """What comes next of a transaction that has committed; None: it is the other tasks' turn before that."""
        assert self._replay is not None
        try:
            return self._go_on(self._replay)
        except OSError as error:
            raise disk_error(error) from None

    # --- inside a block -----------------------------------------------------------------------------------------------

    def _take_inside(self, block: Kept, payload: Message) -> None:
        if payload == _STOP:
            self._block, self.in_block = None, False
            return
        xid = read_xid(payload)
        if xid is None:
            return
        number = b""
        if payload[0] == RELATION:
            number = _NUMBER.pack(self._next_number())
        self.size += block.add(xid, payload, number)

    # --- between blocks -----------------------------------------------------------------------------------------------

    def _take_outside(self, payload: bytes) -> None:
        kind = payload[0] if payload else STREAM_STOP
        if kind == STREAM_START:
            self._begin_block(payload)
        elif kind == STREAM_COMMIT:
            self._commit(read_commit(payload))
        elif kind == STREAM_ABORT:
            self._abort(payload)
        elif kind == RELATION:
            self._describe(payload)
        else:
            raise ProtocolError("the source's stream ends a block that has not begun")

    def _begin_block(self, payload: bytes) -> None:
        if self._assembler.open:
            raise ProtocolError("the source streams a transaction inside another one")
        start = read_start(payload)
        if start.first:
            self._drop(start.xid)
            self._kept[start.xid] = Kept(start.xid)
        self._block, self.in_block = self._find(start.xid), True

    def _abort(self, payload: bytes) -> None:
        abort = read_abort(payload)
        if abort.subxid == abort.xid:
            self._drop(abort.xid)
        elif (kept := self._kept.get(abort.xid)) is not None:
            # 18 tells of subtransactions, though it has sent nothing of the whole
            self.size -= kept.abort(abort.subxid)

    def _commit(self, commit: StreamCommit) -> None:
        kept = self._find(commit.xid)
        kept.complete()
        self._replay = _Replay(commit, kept)
        # the source has been seen not to tell of rollbacks (17.10, after a reconnection)
        self.undecided = bool(kept.subtransactions)
        self.replaying = not self.undecided
        self._assembler.begin(commit.as_begin)

    def _go_on(self, replay: _Replay) -> Transaction | None:
        kept = replay.kept
        for _ in range(_AT_ONCE):
            message = kept.next()
            if message is None:
                return self._end(replay)
            if kept.is_rolled_back and not _is_description(message):
                # a source that does not tell of the rollback sends no description again
                continue
            if isinstance(message, bytes):
                transaction = self._assembler.feed(message if message[0] != RELATION else replay.description(message))
            else:
                transaction = self._assembler.feed_large(message)
            if transaction is not None:
                return transaction
        return None

    def _end(self, replay: _Replay) -> Transaction:
        self._replay, self.replaying = None, False
        transaction = self._assembler.commit(replay.commit.as_commit)
        self._settle(replay.described)
        self._drop(replay.commit.xid)
        return transaction

    # --- descriptions -------------------------------------------------------------------------------------------------
    #
    # What is described inside a streamed transaction holds for it alone until it commits; then for what comes later,
    # unless a newer description has come meanwhile (a publication's columns, or a schema's name, may change under it).

    def _describe(self, payload: bytes) -> None:
        self._assembler.feed(payload)
        if self._kept:
            self._newest[read_id(payload)] = (self._next_number(), payload)

    def _settle(self, described: dict[int, tuple[int, bytes]]) -> None:
        """After a commit: let the newest description of each relation hold."""
        for oid, ours in described.items():
            newest = self._newest.get(oid, ours)
            if newest > ours:
                self._assembler.feed(newest[1])
            else:
                self._newest[oid] = ours

    def _next_number(self) -> int:
        self._descriptions += 1
        return self._descriptions

    # --- files --------------------------------------------------------------------------------------------------------

    def _find(self, xid: int) -> Kept:
        try:
            return self._kept[xid]
        except KeyError:
            raise ProtocolError("the source goes on with a streamed transaction that has not begun") from None

    def _drop(self, xid: int) -> None:
        kept = self._kept.pop(xid, None)
        if kept is not None:
            self.size -= kept.size
            kept.close()
        if not self._kept:
            self._newest.clear()
