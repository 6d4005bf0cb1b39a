"""docs/performance.md, made from what the benchmarks wrote: no figure stands in this module.

python -m tests.benchmarks.page [--results docs/performance] [--page docs/performance.md]
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import goals, saturation
from tests.benchmarks.goals import WORKLOAD
from tests.benchmarks.markdown import bars_and_line, comparison_table, is_busy, notes, table
from tests.benchmarks.peers import CATCH_UP, START_UP, START_UP_CPU, Floor, Native, Replicator
from tests.benchmarks.report import CPU, Comparison, Measure, Report, Series, number
from tests.benchmarks.saturation import NAMES, REMEDIES
from tests.benchmarks.usage import PEAK_MEMORY

_DOCS: Final = Path(__file__).parents[2] / "docs"
PEAKS: Final = "peaks"
_MEMORY_NOTES: Final = ("the most that the worker's own process ever had resident (VmHWM)",)
RESULTS: Final = _DOCS / "performance"
PAGE: Final = _DOCS / "performance.md"

Reports = Mapping[str, Report]
"""By the name of the benchmark, which is its file's."""

_INTRODUCTION: Final = """\
# Performance

Written by `python -m tests.benchmarks.page` from the files in [performance/](performance/), which hold every run;
`make bench` measures all anew, on a machine that should have nothing else to do. All figures are medians of runs that
took turns, on one machine with both servers: compare the ratios, not the seconds.
"""

_CATCH_UP: Final = """\
## Catching up with a backlog

`python -m tests.benchmarks.catchup`. The floor is `pg_recvlogical -f /dev/null`: what the source's own decoding and
sending take, with nobody to apply anything. Native is logical replication as PostgreSQL has it, `CREATE SUBSCRIPTION`.
Each begins on a copy of the same slot, and replicator and native on a copy of the same target. In parentheses: without
the start-up, which is the time from the start of the command until it has taken the slot. Processor: seconds of all
processes together (consumer, source and target), as a multiple of native's. **Bold** is what misses its goal.
"""

_SATURATION: Final = """\
### What saturates first

Cores that were kept busy while replicator caught up; one process cannot keep more than one busy. The servers' figures
are those of all of their processes.
"""

_LARGEST: Final = """\
### What saturates first at the largest size

As above; copying uses several processes of each server, so these can keep more than one core busy.
"""

_SECTIONS: Final = {
    "latency": """\
## Latency

`python -m tests.benchmarks.latency`: from the moment at which a commit has returned to the app until its row is seen
on the target, in milliseconds.
""",
    "growth": """\
## Cost as the work grows

`python -m tests.benchmarks.growth`: one, four and sixteen times as much. Ratios are to the smallest size.
""",
    "snapshot": "## Copying\n\n`python -m tests.benchmarks.snapshot`: the rows with their indexes.\n",
    "memory": "## Memory\n\n`python -m tests.benchmarks.memory`.\n",
}
"""The other benchmarks' headings, by the names of their files."""


def read(folder: Path) -> Reports:
    """All results in a folder."""
    return {file.stem: _report(json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))}


def _report(document: Mapping[str, Any]) -> Report:
    """Peaks of memory are bounds to keep rather than times to compare: their file says only these."""
    if PEAKS not in document:
        return Report.from_json(document)
    series = tuple(
        Series(
            peak["case"],
            (Measure(peak["peak_mib"], {}, None, {"largest row": peak["row_mib"], goals.BOUND: peak["bound_mib"]}),),
        )
        for peak in document[PEAKS]
    )
    comparison = Comparison("peak memory", {}, series, baselines=(), unit="MiB", whole="peak")
    return Report(document["environment"], _MEMORY_NOTES, (comparison,))


def page(reports: Reports) -> str:
    """The whole page."""
    lines = [_INTRODUCTION, *_goals(reports)]
    if "catchup" in reports:
        lines += [_CATCH_UP, *_catch_up(reports["catchup"])]
    for name in (known for known in _SECTIONS if known in reports):
        lines += [_SECTIONS[name], *_comparisons(reports[name])]
        if name == "growth":
            lines += [_LARGEST, *_saturation(reports[name], dict(map(_largest, reports[name].comparisons)))]
    return "\n".join(lines).rstrip() + "\n"


