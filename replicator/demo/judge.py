"""The demo's verdict: what is on the target after the cutover, against the source and against the app's journal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from replicator.cutover import CutoverReport
from replicator.demo.app import counted_transactions
from replicator.demo.report import DemoReport
from replicator.demo.writers import Journal, write_once
from replicator.model import TableName
from replicator.verify import TableDifference, compare, sequences_behind


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is judged; ``exit_code`` is the worker's."""

    source_dsn: str
    target_dsn: str
    journal: Journal
    cutover: CutoverReport
    exit_code: int


async def judge(outcome: Outcome) -> DemoReport:
    """Compare the quiet databases, then let the app write on the target."""
    tables = await compare(outcome.source_dsn, outcome.target_dsn)
    behind = await sequences_behind(outcome.source_dsn, outcome.target_dsn)
    counted = await counted_transactions(outcome.target_dsn)
    problems = (
        *_differences(tables, behind),
        *_app_problems(outcome.journal, counted),
        *_command_problems(outcome),
        *await _refused_writes(outcome.target_dsn),
    )
    return DemoReport(
        problems,
        tables=tuple(tables),
        transactions=outcome.journal.committed,
        transactions_rolled_back=outcome.journal.rolled_back,
        transactions_on_target=counted,
        downtime_seconds=outcome.cutover.downtime_seconds,
    )


def _differences(tables: Sequence[TableDifference], behind: Sequence[TableName]) -> Iterator[str]:
    for item in tables:
        if not item.equal:
            yield f"{item.table}: {item.lost} rows lost, {item.extra} extra, {item.different} different"
    for name in behind:
        yield f"sequence {name} would hand out values again that the source has used"


def _app_problems(journal: Journal, counted: int) -> Iterator[str]:
    for failure in journal.failures:
        yield f"the app met an error that is not the fence's: {failure}"
    if not journal.refused:
        yield "the source still accepted the app's writes after the cutover"
    if not journal.committed <= counted <= journal.committed + journal.unknown:
        yield f"the app committed {journal.committed} transactions, the target holds {counted}"


def _command_problems(outcome: Outcome) -> Iterator[str]:
    if outcome.exit_code != 0:
        yield f"the worker ended with exit code {outcome.exit_code}"
    for name in outcome.cutover.left_out:
        yield f"cutover left out {name}"
    for name in outcome.cutover.unfinished:
        yield f"cutover did not finish {name}"


async def _refused_writes(target_dsn: str) -> list[str]:
    """Foreign keys, sequences and a trigger must work on the target as they did on the source."""
    try:
        await write_once(target_dsn)
    except psycopg.Error as error:
        return [f"the app cannot write on the target: {error.diag.message_primary}"]
    return []
