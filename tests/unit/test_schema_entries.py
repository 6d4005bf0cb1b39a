"""Cutting pg_dump's output into entries, and deciding when each is made."""

import pytest

from bootstrap.entries import Entry, Plan, parse_dump, plan_entries
from replicator.errors import SourceError

PREAMBLE = """--
-- PostgreSQL database dump
--

\\restrict g1omsgmHvDyaFyspdIhlQSdn0lDGkw8fRcCIJi8IMvhLsfn1z7xtgvYyRZUAecg

-- Dumped from database version 17.10

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

"""
EPILOGUE = """--
-- PostgreSQL database dump complete
--

\\unrestrict g1omsgmHvDyaFyspdIhlQSdn0lDGkw8fRcCIJi8IMvhLsfn1z7xtgvYyRZUAecg

"""
LOOKALIKE = "\n--\n-- Name: evil; Type: TABLE; Schema: app; Owner: -\n--\n"


def dump(*entries: Entry) -> str:
    """Write entries as pg_dump does."""
    return (
        PREAMBLE
        + "".join(
            f"--\n-- Name: {e.name}; Type: {e.kind}; Schema: {e.schema or '-'}; Owner: -\n--\n\n{e.sql}\n\n\n"
            for e in entries
        )
        + EPILOGUE
    )


def entry(kind: str, name: str = "x", sql: str | None = None) -> Entry:
    return Entry(kind, "app", name, sql or f"CREATE {kind} app.{name};")


def test_the_entries_come_back_as_they_were_written() -> None:
    """Given a dump, when it is cut, then kind, schema, name and statements are each entry's own, and no preamble."""
    written = [Entry("SCHEMA", "", "app", "CREATE SCHEMA app;"), entry("TABLE", "t"), entry("INDEX", "i")]
    assert parse_dump(dump(*written), ["app"]) == written


@pytest.mark.parametrize(
    "statement",
    [
        f"CREATE FUNCTION app.x() RETURNS void LANGUAGE plpgsql AS $_$ begin {LOOKALIKE} $$ it's $$ end $_$;",
        f"CREATE FUNCTION app.x() RETURNS void LANGUAGE sql AS $$ select '$_$' {LOOKALIKE} $$;",
        f"COMMENT ON TABLE app.x IS 'it''s{LOOKALIKE}';",
        f"COMMENT ON TABLE app.x IS E'a \\\\\\' b{LOOKALIKE}';",
        f'CREATE TABLE app."a"" {LOOKALIKE}" ();',
        "CREATE VIEW app.x AS SELECT 1 AS price$1, 2 AS price$2;",
    ],
)
def test_text_inside_literals_is_no_header(statement: str) -> None:
    """Given a body, comment or name that holds a header's text, when the dump is cut, then it stays one entry."""
    written = [entry("FUNCTION", sql=statement), entry("TABLE", "t")]
    assert parse_dump(dump(*written), ["app"]) == written


def test_names_with_semicolons_are_read_whole() -> None:
    written = [Entry("TABLE", "Odd; Type: TABLE", "a; b", "CREATE TABLE x ();")]
    assert parse_dump(dump(*written), ["Odd; Type: TABLE"]) == written


def test_names_that_look_like_the_end_of_a_header_are_read_whole() -> None:
    """Given names that say they are a table's, when the dump is cut, then a trigger does not become a table."""
    name = "; Type: TABLE; Schema: public; Owner: -"
    written = [Entry(kind, schema, name, "SELECT 1;") for kind in ("TABLE", "TRIGGER") for schema in (name, "public")]
    assert parse_dump(dump(*written), ["public", name]) == written


def test_an_entry_of_another_schema_is_not_taken_for_a_part_of_the_one_before() -> None:
    """Law 4."""
    with pytest.raises(SourceError, match="not asked for"):
        parse_dump(dump(entry("TABLE")), ["other"])


def test_a_dump_that_ends_early_is_refused() -> None:
    """Given a dump without pg_dump's last line, when it is cut, then nothing is taken for complete (law 4)."""
    with pytest.raises(SourceError, match="not complete"):
        parse_dump(dump(entry("TABLE")).removesuffix(EPILOGUE), ["app"])


def test_what_would_fire_on_applied_rows_waits_for_the_cutover() -> None:
    """Given one entry of each stage, when they are planned, then each goes to its stage, in the dump's order."""
    before = (entry("TYPE"), entry("TABLE"), entry("SEQUENCE OWNED BY"), entry("DEFAULT"))
    after = (entry("CONSTRAINT"), entry("INDEX"), entry("INDEX ATTACH"), entry("STATISTICS"))
    cutover = (entry("RULE"), entry("TRIGGER"), entry("FK CONSTRAINT"), entry("POLICY"), entry("ROW SECURITY"))
    left_out = (entry("PUBLICATION TABLE"), entry("ACL"), entry("DEFAULT ACL"))
    assert plan_entries([*before, *after, *cutover, *left_out]) == Plan(before, after, cutover)


def test_a_comment_goes_with_what_it_is_about() -> None:
    table, index, trigger = entry("TABLE"), entry("INDEX"), entry("TRIGGER")
    comments = [entry("COMMENT", name) for name in ("TABLE x", "INDEX x", "TRIGGER x ON x")]
    plan = plan_entries([table, comments[0], index, comments[1], trigger, comments[2]])
    assert plan == Plan((table, comments[0]), (index, comments[1]), (trigger, comments[2]))


def test_a_view_that_needs_a_key_is_completed_after_the_data() -> None:
    """Given a view whose GROUP BY relies on a primary key, when planned, then only its shell precedes the key."""
    shell = entry("VIEW", sql="CREATE VIEW app.x AS SELECT NULL::integer AS id;")
    key = entry("CONSTRAINT")
    view = entry("RULE", "x _RETURN", "CREATE OR REPLACE VIEW app.x AS SELECT id, c FROM app.t GROUP BY id;")
    function = entry("FUNCTION")
    assert plan_entries([shell, key, view, function]) == Plan((shell,), (key, view, function), ())


def test_materialized_views_are_filled_last() -> None:
    view, trigger = entry("MATERIALIZED VIEW", 'a"b'), entry("TRIGGER")
    refresh = Entry("MATERIALIZED VIEW DATA", "app", 'a"b', 'REFRESH MATERIALIZED VIEW "app"."a""b";')
    assert plan_entries([view, trigger]).cutover == (trigger, refresh)


def test_a_replica_identity_waits_for_the_cutover_and_its_index_does_not() -> None:
    """Given an index that is one, then it is made like others: its columns may be NOT NULL only later."""
    index, clustered = "CREATE UNIQUE INDEX x ON app.t (a);", "ALTER TABLE app.t CLUSTER ON x;"
    identity = "ALTER TABLE ONLY app.t REPLICA IDENTITY USING INDEX x;"
    plan = plan_entries([entry("INDEX", "x", f"{index}\n\n\n{clustered}\n\n\n{identity}")])

    assert plan.after_data == (entry("INDEX", "x", f"{index}\n\n\n{clustered}"),)
    assert plan.cutover == (entry("REPLICA IDENTITY", "x", identity),)
    assert plan_entries([entry("INDEX", "x", identity)]).cutover == ()


def test_an_unknown_kind_is_refused() -> None:
    """Given a kind that a later pg_dump may bring, when planned, then it is not skipped silently (law 4)."""
    with pytest.raises(SourceError, match=r"hologram app\.x"):
        plan_entries([entry("HOLOGRAM")])
