"""The demo's verdict: each thing that could have gone wrong in a migration is found, so "ok" means something."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from replicator.cutover import CutoverReport
from replicator.demo import installation
from replicator.demo.app import create_app
from replicator.demo.judge import Outcome, judge
from replicator.demo.report import DemoReport
from replicator.demo.writers import Journal
from tests.fixtures.databases import Database

_CUTOVER = CutoverReport(
    rehearsed=False,
    tables=8,
    sequences=7,
    drain_seconds=0.1,
    downtime_seconds=0.5,
    steps=(),
    left_out=(),
    unfinished=(),
)


@pytest.fixture
async def outcome(source: Database, target: Database) -> Outcome:
    """A migration by pg_dump of an app that committed nothing and was refused: nothing to complain of."""
    await create_app(source.dsn, 400)
    programs = installation.find_pair().target.programs
    dump = subprocess.run(
        [programs / "pg_dump", "--no-owner", "--no-privileges", source.dsn], capture_output=True, check=True
    )
    subprocess.run(
        [programs / "psql", "--quiet", "--set", "ON_ERROR_STOP=1", target.dsn],
        input=dump.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return Outcome(source.dsn, target.dsn, Journal(refused=8), _CUTOVER, exit_code=0)


async def test_a_perfect_migration_has_no_problems(outcome: Outcome) -> None:
    report = await judge(outcome)

    assert report.problems == ()
    assert report.to_json()["result"] == "ok"
    assert (report.rows_lost, report.rows_extra, report.rows_different) == (0, 0, 0)
    assert report.rows > 400
    assert report.downtime_seconds == 0.5


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("DELETE FROM documents WHERE id = 3", "public.documents: 1 rows lost, 0 extra, 0 different"),
        ("INSERT INTO visits VALUES ('/extra')", "public.visits: 0 rows lost, 1 extra, 0 different"),
        ("UPDATE sessions SET updated_at = now() WHERE id = 1", "public.sessions: 0 rows lost, 0 extra, 1 different"),
        ("SELECT setval('ticket_numbers', 1)", "sequence public.ticket_numbers would hand out values again"),
        ("SELECT setval('accounts_number_seq', 1)", "sequence public.accounts_number_seq would hand out"),
        ("REVOKE INSERT ON sessions FROM app", "the app cannot write on the target: permission denied"),
        ("UPDATE writers SET committed = 1 WHERE id = 1", "the app committed 0 transactions, the target holds 1"),
    ],
)
async def test_damage_on_the_target_is_found(outcome: Outcome, target: Database, damage: str, problem: str) -> None:
    target.execute(damage)

    report = await judge(outcome)

    assert report.to_json()["result"] == "failed"
    assert any(found.startswith(problem) for found in report.problems), report.problems


def _journal(**changes: Any) -> Callable[[Outcome], Outcome]:
    return lambda outcome: replace(outcome, journal=replace(outcome.journal, **changes))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_journal(committed=1), "the app committed 1 transactions, the target holds 0"),
        (_journal(refused=0), "the source still accepted the app's writes after the cutover"),
        (_journal(failures=["visit: ObjectNotInPrerequisiteState"]), "the app met an error that is not the fence's"),
        (lambda outcome: replace(outcome, exit_code=1), "the worker ended with exit code 1"),
        (
            lambda outcome: replace(outcome, cutover=replace(_CUTOVER, left_out=("trigger t",))),
            "cutover left out trigger t",
        ),
        (
            lambda outcome: replace(outcome, cutover=replace(_CUTOVER, unfinished=("validate x",))),
            "cutover did not finish validate x",
        ),
    ],
)
async def test_what_the_app_and_the_commands_met_is_found(
    outcome: Outcome, change: Callable[[Outcome], Outcome], problem: str
) -> None:
    report = await judge(change(outcome))

    assert [found for found in report.problems if found.startswith(problem)], report.problems


def test_a_report_without_a_comparison_is_no_success() -> None:
    document = DemoReport(("source: gone",)).to_json()

    assert document["result"] == "failed"
    assert document["rows_lost"] is None
