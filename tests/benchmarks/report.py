"""What the benchmarks print: medians, ratios, and on what they were measured."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg
from rich.console import Console
from rich.table import Table

from replicator import __version__

_FILE_WIDTH: Final = 160


@dataclass(frozen=True, slots=True)
class Measure:
    """One run, in seconds unless its comparison has another unit; ``parts`` are named times of the same run.

    ``cpu_seconds`` is None where nobody can tell.
    """

    seconds: float
    parts: Mapping[str, float]
    cpu_seconds: float | None = None

    def with_part(self, name: str, seconds: float) -> "Measure":
        """The same with one part more."""
        return Measure(self.seconds, {**self.parts, name: seconds}, self.cpu_seconds)

    def time(self, part: str | None) -> float | None:
        """The whole run's seconds, or those of a part of it that this consumer may not have."""
        return self.seconds if part is None else self.parts.get(part)


@dataclass(frozen=True, slots=True)
class Series:
    """All runs of one consumer."""

    name: str
    measures: tuple[Measure, ...]

    def median(self, part: str | None = None) -> float | None:
        """The median seconds of the whole or of a part."""
        return _median([measure.time(part) for measure in self.measures])

    def median_cpu(self) -> float | None:
        """The median processor seconds."""
        return _median([measure.cpu_seconds for measure in self.measures])

    @property
    def parts(self) -> list[str]:
        """The names of its parts."""
        return list(self.measures[0].parts)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One job done by several consumers in turn.

    Ratios are to the consumers named in ``baselines``, of the whole and of the part ``compared`` if there is one.
    ``unit`` is that of all figures but the processor's seconds, ``whole`` what the whole is called.
    """

    title: str
    facts: Mapping[str, Any]
    series: tuple[Series, ...]
    baselines: tuple[str, ...]
    compared: str | None = None
    unit: str = "seconds"
    whole: str = "total"

    @property
    def timed(self) -> list[str | None]:
        """The whole (None) and the part whose ratios are told."""
        return [None] if self.compared is None else [None, self.compared]

    def ratio(self, series: Series, baseline: str, part: str | None) -> float | None:
        """The quotient of the medians."""
        base = next((other.median(part) for other in self.series if other.name == baseline), None)
        own = series.median(part)
        return own / base if own is not None and base else None

    def to_json(self) -> dict[str, Any]:
        """Every figure, for a program."""
        return {
            "title": self.title,
            **self.facts,
            "consumers": {series.name: self._series_json(series) for series in self.series},
        }

    def _series_json(self, series: Series) -> dict[str, Any]:
        ratios = {
            f"{part or self.whole}_to_{baseline}": self.ratio(series, baseline, part)
            for part in self.timed
            for baseline in self.baselines
            if baseline != series.name
        }
        return {
            self.unit: [measure.seconds for measure in series.measures],
            f"median_{self.unit}": series.median(),
            "median_parts": {part: series.median(part) for part in series.parts},
            "median_cpu_seconds": series.median_cpu(),
            "ratios": ratios,
        }


def environment(**versions: str) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "replicator": __version__,
        **versions,
    }


def print_report(
    comparisons: Sequence[Comparison], facts: Mapping[str, Any], notes: Sequence[str], *, as_json: bool
) -> None:
    """Print tables for a person, or one JSON document."""
    if as_json:
        document = {"environment": dict(facts), "notes": notes, "comparisons": [item.to_json() for item in comparisons]}
        print(json.dumps(document, indent=2))
        return
    # in a file or a log nothing is wide enough by default
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), soft_wrap=True, highlight=False)
    for comparison in comparisons:
        console.print(_table(comparison))
    for note in notes:
        console.print(f"- {note}", soft_wrap=True, highlight=False)


def _table(comparison: Comparison) -> Table:
    facts = ", ".join(f"{name} {value}" for name, value in comparison.facts.items())
    table = Table(title=f"{comparison.title}: {facts}", title_justify="left")
    table.add_column(f"medians of {comparison.unit}", no_wrap=True)
    parts = list(dict.fromkeys(part for series in comparison.series for part in series.parts))
    for heading in _headings(comparison, parts):
        table.add_column(heading, justify="right")
    for series in comparison.series:
        table.add_row(series.name, *_cells(comparison, series, parts))
    return table


def _headings(comparison: Comparison, parts: Sequence[str]) -> list[str]:
    whole = comparison.whole
    ratios = [f"{part or whole} / {baseline}" for part in comparison.timed for baseline in comparison.baselines]
    return ["runs", *parts, whole, *ratios, "CPU"]


def _cells(comparison: Comparison, series: Series, parts: Sequence[str]) -> list[str]:
    times = [series.median(part) for part in [*parts, None]]
    ratios = [
        comparison.ratio(series, baseline, part) for part in comparison.timed for baseline in comparison.baselines
    ]
    return [str(len(series.measures)), *map(_number, [*times, *ratios, series.median_cpu()])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
