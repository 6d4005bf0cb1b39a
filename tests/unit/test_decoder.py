"""The decoder: every message of pgoutput, values as COPY text (law 7), and no guess at what it cannot read (law 4)."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ProtocolError
from replicator.lsn import Lsn
from replicator.model import (
    NULL,
    UNCHANGED,
    Delete,
    Insert,
    Relation,
    RelationColumn,
    ReplicaIdentity,
    TableName,
    Truncate,
    Update,
)
from replicator.pgoutput.decoder import Decoder
from replicator.pgoutput.messages import Begin, Commit, Emitted, Message, Origin, TypeName
from tests.fixtures import wire

COLUMNS = (b"id", b"name", b"note")


@pytest.fixture
def decoder() -> Decoder:
    """One that knows relation 5 with three columns, the first its key."""
    decoder = Decoder()
    decoder.decode(wire.relation(5, COLUMNS))
    return decoder


def relation_of(message: Message) -> Relation:
    assert isinstance(message, Insert | Update | Delete)
    return message.relation


# --- each message -----------------------------------------------------------------------------------------------------


def test_begin(decoder: Decoder) -> None:
    assert decoder.decode(wire.begin(2**63, -5, 2**32 - 1)) == Begin(Lsn(2**63), -5, 2**32 - 1)


def test_commit(decoder: Decoder) -> None:
    assert decoder.decode(wire.commit(10, 20, 30)) == Commit(Lsn(10), Lsn(20), 30)


def test_origin(decoder: Decoder) -> None:
    assert decoder.decode(wire.origin(10, b"far")) == Origin(Lsn(10), "far")


def test_type_name(decoder: Decoder) -> None:
    assert decoder.decode(wire.type_name(7, b"public", "stimmung·".encode())) == TypeName(7, "public", "stimmung·")


def test_relation_tells_identity_and_columns(decoder: Decoder) -> None:
    message = decoder.decode(wire.relation(9, [b"a", "ü".encode()], key=1, identity=b"i"))

    columns = (RelationColumn("a", 25, -1, True), RelationColumn("ü", 25, -1, False))
    assert message == Relation(9, TableName("public", "t9"), ReplicaIdentity.INDEX, columns)


def test_an_empty_namespace_is_pg_catalog(decoder: Decoder) -> None:
    message = decoder.decode(wire.relation(9, [b"a"], schema=b""))

    assert isinstance(message, Relation)
    assert message.table == TableName("pg_catalog", "t9")


def test_insert(decoder: Decoder) -> None:
    message = decoder.decode(wire.insert(5, [b"1", b"", None]))

    assert message == Insert(relation_of(message), b"1\t\t\\N")
    assert relation_of(message).table.name == "t5"


def test_update_without_old_tuple_and_with_unchanged_toast(decoder: Decoder) -> None:
    message = decoder.decode(wire.update(5, [b"1", wire.UNCHANGED_TOAST, b"x"]))

    assert message == Update(relation_of(message), None, False, b"\t".join([b"1", UNCHANGED, b"x"]))


def test_update_of_the_key_has_the_old_key(decoder: Decoder) -> None:
    message = decoder.decode(wire.update(5, [b"2", b"a", b"b"], key=[b"1", None, None]))

    assert message == Update(relation_of(message), b"\t".join([b"1", NULL, NULL]), False, b"2\ta\tb")


def test_update_under_full_has_the_old_row_and_leaves_unchanged_toast_to_the_batch(decoder: Decoder) -> None:
    message = decoder.decode(wire.update(5, [b"2", b"a", wire.UNCHANGED_TOAST], old=[b"1", b"a", b"long"]))

    assert message == Update(relation_of(message), b"1\ta\tlong", True, b"2\ta\t\\U")


def test_delete_by_key(decoder: Decoder) -> None:
    message = decoder.decode(wire.delete(5, key=[b"1", None, None]))

    assert message == Delete(relation_of(message), b"\t".join([b"1", NULL, NULL]), False)


def test_delete_under_full(decoder: Decoder) -> None:
    message = decoder.decode(wire.delete(5, old=[b"1", b"a", b"b"]))

    assert message == Delete(relation_of(message), b"1\ta\tb", True)


@pytest.mark.parametrize(("options", "cascade", "restart"), [(0, False, False), (1, True, False), (2, False, True)])
def test_truncate(decoder: Decoder, options: int, cascade: bool, restart: bool) -> None:
    other = decoder.decode(wire.relation(6, [b"a"]))

    message = decoder.decode(wire.truncate([6, 5], options))

    assert isinstance(message, Truncate)
    assert message.relations[0] == other
    assert [relation.oid for relation in message.relations] == [6, 5]
    assert (message.cascade, message.restart_identity) == (cascade, restart)


@pytest.mark.parametrize("transactional", [True, False])
def test_emitted_message(decoder: Decoder, transactional: bool) -> None:
    message = decoder.decode(wire.emitted(b"replicator", b"\0\xff", transactional=transactional))

    assert message == Emitted(transactional, Lsn(90), "replicator", b"\0\xff")


# --- relations --------------------------------------------------------------------------------------------------------


def test_a_repeated_description_stays_the_same_object(decoder: Decoder) -> None:
    first = relation_of(decoder.decode(wire.insert(5, [b"1", b"2", b"3"])))
    decoder.decode(wire.relation(5, COLUMNS))

    assert relation_of(decoder.decode(wire.insert(5, [b"1", b"2", b"3"]))) is first


def test_a_changed_description_replaces_the_old_one(decoder: Decoder) -> None:
    decoder.decode(wire.relation(5, [*COLUMNS, b"more"]))

    assert len(relation_of(decoder.decode(wire.insert(5, [b"1", b"2", b"3", b"4"]))).columns) == 4


# --- rows are COPY text -----------------------------------------------------------------------------------------------

values = st.one_of(
    st.none(),
    st.binary(max_size=300).map(lambda value: value.replace(b"\0", b"0")),
    st.text(alphabet="\\NU.tnr\t\n\r,\b", max_size=6).map(str.encode),
)


def unescape(field: bytes) -> bytes | None:
    """Read a field as the documentation of COPY says, independently of the decoder's escaping."""
    if field == NULL:
        return None
    meanings = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"\\": b"\\"}
    out, rest = b"", field
    while rest:
        if rest[:1] == b"\\":
            out, rest = out + meanings[rest[1:2]], rest[2:]
        else:
            out, rest = out + rest[:1], rest[1:]
    return out


