"""Moving values of rows into statements as the bytes that they are (law 7)."""

import re
from typing import Final

from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

from replicator.model import NULL, UNCHANGED, Key, Row
from replicator.postgres import Connection

_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_PLAIN: Final = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"\\": b"\\"}


class WireText(bytes):
    """A value as the source printed it: sent as text of no declared type, so that the column decides what it means."""

    __slots__ = ()


class _WireTextDumper(Dumper):
    format = Format.TEXT
    oid = 0

    def dump(self, obj: WireText) -> Buffer:
        return obj


def register(connection: Connection) -> None:
    """Let the connection take WireText as a parameter."""
    connection.adapters.register_dumper(WireText, _WireTextDumper)


def parameters(row: Row | Key) -> list[WireText | None]:
    """The values of a COPY line as parameters of a statement; None too for one that was not sent, which none takes."""
    return [None if value in (NULL, UNCHANGED) else WireText(_unescaped(value)) for value in row.split(b"\t")]


def _unescaped(value: bytes) -> bytes:
    if b"\\" not in value:
        return value
    return _ESCAPE.sub(lambda match: _PLAIN[match[1]], value)
