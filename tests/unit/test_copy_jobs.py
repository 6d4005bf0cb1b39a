"""How the copy of a round is cut into jobs, and what each job asks the source for."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from bootstrap.jobs import Piece, plan_jobs, single_jobs, split_tables
from replicator.catalog import Part, PublishedTable
from replicator.config import MIB
from replicator.model import ReplicaIdentity, TableName

BLOCK = 8192


def table(name: str, *sizes: int, row_filter: str | None = None, columns: tuple[str, ...] = ("id",)) -> PublishedTable:
    """A table whose parts have these sizes in bytes; one size: it is its own part."""
    own = TableName("app", name)
    names = [own] if len(sizes) == 1 else [TableName("app", f"{name}_{n}") for n in range(len(sizes))]
    parts = tuple(Part(n, part, size, size) for n, (part, size) in enumerate(zip(names, sizes, strict=True)))
    return PublishedTable(1, own, ReplicaIdentity.DEFAULT, columns, row_filter, False, parts)


@given(
    sizes=st.lists(st.lists(st.integers(0, 100 * MIB), min_size=0, max_size=4), max_size=20),
    split_mib=st.integers(1, 200),
)
def test_every_block_of_every_part_is_copied_once(sizes: list[list[int]], split_mib: int) -> None:
    """Given any tables, then each part's ranges meet without gap or overlap, and the last one is open-ended."""
    tables = [table(f"t{n}", *parts) for n, parts in enumerate(sizes)]
    jobs = plan_jobs(tables, split_mib * MIB, BLOCK)
    ranges: dict[TableName, list[tuple[int, int | None]]] = {}
    for load in (load for job in jobs for load in job.loads):
        for piece in load.pieces:
            ranges.setdefault(piece.part.table, []).append((piece.start, piece.end))
    assert ranges.keys() == {part.table for t in tables for part in t.parts}
    for found in ranges.values():
        found.sort()
        assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
        assert found[-1][1] is None


def test_each_table_is_whole_or_split() -> None:
    """Given small, large and partitioned tables, then those in several jobs count as split; largest first."""
    tables = [table("small", 0), table("large", 5 * MIB), table("huge", 20 * MIB), table("root", 6 * MIB, 6 * MIB)]
    jobs = plan_jobs(tables, 8 * MIB, BLOCK)
    assert split_tables(jobs) == {TableName("app", "huge"), TableName("app", "root")}
    assert [job.size for job in jobs] == sorted((job.size for job in jobs), reverse=True)
    assert {load.table.table.name for job in jobs for load in job.loads if load.whole} == {"small", "large"}


def test_small_tables_share_jobs() -> None:
    jobs = plan_jobs([table(f"t{n}", 16 * 1024) for n in range(250)], 1024 * MIB, BLOCK)
    assert [len(job.loads) for job in jobs] == [100, 100, 50]
    assert [len(single.loads) for single in single_jobs(jobs[2])] == [1] * 50


def test_a_table_without_parts_is_copied_too() -> None:
    """Given a root without partitions, then a job finishes it, or it would wait for ever."""
    (job,) = plan_jobs([table("hollow")], MIB, BLOCK)
    assert [(load.pieces, load.whole) for load in job.loads] == [((), True)]


def test_the_query_quotes_names_and_keeps_the_filter_together() -> None:
    """Given odd names, a filter with OR and a range of blocks, then the query means exactly these."""
    odd = table('a"b', MIB, row_filter="(id > 1) OR (id < 0)", columns=('x"y', "{z}%s"))
    query = Piece(odd.parts[0], 5, 9).query(odd)
    assert query == (
        'SELECT "x""y", "{z}%s" FROM ONLY "app"."a""b" '
        "WHERE ctid >= '(5,0)'::tid AND ctid < '(9,0)'::tid AND ((id > 1) OR (id < 0))"
    )
    assert Piece(odd.parts[0]).query(table('a"b', MIB)) == 'SELECT "id" FROM ONLY "app"."a""b"'


def test_values_that_are_toasted_count() -> None:
    """Given few blocks with large values outside of them, then the table is split by what is to be moved."""
    heavy = replace(table("heavy", 0), parts=(Part(1, TableName("app", "heavy"), 40 * MIB, 10 * BLOCK),))
    jobs = plan_jobs([heavy], 10 * MIB, BLOCK)
    pieces = [piece for job in jobs for load in job.loads for piece in load.pieces]
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 2), (2, 5), (5, 7), (7, None)]
    assert [job.size for job in jobs] == [10 * MIB] * 4
