"""Sources of another encoding than UTF8: every character arrives right, and what has no place stops the migration."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from replicator.check import Severity, check
from replicator.errors import CopyError, Side
from replicator.model import Phase
from tests.fixtures.bootstrapping import assert_equal, run_bootstrap
from tests.fixtures.databases import Database, drop, new_source, settings_for
from tests.fixtures.migration import differences
from tests.fixtures.servers import AnyServer
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, wait_caught_up, wait_for_phase

LATIN1 = bytes([*range(1, 128), *range(160, 256)]).decode("latin1")
"""Every character that the encoding has."""

NO_UTF8 = "convert_from('\\xff', 'SQL_ASCII')"
"""A byte that no text in UTF-8 holds, as an expression."""

SourceMaker = Callable[[str], Database]


@pytest.fixture
def make_source(source_server: AnyServer) -> Iterator[SourceMaker]:
    """Make source databases of an encoding."""
    with ExitStack() as stack:

        def make(encoding: str) -> Database:
            made = new_source(source_server, encoding)
            stack.callback(drop, made)
            return made

        yield make


def app_of(source: Database) -> Database:
    """The same database for an app that speaks UTF8, as these tests do."""
    return replace(source, dsn=f"{source.dsn}?client_encoding=utf8")


def error_of(target: Database) -> dict[str, Any]:
    """Wait for the error that the worker waits with, and return it."""
    error: dict[str, Any] = wait_until(lambda: target.value("SELECT error FROM replicator.migration"), what="an error")
    return error


def test_every_character_of_latin1_arrives(
    make_source: SourceMaker, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a LATIN1 source with names in it, when rows are copied, inserted and updated, then UTF8 holds the same."""
    source = make_source("LATIN1")
    app = app_of(source)
    app.execute("""
        CREATE TYPE "Größe" AS ENUM ('klein', 'riesengroß');
        CREATE TABLE "Übersicht" ("Straße" text PRIMARY KEY, "größe" "Größe", doc jsonb, tags text[])
    """)
    add = "INSERT INTO \"Übersicht\" VALUES (%s, 'riesengroß', jsonb_build_object('ä', %s::text), ARRAY[%s])"
    app.execute(add, ["copied" + LATIN1] * 3)
    app.execute(add, ["updated"] * 3)
    worker = make_worker(settings_for(source, target))
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)

    app.execute(add, ["inserted" + LATIN1] * 3)
    app.execute('UPDATE "Übersicht" SET "Straße" = %s WHERE "Straße" = %s', ["moved" + LATIN1, "updated"])
    app.execute(f"INSERT INTO \"Übersicht\" SELECT 'ÿ' || n || '{LATIN1[127:]}' FROM generate_series(1, 50) n")
    wait_caught_up(source, target, worker)

    assert differences(source, target) == []
    rows = target.fetch('SELECT "Straße", doc->>\'ä\', tags, "größe"::text FROM "Übersicht" ORDER BY 1 LIMIT 3')
    assert rows == [
        *(((text := way + LATIN1), text, [text], "riesengroß") for way in ("copied", "inserted")),
        ("moved" + LATIN1, "updated", ["updated"], "riesengroß"),
    ]


def test_utf8_in_a_database_without_an_encoding_arrives_and_the_stream_stops_at_what_is_none(
    make_source: SourceMaker, target: Database, make_worker: WorkerMaker
) -> None:
    """Given a SQL_ASCII source, when a byte comes that is no UTF-8, then all waits until the remedy is followed."""
    source = make_source("SQL_ASCII")
    source.execute(
        "CREATE TABLE nötes (id int PRIMARY KEY, body text); CREATE TABLE others (id int PRIMARY KEY);"
        "INSERT INTO nötes VALUES (1, 'copied: é€🐘')"
    )
    worker = make_worker(settings_for(source, target, recheck_interval=0.3))
    worker.start()
    wait_for_phase(target, Phase.STREAMING, worker)
    source.execute("SELECT pg_logical_emit_message(true, convert_from('\\xff', 'SQL_ASCII'), '')")
    source.execute("INSERT INTO nötes VALUES (2, 'streamed: é€🐘')")
    wait_caught_up(app_of(source), target, worker)
    source.execute(f"INSERT INTO nötes VALUES (3, 'wrong: ' || {NO_UTF8})")
    source.execute("INSERT INTO others VALUES (1)")

    error = error_of(target)

    assert error["side"] == "source"
    assert "insert in public.nötes: bytes that are no UTF-8 (22021), in transactions" in error["message"]
    assert target.fetch("TABLE nötes ORDER BY id") == [(1, "copied: é€🐘"), (2, "streamed: é€🐘")]
    assert target.fetch("TABLE others") == []
    assert worker.running
    source.execute("UPDATE nötes SET body = 'right' WHERE id = 3")
    target.execute(error["hint"].partition("on the target: ")[2].partition(";")[0])
    wait_caught_up(app_of(source), target, worker)
    assert differences(source, target) == []
    assert target.fetch("SELECT body FROM nötes WHERE id = 3") == [("right",)]


async def test_the_copy_stops_at_bytes_that_are_no_utf8_and_goes_on_once_they_are_corrected(
    make_source: SourceMaker, target: Database
) -> None:
    """Given a SQL_ASCII source with such a byte, when it is copied, then the error names side, table and remedy."""
    source = make_source("SQL_ASCII")
    source.execute(
        "CREATE TABLE notes (id int PRIMARY KEY, body text);"
        f"INSERT INTO notes VALUES (1, 'é'), (2, 'wrong: ' || {NO_UTF8})"
    )
    settings = settings_for(source, target)

    with pytest.raises(CopyError, match=r"copying from public\.notes: bytes that are no UTF-8 \(22021\)") as caught:
        await run_bootstrap(settings)

    assert caught.value.side is Side.SOURCE
    assert "Correct the text on the source" in caught.value.hint
    assert target.fetch("TABLE notes") == []
    source.execute("UPDATE notes SET body = 'right' WHERE id = 2")
    await run_bootstrap(settings)
    await assert_equal(settings)


async def test_check_tells_of_encodings_before_anything_starts(make_source: SourceMaker, target: Database) -> None:
    """Given sources of other encodings, when they are checked, then it tells what they mean for names and values."""
    ascii_, latin = make_source("SQL_ASCII"), make_source("LATIN1")
    app_of(latin).execute(
        f'CREATE TABLE short (id int PRIMARY KEY, "{"é" * 40}" int, label name); CREATE TABLE "{"é" * 31}" (id int)'
    )

    (unknown,) = await check(settings_for(ascii_, target))
    found = await check(settings_for(latin, target, keyless="full"))

    assert (unknown.severity, unknown.side) == (Severity.WARNING, Side.SOURCE)
    assert "the migration stops at text that is not" in unknown.message
    messages = {finding.message: finding.severity for finding in found}
    assert messages["the database's encoding is LATIN1: all text is converted to UTF8"] is Severity.WARNING
    assert messages[f"names are longer than 63 bytes in UTF8: {'é' * 40}"] is Severity.BLOCKED
    assert any("need more of: public.short.label" in message for message in messages)
