"""Moving values of rows into the driver's statements as the bytes that they are (law 7)."""

from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

from replicator.apply.rows import values
from replicator.model import Key, Row
from replicator.postgres import Connection


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


def parameters(line: Row | Key) -> list[WireText | None]:
    """The values of a row as parameters of a statement; None too for one that was not sent, which none takes."""
    return [None if value is None else WireText(value) for value in values(line)]
