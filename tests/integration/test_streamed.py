"""Large transactions that the source sends before they commit, captured from real servers and decoded both ways."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Iterable, Iterator
from functools import partial

import psycopg
import pytest

from replicator.config import MIB
from replicator.errors import Side, UntoldRollbackError
from replicator.lsn import Lsn, parse_lsn
from replicator.model import Change, Insert, Transaction
from replicator.pgoutput.streamed import Subtransactions
from replicator.pgoutput.transactions import Assembler
from replicator.postgres import connect
from replicator.source.rollbacks import rolled_back
from replicator.source.stream import ReplicationStream
from tests.fixtures.databases import Database

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
  'publication_names', 'everything', 'messages', 'true')
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


@pytest.fixture(params=[True, False], ids=["told", "untold"])
def is_told(request: pytest.FixtureRequest) -> bool:
    """Whether the source tells of the rollbacks of subtransactions."""
    return bool(request.param)


@pytest.fixture
def aborts(is_told: bool, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes were cut off by each rollback of a subtransaction that had been sent: none if it is not told."""
    found: list[int] = []
    abort = Subtransactions.abort

    def noted(subtransactions: Subtransactions, xid: int, end: int) -> int:
        place = abort(subtransactions, xid, end) if is_told else end
        if place < end or not is_told:
            found.append(end - place)
        return place

    monkeypatch.setattr(Subtransactions, "abort", noted)
    return found


def play(database: Database, seed: int) -> None:
    """A history whose sessions take turns."""
    randomness = random.Random(seed)
    sessions = [Invention(database, number, randomness) for number in range(1, SESSIONS + 1)]
    with psycopg.connect(database.dsn, autocommit=True) as flushing:
        for _ in range(120):
            randomness.choice(sessions).step()
            # whatever was written before goes out with this commit: the source decodes what is still open
            flushing.execute("INSERT INTO elsewhere VALUES (0)")
    for session in sessions:
        session.close()


def sent_after_commits(database: Database, slot: str) -> Iterator[Transaction]:
    assembler = Assembler(MIB)
    for (payload,) in database.fetch(_TAKE, [slot]):
        # 18 sends Stream Abort though nothing is streamed
        if payload[:1] != b"A" and (transaction := assembler.feed(bytes(payload))) is not None:
            yield transaction


def is_end(transaction: Transaction) -> bool:
    return any(isinstance(change, Insert) and change.new.startswith(b"0\t") for change in transaction.changes)


async def sent_before(database: Database, slot: str, start: Lsn, seed: int) -> list[Transaction]:
    """What the stream hands out while a history is being played."""
    asked = await connect(database.dsn, Side.SOURCE, "asked")
    stream = await ReplicationStream.open(
        f"{database.dsn}?options=-c%20logical_decoding_work_mem%3D64kB",
        slot,
        ["everything"],
        start,
        rolled_back=partial(rolled_back, asked),
        buffer_bytes=MIB // 4,
        status_interval=0.2,
    )
    transactions: list[Transaction] = []
    try:
        async with asyncio.timeout(60):
            playing = asyncio.create_task(asyncio.to_thread(play, database, seed))
            playing.add_done_callback(lambda _: database.execute("INSERT INTO shared VALUES (0)"))
            while not (transactions and is_end(transactions[-1])):
                transactions += (await stream.next()).transactions
            await playing
            stream.confirm(transactions[-1].end_lsn)
    finally:
        await stream.close()
        await asked.close()
    return transactions


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
    [(15, 3), (17, 3), (18, 3), *(pytest.param(major, 40, marks=pytest.mark.long) for major in (15, 17, 18))],
)
async def test_a_streamed_history_gives_the_same_transactions_as_one_that_is_sent_after_its_commits(
    request: pytest.FixtureRequest, aborts: list[int], major: int, histories: int
) -> None:
    database: Database = request.getfixturevalue("source" if major == 17 else f"source_{major}")
    own = [f"own_{n}" for n in range(1, SESSIONS + 1)]
    database.execute(_SCHEMA + "".join(f"CREATE TABLE {name} (LIKE shared INCLUDING ALL);" for name in own))
    published = ", ".join(["shared", "full_row", *own])
    database.execute(f"CREATE PUBLICATION everything FOR TABLE {published}")
    for history in range(histories):
        seed = major * 1000 + history
        database.execute(f"TRUNCATE {published}")
        on, off = (f"{database.name}_{history}_{streaming}" for streaming in ("on", "off"))
        for slot in (off, on):
            start = database.value("SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])

        before = await sent_before(database, on, parse_lsn(start), seed)

        assert whole(before) == whole(sent_after_commits(database, off)), f"seed {seed}"
        for slot in (off, on):
            database.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    assert len(aborts) >= histories


@pytest.mark.parametrize("major", [15, 17, 18])
async def test_the_commit_log_tells_which_savepoints_were_rolled_back(
    request: pytest.FixtureRequest, major: int
) -> None:
    """Given a transaction with savepoints, nested ones too, of which some were rolled back, when it has committed, or
    is about to be told as committed, then exactly these are named; one that no log knows any more is an error."""
    database: Database = request.getfixturevalue("source" if major == 17 else f"source_{major}")
    database.execute("CREATE TABLE t (id int)")
    asked = await connect(database.dsn, Side.SOURCE, "asked")
    try:
        with psycopg.connect(database.dsn) as session:
            xids = dict[str, int]()
            for statement in ("SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO b", "SAVEPOINT c", "RELEASE c", "RELEASE a",
                              "SAVEPOINT d", "SAVEPOINT e", "RELEASE e", "ROLLBACK TO d", "SAVEPOINT f"):  # fmt: skip
                session.execute(statement.encode())
                if statement.startswith("SAVEPOINT"):
                    session.execute("INSERT INTO t VALUES (1)")
                    ((xid,),) = session.execute("SELECT xmin::text::bigint FROM t ORDER BY ctid DESC LIMIT 1")
                    xids[statement[-1]] = xid
            names = {xid: name for name, xid in xids.items()}
            for _ in ("in progress", "committed"):
                found = await rolled_back(asked, list(names))
                assert {names[xid] for xid in found} == {"b", "d", "e"}
                session.commit()

        assert await rolled_back(asked, []) == []
        with pytest.raises(UntoldRollbackError):
            # what initdb's transactions have done is frozen, and their log is cut off
            await rolled_back(asked, [100])
    finally:
        await asked.close()
