"""The command ``statecast plot``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.storage import location, output_errors, store_of, write_whole
from schemas.errors import ConfigError

FANS: Final = {"terminal": 3, "file": 7}
"""Number of forecasts that are drawn for a series."""

_SUFFIXES: Final = (".png", ".svg")
_MOST_SERIES = 24


def plot(
    output: o.OutputOfJob,
    series: Annotated[
        str | None,
        typer.Option(
            metavar="ID,ID,...",
            help="Series to draw.",
            show_default="the first series by id",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        o.output_file(
            "File that the picture is written to: .png or .svg.", show_default="a plot on the terminal"
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Draw the last values of series and the forecasts that were issued for them.

    Draws the newest forecast of each series and those issued one, two and more horizons earlier, so that they
    stand end to end, with all quantiles as a fan, and the observed values over them. The values come from the
    state table, which keeps the last network.ring windows of each series. The job may be running.

    Example: statecast plot out --series EWR.temp,JFK.temp -o weather.png
    """
    out = Out(as_json)
    if picture is not None:
        if picture.suffix not in _SUFFIXES:
            raise ConfigError(f"--output {picture}: the name must end with .png or .svg")
        store_of(picture.parent).check_writable()
    from pipelines.dashboard.output_view import check_output
    from pipelines.dashboard.series_fans import SeriesFans

    folder = location(output)
    check_output(folder)
    fans = SeriesFans(folder)
    names = fans.ids[:1] if series is None else fans.parse(series)
    if len(names) > _MOST_SERIES:
        raise ConfigError(f"--series names {len(names)} series: at most {_MOST_SERIES} fit into one picture")
    frames = {name: fans.read(name, FANS["terminal" if picture is None else "file"]) for name in names}
    if picture is None:
        from pipelines.cli.terminal_plot import fan_plot

        for name, frame in frames.items():
            out.console.print(fan_plot(frame, name, out.console.width), markup=False, highlight=False)
    else:
        from forecaster.reports.fan_plot import fans_figure

        draw = partial(fans_figure(frames).savefig, format=picture.suffix[1:])
        with output_errors(f"{picture}: cannot be written"):
            write_whole(picture, draw)
        out.say(f"{len(names):,} series: {picture}")
    forecasts = {name: frame["issued_at"].drop_nulls().n_unique() for name, frame in frames.items()}
    out.result({"picture": None if picture is None else str(picture), "forecasts": forecasts})
