"""What was typed as one configuration, and what cannot be refused in the words that were typed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.cli.console import Out
    from pipelines.settings.config import JobConfig

FLAGS = {
    "data.start": "--start",
    "data.end": "--end",
    "windows.freq": "--freq",
    "network.cell": "--cell",
    "network.hidden": "--hidden",
    "network.horizon": "--horizon",
    "training.epochs": "--epochs",
    "training.seed": "--seed",
    "jobs.shards": "--shards",
    "jobs.runner": "--runner",
    "jobs.flink_master": "--flink-master",
    "stream.speed": "--speed",
    "stream.source": "--source",
    "kafka.bootstrap": "--bootstrap",
    "kafka.topic": "--topic",
    "kafka.to_topic": "--to-topic",
    "output.format": "--format",
    "output.folder": "--output",
    "mlflow.model": "--register",
    "mlflow.tracking_uri": "--tracking-uri",
}
"""Settings that have an option of their own."""

ENVIRONMENT = {
    "mlflow.tracking_uri": "MLFLOW_TRACKING_URI",
    "mlflow.registry_uri": "MLFLOW_REGISTRY_URI",
    "mlflow.experiment": "MLFLOW_EXPERIMENT_NAME",
    "mlflow.experiment_id": "MLFLOW_EXPERIMENT_ID",
    "mlflow.run_id": "MLFLOW_RUN_ID",
    "mlflow.system_metrics": "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
}
"""Settings that MLflow's own variables of the environment give; MLflow itself reads those of logins."""


def configured(config: Path | None, settings: list[str] | None, **named: Any) -> JobConfig:
    """The job's settings: options (``section__key=value``) over ``--set``, the environment and the file.

    Raises:
        ConfigError: a setting cannot be; one line, in the words that were typed.
    """
    from pipelines.settings.job_file import load_config

    overrides = assignments(settings)
    flagged = {n.replace("__", ".", 1): value for n, value in named.items() if value is not None}
    around = from_environment()
    try:
        return load_config(config, _named_anew(around) | _named_anew(overrides) | flagged)
    except ConfigError as error:
        around = {key: value for key, value in around.items() if key not in overrides}
        raise ConfigError(_as_typed(str(error), flagged, around)) from None


def _named_anew(layer: dict[str, object]) -> dict[str, object]:
    """Return the settings of one layer so that its experiment's name replaces an id of a lower layer.

    An id goes before a name, so without this the id of a job file would go before the name of an option.
    """
    if "mlflow.experiment" in layer and "mlflow.experiment_id" not in layer:
        return layer | {"mlflow.experiment_id": ""}
    return layer


def from_environment() -> dict[str, object]:
    """The settings that variables of the environment give."""
    return {key: value for key, name in ENVIRONMENT.items() if (value := os.environ.get(name, "").strip())}


def assignments(settings: list[str] | None) -> dict[str, object]:
    """What ``--set`` says, by setting.

    Raises:
        ConfigError: one is no KEY=VALUE.
    """
    found: dict[str, object] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting}: write KEY=VALUE, such as --set network.hidden=128")
        found[key.strip()] = value.strip()
    return found


def _as_typed(line: str, flagged: dict[str, object], around: dict[str, object]) -> str:
    """Return an error message that names the option or variable that the user gave, and not the key."""
    if found := re.match(r"option ([\w.]+) = (.*)", line, re.DOTALL):
        key, rest = found.groups()
        if key in flagged and key in FLAGS:
            return f"{FLAGS[key]} {rest}"
        if key in around:
            return f"{ENVIRONMENT[key]} {rest}"
        return f"--set {key}={rest}"
    line = line.removeprefix("option ")
    for key in flagged.keys() & FLAGS.keys():
        line = re.sub(rf"(?<![\w.]){re.escape(key)}(?![\w.])", FLAGS[key], line)
    return line


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Different whole numbers from 1 on, rising, that an option lists with commas.

    Raises:
        ConfigError: one is none.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"{option} {text}: write whole numbers from 1 on, such as 1,24,48")
    return tuple(sorted({int(part) for part in parts}))


def bounds(option: str, text: str) -> tuple[int, int | None]:
    """The rows ``FIRST:STOP`` or ``FIRST:`` of an option.

    Raises:
        ConfigError: it names none.
    """
    first, colon, stop = text.partition(":")
    if not (colon and first.isdecimal() and (not stop or stop.isdecimal())):
        raise ConfigError(f"{option} {text}: write FIRST:STOP, such as 3600:14400, or 3600: to the end")
    return int(first), int(stop) if stop else None


def paths(data: list[str] | None) -> list[str] | None:
    """Arguments as the configuration wants them."""
    return data or None


def input_files(job: JobConfig, out: Out | None = None) -> list[Path]:
    """The input files of a job after a look at each, before anything heavy is loaded.

    Args:
        job: its data section names them.
        out: where lines go that people should see; None where they are told later.

    Raises:
        DataError: a file cannot be read as series.
    """
    from pipelines.sources.files.validated_rows import check_files

    files, notices = check_files(job)
    if out is not None:
        for line in notices:
            out.notice(line)
    return files
