"""The SQL of one table: its shape, and names that are nothing but names. What it does is tested on real targets."""

import pytest
from psycopg import sql

from replicator.apply.statements import Statements, TargetColumn, TargetTable, truncate
from replicator.model import TableName

ODD = '"; drop table x; --'
QUOTED = '"""; drop table x; --"'


def table(
    *columns: str, key: tuple[int, ...] | None = (0,), partitioned: bool = False, always: str = "", name: str = "t"
) -> TargetTable:
    described = tuple(TargetColumn(column, "text", "text", identity_always=column == always) for column in columns)
    return TargetTable(TableName("s", name), described, key, partitioned, has_other_unique=False)


def statements(of: TargetTable) -> Statements:
    return Statements(of, "stage")


def text(statement: sql.Composed) -> str:
    return " ".join(statement.as_string().split())


def every_statement(of: Statements) -> dict[str, str]:
    composed = {
        "create_stage": of.create_stage(),
        "copy_to_stage": of.copy_to_stage(),
        "copy_keys_to_stage": of.copy_keys_to_stage(),
        "clear_stage": of.clear_stage(),
        "copy_inserts": of.copy_inserts(),
        "delete_staged": of.delete_staged([0, 2]),
        "update_staged": of.update_staged(1, []),
        "update_staged_nothing": of.update_staged(1, [0, 1, 2]),
        "fill_staged": of.fill_staged(2, [1]),
        "insert_staged": of.insert_staged([2]),
        "delete_staged_images": of.delete_staged_images(),
        "insert_row": of.insert_row(),
        "update_row": of.update_row([]),
        "delete_row": of.delete_row(),
    }
    return {name: text(statement) for name, statement in composed.items()}


ALL = every_statement(statements(table("id", ODD, "b", name=ODD)))


@pytest.mark.parametrize("name", ALL)
def test_odd_names_are_quoted(name: str) -> None:
    assert "drop table" not in ALL[name].replace(QUOTED, "")


@pytest.mark.parametrize("name", ALL)
def test_no_conflict_is_hidden(name: str) -> None:
    assert "ON CONFLICT" not in ALL[name]
    assert "MERGE" not in ALL[name]


@pytest.mark.parametrize("name", ["insert_staged", "insert_row"])
def test_identity_columns_take_the_values_of_the_source(name: str) -> None:
    assert f'INSERT INTO "s".{QUOTED} ("id", {QUOTED}, "b") OVERRIDING SYSTEM VALUE' in ALL[name]


CHANGING = ["delete_staged", "update_staged", "update_staged_nothing", "fill_staged", "delete_staged_images"]


@pytest.mark.parametrize("name", [*CHANGING, "update_row", "delete_row"])
def test_an_inheritance_parent_is_named_only(name: str) -> None:
    assert ALL[name].count(f'"s".{QUOTED}') == ALL[name].count(f'ONLY "s".{QUOTED}') > 0


@pytest.mark.parametrize("name", [*CHANGING, "update_row", "delete_row"])
def test_a_partitioned_root_is_named_with_its_partitions(name: str) -> None:
    assert "ONLY" not in every_statement(statements(table("id", "a", "b", partitioned=True)))[name]


def test_the_staging_table_holds_group_origin_key_and_columns_by_position() -> None:
    of = statements(table("a", "g", "o1", key=(2, 0)))

    assert text(of.create_stage()) == (
        'CREATE TEMPORARY TABLE "stage" ("g" integer, "o1" text, "o2" text, "c1" text, "c2" text, "c3" text)'
        " ON COMMIT DELETE ROWS"
    )
    assert text(of.copy_keys_to_stage()) == 'COPY "pg_temp"."stage" ("g", "o1", "o2") FROM STDIN'
    assert text(of.delete_staged([0])).endswith('AND t."o1" = s."o1" AND t."a" = s."o2"')


def test_an_update_sets_what_was_sent_but_the_key() -> None:
    of = statements(table("id", "a", "b", "c", key=(1,)))

    assert text(of.update_staged(3, [2])) == (
        'UPDATE ONLY "s"."t" t SET "id" = s."c1", "c" = s."c4" FROM "pg_temp"."stage" s'
        ' WHERE s.g = 3 AND t."a" = s."o1"'
    )
    assert of.updated_positions([2]) == [0, 3]
    assert (
        text(of.update_row([2])) == 'UPDATE ONLY "s"."t" t SET "id" = $1::text, "c" = $2::text WHERE t."a" = $3::text'
    )


def test_an_update_of_nothing_counts_its_rows() -> None:
    of = statements(table("id", "a"))

    assert text(of.update_staged(1, [1])).startswith("SELECT 1 FROM ONLY")


def test_a_percent_sign_in_a_name_is_no_placeholder() -> None:
    of = statements(table("%s", "100%"))

    assert text(of.insert_row()).endswith('("%s", "100%") OVERRIDING SYSTEM VALUE VALUES ($1::text, $2::text)')
    assert text(of.delete_row()).endswith('WHERE t."%s" = $1::text')


def test_truncate_names_exactly_its_tables() -> None:
    tables = [table("id"), table("id", partitioned=True, name=ODD)]

    assert text(truncate(tables, restart_identity=False)) == f'TRUNCATE ONLY "s"."t", "s".{QUOTED}'
    assert text(truncate(tables, restart_identity=True)).endswith(" RESTART IDENTITY")


def test_an_identity_that_is_always_generated_can_only_be_inserted() -> None:
    assert table("id", "n", always="n").always_replaces
    assert not table("id", "n", always="id").always_replaces
    assert not table("id", "n").always_replaces


def test_the_widest_table_that_can_be_staged() -> None:
    widest = [str(n) for n in range(400)]

    assert table(*widest).can_stage
    assert not table(*widest, "one more").can_stage
