"""Law 5: no table is published in a way that makes the app's own updates fail, whatever REPLICATOR_KEYLESS says."""

from dataclasses import replace

import pytest

from replicator.catalog import SourceTable
from replicator.errors import SourceError
from replicator.model import KeylessPolicy, ReplicaIdentity, TableName
from replicator.source.publication_plan import PublicationPlan, plan_publications

NO_KEY = "it has no primary key"


def table(
    name: str, oid: int, *, root: int | None = None, keyed: bool = True, partitioned: bool = False
) -> SourceTable:
    return SourceTable(
        oid,
        TableName("public", name),
        ReplicaIdentity.DEFAULT,
        partitioned=partitioned,
        root=root,
        keyed=keyed,
        problem=None if keyed else NO_KEY,
    )


KEYED = table("keyed", 1)
KEYLESS = table("keyless", 2, keyed=False)
ROOT = table("root", 10, partitioned=True)
LEAVES = [table("leaf_a", 11, root=10), table("leaf_b", 12, root=10)]
KEYLESS_ROOT = table("events", 20, partitioned=True, keyed=False)
KEYLESS_LEAVES = [table("events_a", 21, root=20, keyed=False), table("events_b", 22, root=20, keyed=False)]


def names(tables: list[SourceTable]) -> list[str]:
    return [item.table.name for item in tables]


def plan(tables: list[SourceTable], policy: KeylessPolicy, *, via_root: bool = False) -> PublicationPlan:
    return plan_publications(tables, policy, via_root=via_root)


@pytest.mark.parametrize("policy", KeylessPolicy)
@pytest.mark.parametrize("via_root", [False, True])
def test_given_usable_identities_everything_is_published_under_its_root(policy: KeylessPolicy, via_root: bool) -> None:
    planned = plan([KEYED, ROOT, *LEAVES], policy, via_root=via_root)

    assert planned == PublicationPlan(complete=[KEYED, ROOT])


def test_given_a_keyless_table_and_refuse_the_error_names_table_reason_and_settings() -> None:
    planned = plan([KEYED, KEYLESS], KeylessPolicy.REFUSE)

    with pytest.raises(SourceError, match=r"public\.keyless \(it has no primary key\)") as caught:
        planned.require_allowed()
    assert "REPLICATOR_KEYLESS" in caught.value.hint


def test_given_many_refused_tables_the_message_stays_one_line() -> None:
    many = [table(f"t{n}", n, keyed=False) for n in range(1, 40)]

    with pytest.raises(SourceError, match="and 19 more"):
        plan(many, KeylessPolicy.REFUSE).require_allowed()


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (KeylessPolicy.FULL, {"complete": ["keyed", "keyless"], "make_full": ["keyless"]}),
        (KeylessPolicy.INSERT_ONLY, {"complete": ["keyed"], "insert_only": ["keyless"]}),
        (KeylessPolicy.EXCLUDE, {"complete": ["keyed"], "excluded": ["keyless"]}),
    ],
)
def test_given_a_keyless_table_it_goes_where_the_policy_says(
    policy: KeylessPolicy, expected: dict[str, list[str]]
) -> None:
    planned = plan([KEYED, KEYLESS], policy)
    planned.require_allowed()

    placed = {name: names(getattr(planned, name)) for name in ("complete", "insert_only", "make_full", "excluded")}
    assert {name: tables for name, tables in placed.items() if tables} == expected


def test_given_full_and_a_keyless_root_its_partitions_are_published_one_by_one() -> None:
    # under the root's name a future partition would be published with no identity at all
    planned = plan([KEYLESS_ROOT, *KEYLESS_LEAVES], KeylessPolicy.FULL)

    assert names(planned.complete) == names(planned.make_full) == ["events_a", "events_b"]


def test_given_full_and_a_keyless_root_whose_changes_must_travel_under_it_it_is_refused() -> None:
    planned = plan([KEYLESS_ROOT, *KEYLESS_LEAVES], KeylessPolicy.FULL, via_root=True)

    assert planned.complete == []
    with pytest.raises(SourceError, match="future partition"):
        planned.require_allowed()


def test_given_insert_only_and_a_keyless_root_the_root_is_published_for_inserts() -> None:
    planned = plan([KEYLESS_ROOT, *KEYLESS_LEAVES], KeylessPolicy.INSERT_ONLY)

    assert names(planned.insert_only) == ["events"]
    assert planned.complete == []


def test_given_one_partition_without_identity_the_whole_table_is_named_with_it() -> None:
    flawed = replace(LEAVES[0], problem="its replica identity is NOTHING")

    planned = plan([ROOT, flawed, LEAVES[1]], KeylessPolicy.REFUSE)

    assert [(item.table, item.reason) for item in planned.refused] == [
        (ROOT, "its replica identity is NOTHING in partition public.leaf_a")
    ]


def test_given_a_keyless_root_whose_partitions_are_sound_they_are_published_without_it() -> None:
    planned = plan([KEYLESS_ROOT, *(replace(leaf, problem=None) for leaf in KEYLESS_LEAVES)], KeylessPolicy.REFUSE)

    assert names(planned.complete) == ["events_a", "events_b"]
    assert planned.refused == []


def test_given_a_table_that_full_would_break_too_full_refuses_it() -> None:
    planned = plan([replace(KEYLESS, full_problem="it has a generated column")], KeylessPolicy.FULL)

    assert names(planned.complete) == []
    assert [item.reason for item in planned.refused] == ["it has a generated column"]


def test_given_an_unlogged_table_it_is_in_no_publication() -> None:
    assert plan([replace(KEYLESS, unlogged=True)], KeylessPolicy.REFUSE) == PublicationPlan()


def test_given_a_usable_unique_index_the_remedy_names_it() -> None:
    planned = plan([replace(KEYLESS, usable_index="keyless_code_key")], KeylessPolicy.REFUSE)

    assert [item.remedy for item in planned.keyless] == [
        'ALTER TABLE public.keyless REPLICA IDENTITY USING INDEX "keyless_code_key"'
    ]
