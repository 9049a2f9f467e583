"""The command ``statecast label``, which trains a network on labelled series."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli import label_options as lo
from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.job_progress import job_progress
from pipelines.cli.settings import assignments, load_settings, written_with_set
from pipelines.cli.stores import store_line
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from forecaster.labelling.config import LabelConfig
    from pipelines.settings.config import JobConfig

# the only setting that `--set` of `statecast label` accepts beside the settings of the network
_MAX_QUARANTINED = "data.max_quarantined"
_EXAMPLES = ("vowels", "anomalies")


def label(
    data: lo.Data = None,
    label: lo.Label = "label",
    value: lo.Value = None,
    series_id: lo.SeriesId = "",
    timestamp: lo.Timestamp = "",
    split: lo.Split = "",
    freq: lo.Freq = None,
    example: lo.Example = None,
    cell: lo.Cell = None,
    hidden: lo.Hidden = None,
    layers: lo.Layers = None,
    scaling: lo.Scaling = None,
    epochs: lo.Epochs = None,
    seed: lo.Seed = None,
    settings: lo.Set = None,
    name: lo.RunName = None,
    tracking_uri: o.Store = None,
    output: lo.Output = None,
    as_json: o.Json = False,
) -> None:
    """Train a network on labelled series; it gives a label to each series, or to each step of a series.

    If no series has two labels, a label belongs to a whole series (the speaker of a recording, the type of a
    device), and the test part holds out series. Otherwise a label belongs to a step (normal, or a kind of
    anomaly), the network computes it from the steps so far, and the test part holds out the last steps. Rows
    without a label are input for the network, but it does not train on them.

    Example: statecast label --example vowels, or statecast label readings.csv --label fault --value temp
    """
    out = Out(as_json)
    config = _label_config(
        _assigned(settings, shared=False), cell=cell, hidden=hidden, layers=layers, scaling=scaling,
        epochs=epochs, seed=seed,
    )  # fmt: skip
    job = _job_of(load_settings(None, _assigned(settings, shared=True), mlflow__tracking_uri=tracking_uri))
    freq_s = _step_s(freq)
    from pipelines.cli.preflight import check_store
    from pipelines.labelling.rows import LabelColumns, find_columns
    from pipelines.sources.files.tables import input_files

    check_store(job.mlflow)
    paths = list(data or [])
    if example is not None:
        paths.append(_write_example(example))
        split = split or ("split" if example == "vowels" else "")
        out.say(f"wrote {paths[-1]}")
    if not paths:
        raise ConfigError("no input: name a long file with a label column, or try --example vowels")
    columns = LabelColumns(label, tuple(value or ()), series_id, timestamp, split)
    for file in input_files(paths):
        find_columns(file, columns)
    with out.loading("torch and MLflow"):
        from pipelines.cli.label_output import show_labelling
        from pipelines.labelling.job import run_labelling

    with job_progress(out, "training", config.epochs) as progress:
        found = run_labelling(
            paths,
            columns,
            config,
            mlflow=job.mlflow,
            name=name or f"label-{config.cell}",
            freq_s=freq_s,
            max_quarantined=job.data.max_quarantined,
            output=output,
            progress=progress,
        )
    show_labelling(out, found)
    out.say(store_line(job.mlflow))
    uri = job.mlflow.tracking_uri
    out.say(f"model {found.model_version}, run {found.run_id}: statecast ui --tracking-uri {uri}")
    if output is not None:
        out.say(f"the model, and its label for every {found.of}: {output}")
    out.result(found.as_json())


def _assigned(settings: list[str] | None, *, shared: bool) -> list[str]:
    """Return the ``--set`` texts for ``data.max_quarantined`` if ``shared`` is true, otherwise all others."""
    return [text for text in settings or [] if (text.partition("=")[0].strip() == _MAX_QUARANTINED) == shared]


def _label_config(settings: list[str], **options: object) -> LabelConfig:
    """Return the settings of a labelling network; an option overrides ``--set`` for the same setting.

    Raises:
        ConfigError: a setting does not exist, or its value is invalid.
    """
    from pydantic import ValidationError

    from forecaster.labelling.config import LabelConfig
    from pipelines.settings.invalid_setting import describe
    from pipelines.settings.job_file import parse_value

    fields = LabelConfig.model_fields
    assigned = {
        name: parse_value(text, fields[name]) if name in fields else text
        for name, text in assignments(settings).items()
    }
    given = {name: value for name, value in options.items() if value is not None}
    written = written_with_set(assigned) | {name: f"--{name} " for name in given}
    try:
        return LabelConfig.model_validate(assigned | given)
    except ValidationError as error:
        raise ConfigError(describe(error, fields, written)) from None


def _job_of(job: JobConfig) -> JobConfig:
    """Return the job with the experiment ``statecast-labels``, unless the environment names another one."""
    if "experiment" in job.mlflow.model_fields_set:
        return job
    return job.with_settings({"mlflow.experiment": "statecast-labels"})


def _step_s(freq: str | None) -> int | None:
    """Return the length of a step in seconds, from ``--freq``; None without the option.

    Raises:
        ConfigError: the text is no duration, or it names months, quarters, years or anchored weeks.
    """
    from forecaster.time.frequency import fixed_s

    try:
        return fixed_s(freq) if freq else None
    except ValueError as error:
        raise ConfigError(f"--freq: {error}") from None


def _write_example(name: str) -> Path:
    if name not in _EXAMPLES:
        raise ConfigError(f"--example {name}: no such example; choose {' or '.join(_EXAMPLES)}")
    path = Path(f"{name}.parquet")
    if path.exists():
        raise ConfigError(f"{path} already exists: use it with statecast label {path}, or delete it")
    from pipelines.labelling.examples import write_labelled_example

    return write_labelled_example(name, path.parent)
