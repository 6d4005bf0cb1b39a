"""Merging what several publications say of one table, as the server does: for each operation by itself."""

import pytest

from replicator.catalog import PublishedTable
from replicator.catalog.published import Entry, Publication, Relation, merge_entries
from replicator.errors import SourceError

ALL = "insert update delete truncate"
LOW, HIGH = "(id < 10)", "(id > 90)"


def merged(*sent: tuple[str, str | None]) -> PublishedTable:
    """Table ``a``, as publications with these operations and row filters send it."""
    publications, entries = {}, []
    for number, (operations, row_filter) in enumerate(sent):
        name = f"p{number}"
        publications[name] = Publication(name, *(o in operations for o in ("update", "delete", "truncate", "insert")))
        entries.append(Entry(1, "public", "a", "d", name, None, row_filter))
    (table,) = merge_entries(publications, entries, {1: ["id"]}, [Relation(1, 1, "public", "a", True, True, 0, 0)])
    return table


@pytest.mark.parametrize(
    ("one", "other", "row_filter"),
    [
        ((ALL, LOW), (ALL, HIGH), f"{LOW} OR {HIGH}"),
        ((ALL, LOW), (ALL, LOW), LOW),
        ((ALL, LOW), (ALL, None), None),
        ((ALL, None), ("update delete", LOW), None),
        ((ALL, LOW), ("truncate", None), LOW),
        (("insert", LOW), ("update delete", LOW), LOW),
    ],
)
def test_rows_of_either_publication_come_with_their_updates(
    one: tuple[str, str | None], other: tuple[str, str | None], row_filter: str | None
) -> None:
    table = merged(one, other)
    assert (table.row_filter, table.insert_only) == (row_filter, False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("insert", None), (ALL, LOW)),
        (("insert update", None), (ALL, LOW)),
        ((ALL, LOW), ("insert", HIGH)),
        (("insert", None), ("insert truncate", LOW)),
    ],
)
def test_rows_that_come_without_all_their_updates_make_a_table_insert_only(
    one: tuple[str, str | None], other: tuple[str, str | None]
) -> None:
    assert merged(one, other).insert_only


@pytest.mark.parametrize(
    "sent",
    [
        [("update delete", None)],
        [("truncate", None)],
        [(ALL, LOW), ("update", None)],
        [("insert", LOW), ("delete", HIGH)],
    ],
)
def test_updates_of_rows_that_never_come_are_refused(sent: list[tuple[str, str | None]]) -> None:
    """The stream would stop at the first of them, or the target go stale."""
    with pytest.raises(SourceError, match=r"table public\.a are (not )?published"):
        merged(*sent)


def test_a_table_that_was_dropped_since_it_was_listed_is_left_out() -> None:
    publications = {"p": Publication("p", updates=True, deletes=True, truncates=True)}
    entries = [Entry(oid, "public", name, "d", "p", None, None) for oid, name in ((1, "a"), (2, "dropped"))]

    tables = merge_entries(publications, entries, {1: ["id"]}, [Relation(1, 1, "public", "a", True, True, 0, 0)])

    assert [table.table.name for table in tables] == ["a"]
