"""What the benchmarks print: medians, ratios, and on what they were measured."""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg
from rich.console import Console
from rich.table import Table

from replicator import __version__

CPU: Final = "CPU"
"""What the processor's seconds are called, of all processes that the benchmark counts."""

_FILE_WIDTH: Final = 200


@dataclass(frozen=True, slots=True)
class Measure:
    """One run, in seconds unless its comparison has another unit; ``parts`` are named times of the same run.

    ``cpu_seconds`` is None where nobody can tell; ``figures`` are what was measured besides, in their own units.
    """

    seconds: float
    parts: Mapping[str, float]
    cpu_seconds: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    def value(self, name: str | None) -> float | None:
        """The whole run's seconds (None), the processor's (CPU), or a part or figure, which it may not have."""
        if name is None:
            return self.seconds
        return self.cpu_seconds if name == CPU else {**self.parts, **self.figures}.get(name)

    def rounded(self) -> "Measure":
        """The same in tenths of a millisecond."""
        parts, figures = ({name: round(value, 4) for name, value in of.items()} for of in (self.parts, self.figures))
        return Measure(round(self.seconds, 4), parts, _rounded(self.cpu_seconds), figures)


@dataclass(frozen=True, slots=True)
class Series:
    """All runs of one consumer."""

    name: str
    measures: tuple[Measure, ...]

    def median(self, name: str | None = None) -> float | None:
        """The median of the whole, of CPU, of a part or of a figure."""
        known = [value for measure in self.measures if (value := measure.value(name)) is not None]
        return median(known) if known else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One job done by several consumers in turn.

    Ratios are to the consumers named in ``baselines``, of the whole and of the part ``compared`` if there is one; the
    processor's are to the last of them. ``unit`` is that of all times but the processor's, ``whole`` what the whole is
    called.
    """

    title: str
    facts: Mapping[str, Any]
    series: tuple[Series, ...]
    baselines: tuple[str, ...]
    compared: str | None = None
    unit: str = "seconds"
    whole: str = "total"

    @property
    def parts(self) -> list[str]:
        """The names of all parts."""
        return self._names(lambda measure: measure.parts)

    @property
    def figures(self) -> list[str]:
        """The names of all figures."""
        return self._names(lambda measure: measure.figures)

    @property
    def costs(self) -> list[str]:
        """CPU, if somebody could tell."""
        return [CPU] if any(series.median(CPU) is not None for series in self.series) else []

    @property
    def timed(self) -> list[str | None]:
        """The whole (None) and the part whose ratios are told."""
        return [None] if self.compared is None else [None, self.compared]

    @property
    def ratios(self) -> list[tuple[str, str | None, str]]:
        """What is divided: a heading, what of a series, and the baseline."""
        times = [(name, baseline) for name in self.timed for baseline in self.baselines]
        costs = [(name, self.baselines[-1]) for name in self.costs if self.baselines]
        return [(f"{name or self.whole} / {baseline}", name, baseline) for name, baseline in [*times, *costs]]

    def median(self, consumer: str, name: str | None = None) -> float | None:
        """A consumer's median, None if it is not in this comparison."""
        return next((series.median(name) for series in self.series if series.name == consumer), None)

    def ratio(self, consumer: str, baseline: str, name: str | None = None) -> float | None:
        """The quotient of two medians."""
        own, base = self.median(consumer, name), self.median(baseline, name)
        return own / base if own is not None and base else None

    def rounded(self) -> "Comparison":
        """The same of rounded runs: medians and ratios are then those of the runs that a file shows."""
        rounded = (Series(series.name, tuple(map(Measure.rounded, series.measures))) for series in self.series)
        return replace(self, series=tuple(rounded))

    def _names(self, kind: Callable[[Measure], Mapping[str, float]]) -> list[str]:
        return list(dict.fromkeys(name for series in self.series for one in series.measures for name in kind(one)))


def environment(**versions: str) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "replicator": __version__,
        **versions,
    }


