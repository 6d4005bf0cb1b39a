"""Names of the source may hold a terminal's commands and line breaks: whoever reads a message sees them, obeys none."""

import io
import json
from collections.abc import Iterator
from typing import Final

import pytest
import structlog
from rich.console import Console

from replicator import cli
from replicator.check import Finding, Severity
from replicator.check.view import render as render_findings
from replicator.errors import ReplicatorError, Side
from replicator.logs import configure_logs
from replicator.status.view import render
from tests.unit.test_status import status

NAME: Final = "a\x1b[2J\x9b2J\r\n\u202eerror: none[/]b"
SHOWN: Final = "a\\x1b[2J\\x9b2J\\r\\n\\u202eerror: none[/]b"


@pytest.fixture
def logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli.tell(ReplicatorError(f"table {NAME}", hint=f"Look at {NAME}."), as_json=False)

    assert capsys.readouterr().err == f"error: replicator: table {SHOWN} — Look at {SHOWN}.\n"


def test_json_has_the_name_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    cli.tell(ReplicatorError(f"table {NAME}"), as_json=True)

    told = capsys.readouterr()
    assert json.loads(told.out)["errors"][0]["message"] == f"table {NAME}"
    assert "\x1b" not in told.out + told.err


def test_a_finding_obeys_no_name() -> None:
    paper = Console(record=True, width=200, file=io.StringIO())

    paper.print(render_findings([Finding(Severity.BLOCKED, Side.SOURCE, NAME, NAME)]))

    assert paper.export_text().count(SHOWN) == 2


def test_a_status_obeys_no_name() -> None:
    paper = Console(record=True, width=200, file=io.StringIO())

    paper.print(render(status(error={"side": "target", "message": NAME, "hint": NAME})))

    shown = paper.export_text()
    assert shown.count(SHOWN) >= 2
    assert NAME not in shown


@pytest.mark.usefixtures("logging")
def test_a_log_for_a_terminal_is_one_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("console", "info")

    structlog.get_logger().info("waiting", reason=f"table {NAME}", tables=[NAME], table="a\x1b[2Jb")

    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert f"table {SHOWN}" in shown
    assert "a\\x1b[2Jb" in shown
    assert "\x1b[2J" not in shown
