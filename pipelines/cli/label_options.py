"""The options of ``statecast label``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from forecaster.labelling.config import LabelConfig
from pipelines.cli import options as o


def _option_of(name: str, *, metavar: str) -> Any:
    """Return the option that sets a field of `LabelConfig`."""
    return o.field_option(LabelConfig.model_fields[name], f"--{name}", metavar=metavar, panel=o.NETWORK)


Data = Annotated[
    Optional[list[Path]],  # noqa: UP045
    typer.Argument(
        parser=o.local_path,
        help="Files or folders of long CSV, Parquet or JSON lines: a row holds a series, a time, one or "
        "more values, and a label.",
        show_default=False,
        metavar="[DATA]...",
    ),
]
Label = Annotated[
    str,
    typer.Option("--label", metavar="COLUMN", help="Column that holds the labels.", rich_help_panel=o.INPUT),
]
Value = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--value",
        metavar="COLUMN",
        help="Column that holds values; can be given more than once.",
        show_default="every other column of numbers",
        rich_help_panel=o.INPUT,
    ),
]
SeriesId = Annotated[
    str,
    typer.Option(
        metavar="COLUMN",
        help="Column that holds the series ids.",
        show_default="series_id, unique_id or item_id",
        rich_help_panel=o.INPUT,
    ),
]
Timestamp = Annotated[
    str,
    typer.Option(
        metavar="COLUMN",
        help="Column that holds the times.",
        show_default="timestamp, ds, time or date",
        rich_help_panel=o.INPUT,
    ),
]
Split = Annotated[
    str,
    typer.Option(
        metavar="COLUMN",
        help="Column that assigns each series to a part: train, validation or test.",
        show_default="at random, the same share of each label",
        rich_help_panel=o.INPUT,
    ),
]
Freq = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="DURATION",
        help="Length of a step if labels are per step, such as 15m; by default the usual one.",
        show_default=False,
        rich_help_panel=o.INPUT,
    ),
]
Example = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="NAME",
        help="Write example data into this folder and train on it: vowels (a label for each sequence, "
        "its speaker) or anomalies (a label for each step of weather data).",
        rich_help_panel=o.INPUT,
    ),
]
Cell = Annotated[
    Optional[str],  # noqa: UP045
    _option_of("cell", metavar="CELL"),
]
Hidden = Annotated[
    Optional[int],  # noqa: UP045
    _option_of("hidden", metavar="N"),
]
Layers = Annotated[
    Optional[int],  # noqa: UP045
    _option_of("layers", metavar="N"),
]
Scaling = Annotated[
    Optional[str],  # noqa: UP045
    _option_of("scaling", metavar="KIND"),
]
Epochs = Annotated[
    Optional[int],  # noqa: UP045
    _option_of("epochs", metavar="N"),
]
Seed = Annotated[
    Optional[int],  # noqa: UP045
    _option_of("seed", metavar="N"),
]
Set = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Another setting of the network, such as pooling=mean, or data.max_quarantined; can be "
        "given more than once.",
        rich_help_panel=o.NETWORK,
    ),
]
RunName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--name",
        metavar="NAME",
        help="Name of the MLflow run.",
        show_default="label-CELL",
        rich_help_panel=o.MODELS,
    ),
]
Output = Annotated[
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
]
