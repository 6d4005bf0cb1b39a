"""One migration of several cases: play them while the installed worker copies and streams, kill it, compare."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from replicator.config import MIB
from replicator.errors import SchemaMismatchError
from replicator.model import Phase
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.dumps import dumped_schema
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import Worker, phase
from tests.torture.ending import cut_over, differences
from tests.torture.model import FIRST, Case, mostly
from tests.torture.operator import Operator
from tests.torture.player import Player, make_schemas
from tests.torture.surroundings import surround

_TIMEOUT: Final = 120.0
_SETTLED_WITHIN: Final = 40.0
_ASKED_AFTER: Final = 5.0
_LOOKED_AT_WITHIN: Final = 2.0
_WATCHFUL: Final = {"schema_interval": 0.3, "recheck_interval": 0.5}
_AT_ONCE: Final = 5
"""Statements between two looks at the worker."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a migration goes, besides what the app does.

    ``before`` statements are played before the worker starts, the others with ``pace`` seconds between two; without
    pace, none while it copies. It is killed so many seconds after its start (``kills``) while it copies, and after so
    many statements (``kills_later``).
    """

    settings: dict[str, Any]
    before: int
    pace: float
    kills: tuple[float, ...]
    kills_later: tuple[int, ...]
    cutover: bool = True
    surrounded: bool = False
    deploys: bool = False


def calm(case: Case, *, deploys: bool = False) -> Plan:
    """A plan that leaves nothing to chance: the first transaction before the copy, the others while it streams."""
    settings = _WATCHFUL if deploys else {}
    return Plan(settings, before=case.order.count(FIRST), pace=0.0, kills=(), kills_later=(), deploys=deploys)


def invented_plan(random: Random, cases: Sequence[Case], *, deploys: bool = False) -> Plan:
    """A plan of any kind."""
    total = sum(len(case.order) for case in cases)
    killed = mostly(random, 0.5)
    return Plan(
        settings={
            "buffer_bytes": random.choice((MIB, 64 * MIB)),
            "split_bytes": MIB,
            "copy_jobs": random.randint(1, 3),
            "spool": random.choice(("auto", "always")),
            **(_WATCHFUL if deploys else {}),
        },
        before=int(total * random.uniform(0.05, 0.5)),
        pace=random.choice((0.0, 0.001, 0.004)),
        kills=tuple(random.uniform(0.4, 3) for _ in range(random.choice((0, 1, 1, 2)) if killed else 0)),
        kills_later=tuple(random.randrange(total) for _ in range(random.choice((0, 1, 2)) if killed else 0)),
        cutover=mostly(random, 0.4),
        surrounded=mostly(random, 0.5),
        deploys=deploys,
    )


@dataclass(slots=True)
class Outcome:
    """What a migration came to. ``problem`` is None if both sides hold the same rows."""

    problem: str | None = None
    refused: list[str] = field(default_factory=list)
    surroundings: list[str] = field(default_factory=list)
    statements: int = 0
    rows: int = 0


def migrate(
    source: Database, target: Database, cases: Sequence[Case], plan: Plan, random: Random, log_file: Path
) -> Outcome:
    """Play the cases on an empty source and move it to an empty target. Raises BadCaseError."""
    make_schemas(source, cases)
    surroundings = surround(random, source, target) if plan.surrounded else []
    settings = settings_for(source, target, keyless="full", confirm_delay=0, **plan.settings)
    # what deploys have dropped stays on the target
    schema = None if plan.deploys else dumped_schema(source, settings)
    worker = Worker(settings, log_file)
    operator = Operator(target, worker) if plan.deploys else None
    with Player(source, cases, random) as player:
        outcome = Outcome(statements=player.left, surroundings=surroundings)
        try:
            _Migration(source, target, player, worker, plan, operator).run()
            if plan.cutover:
                problem = cut_over(source, target, settings, schema, operator.ask if operator else None)
                outcome.problem = problem and f"{problem}\n{_last_words(worker)}"
            if outcome.problem is None:
                outcome.rows, outcome.problem = differences(source, target)
        except (TimeoutError, AssertionError) as error:
            outcome.problem = f"{error}: {_last_words(worker)}"
        finally:
            if worker.running:
                worker.kill()
        outcome.refused = player.failures
    return outcome


class _Migration:
    def __init__(
        self,
        source: Database,
        target: Database,
        player: Player,
        worker: Worker,
        plan: Plan,
        operator: Operator | None,
    ) -> None:
        self._source = source
        self._target = target
        self._player = player
        self._worker = worker
        self._operator = operator
        self._plan = plan
        self._total = player.left
        self._kills = list(plan.kills)

    def run(self) -> None:
        for _ in range(self._plan.before):
            self._player.step()
        self._worker.start()
        self._copy()
        self._stream()
        self._catch_up()
        if self._operator is not None:
            self._settle(self._operator)

    def _play(self, until: int) -> None:
        """Play until so many statements are left."""
        while self._player.left > until:
            self._player.step()
            time.sleep(self._plan.pace)

    def _copy(self) -> None:
        """Let the app work while the worker copies, until it streams."""
        started = time.monotonic()
        while phase(self._target) is not Phase.STREAMING:
            if time.monotonic() > started + _TIMEOUT:
                raise TimeoutError(f"not streaming within {_TIMEOUT:g} s")
            if self._kills and time.monotonic() > started + self._kills[0]:
                self._kills.pop(0)
                self._restart()
            self._assert_well()
            if self._plan.pace and self._player.left > self._total // 4:
                self._play(until=self._player.left - _AT_ONCE)
            else:
                self._player.settle()  # a slot waits for open transactions, and nobody else would end them
            time.sleep(0.02)

    def _stream(self) -> None:
        """Play the rest, the worker killed at some places."""
        for played in sorted(self._plan.kills_later):
            if self._total - played < self._player.left:
                self._play(until=self._total - played)
                self._restart()
        self._play(until=0)

    def _catch_up(self) -> None:
        end = self._source.value("SELECT pg_logical_emit_message(true, 'torture', '')::text", superuser=True)

        def applied() -> bool:
            self._assert_well()
            reached = "SELECT lsn > %s::pg_lsn FROM replicator.progress"
            return self._target.value(reached, [end], superuser=True) is True

        wait_until(applied, _TIMEOUT, f"progress beyond {end}")

    def _assert_well(self) -> None:
        """An error that stops the worker, or that it waits with, will not pass by itself."""
        assert self._worker.running, "the worker ended"
        if self._operator is not None:
            self._operator.look()
        else:
            assert '"level": "error"' not in self._worker.log, "the worker cannot go on"

    def _settle(self, operator: Operator) -> None:
        """What comes again because of a deploy may take a while, and what nobody writes to waits for a question."""
        started = asked = time.monotonic()
        # twice: what is equal may be about to come again
        while (problem := self._problem()) is not None or (problem := self._problem_soon()) is not None:
            self._assert_well()
            if time.monotonic() > started + _SETTLED_WITHIN:
                raise TimeoutError(f"not equal within {_SETTLED_WITHIN:g} s: {problem}")
            if time.monotonic() > asked + _ASKED_AFTER:
                operator.ask()
                asked = time.monotonic()
            time.sleep(0.5)

    def _problem_soon(self) -> str | None:
        time.sleep(_LOOKED_AT_WITHIN)
        if self._target.value("SELECT count(*) FROM replicator.tables WHERE state <> 'ready'", superuser=True):
            return "tables are being copied again"
        return self._problem()

    def _problem(self) -> str | None:
        try:
            return differences(self._source, self._target)[1]
        except SchemaMismatchError as error:
            return str(error)  # a column that is not there yet

    def _restart(self) -> None:
        self._assert_well()
        self._worker.kill()
        self._worker.start()


def _last_words(worker: Worker) -> str:
    return "\n".join(_events(worker.log))[-4000:] if worker.log_file.exists() else "the worker never started"


def _events(log: str) -> Iterator[str]:
    """What the worker said at the end of its life, an error foremost."""
    for line in log.splitlines()[-12:]:
        try:
            event = json.loads(line)
        except ValueError:
            yield line
            continue
        yield json.dumps({name: value for name, value in event.items() if name not in ("timestamp", "level")})
