# cython: annotation_typing=False
"""Rows as chunks of COPY text: large writes, and the event loop still gets its turn. Pure, and compiled."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from replicator.apply.rows import unchanged_positions
from replicator.model import NULL, UNCHANGED, Key, Row

_CHUNK: Final = 262_144
"""Bytes after which a chunk ends. A row that is longer is passed on as it is: joining it would copy it."""

Rows = list[tuple[Key, Row]]
"""Each with its origin."""

Groups = dict[int, tuple[tuple[int, ...], Rows]]
"""Rows by group number; the rows of a group lack the same values, at these positions."""


def grouped(rows: Rows, first: int) -> Groups:
    """Number the rows' groups from ``first``: rows that lack the same values share a statement."""
    by_unchanged: dict[tuple[int, ...], Rows] = {}
    for pair in rows:
        by_unchanged.setdefault(unchanged_positions(pair[1]), []).append(pair)
    return {first + n: item for n, item in enumerate(by_unchanged.items())}


def chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, which end with a newline then, in chunks."""
    pieces: list[bytes] = []
    size = 0
    for line in lines:
        if len(line) > _CHUNK:
            if pieces:
                pieces.append(b"")
                yield b"\n".join(pieces)
                pieces, size = [], 0
            yield line
            yield b"\n"
            continue
        pieces.append(line)
        size += len(line)
        if size > _CHUNK:
            pieces.append(b"")
            yield b"\n".join(pieces)
            pieces, size = [], 0
    if pieces:
        pieces.append(b"")
        yield b"\n".join(pieces)


def counted(images: Mapping[Row, int]) -> Iterator[bytes]:
    """The lines of a staging table of whole rows, in chunks: how many, row."""
    return _staged(b"", ((b"%d" % count, image) for image, count in images.items()), False)


def staged(groups: Groups) -> Iterator[bytes]:
    """The lines of a staging table, in chunks: group, origin, row."""
    for group, (unchanged, rows) in groups.items():
        yield from _staged(b"%d\t" % group, rows, bool(unchanged))


def _staged(head: bytes, rows: Iterable[tuple[Key, Row]], lacks: bool) -> Iterator[bytes]:
    pieces: list[bytes] = []
    size = 0
    for origin, row in rows:
        line = _without_unchanged(row) if lacks else row
        if len(line) > _CHUNK:
            yield b"".join((*pieces, head, origin, b"\t"))
            yield line
            pieces, size = [b"\n"], 0
            continue
        pieces.extend((head, origin, b"\t", line, b"\n"))
        size += len(line)
        if size > _CHUNK:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join(pieces)


def _without_unchanged(row: Row) -> Row:
    """A line that COPY can read: NULL stands in for the values that were not sent."""
    return b"\t".join([NULL if value == UNCHANGED else value for value in row.split(b"\t")])