def _goals(reports: Reports) -> list[str]:
    found = goals.goals(reports)
    missed = [f"- {goal}" for goal in found if not goal.met]
    busy = [name for name, report in reports.items() if is_busy(report)]
    warning = [f"**Others used the machine when these began: {', '.join(busy)}. Measure again.**", ""] if busy else []
    lines = ["## Goals", "", *warning, f"{len(found) - len(missed)} of {len(found)} are met."]
    return [*lines, *(["Not met:", "", *missed] if missed else []), ""]


def _comparisons(report: Report) -> list[str]:
    tables = [line for comparison in report.comparisons for line in comparison_table(comparison)]
    return [*tables, *notes(report)]


# --- catching up ------------------------------------------------------------------------------------------------------

_COLUMNS: Final = (
    "workload",
    "MB of WAL",
    "floor, s",
    "native, s",
    "replicator, s",
    "start-up, s",
    "of the floor",
    "of native",
    "processor, of native's",
    "peak MiB",
)


def _catch_up(report: Report) -> list[str]:
    comparisons = report.comparisons
    titles = [f"- `{item.facts[WORKLOAD]}`: {item.title}" for item in comparisons]
    return [
        *table(_COLUMNS, map(_row, comparisons)),
        *_chart(comparisons),
        *titles,
        "",
        *notes(report),
        _SATURATION,
        *_saturation(report, {f"`{item.facts[WORKLOAD]}`": _worker(item) for item in comparisons}),
    ]


def _row(comparison: Comparison) -> list[str]:
    workload = str(comparison.facts[WORKLOAD])
    limits = {Floor.name: goals.OF_FLOOR, Native.name: goals.most_of_native(workload)}
    cpu = comparison.ratio(Replicator.name, Native.name, CPU)
    return [
        f"`{workload}`",
        str(comparison.facts["MB of WAL"]),
        *(number(comparison.median(name)) for name in (Floor.name, Native.name, Replicator.name)),
        number(comparison.median(Replicator.name, START_UP)),
        *(_judged(comparison, baseline, limit) for baseline, limit in limits.items()),
        f"{_marked(cpu, goals.AS_FAST_AS_NATIVE)} ({number(_cpu_without_start_up(comparison))})",
        number(comparison.median(Replicator.name, PEAK_MEMORY)),
    ]


def _judged(comparison: Comparison, baseline: str, limit: float) -> str:
    """The ratio of the whole, and in parentheses that without start-up, which has no goal."""
    whole, part = (comparison.ratio(Replicator.name, baseline, name) for name in (None, CATCH_UP))
    return f"{_marked(whole, limit)} ({number(part)})"


def _cpu_without_start_up(comparison: Comparison) -> float | None:
    used, start_up = (comparison.median(Replicator.name, name) for name in (CPU, START_UP_CPU))
    native = comparison.median(Native.name, CPU)
    return None if used is None or start_up is None or not native else (used - start_up) / native


def _marked(value: float | None, limit: float) -> str:
    return f"**{number(value)}**" if value is not None and value > limit else number(value)


def _chart(comparisons: Sequence[Comparison]) -> list[str]:
    names = [str(item.facts[WORKLOAD]) for item in comparisons]
    bars, line = ([_of_floor(item, name) for item in comparisons] for name in (Replicator.name, Native.name))
    return bars_and_line(
        "Seconds, in multiples of the floor's: bars replicator, line native", "of the floor", names, bars, line
    )


def _of_floor(comparison: Comparison, name: str) -> float:
    return comparison.ratio(name, Floor.name) or 0.0


# --- what saturates first ---------------------------------------------------------------------------------------------


def _saturation(report: Report, series: Mapping[str, Series]) -> list[str]:
    """A line for each of these, and what a user does about those that come first."""
    found = {
        name: loads
        for name, one in series.items()
        if (loads := saturation.load(one, report.facts["cores"])) is not None
    }
    rows = [
        [name, *(number(one.shares[side]) for side in NAMES.values()), number(one.together), one.first]
        for name, one in found.items()
    ]
    advice = [
        f"- {first} ({count} of {len(found)} lines): {REMEDIES[first]}"
        for first, count in saturation.most_often(found.values())
    ]
    return [*table(["cores kept busy", *NAMES.values(), "together", "first"], rows), *advice, ""]


def _worker(comparison: Comparison) -> Series:
    return next(series for series in comparison.series if series.name == Replicator.name)


def _largest(comparison: Comparison) -> tuple[str, Series]:
    series = comparison.series[-1]
    return f"{comparison.title}: {series.name}", series


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    made.add_argument("--page", type=Path, default=PAGE, help="what to write")
    options = made.parse_args(arguments)
    options.page.write_text(page(read(options.results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
