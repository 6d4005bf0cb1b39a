"""What the sample app does: one function an operation, each run inside a transaction of its own."""

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import sql

from replicator.demo.app import AppConnection

Operation = Callable[[AppConnection, random.Random], Awaitable[None]]

_CHANNELS: Final = ("email", "push", "sms", "carrier pigeon")


class RolledBack(Exception):
    """The app gives its transaction up: second thoughts, or nothing to work on."""


async def _one(connection: AppConnection, query: LiteralString | sql.Composed, **parameters: object) -> Any:  # noqa: ANN401  # any type
    """The first value of the first row; rolls back where there is none."""
    row = await (await connection.execute(query, parameters)).fetchone()
    if row is None or row[0] is None:
        raise RolledBack
    return row[0]


async def _any_of(connection: AppConnection, chance: random.Random, table: str) -> int:
    """The id of a row somewhere in the table."""
    query = sql.SQL("SELECT id FROM {table} WHERE id >= %(at)s * (SELECT max(id) FROM {table}) ORDER BY id LIMIT 1")
    found: int = await _one(connection, query.format(table=sql.Identifier(table)), at=chance.random())
    return found


def _uuid(chance: random.Random) -> UUID:
    return UUID(int=chance.getrandbits(128))


# --- conversations: several statements, foreign keys, a trigger ------------------------------------------------------


async def converse(connection: AppConnection, chance: random.Random) -> None:
    """Begin a session with a few messages and a proposal."""
    session = await _one(connection, "INSERT INTO sessions (metadata) VALUES ('{\"new\": true}') RETURNING id")
    for turn in range(1, chance.randint(2, 5)):
        history = await _one(
            connection,
            "INSERT INTO histories (session_id, role, content) VALUES (%(session)s, 'user', %(content)s) RETURNING id",
            session=session,
            content=f"message {turn}\n" + "…" * chance.randint(0, 200),
        )
    await connection.execute(
        "INSERT INTO proposals (history_id, content, metadata)"
        " VALUES (%s, 'so be it', jsonb_build_object('ticket', nextval('ticket_numbers')))",
        [history],
    )


async def annotate_session(connection: AppConnection, chance: random.Random) -> None:
    """Update one session."""
    session = await _any_of(connection, chance, "sessions")
    await connection.execute(
        "UPDATE sessions SET updated_at = now(), metadata = coalesce(metadata, '{}') || jsonb_build_object('at', now())"
        " WHERE id = %s",
        [session],
    )


async def rewrite_messages(connection: AppConnection, chance: random.Random) -> None:
    """Update several messages at once, twice in the same transaction."""
    last = await _one(connection, "SELECT max(id) FROM histories")
    first = chance.randint(1, last)
    for text in (" (edited)", " twice"):
        await connection.execute(
            "UPDATE histories SET content = left(content, 300) || %s WHERE id BETWEEN %s AND %s",
            [text, first, first + 5],
        )


async def withdraw_proposal(connection: AppConnection, chance: random.Random) -> None:
    """Delete one proposal."""
    proposal = await _any_of(connection, chance, "proposals")
    await connection.execute("DELETE FROM proposals WHERE id = %s", [proposal])


# --- accounts: uuid key, enum array, generated, identity, a second unique column -------------------------------------


async def _account(connection: AppConnection, chance: random.Random) -> UUID:
    query: LiteralString = "SELECT id FROM accounts WHERE id >= %(near)s ORDER BY id LIMIT 1"
    found: UUID = await _one(connection, query, near=_uuid(chance))
    return found


async def open_account(connection: AppConnection, chance: random.Random) -> None:
    """Insert an account, and forget another one."""
    await connection.execute(
        "INSERT INTO accounts (id, handle, allowed, avatar) VALUES (%s, %s, %s::channel[], %s)",
        [_uuid(chance), f"New {_uuid(chance)}", chance.sample(_CHANNELS, chance.randint(0, 4)), chance.randbytes(40)],
    )
    await connection.execute("DELETE FROM accounts WHERE id = %s", [await _account(connection, chance)])


async def change_account(connection: AppConnection, chance: random.Random) -> None:
    """Update enum, numeric and float columns."""
    await connection.execute(
        "UPDATE accounts SET preferred = %s::channel, balance = balance + 0.10, score = random() WHERE id = %s",
        [chance.choice(_CHANNELS), await _account(connection, chance)],
    )


async def change_account_key(connection: AppConnection, chance: random.Random) -> None:
    """Give an account another primary key."""
    old = await _account(connection, chance)
    await connection.execute("UPDATE accounts SET id = %s WHERE id = %s", [_uuid(chance), old])


