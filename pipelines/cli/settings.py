"""Build a command's configuration from its options, the environment and the job file.

Error messages name the option or environment variable that the user gave.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.cli.console import Out
    from pipelines.settings.config import JobConfig

_FLAGS = {
    "data.paths": "DATA",
    "data.layout": "--wide",
    "output.folder": "--output",
    "mlflow.model": "--register",
}
"""Setting -> the argument or option that sets it, where the option does not have the name of the setting."""

ENVIRONMENT = {
    "mlflow.tracking_uri": "MLFLOW_TRACKING_URI",
    "mlflow.registry_uri": "MLFLOW_REGISTRY_URI",
    "mlflow.experiment": "MLFLOW_EXPERIMENT_NAME",
    "mlflow.experiment_id": "MLFLOW_EXPERIMENT_ID",
    "mlflow.run_id": "MLFLOW_RUN_ID",
    "mlflow.system_metrics": "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
}
"""Setting -> MLflow's environment variable that sets it. MLflow itself reads the variables for logins."""


def load_settings(config: Path | None, settings: list[str] | None, **named: Any) -> JobConfig:
    """Return a job's settings, by precedence: options, ``--set``, the environment, then the job file.

    Args:
        config: the job file; None takes the defaults.
        settings: the values of ``--set``, as KEY=VALUE.
        named: values of options as ``section__key=value``; None leaves a setting as it is.

    Raises:
        ConfigError: a setting is invalid; the message names the option or variable that the user gave.
    """
    from pipelines.settings.job_file import load_config

    around, assigned = from_environment(), assignments(settings)
    options = {name.replace("__", ".", 1): value for name, value in named.items() if value is not None}
    written = {key: f"{ENVIRONMENT[key]} " for key in around}
    written |= written_with_set(assigned)
    written |= {key: f"{flag_of(key)} " for key in options}
    values = _with_experiment_name(around) | _with_experiment_name(assigned) | options
    return load_config(config, values, written)


def flag_of(key: str) -> str:
    """Return the option that sets a setting, such as ``--to-topic`` for ``kafka.to_topic``."""
    return _FLAGS.get(key) or "--" + key.partition(".")[2].replace("_", "-")


def written_with_set(settings: Iterable[str]) -> dict[str, str]:
    """Return for each setting the text before its value in error messages, such as ``--set data.end=``."""
    return {key: f"--set {key}=" for key in settings}


def _with_experiment_name(layer: dict[str, str]) -> dict[str, str]:
    """Add an empty experiment id to settings that name an experiment but give no id.

    An experiment's id takes precedence over its name. Without the empty id, an id in the job file would
    override the name that an option gives.
    """
    if "mlflow.experiment" in layer and "mlflow.experiment_id" not in layer:
        return layer | {"mlflow.experiment_id": ""}
    return layer


def from_environment() -> dict[str, str]:
    """Return a dict from the name of each setting that an environment variable gives to its value."""
    return {key: value for key, name in ENVIRONMENT.items() if (value := os.environ.get(name, "").strip())}


def assignments(settings: list[str] | None) -> dict[str, str]:
    """Parse the ``--set`` options, and return the value of each setting that they give.

    Raises:
        ConfigError: a value of ``--set`` is not KEY=VALUE.
    """
    found: dict[str, str] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting}: write KEY=VALUE, such as --set network.hidden=128")
        found[key.strip()] = value.strip()
    return found


def parse_whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Return the whole numbers in the comma-separated list of an option, sorted and without repeats.

    Raises:
        ConfigError: a part of the list is not a whole number of 1 or more.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"{option} {text}: write whole numbers of 1 or more, such as 1,24,48")
    return tuple(sorted({int(part) for part in parts}))


def bounds(option: str, text: str) -> tuple[int, int | None]:
    """Return the range of rows ``[FIRST, STOP)`` that an option gives as ``FIRST:STOP`` or ``FIRST:``.

    STOP is None if the option names no end.

    Raises:
        ConfigError: the text has neither form.
    """
    first, colon, stop = text.partition(":")
    if not (colon and first.isdecimal() and (not stop or stop.isdecimal())):
        raise ConfigError(
            f"{option} {text}: write FIRST:STOP, such as 3600:14400 for rows 3600 to 14399, or 3600: for all "
            "rows from 3600 on"
        )
    return int(first), int(stop) if stop else None


def paths(data: list[str] | None) -> list[str] | None:
    """Return the DATA arguments; None if there are none, so that the paths in the job file are used."""
    return data or None


def input_files(job: JobConfig, out: Out | None = None) -> list[Path]:
    """Check a job's input files as `check_files` does, and return the files.

    Args:
        job: settings whose data section names the files.
        out: output for notices about the files; None if the job prints the notices later.

    Raises:
        DataError: the job cannot use the files; see `check_files`.
    """
    from pipelines.sources.files.check_files import check_files

    files, notices = check_files(job)
    if out is not None:
        for line in notices:
            out.notice(line)
    return files
