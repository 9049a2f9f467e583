"""Write an HTML page with the steps, the measured numbers and the charts of a run of `tests.lifecycle`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from forecaster.reports.html import Picture, ReportTable, write_report
from forecaster.reports.improvement_plot import improvement_figure
from forecaster.reports.plot_style import PALETTE, draw_legend, titled_axes
from pipelines.sinks.files import read_forecasts
from tests.lifecycle import inputs
from tests.lifecycle.outcome import Outcome


def write_page(
    path: Path, events: Sequence[str], gated: Sequence[dict[str, Any]], outcome: Outcome, folder: Path
) -> None:
    """Write one HTML page with the steps, the measured figures and the charts of a run.

    Args:
        path: the file.
        events: one sentence for each step.
        gated: JSON of the decisions of the gate.
        outcome: the figures.
        folder: the folder in which the steps ran.
    """
    figures: list[Picture] = [
        (
            "Mean absolute error of the stream's forecasts one window ahead, by day and model version.",
            partial(_error_figure, _errors(folder / "live")),
        )
    ]
    tables = []
    for decision in gated:
        comparison = decision["comparison"]
        shares = {name: tuple(one.values()) for name, one in comparison["by_class"].items()}
        rows = {"all": tuple(comparison["overall"].values()), **shares}
        draw = partial(improvement_figure, rows, comparison["confidence"])
        figures.append((f"{decision['version']} against {comparison['champion_ref']}.", draw))
        tables.append(_scores(decision))
    facts = {name.replace("_", " "): _text(value) for name, value in outcome.as_json().items()}
    reasons = [f"{one['version']}: {check['reason']}" for one in gated for check in one["decision"]["checks"]]
    write_report(
        path,
        title="The life of a model",
        facts=facts,
        tables=tables,
        figures=figures,
        notes=[*events, *reasons],
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _scores(decision: dict[str, Any]) -> ReportTable:
    """Return a table with the MASE of the champion, the challenger and each baseline at each horizon."""
    scores = pl.DataFrame(decision["comparison"]["scores"])
    models = scores["model"].unique(maintain_order=True).to_list()
    wide = scores.pivot("model", index="horizon", values="mase").sort("horizon")
    rows = [(str(row["horizon"]), [row[model] for model in models]) for row in wide.to_dicts()]
    title = f"MASE by horizon: {decision['version']} as challenger"
    return ReportTable(title, ["horizon", *models], rows)


def _errors(output: Path) -> pl.DataFrame:
    """Return the mean absolute error of the median at horizon 1, by day and model version."""
    last = max(read_forecasts(output)["issued_at"])
    days = (last - inputs.day_frame(0)["timestamp"][0]).days + 1
    actuals = pl.concat([inputs.day_frame(day) for day in range(inputs.HISTORY_DAYS, days)])
    forecasts = read_forecasts(output).select(
        "series_id",
        "model_version",
        pl.col("issued_at").alias("timestamp"),
        median=pl.col("forecast").list.first().struct.field("q50"),
    )
    joined = forecasts.join(actuals, on=["series_id", "timestamp"])
    return (
        joined.group_by(pl.col("timestamp").dt.truncate("1d").alias("day"), "model_version")
        .agg(error=(pl.col("median") - pl.col("value")).abs().mean())
        .sort("day")
    )


def _error_figure(errors: pl.DataFrame) -> Figure:
    figure, axes = titled_axes("Error of the stream", "day (UTC)", "mean absolute error, one window ahead")
    for colour, version in zip(PALETTE, errors["model_version"].unique(maintain_order=True), strict=False):
        part = errors.filter(pl.col("model_version") == version)
        days = part["day"].dt.replace_time_zone(None).to_numpy()
        axes.plot(days, part["error"], "o", color=colour, markersize=4, label=version)
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_ylim(bottom=0)
    draw_legend(axes)
    return figure
