"""The verdicts of `replicator check`: pure functions of what the servers say."""

import pytest

from replicator.check import Finding, Severity, blocking, source, target
from replicator.check.pair import (
    DatabaseFacts,
    extension_verdict,
    same_database_verdict,
    version_verdict,
)
from replicator.check.places import Column, Sent, places_verdict
from replicator.check.source import SourceFacts
from replicator.check.tables import stray_verdict
from replicator.check.target import TargetFacts
from replicator.check.values import encoding_verdict, length_verdict
from replicator.errors import Side
from replicator.model import SchemaMode, TableName

SOURCE = SourceFacts(170004, False, "logical", True, 5, 10, -1, 0, 0, 0, 0, "app")
TARGET = TargetFacts(180000, False, True, True, 90)
HERE = DatabaseFacts("7000000000000000001", 5)
TABLE = TableName("public", "t")


def source_findings(facts: SourceFacts) -> list[Finding]:
    return [
        finding
        for verdict in (
            source.server_verdict,
            source.room_verdict,
            source.retention_verdict,
            source.waiting_verdict,
            source.large_object_verdict,
        )
        for finding in verdict(facts)
    ]


def test_given_a_sound_source_and_target_there_is_nothing_to_say() -> None:
    assert source_findings(SOURCE) == []
    assert target.server_verdict(TARGET) == []
    assert target.connection_verdict(free=20, needed=11) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (SOURCE._replace(version=130011), "older than PostgreSQL 14"),
        (SOURCE._replace(standby=True), "standby"),
        (SOURCE._replace(wal_level="replica"), "wal_level is replica"),
        (SOURCE._replace(may_replicate=False), "role app may not replicate"),
        (SOURCE._replace(free_slots=0), "all replication slots"),
        (SOURCE._replace(free_senders=0), "all WAL senders"),
    ],
)
def test_given_a_source_that_cannot_replicate_it_is_blocked_on_that_side(facts: SourceFacts, words: str) -> None:
    (finding,) = source_findings(facts)

    assert blocking([finding])
    assert finding.side is Side.SOURCE
    assert words in finding.message
    assert finding.remedy


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (SOURCE._replace(free_slots=1), "only one replication slot"),
        (SOURCE._replace(keep_mib=4096), "max_slot_wal_keep_size is 4096 MB"),
        (SOURCE._replace(idle_timeout=3600), "idle_replication_slot_timeout"),
        (SOURCE._replace(prepared=2), "2 prepared transactions"),
        (SOURCE._replace(old_transactions=1), "older than a minute"),
        (SOURCE._replace(large_objects=3), "3 large objects are not moved"),
    ],
)
def test_given_what_an_operator_should_know_it_is_a_warning(facts: SourceFacts, words: str) -> None:
    (finding,) = source_findings(facts)

    assert finding.severity is Severity.WARNING
    assert words in finding.message


@pytest.mark.parametrize(
    "facts",
    [
        TARGET._replace(version=130000),
        TARGET._replace(read_only=True),
        TARGET._replace(may_create=False),
        TARGET._replace(may_use_temporary=False),
    ],
)
def test_given_a_target_that_cannot_take_the_migration_it_is_blocked(facts: TargetFacts) -> None:
    (finding,) = target.server_verdict(facts)

    assert blocking([finding])
    assert finding.side is Side.TARGET


def test_given_the_same_server_only_the_same_database_is_blocked() -> None:
    assert blocking(same_database_verdict(HERE, HERE))
    assert same_database_verdict(HERE, HERE._replace(oid=6)) == []
    assert same_database_verdict(HERE, HERE._replace(system_identifier="7000000000000000002")) == []


def test_given_an_older_target_major_it_is_a_warning() -> None:
    assert [finding.severity for finding in version_verdict(170004, 160001)] == [Severity.WARNING]
    assert version_verdict(170004, 170001) == version_verdict(170004, 180000) == []


@pytest.mark.parametrize(
    ("source_encoding", "target_encoding", "severities"),
    [
        ("UTF8", "UTF8", []),
        ("LATIN1", "LATIN1", []),
        ("LATIN1", "UTF8", [Severity.WARNING]),
        ("UTF8", "LATIN1", [Severity.BLOCKED]),
        ("UTF8", "SQL_ASCII", [Severity.BLOCKED]),
        ("SQL_ASCII", "UTF8", [Severity.WARNING]),
        ("SQL_ASCII", "SQL_ASCII", [Severity.WARNING]),
        ("SQL_ASCII", "LATIN1", [Severity.BLOCKED]),
    ],
)
def test_given_two_encodings_only_a_lossless_pair_passes_and_only_an_equal_one_in_silence(
    source_encoding: str, target_encoding: str, severities: list[Severity]
) -> None:
    found = encoding_verdict(source_encoding, target_encoding)

    assert [finding.severity for finding in found] == severities


def test_given_names_that_are_too_long_in_utf8_they_block_and_values_that_may_be_do_not() -> None:
    found = length_verdict(["é"], ["public.t.c"])

    assert [finding.severity for finding in found] == [Severity.BLOCKED, Severity.WARNING]


def test_given_missing_extensions_only_those_that_the_app_uses_block() -> None:
    used, unused = extension_verdict({"citext": True, "pg_net": False, "plpgsql": True}, {"plpgsql"})

    assert used.severity is Severity.BLOCKED
    assert "citext" in used.message
    assert unused.severity is Severity.WARNING
    assert "pg_net" in unused.message


def test_given_no_right_to_replica_mode_only_tables_of_others_block() -> None:
    assert not blocking(target.replica_mode_verdict([]))
    assert blocking(target.replica_mode_verdict(["public.other"]))


def column(name: str, *, generated: bool = False, required: bool = False) -> Column:
    return Column(TABLE.schema, TABLE.name, False, name, generated, required)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([], "published tables are missing: public.t"),
        ([column("id")], "has no column for v"),
        ([column("id"), column("v", generated=True)], "has no column for v"),
        ([column("id"), column("v"), column("extra", required=True)], "not published: extra"),
        ([column("id")._replace(unlogged=True), column("v")], "are unlogged: public.t"),
    ],
)
def test_given_a_table_without_the_place_for_every_column_it_is_blocked(columns: list[Column], words: str) -> None:
    (finding,) = places_verdict([Sent(TABLE, frozenset({"id", "v"}))], {TABLE: columns} if columns else {})

    assert blocking([finding])
    assert words in finding.message


def test_given_a_column_that_only_the_source_computes_it_is_blocked() -> None:
    sent = [Sent(TABLE, frozenset({"id"}), frozenset({"v"}))]

    (finding,) = places_verdict(sent, {TABLE: [column("id"), column("v")]})

    assert blocking([finding])
    assert "generated on the source: v" in finding.message
    assert places_verdict(sent, {TABLE: [column("id"), column("v", generated=True)]}) == []
    assert places_verdict(sent, {TABLE: [column("id")]}) == []


def test_given_extra_columns_in_another_order_the_place_is_good() -> None:
    columns = [column("extra"), column("v", required=True), column("id")]

    assert places_verdict([Sent(TABLE, frozenset({"id", "v"}))], {TABLE: columns}) == []


def test_given_a_publication_of_schemas_that_are_not_copied_it_is_blocked_unless_the_user_makes_them() -> None:
    tables = [TABLE, TableName("auth", "users")]

    assert blocking(stray_verdict(tables, ["public"], SchemaMode.COPY))
    assert stray_verdict(tables, ["public"], SchemaMode.EXISTING) == []