async def swap_handles(connection: AppConnection, chance: random.Random) -> None:
    """Swap the values of a unique column between two rows."""
    cursor = await connection.execute(
        "SELECT id, handle FROM accounts WHERE id >= %s ORDER BY id LIMIT 2 FOR UPDATE", [_uuid(chance)]
    )
    found = await cursor.fetchall()
    if len(found) < 2:
        raise RolledBack
    (one, one_handle), (other, other_handle) = found
    for account, handle in ((one, f"swapping {one}"), (other, one_handle), (one, other_handle)):
        await connection.execute("UPDATE accounts SET handle = %s WHERE id = %s", [handle, account])


# --- documents: TOAST -------------------------------------------------------------------------------------------------


async def view_document(connection: AppConnection, chance: random.Random) -> None:
    """Update another column than the large one."""
    document = await _any_of(connection, chance, "documents")
    await connection.execute("UPDATE documents SET views = views + 1 WHERE id = %s", [document])


async def edit_document(connection: AppConnection, chance: random.Random) -> None:
    """Write a large text, then update another column of the same row."""
    document = await _any_of(connection, chance, "documents")
    body = chance.randbytes(4).hex() * chance.randint(500, 3000)
    await connection.execute("UPDATE documents SET body = %s, updated_at = now() WHERE id = %s", [body, document])
    await connection.execute("UPDATE documents SET views = views + 1 WHERE id = %s", [document])


# --- events: partitions; visits: no key -------------------------------------------------------------------------------


async def record_events(connection: AppConnection, chance: random.Random) -> None:
    """Insert into both partitions."""
    await connection.execute(
        "INSERT INTO events (happened_at, kind)"
        " SELECT timestamptz '2019-12-31 00:00:00+00' + n * interval '1 day', 'new' FROM generate_series(0, %s) n",
        [chance.randint(0, 3)],
    )


async def move_event(connection: AppConnection, chance: random.Random) -> None:
    """Update the partition key, so that a row goes to the other partition."""
    event = await _any_of(connection, chance, "events")
    await connection.execute(
        "UPDATE events SET happened_at = timestamptz '2020-01-01 00:00:00+00' + %s * interval '1 day' WHERE id = %s",
        [chance.randint(-5, 5), event],
    )


async def visit(connection: AppConnection, chance: random.Random) -> None:
    """Insert rows without a key, exact duplicates of each other."""
    await connection.execute(
        "INSERT INTO visits SELECT %s, '203.0.113.1', 0.1 FROM generate_series(1, 2)", [_path(chance)]
    )


def _path(chance: random.Random) -> str:
    return f"/page/{chance.randint(0, 19)}"


async def _visit(connection: AppConnection, chance: random.Random) -> str:
    """The address of one row, locked so that it stays there; other rows may be equal to it."""
    query: LiteralString = "SELECT ctid::text FROM visits WHERE path = %(path)s LIMIT 1 FOR UPDATE SKIP LOCKED"
    found: str = await _one(connection, query, path=_path(chance))
    return found


async def prolong_visit(connection: AppConnection, chance: random.Random) -> None:
    """Update one row of a table without a key."""
    address = await _visit(connection, chance)
    await connection.execute("UPDATE visits SET seconds = seconds + 0.1 WHERE ctid = %s::tid", [address])


async def forget_visit(connection: AppConnection, chance: random.Random) -> None:
    """Delete one row of a table without a key."""
    address = await _visit(connection, chance)
    await connection.execute("DELETE FROM visits WHERE ctid = %s::tid", [address])


# --- second thoughts --------------------------------------------------------------------------------------------------


async def give_up(connection: AppConnection, chance: random.Random) -> None:
    """Do a lot, then roll everything back."""
    await converse(connection, chance)
    await edit_document(connection, chance)
    raise RolledBack


async def give_up_a_part(connection: AppConnection, chance: random.Random) -> None:
    """Roll back to a savepoint, and commit the rest."""
    await visit(connection, chance)
    try:
        async with connection.transaction():
            await change_account(connection, chance)
            raise RolledBack
    except RolledBack:
        await view_document(connection, chance)


OPERATIONS: Final[Mapping[Operation, int]] = {
    converse: 14,
    annotate_session: 14,
    rewrite_messages: 6,
    withdraw_proposal: 8,
    open_account: 6,
    change_account: 12,
    change_account_key: 3,
    swap_handles: 3,
    view_document: 10,
    edit_document: 2,
    record_events: 6,
    move_event: 4,
    visit: 4,
    prolong_visit: 3,
    forget_visit: 3,
    give_up: 1,
    give_up_a_part: 2,
}
"""How often each is done, in relation to the others."""
