"""What each copy job moves: a large table in several jobs, many small ones in one. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from replicator.catalog import Part, PublishedTable
from replicator.model import TableName
from replicator.postgres import qualified

_LARGE_BYTES: Final = 4 * 1024 * 1024
"""A table below this size shares a transaction with others."""

_JOB_BYTES: Final = 16 * 1024 * 1024
_JOB_TABLES: Final = 100
"""What small tables in one transaction may amount to: each is a lock on both sides."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one COPY moves: a part of a table, or a range of its blocks; ``end`` None: to the end, wherever it is."""

    part: Part
    start: int = 0
    end: int | None = None

    def query(self, table: PublishedTable) -> str:
        """Select its rows on the source, and none of inheritance children."""
        conditions = [
            sql.SQL("ctid {} {}::tid").format(sql.SQL(operator), sql.Literal(f"({block},0)"))
            for operator, block in ((">=", self.start or None), ("<", self.end))
            if block is not None
        ]
        if table.row_filter is not None:
            # SQL that the server itself composed; the parentheses keep its ORs together
            conditions.append(sql.SQL("({})").format(sql.SQL(table.row_filter)))
        query = sql.SQL("SELECT {} FROM ONLY {}").format(
            sql.SQL(", ").join(map(sql.Identifier, table.columns)), qualified(self.part.table)
        )
        if conditions:
            query += sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(conditions))
        return query.as_string()


@dataclass(frozen=True, slots=True)
class Load:
    """What one job copies of one table; ``whole``: all of it, so that the table is copied with the job's commit."""

    table: PublishedTable
    pieces: tuple[Piece, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Job:
    """What one transaction on each side copies; ``size`` is bytes on the source, roughly."""

    loads: tuple[Load, ...]
    size: int


def plan_jobs(tables: Iterable[PublishedTable], split_bytes: int, block_bytes: int) -> list[Job]:
    """Plan the copying of a round, largest jobs first; ``block_bytes`` is the source's block_size."""
    small: list[PublishedTable] = []
    jobs: list[Job] = []
    for table in tables:
        if table.size < _LARGE_BYTES:
            small.append(table)
        else:
            jobs.extend(_large(table, split_bytes, block_bytes))
    jobs.extend(_batch(batch) for batch in _batches(small))
    return sorted(jobs, key=lambda job: job.size, reverse=True)


def _large(table: PublishedTable, split_bytes: int, block_bytes: int) -> Iterator[Job]:
    pieces = [(piece, size) for part in table.parts for piece, size in _pieces(part, split_bytes, block_bytes)]
    for piece, size in pieces:
        yield Job((Load(table, (piece,), whole=len(pieces) == 1),), size)


def _pieces(part: Part, split_bytes: int, block_bytes: int) -> Iterator[tuple[Piece, int]]:
    """Ranges of blocks, each with its share of the TOASTed values."""
    total = part.main_size // block_bytes
    number = max(1, min(total, -(-part.size // split_bytes)))
    starts = [total * n // number for n in range(number)]
    # the table may have grown since its size was read
    ends = [*starts[1:], None]
    for start, end in zip(starts, ends, strict=True):
        yield Piece(part, start, end), part.size // number


def _batches(tables: Sequence[PublishedTable]) -> Iterator[list[PublishedTable]]:
    batch: list[PublishedTable] = []
    size = 0
    for table in tables:
        if batch and (size + table.size > _JOB_BYTES or len(batch) + len(table.parts) > _JOB_TABLES):
            yield batch
            batch, size = [], 0
        batch.append(table)
        size += table.size
    if batch:
        yield batch


def _batch(tables: Sequence[PublishedTable]) -> Job:
    loads = tuple(Load(table, tuple(Piece(part) for part in table.parts), whole=True) for table in tables)
    return Job(loads, sum(table.size for table in tables))


def single_jobs(job: Job) -> list[Job]:
    """The same work, one table a job."""
    return [Job((load,), load.table.size) for load in job.loads]


def split_tables(jobs: Iterable[Job]) -> frozenset[TableName]:
    """The tables that no single job copies as a whole."""
    return frozenset(load.table.table for job in jobs for load in job.loads if not load.whole)
