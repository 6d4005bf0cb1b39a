"""What the fault tests share: two servers of their own, which they may stop and restart, and gates on the target.

With ``--reliability FILE``, what each fault came to is written there: `make faults` makes docs/reliability.md.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.stage import SECONDS, Stage, StageMaker, make_stage
from tests.faults.watch import assert_nothing_left, assert_servers_stop, watched
from tests.fixtures.databases import Database
from tests.fixtures.gates import Gates, gates_on
from tests.fixtures.servers import SOURCE_MAJOR, TARGET_MAJOR, AnyServer, new_server


@pytest.fixture(scope="session")
def source_server() -> Iterator[AnyServer]:
    """Instead of the one that all other tests share."""
    with new_server(SOURCE_MAJOR) as server:
        yield server


@pytest.fixture(scope="session")
def target_server() -> Iterator[AnyServer]:
    """Instead of the one that all other tests share."""
    with new_server(TARGET_MAJOR) as server:
        yield server


@pytest.fixture
def gates(target: Database) -> Iterator[Gates]:
    """Gates on ``target``, all open."""
    with gates_on(target) as gates:
        yield gates


@pytest.fixture(scope="module")
def stages(
    source_server: AnyServer, target_server: AnyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StageMaker]:
    """One migration for all tests of a module."""
    maker = StageMaker(source_server, target_server, tmp_path_factory.mktemp("stage"))
    yield maker
    maker.close()


@pytest.fixture
def stage(stages: StageMaker) -> Iterator[Stage]:
    """It streams, and must do so again at the end; a worker of its own for each test begins with short pauses."""
    stage = stages.get()
    stage.sound = False
    stage.migration.start()
    with watched(stage):
        yield stage
        print(stage.migration.worker.current_log)
    assert stage.migration.worker.stop(SECONDS) == 0
    assert_nothing_left(stage)
    stage.sound = True


StageFactory = Callable[..., Stage]


@pytest.fixture
def new_stage(tmp_path: Path) -> Iterator[StageFactory]:
    """Stages of a test's own, their workers not started: ``new_stage(source, target, spool="always")``.

    At the end of a test, a worker that runs lets both servers shut down, and one that has ended has left nothing there.
    """
    with ExitStack() as closing:

        def make(source: Database, target: Database, **changes: Any) -> Stage:
            stage = make_stage(source, target, tmp_path, **changes)
            closing.push(stage.closing)
            closing.enter_context(_minded(stage))
            return stage

        yield make


@contextmanager
def _minded(stage: Stage) -> Iterator[None]:
    with watched(stage):
        yield
    if stage.migration.worker.running:
        assert_servers_stop(stage)
        assert stage.migration.worker.stop(SECONDS) == 0
    assert_nothing_left(stage)


@pytest.fixture
def own_stage(source: Database, target: Database, new_stage: StageFactory) -> Stage:
    """A stage of the test's own, as the settings are in all tests."""
    return new_stage(source, target)


# --- docs/reliability.md ----------------------------------------------------------------------------------------------

_HEAD: Final = """\
# What it survives

Written by `make faults`, which provokes each of these for real: the installed command as a process of its own, between
two real servers, under live writers. Each case ends with both sides compared row by row: nothing lost, nothing doubled.
Cases that stream also count what the worker does meanwhile: sessions, attempts to connect and lines of its log stay
few, and no session is left when it has ended. Where it ends with an error, that error's remedy is followed to the end.

| who | what happens | what the worker does | test | result |
|-----|--------------|----------------------|------|--------|
"""
_SIDES: Final = ("worker", "source", "target", "both", "network")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, metavar="FILE", help="write the table of faults with their results")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reports know properties, but no markers."""
    for item in items:
        if marker := item.get_closest_marker("fault"):
            item.user_properties.append(("fault", marker.args))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    file = config.getoption("--reliability", None)
    if file is None:
        return
    results: dict[tuple[str, ...], list[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            fault = dict(report.user_properties).get("fault")
            if fault and (report.when == "call" or outcome != "passed"):
                results.setdefault((*fault, report.nodeid.split("[")[0]), []).append(outcome)
    lines = [
        f"| {side} | {what} | {must} | `{test.rpartition('/')[2]}` | {', '.join(dict.fromkeys(found))} |\n"
        for (side, what, must, test), found in sorted(results.items(), key=lambda item: _SIDES.index(item[0][0]))
    ]
    file.write_text(_HEAD + "".join(lines))
