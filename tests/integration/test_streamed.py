"""Large transactions that the source sends before they commit, captured from real servers and decoded both ways."""

import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator

import psycopg
import pytest

from replicator.lsn import Lsn
from replicator.model import Change, Transaction
from replicator.pgoutput.streamed import NOT_ORDINARY
from replicator.pgoutput.transactions import Assembler
from replicator.source.streamed import Streamed
from tests.fixtures.databases import Database

MIB = 1024 * 1024
SESSIONS = 4

_SCHEMA = """
CREATE TYPE mood AS ENUM ('fine', 'sad');
CREATE TABLE shared (id int PRIMARY KEY, body text, m mood);
CREATE TABLE full_row (id int, body text);
ALTER TABLE full_row REPLICA IDENTITY FULL;
CREATE TABLE elsewhere (id int);
"""
_TAKE = """
SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, 'proto_version', '2',
  'publication_names', 'everything', 'messages', 'true', 'streaming', %s)
"""


class Invention:
    """One application session that does at random what makes large transactions hard to keep."""

    def __init__(self, database: Database, number: int, randomness: random.Random) -> None:
        self._dsn = database.dsn
        self._connection = psycopg.connect(self._dsn, autocommit=True)
        self._connection.execute("SET client_min_messages = error")
        self._number, self._random = number, randomness
        self._ids = itertools.count(number * 1_000_000)
        self._own = f"own_{number}"
        self._depth, self._open = 0, False

    def close(self) -> None:
        self._end()
        self._connection.close()

    def step(self) -> None:
        if not self._open:
            self._do("BEGIN")
            self._open = True
        choices = [self._insert] * 6 + [self._change, self._save, self._save, self._release, self._back, self._back]
        self._random.choice([*choices, self._message, self._truncate, self._alter, self._publish, self._end])()

    def _do(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def _insert(self) -> None:
        rows = self._random.choice([1, 3, 60])
        table = self._random.choice(["shared (id, body, m)", f"{self._own} (id, body, m)"])
        first = next(self._ids)
        for _ in range(rows):
            next(self._ids)
        self._do(
            f"INSERT INTO {table} SELECT {first} + n, repeat(md5(n::text), 60), 'sad' FROM generate_series(1, {rows}) n"
        )
        self._do(f"INSERT INTO full_row SELECT {first} + n, 'x' FROM generate_series(1, {rows}) n")
        self._do("INSERT INTO elsewhere VALUES (1)")

    def _change(self) -> None:
        low = self._number * 1_000_000
        mine = f"WHERE id BETWEEN {low} AND {low + 999_999}"
        self._do(f"UPDATE full_row SET body = body || 'y' {mine} AND id % 3 = 0")
        self._do(f"UPDATE shared SET m = 'fine' {mine} AND id % 2 = 0")
        self._do(f"DELETE FROM {self._random.choice(['shared', 'full_row', self._own])} {mine} AND id % 5 = 0")

    def _save(self) -> None:
        self._depth += 1
        self._do(f"SAVEPOINT s{self._depth}")

    def _release(self) -> None:
        if self._depth:
            self._depth = self._random.randrange(self._depth)
            self._do(f"RELEASE SAVEPOINT s{self._depth + 1}")

    def _back(self) -> None:
        if self._depth:
            self._depth = self._random.randrange(self._depth)
            self._do(f"ROLLBACK TO SAVEPOINT s{self._depth + 1}; RELEASE SAVEPOINT s{self._depth + 1}")

    def _message(self) -> None:
        """Not in a savepoint: the source streams its messages as those of the whole, so that one rolled back stays."""
        if not self._depth:
            self._do("SELECT pg_logical_emit_message(t, 'app', 'content') FROM (VALUES (true), (false)) v (t)")

    def _truncate(self) -> None:
        self._do(f"TRUNCATE {self._own}")

    def _alter(self) -> None:
        self._do(f"ALTER TABLE {self._own} ADD c{self._random.randrange(10**9)} int DEFAULT 7")

    def _publish(self) -> None:
        """What describes tables anew while others have them open in transactions."""
        with contextlib.suppress(psycopg.errors.LockNotAvailable), psycopg.connect(self._dsn) as other:
            other.execute(
                "SET lock_timeout = '20ms'; ALTER PUBLICATION everything SET (publish_via_partition_root = false)"
            )

    def _end(self) -> None:
        if self._open:
            self._do(self._random.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
        self._depth, self._open = 0, False


def play(database: Database, seed: int) -> None:
    """A history whose sessions take turns."""
    randomness = random.Random(seed)
    sessions = [Invention(database, number, randomness) for number in range(1, SESSIONS + 1)]
    for _ in range(120):
        randomness.choice(sessions).step()
    for session in sessions:
        session.close()


def captured(database: Database, slot: str, streaming: str) -> list[bytes]:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("SET logical_decoding_work_mem = '64kB'")
        return [bytes(data) for (data,) in connection.execute(_TAKE, [slot, streaming])]


def assembled(payloads: Iterable[bytes], piece_bytes: int = 20_000) -> Iterator[Transaction]:
    """As the stream does."""
    assembler = Assembler(piece_bytes)
    streamed = Streamed(assembler)
    with contextlib.closing(streamed):
        for payload in payloads:
            if streamed.in_block or payload[:1] in NOT_ORDINARY:
                streamed.take(payload)
                while streamed.replaying:
                    if (transaction := streamed.next_piece()) is not None:
                        yield transaction
            elif (transaction := assembler.feed(payload)) is not None:
                yield transaction


def whole(pieces: Iterable[Transaction]) -> list[tuple[Lsn, Lsn, int, list[Change]]]:
    """Pieces put together, without transactions that say nothing."""
    transactions = []
    changes: list[Change] = []
    for piece in pieces:
        changes += piece.changes
        if piece.complete:
            if changes:
                transactions.append((piece.commit_lsn, piece.end_lsn, piece.committed_at, changes))
            changes = []
    assert not changes
    return transactions


@pytest.mark.parametrize(
    ("major", "histories"),
    [(15, 1), (17, 2), (18, 1), *(pytest.param(major, 40, marks=pytest.mark.long) for major in (15, 17, 18))],
)
def test_a_streamed_history_gives_the_same_transactions_as_one_that_is_sent_after_its_commits(
    request: pytest.FixtureRequest, major: int, histories: int
) -> None:
    database: Database = request.getfixturevalue("source" if major == 17 else f"source_{major}")
    own = [f"own_{n}" for n in range(1, SESSIONS + 1)]
    database.execute(_SCHEMA + "".join(f"CREATE TABLE {name} (LIKE shared INCLUDING ALL);" for name in own))
    published = ", ".join(["shared", "full_row", *own])
    database.execute(f"CREATE PUBLICATION everything FOR TABLE {published}")
    slots = {streaming: f"{database.name}_{streaming}" for streaming in ("on", "off")}
    for slot in slots.values():
        database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    kinds: Counter[bytes] = Counter()
    for history in range(histories):
        database.execute(f"TRUNCATE {published}")
        play(database, seed := major * 1000 + history)

        off = captured(database, slots["off"], "off")
        try:
            on = captured(database, slots["on"], "on")
        except psycopg.errors.InternalError_ as error:
            # 18.6 cannot decode every TRUNCATE that was rolled back: the worker goes on with streaming off then
            if major != 18 or "could not map filenumber" not in str(error):
                raise
            database.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [slots["on"]])
            continue

        assert whole(assembled(on)) == whole(assembled(off)), f"seed {seed}"
        kinds.update(payload[:1] for payload in on)
    assert min(kinds[kind] for kind in (b"S", b"c", b"A")) >= histories, kinds