@dataclass(frozen=True, slots=True)
class Report:
    """All that one benchmark found."""

    facts: Mapping[str, Any]
    notes: Sequence[str]
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        """Every run, for a program, with medians and ratios for its reader."""
        return {
            "environment": dict(self.facts),
            "notes": list(self.notes),
            "comparisons": [_comparison_json(comparison.rounded()) for comparison in self.comparisons],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Report":
        """What ``to_json`` wrote. The runs are read; medians and ratios come from them."""
        comparisons = tuple(_comparison(item) for item in document["comparisons"])
        return cls(document["environment"], document["notes"], comparisons)


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return {
        **{name: getattr(comparison, name) for name in ("title", "unit", "whole", "compared")},
        "baselines": list(comparison.baselines),
        "facts": dict(comparison.facts),
        "consumers": {series.name: _series_json(comparison, series) for series in comparison.series},
    }


def _series_json(comparison: Comparison, series: Series) -> dict[str, Any]:
    names = [*comparison.parts, CPU, *comparison.figures]
    return {
        f"median {comparison.whole}": _rounded(series.median()),
        "medians": {name: _rounded(series.median(name)) for name in names},
        "ratios": {
            heading: _rounded(comparison.ratio(series.name, baseline, name))
            for heading, name, baseline in comparison.ratios
            if baseline != series.name
        },
        "runs": [
            {
                "seconds": measure.seconds,
                "parts": dict(measure.parts),
                "cpu_seconds": measure.cpu_seconds,
                "figures": dict(measure.figures),
            }
            for measure in series.measures
        ],
    }


def _comparison(item: Mapping[str, Any]) -> Comparison:
    series = tuple(
        Series(name, tuple(Measure(**run) for run in consumer["runs"])) for name, consumer in item["consumers"].items()
    )
    named = {name: item[name] for name in ("title", "facts", "unit", "whole", "compared")}
    return Comparison(series=series, baselines=tuple(item["baselines"]), **named)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# --- printing ---------------------------------------------------------------------------------------------------------


def print_report(
    comparisons: Sequence[Comparison], facts: Mapping[str, Any], notes: Sequence[str], *, as_json: Path | None
) -> None:
    """Print tables for a person, and write a JSON document if there is a file for it."""
    # in a file or a log nothing is wide enough by default
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), soft_wrap=True, highlight=False)
    for comparison in comparisons:
        console.print(_table(comparison))
    for note in notes:
        console.print(f"- {note}", soft_wrap=True, highlight=False)
    if as_json is not None:
        as_json.parent.mkdir(parents=True, exist_ok=True)
        as_json.write_text(json.dumps(Report(facts, notes, tuple(comparisons)).to_json(), indent=1) + "\n")


def _table(comparison: Comparison) -> Table:
    facts = ", ".join(f"{name} {value}" for name, value in comparison.facts.items())
    table = Table(title=": ".join(filter(None, [comparison.title, facts])), title_justify="left")
    table.add_column(f"medians of {comparison.unit}", no_wrap=True)
    for heading in headings(comparison):
        table.add_column(heading, justify="right")
    for series in comparison.series:
        table.add_row(series.name, *cells(comparison, series))
    return table


def headings(comparison: Comparison) -> list[str]:
    """The columns of a table of medians and ratios."""
    ratios = [heading for heading, *_ in comparison.ratios]
    return ["runs", *comparison.parts, comparison.whole, *ratios, *comparison.costs, *comparison.figures]


def cells(comparison: Comparison, series: Series) -> list[str]:
    """A row of that table."""
    times = [series.median(part) for part in [*comparison.parts, None]]
    ratios = [comparison.ratio(series.name, baseline, name) for _, name, baseline in comparison.ratios]
    figures = [series.median(name) for name in [*comparison.costs, *comparison.figures]]
    return [str(len(series.measures)), *map(number, [*times, *ratios, *figures])]


def number(value: float | None) -> str:
    """Two places behind the point, fewer from 100 on."""
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
