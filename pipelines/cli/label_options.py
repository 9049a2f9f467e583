"""The options of ``statecast label``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from forecaster.labelling.config import LabelConfig
from pipelines.cli import options as o


def _option_of(name: str, *, metavar: str) -> Any:
    """Return a Typer option ``--NAME`` that sets the field ``name`` of `LabelConfig`."""
    return o.field_option(LabelConfig.model_fields[name], f"--{name}", metavar=metavar, panel=o.NETWORK)


Data = Annotated[
    list[Path] | None,
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
    list[str] | None,
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
    str | None,
    typer.Option(
        metavar="DURATION",
        help="Length of a step if labels are per step, such as 15m; by default the most frequent.",
        show_default=False,
        rich_help_panel=o.INPUT,
    ),
]
Example = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Write example data into this folder and train on it: vowels (a label for each sequence, "
        "its speaker) or anomalies (a label for each step of weather data).",
        rich_help_panel=o.INPUT,
    ),
]
Cell = Annotated[str | None, _option_of("cell", metavar="CELL")]
Hidden = Annotated[int | None, _option_of("hidden", metavar="N")]
Layers = Annotated[int | None, _option_of("layers", metavar="N")]
Scaling = Annotated[str | None, _option_of("scaling", metavar="KIND")]
Epochs = Annotated[int | None, _option_of("epochs", metavar="N")]
Seed = Annotated[int | None, _option_of("seed", metavar="N")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Another setting of the network, such as pooling=mean, or data.max_quarantined; can be "
        "given more than once.",
        rich_help_panel=o.NETWORK,
    ),
]
RunName = Annotated[str | None, o.run_name("label-CELL")]
Output = Annotated[
    Path | None,
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
