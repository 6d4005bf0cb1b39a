"""Invented schemas and transactions, migrated by the installed command: `python -m tests.torture --runs N --seed S`."""

import argparse
import random
import sys
from typing import Final

from tests.fixtures.servers import SOURCE_MAJOR, TARGET_MAJOR, new_server
from tests.torture.campaign import Campaign

DONE: Final = 0
FAILED: Final = 1


def main() -> int:
    options = _parser().parse_args()
    seeds = range(options.seed, options.seed + options.runs)
    _tell(f"seeds {seeds.start} to {seeds.stop - 1}")
    with new_server(options.source) as source, new_server(TARGET_MAJOR) as target:
        campaign = Campaign(source, target, _tell, options.attempts, options.deploys)
        failures = campaign.run(seeds, options.together, options.jobs)
    for failure in failures:
        print(failure)
    _tell(f"{options.runs} runs, {len(failures)} failures")
    return FAILED if failures else DONE


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--runs", type=int, default=200, help="cases, each invented from a seed of its own")
    made.add_argument("--seed", type=int, default=random.randrange(10**6), help="the first seed")
    made.add_argument("--together", type=int, default=5, help="cases in one migration")
    made.add_argument("--jobs", type=int, default=2, help="migrations at once")
    made.add_argument("--attempts", type=int, default=60, help="migrations to make a failing case smaller")
    made.add_argument("--deploys", action="store_true", help="the app changes its schema, too")
    made.add_argument("--source", type=int, default=SOURCE_MAJOR, help="the source's PostgreSQL version")
    return made


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
