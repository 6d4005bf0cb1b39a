"""The options that all benchmarks share."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from replicator.errors import ReplicatorError
from tests.benchmarks.processes import BenchmarkError

DONE: Final = 0
FAILED: Final = 1


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with --runs, --timeout and --json."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--runs", type=positive, default=5, help="runs of each, in turn")
    made.add_argument("--timeout", type=positive, default=900, help="seconds that one run may take")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every run there, too")
    return made


def choice(made: argparse.ArgumentParser, option: str, names: Iterable[str]) -> None:
    """Add an option that takes some of ``names``; without it, all of them."""
    made.add_argument(option, nargs="+", choices=list(names), default=list(names), metavar="NAME")


def positive(text: str) -> int:
    """A whole number from 1 on, for an option. Raises ArgumentTypeError."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def tell(message: str) -> None:
    """Show progress, apart from the results."""
    print(message, file=sys.stderr, flush=True)


def finish(work: Callable[[], None]) -> int:
    """Do it; the exit code is 1, and the reason is on standard error, if a run failed or its result was wrong."""
    try:
        work()
    except (BenchmarkError, ReplicatorError) as error:
        tell(f"failed: {error}")
        return FAILED
    return DONE
