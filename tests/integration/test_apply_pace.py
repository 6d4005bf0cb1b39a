"""A transaction that comes slowly: its pieces wait in an open transaction on the target."""

import asyncio

import pytest

from replicator import postgres
from tests.fixtures.applying import Applier
from tests.fixtures.changes import insert


async def test_a_long_wait_between_two_pieces_does_not_end_the_session(
    plain_applier: Applier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source may be busy for minutes with what is not ours; it would be sent again, and be too slow, for ever."""
    monkeypatch.setitem(postgres._TARGET_ONLY, "idle_in_transaction_session_timeout", "100ms")
    plain_applier.database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    t = await plain_applier.relation("t")

    await plain_applier.run_piece(insert(t, "1"), lsn=2000)
    await asyncio.sleep(0.5)
    await plain_applier.finish_pieces(insert(t, "2"), lsn=2000)

    assert plain_applier.rows("SELECT id FROM t ORDER BY id") == [(1,), (2,)]
    row = await (await plain_applier.target._connection.execute("SHOW idle_in_transaction_session_timeout")).fetchone()
    assert row == ("100ms",), "for other transactions it stays"
