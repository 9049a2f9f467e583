"""The options that several commands share; `pipelines.cli.settings` turns them into one configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

INPUT, JOB, MODELS, NETWORK, OUTPUT = "Input", "Job", "Models", "Network and training", "Output"


def local_path(text: str | Path) -> Path:
    """Return the text of an option as a path on this machine.

    Addresses are refused, because `Path` would turn s3://bucket/x into the local folder s3:/bucket/x.

    Raises:
        BadParameter: the text is an address, such as s3://bucket/x.
    """
    if "://" in str(text):
        raise typer.BadParameter(f"{text} is an address, and this must be a file or folder on this machine")
    return Path(text)


# The annotations are written with Optional, because typer evaluates them at run time and does not support
# `X | None` in a string. Each `show_default` repeats the default of the job file; a test compares them.
Data = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(
        help="Files or folders of CSV, Parquet or JSON lines, long (series_id, timestamp, value) or wide (a "
        "time column, and one column for each series).",
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
    Optional[Path],  # noqa: UP045
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
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Override a setting of the job file, such as network.hidden=128; can be given more than once.",
        rich_help_panel=JOB,
    ),
]
Store = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store that runs and models are in: sqlite:///FILE or http://HOST:PORT.",
        show_default="sqlite:///mlflow.db",
        rich_help_panel=MODELS,
    ),
]
Output = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder that results are written to; s3://BUCKET/PREFIX is possible, too.",
        show_default="out",
        rich_help_panel=OUTPUT,
    ),
]
Freq = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="DURATION",
        help="Length of a window: 30s, 15m, 1h, 1d, 1mo, 1q, 1y, or 1w-sun for weeks that begin on Sundays.",
        show_default="1h",
        rich_help_panel=INPUT,
    ),
]
Cell = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="CELL",
        help="Recurrent cell of the network: lstm, gru or rnn.",
        show_default="lstm",
        rich_help_panel=NETWORK,
    ),
]
Hidden = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="N", help="Number of units in each hidden layer.", show_default="64", rich_help_panel=NETWORK
    ),
]
Seed = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="N",
        help="Seed of the random numbers; the same seed, data and machine give the same weights.",
        show_default="0",
        rich_help_panel=NETWORK,
    ),
]
Start = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="TIME",
        help="Read only rows from this time on: 2013-09-01 or 2013-09-01T05:00Z (UTC unless it has a zone).",
        rich_help_panel=INPUT,
    ),
]
End = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="TIME", help="Read only rows before this time.", rich_help_panel=INPUT),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object and nothing else on stdout.", rich_help_panel=OUTPUT),
]
Model = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Model to load: NAME (its champion), NAME@ALIAS, NAME/3, a run id, or a folder.",
        show_default="mlflow.model of the job file",
        rich_help_panel=MODELS,
    ),
]
States = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--state",
        metavar="FOLDER",
        help="State table to start from: the `state` folder of another job; without it, series start cold.",
        rich_help_panel=INPUT,
    ),
]
Shards = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="N",
        help="Number of shards (groups of series stepped together); forecasts do not depend on it.",
        show_default="8",
        rich_help_panel=JOB,
    ),
]
Runner = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--runner",
        metavar="ENGINE",
        help="Engine that runs the job: in-process, prism, flink, or auto, which runs a backfill in process "
        "and a stream on Prism if it is installed.",
        show_default="auto",
        rich_help_panel=JOB,
    ),
]
FlinkMaster = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--flink-master",
        metavar="MASTER",
        help="Run on Flink: \\[local] starts a Flink for this job, HOST:PORT names a session cluster.",
        show_default="[local]",
        rich_help_panel=JOB,
    ),
]
Format = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Format of the forecast files: parquet or jsonl.",
        show_default="parquet",
        rich_help_panel=OUTPUT,
    ),
]
SkipBad = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--skip-bad-files/--stop-on-bad-files",
        help="Quarantine files that cannot be read and continue, or stop at the first such file.",
        show_default="stop-on-bad-files; skip-bad-files for a watched folder",
        rich_help_panel=INPUT,
    ),
]
MetricsPort = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--metrics-port",
        metavar="[HOST:]PORT",
        help="Serve the job's metrics for Prometheus at http://127.0.0.1:PORT/metrics while it runs; 0 takes "
        "a free port, and 0.0.0.0:PORT also answers other machines.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]

Origin = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="Source of the rows: replay (files, as if their rows arrived now), watch (a folder) or kafka.",
        show_default="replay",
        rich_help_panel=INPUT,
    ),
]
Bootstrap = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="HOST:PORT",
        help="Addresses of the Kafka brokers; the login is set in \\[kafka.options] of the job file.",
        show_default="localhost:9092",
        rich_help_panel=INPUT,
    ),
]
FromTopic = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--topic", metavar="TOPIC", help="Kafka topic to read.", rich_help_panel=INPUT),
]
ToTopic = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="TOPIC",
        help="Kafka topic that forecasts are sent to, instead of files.",
        rich_help_panel=OUTPUT,
    ),
]
