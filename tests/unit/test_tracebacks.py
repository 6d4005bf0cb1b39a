"""Law 9 where nobody expected an error: a traceback, however it comes out, shows no secret."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Final, Literal

import pytest
import structlog

from replicator.logs import configure_logs

SECRET: Final = "a-secret"
URL: Final = f"postgresql://u:{SECRET}@127.0.0.1:1/db"
DEFECT: Final = """
import replicator.login
replicator.login.make_conninfo = lambda *given, **words: 1 / 0
from replicator.cli import main
main()
"""


def test_a_command_that_meets_a_defect_shows_no_connection_string() -> None:
    """Given an unexpected exception deep in a call that holds the URL, then it is told, and the URL is not."""
    urls = {"SOURCE_DATABASE_URL": URL, "TARGET_DATABASE_URL": URL}
    options = {"REPLICATOR_LOG_LEVEL": "debug", "REPLICATOR_HTTP_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", DEFECT, "run"],
        env={**os.environ, **urls, **options},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.fixture
def logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("logging")
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_logged_traceback_shows_no_local_variable(
    form: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(form, "debug")

    def fail(dsn: str) -> int:
        return len(dsn) // 0

    try:
        fail(URL)
    except ZeroDivisionError:
        structlog.get_logger().exception("unexpected")

    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown
    assert SECRET not in shown
