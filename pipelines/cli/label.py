"""The command ``statecast label``, which trains a network on labelled series."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import assignments, load_settings
from pipelines.cli.stores import store_line
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from forecaster.labelling.config import LabelConfig
    from pipelines.labelling.job import LabelOutcome

_SHARE = "data.max_quarantined"  # the only setting of a job file that --set takes here
_EXAMPLES = ("vowels", "anomalies")


def label(
    data: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(
            parser=o.local_path,
            help="Files or folders of long CSV, Parquet or JSON lines: a row holds a series, a time, one or "
            "more values, and a label.",
            show_default=False,
            metavar="[DATA]...",
        ),
    ] = None,
    label: Annotated[
        str,
        typer.Option(
            "--label", metavar="COLUMN", help="Column that holds the labels.", rich_help_panel=o.INPUT
        ),
    ] = "label",
    value: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--value",
            metavar="COLUMN",
            help="Column that holds values; can be given more than once.",
            show_default="every other column of numbers",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    series_id: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="Column that holds the series ids.",
            show_default="series_id, unique_id or item_id",
            rich_help_panel=o.INPUT,
        ),
    ] = "",
    timestamp: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="Column that holds the times.",
            show_default="timestamp, ds, time or date",
            rich_help_panel=o.INPUT,
        ),
    ] = "",
    split: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="Column that assigns each series to a part: train, validation or test.",
            show_default="at random, the same share of each label",
            rich_help_panel=o.INPUT,
        ),
    ] = "",
    freq: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="DURATION",
            help="Length of a step if labels are per step, such as 15m; by default the usual one.",
            show_default=False,
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    example: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="NAME",
            help="Write example data into this folder and train on it: vowels (a label for each sequence, "
            "its speaker) or anomalies (a label for each step of weather data).",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    cell: o.Cell = None,
    hidden: o.Hidden = None,
    layers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="N",
            help="Number of stacked recurrent layers.",
            show_default="1",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    scaling: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="KIND",
            help="Scale values by the training rows (train), by their own series (series), or by the steps "
            "so far (running).",
            show_default="train for sequences, running for steps",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    epochs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="N",
            help="Most passes over the training rows; by default 100, fewer if the loss stops falling.",
            show_default=False,
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    seed: o.Seed = None,
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="Another setting of the network, such as pooling=mean, or data.max_quarantined; can be "
            "given more than once.",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name of the MLflow run.",
            show_default="label-CELL",
            rich_help_panel=o.MODELS,
        ),
    ] = None,
    tracking_uri: o.Store = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output",
            "-o",
            parser=o.local_path,
            metavar="FOLDER",
            help="Folder for the model and its label for every row; by default neither is written.",
            show_default=False,
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Train a network on labelled series, to label each series or each step.

    If no series has two labels, a label belongs to a whole series (the speaker of a recording, the type of a
    device), and the test part holds out series. Otherwise a label belongs to a step (normal, or a kind of
    anomaly), the network computes it from the steps so far, and the test part holds out the last steps. Rows
    without a label are input for the network, but it does not train on them.

    Example: statecast label --example vowels, or statecast label readings.csv --label fault --value temp
    """
    out = Out(as_json)
    shared = [setting for setting in settings or [] if setting.partition("=")[0].strip() == _SHARE]
    config = _config(
        [setting for setting in settings or [] if setting not in shared],
        cell=cell,
        hidden=hidden,
        layers=layers,
        scaling=scaling,
        epochs=epochs,
        seed=seed,
    )
    job = load_settings(None, shared, mlflow__tracking_uri=tracking_uri)
    mlflow = job.mlflow
    if "experiment" not in mlflow.model_fields_set:
        mlflow = mlflow.model_copy(update={"experiment": "statecast-labels"})
    from forecaster.time.frequency import fixed_s
    from pipelines.cli.preflight import check_store
    from pipelines.labelling.rows import LabelColumns, find_columns
    from pipelines.sources.files.tables import input_files

    try:
        freq_s = fixed_s(freq) if freq else None
    except ValueError as error:
        raise ConfigError(f"--freq: {error}") from None
    check_store(mlflow)
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
    with out.progress("loading torch and MLflow", "packages"):
        from pipelines.labelling.job import run_labelling

    with (
        out.progress("reading", "rows") as rows,
        out.progress("training", "epochs", config.epochs) as epochs_done,
    ):
        found = run_labelling(
            paths,
            columns,
            config,
            mlflow=mlflow,
            name=name or f"label-{config.cell}",
            freq_s=freq_s,
            max_quarantined=job.data.max_quarantined,
            output=output,
            on_rows=rows.add,
            on_epoch=lambda e: epochs_done.add(1, f"loss {e['validation_loss']:.4f}"),
        )
    _show(out, found)
    out.say(store_line(mlflow))
    out.say(
        f"model {found.model_version}, run {found.run_id}: statecast ui --tracking-uri {mlflow.tracking_uri}"
    )
    if output is not None:
        out.say(f"the model, and its label for every {found.of}: {output}")
    out.result(found.as_json())


def _config(settings: list[str] | None, **named: object) -> LabelConfig:
    """Return the network's settings; named options override ``--set``.

    Raises:
        ConfigError: a setting does not exist, or its value is invalid.
    """
    from pydantic import ValidationError

    from forecaster.labelling.config import LabelConfig

    given = {key: value for key, value in named.items() if value is not None}
    try:
        return LabelConfig.model_validate(assignments(settings) | given)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        typed = f"--{key} {first['input']}" if key in given else f"--set {key}={first['input']}"
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"{typed}: no such setting; the settings are {', '.join(LabelConfig.model_fields)}"
            ) from None
        raise ConfigError(
            f"{typed if key else '--set'}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def _write_example(name: str) -> Path:
    if name not in _EXAMPLES:
        raise ConfigError(f"--example {name}: no such example; choose {' or '.join(_EXAMPLES)}")
    path = Path(f"{name}.parquet")
    if path.exists():
        raise ConfigError(f"{path} already exists: use it with statecast label {path}, or delete it")
    from pipelines.labelling.examples import write_labelled_example

    return write_labelled_example(name, path.parent)


def _show(out: Out, found: LabelOutcome) -> None:
    from rich.table import Table

    for line in found.notices:
        out.notice(line)
    unlabelled = f", {found.unlabelled:,} of them without a label" if found.unlabelled else ""
    out.say(
        f"{found.rows_in:,} rows in = {found.used:,} used{unlabelled} + {found.quarantined:,} quarantined "
        f"+ {found.duplicates:,} duplicate"
    )
    more = ", ..." if len(found.channels) > 6 else ""
    values = f"{len(found.channels)} values a step ({', '.join(found.channels[:6])}{more})"
    if found.of == "sequence":
        out.say(f"a label per series: {found.series:,} series of up to {found.steps:,} steps, {values}")
    else:
        out.say(
            f"a label per step of {found.freq_s} s: {found.series:,} series of up to {found.steps:,} steps, "
            f"{values}; the label of ordinary steps is {found.background}"
        )
    seconds = sum(epoch["seconds"] for epoch in found.history)
    out.say(f"{len(found.classes)} labels; {len(found.history)} epochs in {seconds:.0f} s")
    table = Table("score", found.scored_part)
    for key, score in found.scores.items():
        table.add_row(key.replace("_", " "), f"{score:.3f}")
    out.console.print(table)
    if found.kinds:
        kinds = Table("anomaly", "found at one false alarm a series and week", "of")
        for row in found.kinds:
            kinds.add_row(row["label"], f"{row['found']:,}", f"{row['of']:,}")
        out.console.print(kinds)
