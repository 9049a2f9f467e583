"""Options that several commands share; `pipelines.cli.settings` makes one configuration of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

INPUT, JOB, MODELS, NETWORK, OUTPUT = "Input", "Job", "Models", "Network and training", "Output"


def local_path(text: str | Path) -> Path:
    """Return the path that an option names.

    As a `Path`, an address such as s3://bucket/x would silently become the local folder s3:/bucket/x.

    Raises:
        BadParameter: it is an address and not a path.
    """
    if "://" in str(text):
        raise typer.BadParameter(f"{text} is an address, and this must be a file or folder on this machine")
    return Path(text)


# typer reads these annotations at run time and knows Optional, not `X | None` in a string. The defaults in
# brackets are those of the job file, which options override; a test holds them together.
Data = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(
        help="Files or folders: CSV, Parquet or JSON lines, long (series_id, timestamp, value) or wide (a "
        "time column, then one column a series).",
        show_default=False,
        metavar="[DATA]...",
    ),
]
Wide = Annotated[
    bool,
    typer.Option(
        "--wide",
        help="DATA is wide: a time column, then one column a series; without it, the columns tell.",
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
        help="Override any setting of the job file, as network.hidden=128; may be given again.",
        rich_help_panel=JOB,
    ),
]
Store = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store: sqlite:///FILE or http://HOST:PORT.",
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
        help="Output folder, or s3://BUCKET/PREFIX.",
        show_default="out",
        rich_help_panel=OUTPUT,
    ),
]
Freq = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="DURATION",
        help="Length of a window: 30s, 15m, 1h, 1d; 1w-sun for weeks that begin on Sundays; or 1mo, 1q, 1y.",
        show_default="1h",
        rich_help_panel=INPUT,
    ),
]
Cell = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="CELL",
        help="Recurrent cell: lstm, gru or rnn.",
        show_default="lstm",
        rich_help_panel=NETWORK,
    ),
]
Hidden = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(metavar="N", help="Width of the hidden state.", show_default="64", rich_help_panel=NETWORK),
]
Seed = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="N",
        help="Same seed, data and machine: same weights.",
        show_default="0",
        rich_help_panel=NETWORK,
    ),
]
Start = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="TIME",
        help="Only rows from this time on: 2013-09-01 or 2013-09-01T05:00Z (UTC unless it has a zone).",
        rich_help_panel=INPUT,
    ),
]
End = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="TIME", help="Only rows before this time.", rich_help_panel=INPUT),
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
        help="NAME (its champion), NAME@ALIAS, NAME/3, a run id, or a folder.",
        show_default="mlflow.model of the job file",
        rich_help_panel=MODELS,
    ),
]
States = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--state",
        metavar="FOLDER",
        help="State table to start from: the `state` folder that an earlier job left; without it, cold.",
        rich_help_panel=INPUT,
    ),
]
Shards = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="N",
        help="Groups of series stepped together; forecasts do not depend on it.",
        show_default="8",
        rich_help_panel=JOB,
    ),
]
Runner = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--runner",
        metavar="ENGINE",
        help="in-process, prism or flink; auto is in process for a backfill, and for a stream Prism "
        "where it is installed.",
        show_default="auto",
        rich_help_panel=JOB,
    ),
]
FlinkMaster = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--flink-master",
        metavar="MASTER",
        help="Runs on Flink: \\[local], one of its own, or HOST:PORT of a session cluster.",
        show_default="[local]",
        rich_help_panel=JOB,
    ),
]
Format = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Forecasts as parquet or jsonl.",
        show_default="parquet",
        rich_help_panel=OUTPUT,
    ),
]
SkipBad = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--skip-bad-files/--stop-on-bad-files",
        help="Quarantine files that cannot be read, and go on, or stop at the first.",
        show_default="stop-on-bad-files; a watched folder goes on",
        rich_help_panel=INPUT,
    ),
]
MetricsPort = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--metrics-port",
        metavar="[HOST:]PORT",
        help="Serve the job's numbers for Prometheus at http://127.0.0.1:PORT/metrics while it runs; 0 takes "
        "a free one. 0.0.0.0:PORT answers other machines, too.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]

Origin = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="Where rows come from: replay (files as if they came in now), watch (a folder) or kafka.",
        show_default="replay",
        rich_help_panel=INPUT,
    ),
]
Bootstrap = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="HOST:PORT",
        help="Kafka brokers; how to log in is in \\[kafka.options] of the job file.",
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
        help="Kafka topic to send forecasts to, instead of into files.",
        rich_help_panel=OUTPUT,
    ),
]
