"""The image and the blueprint name only what exists: settings, files, services, ports; and keep a worker's rules."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from replicator.config import Settings

ROOT = Path(__file__).parents[2]
BLUEPRINT: dict[str, Any] = yaml.safe_load((ROOT / "render.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = {service["name"]: service for service in BLUEPRINT["services"]}
WORKER = SERVICES["replicator"]
DOCKERFILES = [ROOT / "Dockerfile", ROOT / "monitoring/prometheus/Dockerfile", ROOT / "monitoring/grafana/Dockerfile"]

TAKEN_PORTS = {10000, 18012, 18013, 19099}
"""Ports that Render keeps for itself: design page, section 7."""


def setting_names() -> set[str]:
    """Every setting's name in the environment."""
    fields = Settings.model_fields.items()
    return {str(field.validation_alias or f"REPLICATOR_{name.upper()}") for name, field in fields}


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with its arguments on one line."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (line.partition(" ") for line in joined.splitlines() if line)
    return [(name, arguments) for name, _, arguments in pairs]


def arguments_of(dockerfile: Path, instruction: str) -> list[str]:
    return [arguments for name, arguments in instructions(dockerfile) if name == instruction]


def variables(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["key"]: variable for variable in service["envVars"]}


# --- the blueprint ----------------------------------------------------------------------------------------------------


def test_the_worker_is_given_only_settings_that_exist() -> None:
    assert variables(WORKER).keys() <= setting_names()


def test_the_worker_is_given_every_setting_that_has_no_default() -> None:
    required = {str(field.validation_alias) for field in Settings.model_fields.values() if field.is_required()}

    assert required <= variables(WORKER).keys()


def test_no_secret_is_in_the_blueprint() -> None:
    """Law 9."""
    assert variables(WORKER)["SOURCE_DATABASE_URL"] == {"key": "SOURCE_DATABASE_URL", "sync": False}
    for service in SERVICES.values():
        for key, variable in variables(service).items():
            if re.search(r"URL|PASSWORD|TOKEN", key):
                assert "value" not in variable


def test_every_reference_is_to_a_service_or_database_of_the_blueprint() -> None:
    databases = {database["name"] for database in BLUEPRINT["databases"]}

    for service in SERVICES.values():
        for variable in service["envVars"]:
            if reference := variable.get("fromService"):
                assert SERVICES[reference["name"]]["type"] == reference["type"]
            if reference := variable.get("fromDatabase"):
                assert reference["name"] in databases


def test_nothing_needs_to_reach_the_worker() -> None:
    """A background worker has no hostname: it pushes."""
    assert WORKER["type"] == "worker"
    targets = {v["fromService"]["name"] for s in SERVICES.values() for v in s["envVars"] if "fromService" in v}
    assert "replicator" not in targets
    assert variables(WORKER)["REPLICATOR_PUSHGATEWAY_URL"]["fromService"]["type"] == "pserv"


def test_a_deploy_starts_the_new_worker_before_the_old_one_stops_and_lets_it_end() -> None:
    assert "disk" not in WORKER
    assert WORKER["numInstances"] == 1
    assert 5 <= WORKER["maxShutdownDelaySeconds"] <= 300


def test_a_preview_makes_no_second_worker_on_the_same_source() -> None:
    assert BLUEPRINT["previews"] == {"generation": "off"}


def test_no_port_is_one_that_render_keeps_for_itself() -> None:
    ports = {
        int(variable["value"]) for s in SERVICES.values() for variable in s["envVars"] if variable["key"] == "PORT"
    }

    assert len(ports) == 3
    assert not (ports | {Settings.model_fields["http_port"].default}) & TAKEN_PORTS


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_is_built_from_exists_and_is_pinned(name: str) -> None:
    service = SERVICES[name]
    if service["runtime"] == "image":
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]["url"])
    else:
        assert (ROOT / service["dockerfilePath"]) in DOCKERFILES
        assert (ROOT / service["dockerContext"]).is_dir()


def test_what_prometheus_and_grafana_read_from_the_environment_is_given_to_them() -> None:
    start = (ROOT / "monitoring/prometheus/start.sh").read_text()
    datasource = (ROOT / "monitoring/grafana/provisioning/datasources/prometheus.yml").read_text()

    assert set(re.findall(r"\$\{?([A-Z_]+)", start)) <= variables(SERVICES["replicator-prometheus"]).keys()
    assert set(re.findall(r"\$\{?([A-Z_]+)", datasource)) <= variables(SERVICES["replicator-grafana"]).keys()


def test_prometheus_keeps_its_data_on_its_disk() -> None:
    prometheus = SERVICES["replicator-prometheus"]

    assert variables(prometheus)["STORAGE"]["value"].startswith(prometheus["disk"]["mountPath"] + "/")


# --- the images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_every_copied_file_exists_in_the_context(dockerfile: Path) -> None:
    for arguments in arguments_of(dockerfile, "COPY"):
        words = [word for word in arguments.split() if not word.startswith("--")]
        if "--from=" not in arguments:
            for source in words[:-1]:
                assert (dockerfile.parent / source).exists()


def test_the_context_holds_what_is_copied_and_not_the_rest_of_the_tree() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {
        source for arguments in arguments_of(ROOT / "Dockerfile", "COPY") if "--from=" not in arguments
        for source in arguments.split()[:-1]
    }  # fmt: skip

    assert ignore[1] == "*"
    assert kept == copied


def test_the_image_sets_only_settings_that_exist() -> None:
    names = re.findall(r"\b(REPLICATOR_\w+)=", " ".join(arguments_of(ROOT / "Dockerfile", "ENV")))

    assert "REPLICATOR_HTTP_HOST" in names
    assert set(names) <= setting_names()


def test_the_worker_runs_as_nobody_special_and_gets_its_signals_itself() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (user,) = arguments_of(ROOT / "Dockerfile", "USER")
    (entrypoint,) = arguments_of(ROOT / "Dockerfile", "ENTRYPOINT")
    (command,) = arguments_of(ROOT / "Dockerfile", "CMD")

    assert user not in ("root", "0")
    assert json.loads(entrypoint) == list(project["scripts"])
    assert json.loads(command) == ["run"]


def test_the_image_has_the_client_programs_of_17_or_later_and_the_worker_finds_them() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (version,) = re.findall(r"^ARG POSTGRES_CLIENT=(\d+)$", dockerfile, re.MULTILINE)

    assert int(version) >= 17
    assert '"postgresql-client-$POSTGRES_CLIENT"' in dockerfile
    assert "REPLICATOR_PG_BIN=/usr/lib/postgresql/${POSTGRES_CLIENT}/bin" in dockerfile


def test_the_start_script_of_prometheus_is_a_program() -> None:
    script = ROOT / "monitoring/prometheus/start.sh"

    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", script], check=True)


# --- the locks --------------------------------------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    """Every pinned distribution of a lock, with its version."""
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return dict(found)


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=,]", requirement)[0] for requirement in requirements}


def test_the_image_has_every_dependency_and_nothing_of_development() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name for requirements in project["optional-dependencies"].values() for name in declared(requirements)}
    runtime = pins("requirements-runtime.lock").keys()

    assert declared(project["dependencies"]) <= runtime
    assert not extras & runtime
