"""How a migration ends: both sides compared, perhaps after the cutover, which brings what was deferred."""

import asyncio
import difflib
import time
from collections.abc import Callable, Iterator
from itertools import islice

from replicator.config import Settings
from replicator.verify import compare, sequences_behind
from tests.fixtures.databases import Database
from tests.fixtures.dumps import dumped_schema
from tests.fixtures.worker import run_command

_LINES = 40
_TIMEOUT = 180
_PATIENCE = 40


def differences(source: Database, target: Database) -> tuple[int, str | None]:
    """How many rows the source has, and which tables differ, if any do. Both sides must be quiet."""
    found = asyncio.run(compare(source.superuser_dsn, target.superuser_dsn))
    different = [str(difference) for difference in found if not difference.equal]
    return sum(difference.source_rows for difference in found), "\n".join(different) or None


def cut_over(
    source: Database,
    target: Database,
    settings: Settings,
    before: list[str] | None,
    ask: Callable[[], None] | None = None,
) -> str | None:
    """Switch, clean up, and say what is not as the source's schema was ``before`` (if given), there or on the target.

    What is refused is tried again, after ``ask`` has done what an operator has to: there were deploys.
    """
    for command in ("cutover", "cleanup"):
        done = run_command(settings, command, "--json", timeout=_TIMEOUT)
        deadline = time.monotonic() + _PATIENCE
        while ask is not None and done.returncode != 0 and time.monotonic() < deadline:
            ask()
            done = run_command(settings, command, "--json", timeout=_TIMEOUT)
        if done.returncode != 0:
            return f"{command} failed: {done.stdout}{done.stderr[-3000:]}"
    if behind := asyncio.run(sequences_behind(source.superuser_dsn, target.superuser_dsn)):
        return f"sequences behind: {', '.join(map(str, behind))}"
    if before is None:
        return None
    for name, database in (("the source after it", source), ("the target", target)):
        if changed := list(_changes(before, dumped_schema(database, settings))):
            return "\n".join((f"the schema of {name} is not what the source's was:", *changed))
    return None


def _changes(before: list[str], after: list[str]) -> Iterator[str]:
    return islice(difflib.unified_diff(before, after, n=1, lineterm=""), _LINES)
