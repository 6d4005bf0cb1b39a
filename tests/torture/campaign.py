"""Many runs: several cases share a migration, several migrations run side by side; what fails is looked at alone."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Lock
from typing import Final

from tests.fixtures.databases import Database, drop, new_source, new_target
from tests.fixtures.servers import AnyServer
from tests.torture.case import invent
from tests.torture.migration import Outcome, Plan, calm, invented_plan, migrate
from tests.torture.model import Case
from tests.torture.player import BadCaseError
from tests.torture.shrink import Shrinker, script

_MAKING: Final = Lock()
"""The first databases make roles as well, which only one can."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Seeds that failed together, or one that fails alone: then ``script`` is the least that does."""

    seeds: tuple[int, ...]
    problem: str
    script: str | None = None

    def __str__(self) -> str:
        again = f"python -m tests.torture --runs {len(self.seeds)} --together {len(self.seeds)} --seed {self.seeds[0]}"
        return "\n".join((f"=== {again}", self.problem, *([self.script] if self.script else ())))


@dataclass(frozen=True, slots=True)
class Campaign:
    """Runs on two servers; ``tell`` hears of each migration, ``attempts`` are those to make a failure smaller.

    With ``deploys`` the app changes its schema as it goes.
    """

    source: AnyServer
    target: AnyServer
    tell: Callable[[str], None]
    attempts: int = 0
    deploys: bool = False

    def run(self, seeds: Sequence[int], together: int, jobs: int) -> list[Failure]:
        """Play the cases of all these seeds, and return what failed."""
        shares = [seeds[start : start + together] for start in range(0, len(seeds), together)]
        with ThreadPoolExecutor(jobs) as pool:
            return [failure for failures in pool.map(self._run_together, shares) for failure in failures]

    def _run_together(self, seeds: Sequence[int]) -> list[Failure]:
        cases = [invent(seed, deploys=self.deploys) for seed in seeds]
        random = Random(seeds[0])
        outcome = self._migrate(cases, invented_plan(random, cases, deploys=self.deploys), random)
        refused = f"{len(outcome.refused)} of {outcome.statements} statements refused"
        self.tell(f"seeds {seeds[0]} to {seeds[-1]}: {outcome.problem or 'equal'} ({outcome.rows} rows, {refused})")
        if outcome.problem is None:
            return []
        alone = [failure for case in cases for failure in self._run_alone(case)]
        return alone or [Failure(tuple(seeds), "\n".join((outcome.problem, *outcome.surroundings)))]

    def _run_alone(self, case: Case) -> Iterator[Failure]:
        """Without kills and other cases: what fails then can be made smaller."""
        outcome = self._calmly(case)
        if outcome.problem is None:
            return
        self.tell(f"seed {case.seed} fails alone: {outcome.problem}")
        least = Shrinker(lambda smaller: self._calmly(smaller).problem is not None, self.attempts).shrink(case)
        yield Failure((case.seed,), self._calmly(least).problem or outcome.problem, script(least))

    def _calmly(self, case: Case) -> Outcome:
        try:
            return self._migrate([case], calm(case, deploys=self.deploys), Random(case.seed))
        except BadCaseError:
            return Outcome()  # what it lacks now is needed for its schema

    def _migrate(self, cases: Sequence[Case], plan: Plan, random: Random) -> Outcome:
        with self._databases() as (source, target), tempfile.TemporaryDirectory() as folder:
            return migrate(source, target, cases, plan, random, Path(folder) / "worker.log")

    @contextmanager
    def _databases(self) -> Iterator[tuple[Database, Database]]:
        with ExitStack() as stack:
            with _MAKING:
                source, target = new_source(self.source), new_target(self.target)
            stack.callback(drop, source)
            stack.callback(drop, target)
            yield source, target
