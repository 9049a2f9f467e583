"""Define options that several commands share; `pipelines.cli.settings` builds a configuration from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from pipelines.cli.settings import flag_of
from pipelines.settings.config import FIELDS

INPUT, JOB, MODELS, NETWORK, OUTPUT = "Input", "Job", "Models", "Network and training", "Output"


def local_path(text: str | Path) -> Path:
    """Return the text of an option as a path on this machine; refuse the address of an object store.

    Addresses are refused, because `Path` would turn s3://bucket/x into the local folder s3:/bucket/x.

    Raises:
        BadParameter: the text is an address, such as s3://bucket/x.
    """
    if "://" in str(text):
        raise typer.BadParameter(f"{text} is an address, and this must be a file or folder on this machine")
    return Path(text)


def option_of(key: str, *short: str, metavar: str, panel: str) -> Any:
    """Return the option that sets the setting ``key``, with the help text and the default of the setting.

    Args:
        key: name of the setting, such as ``network.hidden``.
        short: short names of the option, such as ``-o``.
        metavar: placeholder of the value in the help text.
        panel: heading of the option in the help text.
    """
    return field_option(FIELDS[key], flag_of(key), *short, metavar=metavar, panel=panel)


def field_option(field: FieldInfo, *names: str, metavar: str, panel: str) -> Any:
    """Return a command-line option with the help text and the default of a configuration's field."""
    text = field.description or ""
    has_default = field.default not in (None, "")
    return typer.Option(
        *names,
        metavar=metavar,
        help=escape(f"{text[0].upper()}{text[1:]}."),
        show_default=str(field.default).removesuffix(".0") if has_default else False,
        rich_help_panel=panel,
    )


def output_file(text: str, *, show_default: str | bool) -> Any:
    """Return the option ``--output FILE``, ``-o``, of a command that writes one file on this machine.

    Args:
        text: help text.
        show_default: what the help text shows as the default; False shows none.
    """
    return typer.Option(
        "--output",
        "-o",
        parser=local_path,
        metavar="FILE",
        help=text,
        show_default=show_default,
        rich_help_panel=OUTPUT,
    )


def model_option(default: str) -> Any:
    """Return the option ``--model``, ``-m``; the help text shows ``default`` as the default."""
    return typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Model to load: NAME (its champion), NAME@ALIAS, NAME/3, a run id, or a folder.",
        show_default=default,
        rich_help_panel=MODELS,
    )


def run_name(default: str, panel: str = MODELS) -> Any:
    """Return the option ``--name`` of an MLflow run; the help text shows ``default`` as the default."""
    help_text = "Name of the MLflow run."
    return typer.Option("--name", metavar="NAME", help=help_text, show_default=default, rich_help_panel=panel)


Data = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files, folders or patterns of CSV, Parquet, JSON lines or Excel, long (series_id, timestamp, "
        "value) or wide (a time column, and one column for each series).",
        show_default=False,
        metavar="[DATA]...",
    ),
]
Wide = Annotated[
    bool,
    typer.Option(
        "--wide",
        help="Read DATA as wide files, with a time column and one column for each series; without it, the "
        "names of the columns decide.",
        rich_help_panel=INPUT,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        parser=local_path,
        metavar="FILE",
        help="Job file (TOML); [bold]statecast init[/bold] writes one.",
        rich_help_panel=JOB,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Override a setting of the job file, such as network.hidden=128; can be given more than once.",
        rich_help_panel=JOB,
    ),
]
Store = Annotated[str | None, option_of("mlflow.tracking_uri", metavar="URI", panel=MODELS)]
Output = Annotated[str | None, option_of("output.folder", "-o", metavar="FOLDER", panel=OUTPUT)]
OutputOfJob = Annotated[
    str,
    typer.Argument(metavar="OUTPUT", help="Output folder of a backfill or a stream.", show_default=False),
]
Freq = Annotated[str | None, option_of("windows.freq", metavar="DURATION", panel=INPUT)]
Cell = Annotated[str | None, option_of("network.cell", metavar="CELL", panel=NETWORK)]
Hidden = Annotated[int | None, option_of("network.hidden", metavar="N", panel=NETWORK)]
Seed = Annotated[int | None, option_of("training.seed", metavar="N", panel=NETWORK)]
Start = Annotated[str | None, option_of("data.start", metavar="TIME", panel=INPUT)]
End = Annotated[str | None, option_of("data.end", metavar="TIME", panel=INPUT)]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object and nothing else on stdout.", rich_help_panel=OUTPUT),
]
Model = Annotated[str | None, model_option("mlflow.model of the job file")]
Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Address to listen on; any but loopback lets other machines connect."
    ),
]
Follow = Annotated[str | None, option_of("stream.follow", metavar="ALIAS", panel=MODELS)]
States = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="FOLDER",
        help="State table to start from: the `state` folder of another job; without it, series start cold.",
        rich_help_panel=INPUT,
    ),
]
Shards = Annotated[int | None, option_of("jobs.shards", metavar="N", panel=JOB)]
Runner = Annotated[str | None, option_of("jobs.runner", metavar="ENGINE", panel=JOB)]
FlinkMaster = Annotated[str | None, option_of("jobs.flink_master", metavar="MASTER", panel=JOB)]
Format = Annotated[str | None, option_of("output.format", metavar="FORMAT", panel=OUTPUT)]
Flat = Annotated[str | None, option_of("output.flat", metavar="FORMAT", panel=OUTPUT)]
SkipBad = Annotated[
    bool | None,
    typer.Option(
        "--skip-bad-files/--stop-on-bad-files",
        help="Quarantine files that cannot be read and continue, or stop at the first such file.",
        show_default="stop-on-bad-files; skip-bad-files for a watched folder",
        rich_help_panel=INPUT,
    ),
]
MetricsPort = Annotated[
    str | None,
    typer.Option(
        "--metrics-port",
        metavar="[HOST:]PORT",
        help="Serve the job's metrics for Prometheus at http://127.0.0.1:PORT/metrics while it runs; 0 takes "
        "a free port, and 0.0.0.0:PORT also answers other machines.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]

Speed = Annotated[float | None, option_of("stream.speed", metavar="FACTOR", panel=INPUT)]
Horizon = Annotated[int | None, option_of("network.horizon", metavar="N", panel=NETWORK)]
Epochs = Annotated[int | None, option_of("training.epochs", metavar="N", panel=NETWORK)]
Register = Annotated[str | None, option_of("mlflow.model", metavar="MODEL", panel=MODELS)]
Origin = Annotated[str | None, option_of("stream.source", metavar="SOURCE", panel=INPUT)]
Bootstrap = Annotated[str | None, option_of("kafka.bootstrap", metavar="HOST:PORT", panel=INPUT)]
FromTopic = Annotated[str | None, option_of("kafka.topic", metavar="TOPIC", panel=INPUT)]
ToTopic = Annotated[str | None, option_of("kafka.to_topic", metavar="TOPIC", panel=OUTPUT)]
