"""Tables and charts as GitHub shows them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tests.benchmarks.report import Comparison, Report, cells, headings, number
from tests.benchmarks.usage import BUSY_BEFORE

_QUIET: Final = 0.2
"""The most cores that others may keep busy, for figures that mean something."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The first column is text, the others are numbers."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return [_line(columns), _line(rule), *map(_line, rows), ""]


def comparison_table(comparison: Comparison) -> list[str]:
    """All that a comparison found, under its title."""
    facts = ", ".join(f"{name} {value}" for name, value in comparison.facts.items())
    title = f"**{comparison.title}**" + (f" ({facts})" if facts else "")
    columns = [f"medians of {comparison.unit}", *headings(comparison)]
    rows = [[series.name, *cells(comparison, series)] for series in comparison.series]
    return [title, "", *table(columns, rows)]


def bars_and_line(
    title: str, axis: str, names: Sequence[str], bars: Sequence[float], line: Sequence[float]
) -> list[str]:
    """A chart in the language mermaid, which GitHub draws: no program and no picture is needed for it."""
    top = max([1.0, *bars, *line]) * 1.1
    return [
        "```mermaid",
        "xychart-beta",
        f'    title "{title}"',
        f"    x-axis [{', '.join(_quoted(name) for name in names)}]",
        f'    y-axis "{axis}" 0 --> {top:.1f}',
        f"    bar [{', '.join(map(number, bars))}]",
        f"    line [{', '.join(map(number, line))}]",
        "```",
        "",
    ]


def machine(facts: Mapping[str, object]) -> str:
    """What a report was measured on, in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def is_busy(report: Report) -> bool:
    """Whether others disturbed it."""
    return float(report.facts.get(BUSY_BEFORE, 0)) > _QUIET


def notes(report: Report) -> list[str]:
    """A report's notes as a list."""
    return [*(f"- {note}" for note in report.notes), f"- measured on: {machine(report.facts)}", ""]


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _quoted(name: str) -> str:
    return f'"{name}"'
