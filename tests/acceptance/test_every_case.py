"""Tables of every kind under changes of every kind, on the real path: copied, streamed, compared row by row, cut over.

The cases are in tests/acceptance/cases. Each is played twice, in two schemas: what is applied row by row, as it is with
so few of them, and what goes through the staging tables.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg.rows import TupleRow

from replicator.model import Phase
from replicator.verify import compare
from tests.acceptance.cases import keys, shapes, toast
from tests.acceptance.cases.case import Case
from tests.fixtures import staging
from tests.fixtures.databases import Database, drop, new_source, new_target, settings_for
from tests.fixtures.dumps import dumped_schema
from tests.fixtures.servers import AnyServer
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import WorkerMaker, run_command, wait_caught_up, wait_for_phase

SCHEMAS: Final = ("singly", "staged")
STAGING: Final = Path(staging.__file__)


_STAGES: Final = r"SELECT count(*) FROM pg_class WHERE relname LIKE 'replicator\_stage\_%'"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two versions of the server, and the cases that they move under these settings."""

    name: str
    source: str
    target: str
    cases: Sequence[Case]
    before: str = ""
    by_superuser: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    cuts_over: bool = True


PAIRS: Final = (
    Pair(
        "17 to 18",
        "source_server",
        "target_server",
        (*keys.CASES, *toast.CASES, *shapes.CASES),
        "CREATE EXTENSION citext;" + shapes.FUNCTIONS,
        settings={"keyless": "full"},
    ),
    Pair("18 to 18", "target_server", "target_server", shapes.SINCE_18),
    Pair(
        "15 to 15, via the root",
        "server_15",
        "server_15",
        (*keys.NONDETERMINISTIC, *toast.VIA_ROOT, *shapes.VIA_ROOT),
        keys.COLLATION,
        "CREATE PUBLICATION mine FOR ALL TABLES WITH (publish_via_partition_root = true)",
        {"publications": "mine"},
        cuts_over=False,
    ),
)


@pytest.fixture(params=PAIRS, ids=[pair.name for pair in PAIRS])
def pair(request: pytest.FixtureRequest) -> Pair:
    assert isinstance(request.param, Pair)
    return request.param


@pytest.fixture
def databases(request: pytest.FixtureRequest, pair: Pair) -> Iterator[tuple[Database, Database]]:
    """A source and a target of the pair's versions."""
    source_server: AnyServer = request.getfixturevalue(pair.source)
    target_server: AnyServer = request.getfixturevalue(pair.target)
    source, target = new_source(source_server), new_target(target_server)
    yield source, target
    drop(source)
    drop(target)


class Player:
    """The app: plays cases in a session of its own."""

    def __init__(self, session: psycopg.Connection[TupleRow]) -> None:
        self._session = session

    def make(self, cases: Sequence[Case]) -> None:
        for schema in SCHEMAS:
            self._session.execute(f"CREATE SCHEMA {schema}; SET search_path = {schema}, public".encode())
            for case in cases:
                self._session.execute(case.make.encode())

    def change(self, cases: Sequence[Case], schema: str) -> None:
        """Take the cases' changes in turns, as an app would."""
        for number in range(max(len(case.changes) for case in cases)):
            for case in cases:
                if number < len(case.changes):
                    self._transact(schema, case.changes[number])

    def _transact(self, schema: str, change: str) -> None:
        with self._session.transaction():
            self._session.execute(f"SET LOCAL search_path = {schema}, public".encode())
            self._session.execute(change.encode())

    def use(self, cases: Sequence[Case]) -> None:
        """What the app does after the cutover."""
        for schema in SCHEMAS:
            self._session.execute(f"SET search_path = {schema}, public".encode())
            for case in cases:
                self._session.execute(case.after.encode())


def test_every_case_arrives(pair: Pair, databases: tuple[Database, Database], make_worker: WorkerMaker) -> None:
    """Given tables of every kind, when they are copied and changed, then rows and schema are the same on the target."""
    source, target = databases
    settings = settings_for(source, target, confirm_delay=0, **pair.settings)
    worker = make_worker(settings)
    with closing(psycopg.connect(source.dsn, autocommit=True, prepare_threshold=None)) as session:
        app = Player(session)
        session.execute(pair.before.encode())
        app.make(pair.cases)
        before = dumped_schema(source, settings)
        if pair.by_superuser:
            source.execute(pair.by_superuser, superuser=True)
        worker.start()
        wait_for_phase(target, Phase.STREAMING, worker)
        app.change(pair.cases, "singly")
        wait_caught_up(source, target, worker)
        assert worker.stop() == 0
        worker.start([sys.executable, STAGING])
        wait_until(lambda: '"event": "streaming"' in worker.current_log, what="changes come one by one")
        app.change(pair.cases, "staged")
        wait_caught_up(source, target, worker)
        assert target.value(_STAGES) > 0

    found = asyncio.run(compare(source.dsn, target.dsn))
    assert [str(item) for item in found if not item.equal] == []
    assert [item.table for item in found if not item.source_rows] == []

    if not pair.cuts_over:
        return
    for command in ("cutover", "cleanup"):
        done = run_command(settings, command)
        assert done.returncode == 0, done.stderr
    assert "\n".join(unified_diff(before, dumped_schema(target, settings), n=1, lineterm="")) == ""
    with closing(psycopg.connect(target.dsn, autocommit=True, prepare_threshold=None)) as session:
        Player(session).use(pair.cases)