@given(st.lists(values, min_size=1, max_size=5))
def test_any_row_survives_the_escaping(row: list[bytes | None]) -> None:
    decoder = Decoder()
    decoder.decode(wire.relation(5, [b"c"] * len(row)))

    message = decoder.decode(wire.insert(5, row))

    assert isinstance(message, Insert)
    assert b"\n" not in message.new
    assert b"\r" not in message.new
    assert [unescape(field) for field in message.new.split(b"\t")] == row


@given(st.lists(st.one_of(values, st.just(wire.UNCHANGED_TOAST)), min_size=1, max_size=5))
def test_no_value_can_pass_for_unchanged_toast(row: list[wire.Value]) -> None:
    decoder = Decoder()
    decoder.decode(wire.relation(5, [b"c"] * len(row)))

    message = decoder.decode(wire.update(5, row))

    assert isinstance(message, Update)
    fields = message.new.split(b"\t")
    assert [field == UNCHANGED for field in fields] == [value is wire.UNCHANGED_TOAST for value in row]


# --- what cannot be read ----------------------------------------------------------------------------------------------

MESSAGES = [
    wire.begin(),
    wire.commit(),
    wire.origin(1, b"far"),
    wire.relation(5, COLUMNS),
    wire.type_name(7, b"public", b"mood"),
    wire.insert(5, [b"1", b"a\tb", None]),
    wire.update(5, [b"1", wire.UNCHANGED_TOAST, b"x"]),
    wire.update(5, [b"2", b"a", b"b"], key=[b"1", None, None]),
    wire.update(5, [b"2", b"a", b"b"], old=[b"1", b"a", b"b"]),
    wire.delete(5, key=[b"1", None, None]),
    wire.truncate([5, 5], 3),
    wire.emitted(b"replicator", b"nonce"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:1].decode())
def test_a_truncated_message_is_an_error_wherever_it_ends(message: bytes) -> None:
    for end in range(len(message)):
        decoder = Decoder()
        decoder.decode(wire.relation(5, COLUMNS))
        with pytest.raises(ProtocolError):
            decoder.decode(message[:end])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:1].decode())
def test_bytes_after_a_message_are_an_error(decoder: Decoder, message: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoder.decode(message + b"\0")


@given(st.sampled_from(MESSAGES), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=4))
def test_a_mutated_message_is_read_or_refused_but_never_fails_otherwise(
    message: bytes, changes: list[tuple[int, int]]
) -> None:
    mutated = bytearray(message)
    for position, byte in changes:
        mutated[position % len(mutated)] = byte
    decoder = Decoder()
    decoder.decode(wire.relation(5, COLUMNS))

    with contextlib.suppress(ProtocolError):
        decoder.decode(bytes(mutated))


@given(st.binary(max_size=60))
def test_arbitrary_bytes_never_fail_otherwise(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        Decoder().decode(payload)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"S\0\0\0\1\1",
        wire.insert(99, [b"1", b"2", b"3"]),
        wire.insert(5, [b"1", b"2"]),
        wire.update(5, [b"1", b"2"]),
        wire.update(5, [b"1", b"2", b"3"], key=[b"1"]),
        wire.update(5, [b"1", b"2", b"3"], old=[b"1", b"2", wire.UNCHANGED_TOAST]),
        wire.delete(5, key=[b"1", wire.UNCHANGED_TOAST, None]),
        wire.delete(5) + b"N\0\0",
        wire.insert(5, [b"1", b"2", b"3"]).replace(b"N\0\3t", b"N\0\3b", 1),
        wire.truncate([5, 6]),
        wire.truncate([5], 4),
        wire.relation(5, COLUMNS, identity=b"x"),
        wire.relation(5, [b"\xff"]),
        wire.emitted(b"p", b"c").replace(b"M\1", b"M\2"),
    ],
    ids=[
        "empty",
        "stream start",
        "unknown relation",
        "too few columns",
        "too few new columns",
        "too few old columns",
        "old row lacks a value",
        "key lacks a value",
        "delete with a new row",
        "binary value",
        "truncate of an unknown relation",
        "unknown truncate option",
        "unknown replica identity",
        "name that is not UTF-8",
        "unknown message flag",
    ],
)
def test_what_was_not_announced_is_an_error(decoder: Decoder, message: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoder.decode(message)


def test_an_error_holds_no_value_of_a_row(decoder: Decoder) -> None:
    with pytest.raises(ProtocolError) as caught:
        decoder.decode(wire.insert(5, [b"secret", b"secret"]))

    assert "secret" not in str(caught.value)
