"""The README says what is there: settings, commands, metrics."""

import re
from pathlib import Path

import pytest

from monitoring.metrics import Metrics
from replicator.cli import app
from replicator.config import Settings

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_every_setting_stands_in_the_table_and_no_other() -> None:
    """Given the settings, when the README's table is read, then it names exactly them."""
    told = set(re.findall(r"^\| `((?:REPLICATOR|SOURCE|TARGET)_\w+)` \|", README, re.MULTILINE))
    assert told == {Settings.variable(name) for name in Settings.model_fields}


def test_every_command_stands_in_the_table_and_no_other() -> None:
    """Given the commands, when the README's table is read, then it names exactly them."""
    told = set(re.findall(r"^\| `replicator (\w+)` \|", README, re.MULTILINE))
    assert told == {command.name for command in app.registered_commands}


def test_every_metric_of_the_readme_exists() -> None:
    """Given the registry, when the README names a metric, then the registry has it."""
    existing = {name for metric in Metrics().registry.collect() for name in (metric.name, f"{metric.name}_total")}
    section = README[README.index("## Watching it") : README.index("## Figures")]
    told = set(re.findall(r"`(replicator_\w+?)(?:\{\w+\})?`", section))
    assert told
    assert told <= existing


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_link_leads_to_a_file(link: str) -> None:
    """Given a relative link of the README, then its file is there."""
    assert (Path(__file__).parents[2] / link).exists()
