"""Staging tables: those that were used last stay, because each costs every commit."""

from replicator.apply.stages import Stages
from replicator.apply.statements import Statements, TargetColumn, TargetTable
from replicator.model import TableName


def statements(number: int) -> Statements:
    column = TargetColumn("id", "integer", "integer", identity_always=False)
    table = TargetTable(TableName("public", f"t{number}"), (column,), (0,), partitioned=False, has_other_unique=False)
    return Statements(table, f"stage_{number}")


def prepared(stages: Stages, number: int) -> str:
    """What has to be run for this table: CREATE, TRUNCATE or nothing."""
    statement = stages.prepare(statements(number))
    return statement.as_string().split()[0] if statement is not None else ""


def test_a_stage_is_made_once_and_cleared_where_it_may_hold_rows() -> None:
    stages = Stages()

    assert [prepared(stages, 1), prepared(stages, 1)] == ["CREATE", "TRUNCATE"]
    stages.committed()
    assert [prepared(stages, 1), prepared(stages, 1)] == ["", "TRUNCATE"]


def test_those_that_were_not_used_for_the_longest_time_are_dropped() -> None:
    stages = Stages()
    for number in range(120):
        prepared(stages, number)
    stages.committed()
    prepared(stages, 0)
    stages.committed()

    dropped = stages.thin_out()

    assert dropped is not None
    names = {
        name.strip(' "')
        for name in dropped.as_string().removeprefix("DROP TABLE ").replace('"pg_temp".', "").split(",")
    }
    assert names == {f"stage_{number}" for number in range(1, 71)}
    assert stages.thin_out() is None
    assert [prepared(stages, 0), prepared(stages, 71), prepared(stages, 1)] == ["", "", "CREATE"]


def test_those_that_the_last_transaction_used_stay_however_many_they_are() -> None:
    """A backlog over many tables needs all of them again."""
    stages = Stages()
    for number in range(120):
        prepared(stages, number)
    stages.committed()

    assert stages.thin_out() is None
    assert {prepared(stages, number) for number in range(120)} == {""}


def test_after_a_savepoint_is_rolled_back_its_stages_are_gone() -> None:
    stages = Stages()
    prepared(stages, 1)
    before = stages.copy()
    prepared(stages, 2)

    stages.back_to(before)

    assert [prepared(stages, 1), prepared(stages, 2)] == ["TRUNCATE", "CREATE"]
