"""Tables that few applications have: every change must arrive all the same."""

import pytest

from replicator.model import ReplicaIdentity
from tests.fixtures.applying import Applier
from tests.fixtures.changes import delete, insert, update


@pytest.mark.parametrize(("extension", "values"), [("ltree", ("a.b", "a.c")), ("citext", ("Key", "Other"))])
async def test_a_key_whose_operators_are_on_no_search_path(
    applier: Applier, extension: str, values: tuple[str, str]
) -> None:
    """Law 4: given a key of an extension's type in a schema of its own, then its rows are found by their key."""
    applier.execute(f"""
        CREATE SCHEMA "of its own"; CREATE EXTENSION {extension} SCHEMA "of its own";
        CREATE TABLE t (id "of its own".{extension} PRIMARY KEY, v text)
    """)
    table = await applier.relation("t")
    one, two = values
    await applier.apply(insert(table, one, "a"), insert(table, two, "b"))

    await applier.apply(update(table, one.upper() if extension == "citext" else one, "c"))
    await applier.apply(delete(table, key=[two, None]))

    assert applier.rows("SELECT id::text, v FROM t") == [(one, "c")]


async def test_a_citext_key_is_found_however_it_is_written(applier: Applier) -> None:
    """Given a citext key written in another case, then the row that equals it is deleted, as on the source."""
    applier.execute("""
        CREATE SCHEMA "of its own"; CREATE EXTENSION citext SCHEMA "of its own";
        CREATE TABLE t (id "of its own".citext PRIMARY KEY)
    """)
    table = await applier.relation("t")
    await applier.apply(insert(table, "Key"))

    await applier.apply(delete(table, key=["KEY"]))

    assert applier.rows("SELECT FROM t") == []


@pytest.mark.parametrize("columns", ["", "one integer GENERATED ALWAYS AS (1) STORED"])
async def test_a_table_without_a_column_that_is_sent(applier: Applier, columns: str) -> None:
    """Given rows that carry nothing, then as many come and go as on the source."""
    applier.execute(f"CREATE TABLE t ({columns})")
    table = await applier.relation("t", identity=ReplicaIdentity.FULL)

    await applier.apply(*[insert(table)] * 5)
    await applier.apply(delete(table, old=[]), delete(table, old=[]))

    assert applier.rows("SELECT count(*) FROM t") == [(3,)]
