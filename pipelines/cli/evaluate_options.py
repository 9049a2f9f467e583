"""The options of ``statecast evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli import options as o

ROLLING, FOLDERS = "Rolling evaluation", "Existing forecasts"

MoreData = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help="File or folder to read in addition to DATA; can be given more than once.",
        rich_help_panel=o.INPUT,
    ),
]
TrainRows = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Train on the first N windows only, and evaluate every member on the test rows.",
        rich_help_panel=ROLLING,
    ),
]
TestRows = Annotated[
    str | None,
    typer.Option(
        metavar="A:B",
        help="Evaluate the forecasts whose target windows are all in [A, B), counted from 0.",
        show_default="all windows after the training rows",
        rich_help_panel=ROLLING,
    ),
]
TestFrom = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="A",
        help="Evaluate from window A to the end, as --test-rows A: does.",
        rich_help_panel=ROLLING,
    ),
]
Horizons = Annotated[
    str | None,
    typer.Option(
        metavar="H,H,...",
        help="Horizons to evaluate; the network forecasts up to the largest. Errors at H are means over "
        "the steps 1 to H; coverage_90 and width_90 are of step H only.",
        show_default="1 and network.horizon",
        rich_help_panel=ROLLING,
    ),
]
Normalize = Annotated[
    Literal["none", "train"] | None,
    typer.Option(
        help="train scales each series to mean 0 and standard deviation 1 on its training rows, so that "
        "errors can be compared across series; none leaves the values unchanged.",
        show_default="none",
        rich_help_panel=ROLLING,
    ),
]
Quantiles = Annotated[
    str | None,
    typer.Option(
        metavar="Q,Q,...",
        help="Quantile levels to forecast; msis scores the interval of the outermost two.",
        show_default="network.quantiles, with 0.05 and 0.95",
        rich_help_panel=ROLLING,
    ),
]
RunName = Annotated[str | None, o.run_name("evaluation", ROLLING)]
Forecasts = Annotated[
    list[str] | None,
    typer.Option(
        "--forecasts",
        "-f",
        metavar="FOLDER",
        help="Output folder of a backfill or stream to evaluate; can be given more than once.",
        show_default="output.folder of the job file, out",
        rich_help_panel=FOLDERS,
    ),
]
TrainEnd = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Divide errors by each series' scale (MASE), which is computed from rows before this time.",
        show_default="the first forecast, or the end of the training rows",
        rich_help_panel=FOLDERS,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        parser=o.local_path,
        metavar="FILE",
        help="Write an HTML report with plots of forecasts and actuals to this file.",
        rich_help_panel=o.OUTPUT,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print only JSON on stdout: one object; a rolling evaluation first prints a line for each "
        "member and horizon.",
        rich_help_panel=o.OUTPUT,
    ),
]
