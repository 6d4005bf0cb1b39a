"""Bytes that no honest source would send: refused as ProtocolError (law 4), at once, and read no further than they go.

The messages are real ones of a real server, cut, lengthened, bent and mixed. `REPLICATOR_TEST_EXAMPLES=100000` asks for
more of them.
"""

import contextlib
import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from replicator.errors import ProtocolError
from replicator.model import Transaction
from replicator.pgoutput import decoder as in_use
from replicator.pgoutput.transactions import Assembler
from replicator.source.frames import read_keepalive
from replicator.spool.lines import Reader, encode
from tests.fixtures.bending import HUGE, bent, disordered
from tests.fixtures.databases import drop, new_source
from tests.fixtures.feeding import Fed
from tests.fixtures.servers import AnyServer

FEW: Final = int(os.environ.get("REPLICATOR_TEST_EXAMPLES", "250"))
thorough = settings(max_examples=FEW, deadline=20_000, suppress_health_check=[HealthCheck.too_slow])

HISTORY: Final = (
    """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE a (id int PRIMARY KEY, feels mood, body text, raw bytea, numbers numeric[]);
CREATE TABLE b (id int, body text); ALTER TABLE b REPLICA IDENTITY FULL;
CREATE TABLE "ünï" ("we""ird" text, b int, PRIMARY KEY ("we""ird", b));
ALTER TABLE a ALTER body SET STORAGE EXTERNAL; ALTER TABLE b ALTER body SET STORAGE PLAIN;
CREATE PUBLICATION p FOR TABLE a, b, "ünï";
""",
    "SELECT pg_create_logical_replication_slot('fuzz', 'pgoutput')",
    """
INSERT INTO a VALUES (1, 'glad', E'tab\\tline\\nback\\\\slash', '\\x00ff', '{1.5,NULL}'), (2, NULL, '', NULL, NULL);
INSERT INTO a SELECT 3, 'sad', repeat('long', 1000);
UPDATE a SET feels = 'glad' WHERE id = 3; UPDATE a SET id = 30 WHERE id = 3; DELETE FROM a WHERE id = 2;
INSERT INTO b VALUES (1, 'x'), (1, NULL); UPDATE b SET body = 'y'; DELETE FROM b WHERE body IS NOT NULL;
INSERT INTO "ünï" VALUES ('🐘', -1); UPDATE "ünï" SET b = 2;
SELECT pg_logical_emit_message(true, 'replicator', '0123456789abcdef');
""",
    """
SELECT pg_logical_emit_message(false, 'other', 'alone');
TRUNCATE a, b RESTART IDENTITY CASCADE;
""",
)
"""Each a transaction."""

LARGE: Final = """
INSERT INTO b SELECT n, repeat('b', 5000) FROM generate_series(1, 20) n; SAVEPOINT one;
INSERT INTO b SELECT n, repeat('c', 5000) FROM generate_series(1, 20) n; ROLLBACK TO one; RELEASE one;
UPDATE b SET body = 'streamed'; ALTER TABLE b ADD COLUMN c int; INSERT INTO b VALUES (7, NULL, 1);
"""
"""More than the source keeps in memory, so that it sends it before it ends."""

MESSAGES: Final = """
SELECT data FROM pg_logical_slot_peek_binary_changes('fuzz', NULL, NULL,
  'proto_version', '2', 'publication_names', 'p', 'messages', 'true', 'streaming', %s)
"""


@pytest.fixture(scope="module")
def captured(source_server: AnyServer) -> Iterator[Sequence[bytes]]:
    """What a server sent of a history with every kind of message, in order."""
    source = new_source(source_server)
    for statements in HISTORY:
        source.execute(statements)
    yield [bytes(data) for (data,) in source.fetch(MESSAGES, ["off"])]
    drop(source)


@pytest.fixture(scope="module")
def streamed(source_server: AnyServer) -> Iterator[Sequence[bytes]]:
    """What a server sent of transactions that it streams: two that commit, one that does not."""
    source = new_source(source_server)
    for statements in (*HISTORY[:2], f"BEGIN; {LARGE} COMMIT", f"BEGIN; {LARGE} ROLLBACK", HISTORY[3]):
        source.execute(statements.replace("ADD COLUMN c", "ADD COLUMN IF NOT EXISTS c").replace("'fuzz'", "'bent'"))
    small = replace(source, dsn=make_conninfo(source.dsn, options="-c logical_decoding_work_mem=64kB"))
    yield [bytes(data) for (data,) in small.fetch(MESSAGES.replace("'fuzz'", "'bent'"), ["on"])]
    drop(source)


# --- the decoder ------------------------------------------------------------------------------------------------------


def primed(module: ModuleType, captured: Sequence[bytes]) -> Callable[[bytes], Any]:
    """A new decoder that knows the relations of what was captured."""
    decode: Callable[[bytes], Any] = module.Decoder().decode
    for message in captured:
        if message[:1] == b"R":
            decode(message)
    return decode


