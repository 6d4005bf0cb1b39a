# cython: annotation_typing=False
"""Reading rows without parsing their values: their keys, and the values that were not sent. Pure, and compiled."""

import re
from collections.abc import Iterable
from typing import Final

from replicator.model import NULL, UNCHANGED, Key, Row

(_BACKSLASH,) = b"\\"

_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_PLAIN: Final = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"\\": b"\\"}


class KeyReader:
    """Cuts the key out of a table's rows. ``positions`` of the key columns, in key order."""

    def __init__(self, positions: tuple[int, ...]) -> None:
        self._positions = positions
        self._last = max(positions, default=-1) + 1
        self._leads = positions == (0,)

    def read(self, row: Row) -> Key:
        """The key of a row. The commonest keys get the cheapest way: this runs once a change."""
        if self._leads:
            data = row
            end = row.find(b"\t")
            return row if end < 0 else data[:end]
        values = row.split(b"\t", self._last)
        return b"\t".join([values[position] for position in self._positions])


def lacks(row: Row) -> bool:
    """Whether a value of it was not sent. Few rows hold any backslash, and a byte is looked for far faster than two.

    A text may hold the two bytes of the marker behind an escaped backslash (``C:\\\\Users``): never as all of a value.
    """
    return _BACKSLASH in row and UNCHANGED in row and UNCHANGED in row.split(b"\t")


def is_plain(line: Row | Key) -> bool:
    """Whether its values are what is between its tabs, but for those that are NULL or were not sent.

    An empty line is not: it would be no value at all.
    """
    if _BACKSLASH not in line:
        return bool(line)
    return _BACKSLASH not in line.replace(NULL, b"").replace(UNCHANGED, b"")


def values(line: Row | Key) -> list[bytes | None]:
    """What its values are, unescaped; None for NULL, and for one that was not sent."""
    return [value if _BACKSLASH not in value else _unescaped(value) for value in line.split(b"\t")]


def _unescaped(value: bytes) -> bytes | None:
    if value in (NULL, UNCHANGED):
        return None
    return _ESCAPE.sub(_original, value)


def _original(escape: re.Match[bytes]) -> bytes:
    return _PLAIN[escape[1]]


def fill(row: Row, before: Row, only: Iterable[int] | None = None) -> Row:
    """Replace the values that were not sent by those of ``before``, at the positions ``only`` (default: all)."""
    if not lacks(row):
        return row
    allowed = None if only is None else frozenset(only)
    pairs = zip(row.split(b"\t"), before.split(b"\t"), strict=True)
    return b"\t".join(
        [
            old if new == UNCHANGED and (allowed is None or position in allowed) else new
            for position, (new, old) in enumerate(pairs)
        ]
    )


def unchanged_positions(row: Row) -> tuple[int, ...]:
    """The positions of the values that were not sent."""
    if not lacks(row):
        return ()
    return tuple([position for position, value in enumerate(row.split(b"\t")) if value == UNCHANGED])
