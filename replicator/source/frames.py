"""The replication command and its frames, and what a row of keepalives means. Pure: time comes as an argument.

Source: PostgreSQL documentation, "Streaming Replication Protocol" (START_REPLICATION, XLogData, Primary keepalive
message, Standby status update).
"""

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from replicator.errors import ProtocolError
from replicator.lsn import INVALID, Lsn, format_lsn

XLOG_DATA: Final = ord("w")
HEADER_BYTES: Final = 25
"""What stands before the plug-in's message in XLogData: kind, start, end and clock. The message itself says more."""

_KEEPALIVE: Final = struct.Struct(">cQqB")
_STATUS: Final = struct.Struct(">cQQQqB")
_EPOCH: Final = 946_684_800
"""2000-01-01 UTC, PostgreSQL's zero, in Unix seconds."""

_SWITCH: Final = ("off", "on")

_PINGS: Final = 3
_PING_SECONDS: Final = 1.0
"""A walsender that is not shutting down asks at most every half of wal_sender_timeout, which is never that short."""


class Keepalive(NamedTuple):
    """``end_lsn``: everything before it that is ours to have was sent before."""

    end_lsn: Lsn
    reply_requested: bool


def read_keepalive(frame: bytes) -> Keepalive:
    """Read the only kind of frame that is not XLOG_DATA. Raises ProtocolError for any other."""
    if frame[:1] != b"k" or len(frame) != _KEEPALIVE.size:
        raise ProtocolError(f"the source sent a frame of the unknown kind {frame[:1]!r} ({len(frame)} bytes)")
    _, end_lsn, _, reply_requested = _KEEPALIVE.unpack(frame)
    return Keepalive(Lsn(end_lsn), bool(reply_requested))


def status_update(received: Lsn, confirmed: Lsn, now: float, *, reply_requested: bool) -> bytes:
    """Tell the source what was received, and what it need not keep; ``now`` in Unix seconds."""
    clock = round((now - _EPOCH) * 1_000_000)
    return _STATUS.pack(b"r", received, confirmed, confirmed, clock, reply_requested)


def start_replication(slot: str, publications: Iterable[str], start: Lsn, *, streaming: bool) -> bytes:
    """Compose START_REPLICATION for pgoutput: protocol 2, logical messages on, values as text.

    ``streaming``: large transactions come before they commit, in blocks; else all of them after.

    The replication grammar is not SQL's: its literals know no backslash. ``publication_names`` is a list of
    identifiers inside a literal.
    """
    names = _literal(",".join(map(_identifier, publications)))
    options = f"proto_version '2', publication_names {names}, messages 'true', streaming '{_SWITCH[streaming]}'"
    return f"START_REPLICATION SLOT {_identifier(slot)} LOGICAL {format_lsn(start)} ({options})".encode()


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class ShutdownWatch:
    """Recognises a walsender that only waits for us so that its server can shut down.

    It then asks for a reply, and again at each reply, as long as our flush position is not what it has sent.
    """

    def __init__(self) -> None:
        self._end_lsn = INVALID
        self._asked_at: list[float] = []

    def saw_data(self) -> None:
        """Note that something else than a keepalive came."""
        self._asked_at.clear()

    def saw(self, keepalive: Keepalive, now: float) -> bool:
        """Note a keepalive at ``now`` (monotonic seconds); whether the source is shutting down."""
        if not keepalive.reply_requested or keepalive.end_lsn != self._end_lsn:
            self._asked_at.clear()
        self._end_lsn = keepalive.end_lsn
        if not keepalive.reply_requested:
            return False
        self._asked_at = [*self._asked_at[1 - _PINGS :], now]
        return len(self._asked_at) == _PINGS and now - self._asked_at[0] < _PING_SECONDS
