"""Law 5: a table is published for updates only where the app's own updates go on working."""

import pytest

from replicator.catalog.identity import UniqueIndex, full_problem, identity_problem, index_problem, usable_index
from replicator.model import ReplicaIdentity

PRIMARY = UniqueIndex(1, "t_pkey", primary=True)
CHOSEN = UniqueIndex(1, "t_code_key", chosen=True)
PG17, PG18 = 170004, 180001


@pytest.mark.parametrize(
    ("identity", "indexes"),
    [
        (ReplicaIdentity.DEFAULT, [PRIMARY]),
        (ReplicaIdentity.INDEX, [PRIMARY, CHOSEN]),
        (ReplicaIdentity.FULL, []),
    ],
)
def test_given_a_sound_identity_there_is_no_problem(identity: ReplicaIdentity, indexes: list[UniqueIndex]) -> None:
    assert identity_problem(identity, indexes, generated=False, server_version=PG17) is None


@pytest.mark.parametrize(
    ("identity", "indexes", "reason"),
    [
        (ReplicaIdentity.DEFAULT, [], "it has no primary key"),
        (ReplicaIdentity.DEFAULT, [CHOSEN._replace(chosen=False)], "it has no primary key"),
        (ReplicaIdentity.DEFAULT, [PRIMARY._replace(immediate=False)], "its primary key is DEFERRABLE"),
        (ReplicaIdentity.DEFAULT, [PRIMARY._replace(generated=True)], "its primary key has a generated column"),
        (ReplicaIdentity.NOTHING, [PRIMARY], "its replica identity is NOTHING"),
        (ReplicaIdentity.INDEX, [PRIMARY], "its replica identity index is gone"),
        (ReplicaIdentity.INDEX, [CHOSEN._replace(valid=False)], "its replica identity index is not valid"),
    ],
)
def test_given_no_usable_identity_the_reason_is_named(
    identity: ReplicaIdentity, indexes: list[UniqueIndex], reason: str
) -> None:
    assert identity_problem(identity, indexes, generated=False, server_version=PG17) == reason


@pytest.mark.parametrize("flaw", ["partial", "expression", "nullable", "generated"])
def test_given_a_flawed_unique_index_it_cannot_be_the_identity(flaw: str) -> None:
    flawed = UniqueIndex(**(CHOSEN._asdict() | {flaw: True}))

    assert index_problem(flawed) is not None
    assert usable_index([flawed]) is None


def test_given_several_sound_indexes_the_primary_key_is_proposed() -> None:
    assert usable_index([CHOSEN, PRIMARY]) == "t_pkey"


def test_given_a_generated_column_a_full_identity_works_only_before_18() -> None:
    assert full_problem(generated=True, server_version=PG17) is None
    assert full_problem(generated=True, server_version=PG18) is not None
    assert identity_problem(ReplicaIdentity.FULL, [], generated=True, server_version=PG18) is not None
