"""Tests that files in docs/deploy/ match their schemas and name existing versions, options and metrics."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from pipelines.cli.app import app
from pipelines.runners.java import JAVA_OPEN_OPTIONS, versions
from pipelines.settings.config import JobConfig
from pipelines.sinks.latency import Histogram
from pipelines.sinks.numbers import JobNumbers
from pipelines.sinks.prometheus import metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
KUBERNETES = "1.31"


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def manifests() -> tuple[Any, Any]:
    flink, deployment = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return flink, deployment


def options_of_stream(arguments: list[str]) -> list[str]:
    command, *options = arguments
    assert command == "stream"
    return options


def test_the_compose_file_matches_the_compose_schema() -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose(), json.loads(schema.read_text()))


def test_every_compose_service_depends_on_existing_services() -> None:
    services = compose()["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= services.keys()
        assert service.get("network_mode", "service:kafka").removeprefix("service:") in services


def test_the_kubernetes_deployment_of_the_stream_is_valid() -> None:
    kubernetes_validate.validate(manifests()[1], KUBERNETES, strict=True)


def test_the_kubernetes_pod_of_flink_task_managers_is_valid() -> None:
    template = manifests()[0]["spec"]["taskManager"]["podTemplate"]
    main, workers = template["spec"]["containers"]
    assert main == {"name": "flink-main-container"}, "the Flink operator adds the other fields"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "taskmanager"},
        "spec": {"containers": [workers]},
    }
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "text", [(DEPLOY / name).read_text() for name in ("compose.yaml", "kubernetes.yaml")]
)
def test_deploy_files_pin_flink_version_and_set_beam_java_options(text: str) -> None:
    assert f"flink:{versions()['flink.version']}-" in text
    assert all(option in text for option in JAVA_OPEN_OPTIONS)
    assert "classloader.resolve-order: parent-first" in text


def test_no_flink_property_value_in_compose_contains_a_space() -> None:
    # The Docker image of Flink removes spaces from property values, so a value with a space would break.
    lines = compose()["x-flink"]["environment"]["FLINK_PROPERTIES"].splitlines()
    assert all(len(line.split()) == 2 for line in lines)


def test_the_docker_image_creates_the_folders_of_its_volumes() -> None:
    made = re.findall(r"install -d -o statecast -g statecast (.+)", (DEPLOY / "Dockerfile").read_text())
    ours = [service for service in compose()["services"].values() if service["image"] == "statecast"]
    volumes = {volume.partition(":")[2] for service in ours for volume in service["volumes"]}
    assert {*made[0].split()} == volumes


def test_the_docker_build_ignores_git_and_local_environments() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", ".uv"} <= {*ignored}, (
        "their stamp files would keep make from setting up the image"
    )


def test_deployed_kafka_has_the_pinned_version() -> None:
    assert compose()["services"]["kafka"]["image"] == f"apache/kafka:{versions()['kafka.version']}"


def test_the_deployed_job_file_is_valid_and_its_topics_are_created() -> None:
    job = JobConfig.model_validate(tomllib.loads((DEPLOY / "job.toml").read_text()))
    assert job.jobs.runner == "flink"
    topics = compose()["services"]["topics"]["command"][0]
    kafka = job.kafka
    for topic in (kafka.topic, kafka.to_topic, kafka.to_late, kafka.to_quarantine):
        assert topic in topics


def test_the_deployed_stream_commands_can_be_parsed() -> None:
    stream = typer.main.get_command(app).commands["stream"]  # type: ignore[attr-defined]
    container = manifests()[1]["spec"]["template"]["spec"]["containers"][0]
    for arguments in (compose()["services"]["stream"]["command"], container["args"]):
        parsed = stream.make_context("stream", options_of_stream(arguments)).params
        assert parsed["resume"]
        assert parsed["flink_master"].endswith(":8081")
        assert parsed["settings"] == ["jobs.flink_workers=127.0.0.1:50000"]


def alarms() -> list[Any]:
    (group,) = yaml.safe_load((DEPLOY / "alarms.yaml").read_text())["groups"]
    return list(group["rules"])


def exported() -> set[str]:
    """Return the names of all metrics that a job exports to Prometheus."""
    once = Histogram().add(1.0)
    names = set()
    numbers = JobNumbers(watermark_us=0, snapshot_at_s=1.0, latency=once, window_latency=once)
    for metric in metrics(numbers, 2.0):
        own = {f"{metric.name}_total"} if metric.type == "counter" else {metric.name}
        names |= {sample.name for sample in metric.samples} | own
    return names


def test_prometheus_alarms_use_only_metrics_that_a_job_exports() -> None:
    for rule in alarms():
        used = set(re.findall(r"statecast_\w+", rule["expr"]))
        assert used
        assert used <= exported(), rule["alert"]


def test_the_grafana_dashboard_uses_only_metrics_that_a_job_exports() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    for query in queries:
        used = set(re.findall(r"statecast_\w+", query))
        assert used
        assert used <= exported(), query


def test_the_panels_of_the_grafana_dashboard_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    cells = [
        (column, line)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["x"], place["x"] + place["w"])
        for line in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len({*cells})
    assert max(column for column, _ in cells) == 23
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_alarms_page_describes_every_prometheus_alarm() -> None:
    page = (DEPLOY.parent / "alarms.md").read_text()
    titles = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert titles == [rule["alert"] for rule in alarms()]
    flat = " ".join(page.split())
    for rule in alarms():
        assert f"`{rule['expr']}`" in flat
        assert rule["annotations"]["runbook"] == f"docs/alarms.md#{rule['alert'].lower()}"
