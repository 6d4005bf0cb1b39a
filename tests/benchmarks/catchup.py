"""Catching up with a backlog: replicator beside native logical replication and the floor.

python -m tests.benchmarks.catchup [--workload updates deletes] [--scale 1] [--runs 5] [--json FILE]
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from tests.benchmarks import frame
from tests.benchmarks.goals import WORKLOAD
from tests.benchmarks.options import choice, parser, tell
from tests.benchmarks.peers import CATCH_UP, CONSUMERS, Floor, Native
from tests.benchmarks.report import Comparison
from tests.benchmarks.stage import Lab, prepared
from tests.benchmarks.workloads import WORKLOADS, workload

_NOTES: Final = (
    "each run begins on a copy of the same slot and of the same target, after a checkpoint, and is compared with the "
    "source after it (count and hash of all rows)",
    "total: from the start of the consumer until the last change is visible; start-up: until it has taken the slot",
    "floor: pg_recvlogical -f /dev/null; native: CREATE SUBSCRIPTION with the defaults",
    "CPU: the processor's seconds of all processes together from the start until the last change is visible: the "
    "consumer, the source's server, the target's server (native's apply worker is one of the target's processes)",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    made = parser(__doc__)
    choice(made, "--workload", WORKLOADS)
    made.add_argument("--scale", type=float, default=1.0, help="of every backlog")
    options = made.parse_args(arguments)
    return frame.run(options, lambda lab: (_compare(lab, name, options) for name in options.workload), _NOTES)


def _compare(lab: Lab, name: str, options: argparse.Namespace) -> Comparison:
    backlog = workload(name, options.scale)
    tell(f"{backlog.title}: preparing")
    with prepared(lab, backlog) as stage:
        series = frame.in_turn(name, CONSUMERS, options.runs, lambda consumer, run: consumer.catch_up(stage, run))
        facts = {WORKLOAD: name, "MB of WAL": round(stage.wal_bytes / 1e6)}
    return Comparison(backlog.title, facts, series, baselines=(Floor.name, Native.name), compared=CATCH_UP)


if __name__ == "__main__":
    sys.exit(main())
