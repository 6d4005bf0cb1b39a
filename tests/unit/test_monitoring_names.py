"""The metrics, the design page's names, the alert rules and the dashboards hold together."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.metrics import Metrics
from replicator.model import Phase, TableState

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES = MONITORING / "prometheus" / "rules.yml"
RULE_TESTS = MONITORING / "prometheus" / "rules_test.yml"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
FILES = [RULES, RULE_TESTS, *DASHBOARDS]

DESIGNED = {
    "replicator_lag_bytes": (),
    "replicator_lag_seconds": (),
    "replicator_phase": ("phase",),
    "replicator_applied_transactions_total": (),
    "replicator_applied_changes_total": ("operation",),
    "replicator_apply_seconds": (),
    "replicator_batch_changes": (),
    "replicator_copy_bytes_total": (),
    "replicator_copy_tables": ("state",),
    "replicator_slot_retained_bytes": (),
    "replicator_slot_safe_bytes": (),
    "replicator_slot_active": (),
    "replicator_reconnects_total": ("side",),
    "replicator_errors_total": ("side",),
    "replicator_divergences_total": (),
    "replicator_target_connections": ("kind",),
}
"""Every metric with its labels: design page, section 6."""

_EXTERNAL = {"push_time_seconds"}
"""What the Pushgateway itself adds to a group."""


def exported() -> dict[str, tuple[str, ...]]:
    """The metrics as they are exposed, with their labels."""
    metrics = Metrics()
    metrics.set_target_connections({"worker apply": 1})
    families = metrics.registry.collect()
    return {
        family.name + ("_total" if family.type == "counter" else ""): tuple(
            sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        )
        for family in families
        if family.name.startswith("replicator_")
    }


def series() -> set[str]:
    """The names of single series, those of histograms included."""
    metrics = Metrics()
    metrics.set_target_connections({"worker apply": 1})
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


def names_in(path: Path) -> set[str]:
    return set(re.findall(r"\b(?:replicator|process)_[a-z_]+\b|\b[a-z]+_time_seconds\b", path.read_text()))


def expressions(dashboard: dict[str, Any]) -> list[str]:
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return panels + [annotation["expr"] for annotation in dashboard["annotations"]["list"]]


def test_the_metrics_are_those_of_the_design_page() -> None:
    assert exported() == DESIGNED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_rules_and_dashboards_name_only_metrics_that_exist(path: Path) -> None:
    named = names_in(path)

    assert named
    assert named <= series() | _EXTERNAL


def test_every_metric_is_shown_on_a_dashboard() -> None:
    shown = set[str]().union(*(names_in(path) for path in DASHBOARDS))
    histograms = {"replicator_apply_seconds", "replicator_batch_changes"}

    assert {f"{name}_bucket" if name in histograms else name for name in DESIGNED} <= shown


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_label_values_are_those_of_the_program(path: Path) -> None:
    text = path.read_text().replace("\\", "")

    assert set(re.findall(r'phase="(\w+)"', text)) <= {phase.value for phase in Phase}
    for values in re.findall(r'state=~?"([\w|]+)"', text):
        assert set(values.split("|")) <= {state.value for state in TableState}
    assert set(re.findall(r'job="(\w+)"', text)) <= {"replicator", "another"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_shows_one_migration_at_a_time(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "instance"}

    for expression in expressions(dashboard):
        assert 'instance="$instance"' in expression


def test_every_alert_says_what_to_do_and_is_tested() -> None:
    alerts = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    cases = [case for test in yaml.safe_load(RULE_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]

    for rule in alerts.values():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts.keys()
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts.keys()


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_prometheus_reads_the_configuration() -> None:
    answer = promtool("check", "config", MONITORING / "prometheus" / "prometheus.yml")

    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    answer = promtool("test", "rules", RULE_TESTS)

    assert answer.returncode == 0, answer.stdout + answer.stderr
