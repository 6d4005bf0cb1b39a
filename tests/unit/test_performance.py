"""docs/performance.md says what the benchmarks' files say, and no figure besides."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.benchmarks import page
from tests.benchmarks.goals import WORKLOAD, goals
from tests.benchmarks.report import Comparison, Measure, Report, Series, print_report

FILES = sorted(page.RESULTS.glob("*.json"))


def measured(seconds: float, cpu: float) -> Measure:
    """A run whose start took a second."""
    figures = {"CPU consumer": cpu / 2, "CPU source": cpu / 4, "CPU target": cpu / 4}
    return Measure(seconds, {"start-up": 1.0, "catch-up": seconds - 1}, cpu, figures)


def catch_up(workload: str, floor: float, native: float, replicator: float) -> Report:
    """One comparison, three runs each: only the median counts."""
    seconds = {"floor": floor, "native": native, "replicator": replicator}
    series = tuple(
        Series(name, (measured(9.99, 9), measured(value, value), measured(1.5, 0.5))) for name, value in seconds.items()
    )
    facts = {WORKLOAD: workload, "MB of WAL": 7}
    return Report({"cores": 2}, ["a note"], (Comparison("a title", facts, series, ("floor", "native"), "catch-up"),))


def missed(report: Report) -> list[str]:
    """What is said of the goals that are not met."""
    return [str(goal) for goal in goals({"catchup": report}) if not goal.met]


def test_the_page_is_what_the_files_say() -> None:
    """Given the committed results, then the committed page is made of them: run tests.benchmarks.page."""
    assert FILES
    assert page.PAGE.read_text() == page.page(page.read(page.RESULTS))


@pytest.mark.parametrize("file", [file for file in FILES if file.stem != "memory"], ids=lambda file: str(file.stem))
def test_the_medians_and_ratios_of_a_file_are_those_of_its_runs(file: Any) -> None:
    """Given a file of results, when its medians and ratios are made anew of its runs, then they are what it says."""
    document = json.loads(file.read_text())

    assert Report.from_json(document).to_json() == document


def test_a_report_survives_its_file(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a report, when it is written and read, then it is the same, and its medians were printed."""
    report = catch_up("updates", floor=4.0, native=5.0, replicator=4.2)
    print_report(report.comparisons, report.facts, report.notes, as_json=tmp_path / "catchup.json")

    assert page.read(tmp_path) == {"catchup": report}
    assert "4.20" in capsys.readouterr().out


def test_a_busy_machine_is_told() -> None:
    """Given a load before the benchmark began, then the page says so."""
    report = catch_up("updates", floor=4.0, native=5.0, replicator=4.2)
    for busy, told in ((0.1, False), (1.7, True)):
        text = page.page({"catchup": replace(report, facts={"cores": 2, "cores busy before": busy})})
        assert ("Others used the machine when these began: catchup." in text) is told


def test_goals_that_are_missed_are_told_with_both_figures() -> None:
    """Given replicator at 1.25 times the floor and as slow as native, then the page says so, in bold and in a list."""
    report = catch_up("updates", floor=4.0, native=4.0, replicator=5.0)
    text = page.page({"catchup": report})

    assert "0 of 3 are met." in text
    assert "- catch-up, updates: 1.25 times floor's seconds (goal: at most 1.15)" in text
    assert "| **1.25** (1.33) | **1.25** (1.33) | **1.25** (-) |" in text


def test_with_inserts_native_must_be_beaten_clearly() -> None:
    """Given a workload a little faster than native, then that is enough for updates, not for inserts and TPC-B."""
    seconds = {"floor": 4.0, "native": 4.5, "replicator": 4.0}

    assert missed(catch_up("updates", **seconds)) == []
    for workload in ("tpcb", "wide-inserts"):
        (line,) = missed(catch_up(workload, **seconds))
        assert "0.89 times native's seconds" in line


def test_who_saturates_first_is_who_used_most_of_a_core() -> None:
    """Given processes that each used less than a core, then none is named; given a full one, then it is named."""
    report = catch_up("updates", floor=4.0, native=4.0, replicator=5.0)
    assert "| `updates` | 0.62 | 0.31 | 0.31 | 1.25 | none: they wait for each other |" in page.page(
        {"catchup": report}
    )

    (comparison,) = report.comparisons
    full = replace(measured(5.0, 5.0), figures={"CPU consumer": 1.0, "CPU source": 3.9, "CPU target": 1.0})
    series = (*comparison.series[:2], Series("replicator", (full,)))
    text = page.page({"catchup": replace(report, comparisons=(replace(comparison, series=series),))})
    assert "| `updates` | 0.25 | 0.97 | 0.25 | 1.48 | the source |" in text


def test_a_peak_of_memory_beyond_its_bound_is_told(tmp_path: Any) -> None:
    """Given two cases, one beyond what was promised, then the page has both, and names that one among the goals."""
    peaks = [
        {"case": "rows", "row_mib": 200.0, "peak_mib": 900.5, "bound_mib": 1056.0},
        {"case": "tables", "row_mib": 0.0, "peak_mib": 301.0, "bound_mib": 256.0},
    ]
    (tmp_path / "memory.json").write_text(json.dumps({"environment": {"cores": 2}, "peaks": peaks}))
    text = page.page(page.read(tmp_path))

    assert "1 of 2 are met." in text
    assert "- peak memory, tables: 301 MiB (goal: at most 256)" in text
    assert "| rows | 1 | 900 | 200 | 1056 |" in text