def outcome(decode: Callable[[bytes], Any], message: bytes) -> tuple[type, Any]:
    """What became of it, so that two decoders' outcomes can be compared; any other error than ours passes through."""
    try:
        read = decode(message)
    except ProtocolError as error:
        return type(error), str(error)
    return type(read), read


def test_what_a_real_server_sends_is_read(captured: Sequence[bytes]) -> None:
    """Given a history with every kind of message, then each is read: what is bent below would be valid unbent."""
    decode = primed(in_use, captured)

    assert {message[:1] for message in captured} == {b"B", b"C", b"R", b"Y", b"I", b"U", b"D", b"T", b"M"}
    assert [message for message in captured if outcome(decode, message)[0] is ProtocolError] == []


@thorough
@given(data=st.data())
def test_a_bent_message_is_refused_or_read_to_exactly_its_end(captured: Sequence[bytes], data: st.DataObject) -> None:
    """Whatever is accepted is not accepted with a byte less or more: so nothing beyond it was read, nothing ignored."""
    message = data.draw(bent(captured))
    decode = primed(in_use, captured)

    kind, _ = outcome(decode, message)

    if kind is not ProtocolError:
        assert outcome(decode, message[:-1])[0] is ProtocolError
        assert outcome(decode, message + b"\0")[0] is ProtocolError


def test_a_length_of_four_gigabytes_allocates_nothing(captured: Sequence[bytes]) -> None:
    """Given any message with a huge number at any place, then the refusal takes hardly more memory than the message."""
    decode = primed(in_use, captured)
    messages = [message for message in {message[:300] for message in captured} if len(message) < 300]
    tracemalloc.start()
    try:
        for message in messages:
            for place in range(1, len(message)):
                for piece in HUGE[:4]:
                    outcome(decode, message[:place] + piece + message[place + len(piece) :])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def from_source() -> ModuleType:
    """The decoder's source file, not compiled."""
    path = Path(in_use.__file__ or "").parent / "decoder.py"
    spec = spec_from_file_location("decoder_from_source", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@thorough
@given(data=st.data())
def test_the_compiled_decoder_says_what_its_source_says(captured: Sequence[bytes], data: st.DataObject) -> None:
    """Given the same messages, some of them bent, then both read the same or refuse it in the same words."""
    if (in_use.__file__ or "").endswith(".py"):
        pytest.skip("the decoder is not compiled here")
    compiled, source = (primed(module, captured) for module in (in_use, from_source()))
    for message in data.draw(st.lists(st.sampled_from(captured) | bent(captured), min_size=1, max_size=5)):
        assert outcome(compiled, message) == outcome(source, message)


# --- around the decoder -----------------------------------------------------------------------------------------------


@thorough
@given(data=st.data())
def test_messages_in_any_order_and_shape_are_refused_or_put_together(
    captured: Sequence[bytes], data: st.DataObject
) -> None:
    """Given a stream with messages lost, repeated, mixed and bent, then the assembler raises nothing but its error."""
    messages, assembler = data.draw(disordered(captured)), Assembler(data.draw(st.sampled_from([1, 1000, 10**6])))
    with contextlib.suppress(ProtocolError):
        for message in messages:
            assembler.feed(message)


def play(messages: Sequence[bytes]) -> list[Transaction]:
    """What the stream does with messages, streamed ones too."""
    fed = Fed(10**6)
    try:
        fed.feed(*messages)
    finally:
        fed.streamed.close()
    return fed.transactions


def test_what_a_real_server_streams_is_read(streamed: Sequence[bytes]) -> None:
    assert {message[:1] for message in streamed} >= {b"S", b"E", b"A", b"c"}
    assert max(len(transaction.changes) for transaction in play(streamed)) == 41


@thorough
@given(data=st.data())
def test_streamed_transactions_in_any_order_and_shape_are_refused_or_read(
    streamed: Sequence[bytes], data: st.DataObject
) -> None:
    messages = data.draw(disordered(streamed))
    with contextlib.suppress(ProtocolError):
        play(messages)


@thorough
@given(st.binary(max_size=40) | st.binary(min_size=17, max_size=17).map(lambda rest: b"k" + rest))
def test_any_frame_is_a_keepalive_or_refused(frame: bytes) -> None:
    try:
        keepalive = read_keepalive(frame)
    except ProtocolError:
        assert frame[:1] != b"k" or len(frame) != 18
    else:
        assert keepalive.end_lsn == int.from_bytes(frame[1:9])


@thorough
@given(data=st.data())
def test_a_bent_chunk_of_the_spool_is_refused_or_read(captured: Sequence[bytes], data: st.DataObject) -> None:
    assembler = Assembler(10**6)
    whole = [transaction for transaction in map(assembler.feed, captured) if transaction is not None]
    chunk = data.draw(bent([encode([transaction]) for transaction in whole] + [encode(whole)]))
    try:
        transactions = Reader().decode(chunk)
    except ProtocolError:
        return
    assert transactions
