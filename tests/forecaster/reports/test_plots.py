"""Tests of the figures of reports: losses, calibration, forecasts, errors, coverage and latencies."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from forecaster.reports.fan_plot import fan_figure
from forecaster.reports.plot_style import PALETTE
from forecaster.reports.plots import (
    calibration_figure,
    coverage_by_horizon_figure,
    error_by_horizon_figure,
    latency_figure,
    loss_figure,
)


def svg_of(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def legend(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(found for axes in figure.axes if (found := axes.get_legend()) is not None)]
    return [text.get_text() for found in legends for text in found.get_texts()]


def fan(starts: int = 2, horizon: int = 6) -> pl.DataFrame:
    begin = datetime(2013, 9, 1, tzinfo=UTC)
    rows = [
        {
            "issued_at": begin + timedelta(hours=start * 12),
            "target_at": begin + timedelta(hours=start * 12 + step),
            "observed": None if step == 3 else float(step),
            "q10": step - 1.0,
            "q2.5": step - 2.0,
            "q50": float(step),
            "q90": step + 1.0,
            "q97.5": step + 2.0,
        }
        for start in range(starts)
        for step in range(horizon)
    ]
    times = pl.col("issued_at", "target_at").cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame(rows).with_columns(times)


def scores() -> pl.DataFrame:
    models = ("lstm", "gru", "persistence", "seasonal naive")
    return pl.DataFrame(
        [{"model": m, "horizon": h, "mae": 0.1 * h + n} for n, m in enumerate(models) for h in (1, 2, 3)],
        schema={"model": pl.String, "horizon": pl.Int32, "mae": pl.Float64},
    )


def coverages() -> pl.DataFrame:
    rows = [("combined", 1, 0.91), ("combined", 2, 0.85), ("network", 1, 0.7), ("network", 2, None)]
    return pl.DataFrame(rows, {"model": pl.String, "horizon": pl.Int32, "coverage": pl.Float64}, orient="row")


def test_figures_are_drawn_without_pyplot() -> None:
    for figure in (
        loss_figure([{"epoch": 1, "train_loss": 1.0}]),
        calibration_figure([0.1, 0.5, 0.9], [0.2, 0.5, 0.8], "lstm"),
        fan_figure(fan(), "temperature"),
        error_by_horizon_figure(scores()),
        coverage_by_horizon_figure(coverages(), 0.9),
        latency_figure([10.0, 20.0, 30.0]),
    ):
        assert svg_of(figure).startswith("<?xml")
        assert figure.axes[0].get_xlabel()
        assert figure.axes[0].get_ylabel()
        assert figure.axes[0].get_title(loc="left")
    # Other code may have imported pyplot. In this case, check that pyplot manages no figure.
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_the_loss_figure_marks_the_best_epoch() -> None:
    losses = [0.9, 0.4, 0.6]
    history = [{"epoch": i, "train_loss": loss, "validation_loss": loss} for i, loss in enumerate(losses, 1)]
    figure = loss_figure(history)
    assert [text.get_text() for text in figure.axes[0].texts] == ["best: 0.4"]
    assert legend(figure) == ["training", "validation"]


def test_the_loss_figure_leaves_out_a_missing_validation_loss() -> None:
    history = [{"epoch": 1, "train_loss": 0.9, "validation_loss": float("nan")}]
    assert legend(loss_figure(history)) == ["training"]


def test_calibration_figure_shows_observed_shares_of_each_quantile_level() -> None:
    figure = calibration_figure([0.1, 0.9], [0.125, 0.85], "lstm")
    assert [text.get_text() for text in figure.axes[0].texts] == ["12.5%", "85.0%"]
    with pytest.raises(ValueError, match="1 observed shares for 2 levels"):
        calibration_figure([0.1, 0.9], [0.1], "lstm")


def test_a_fan_figure_pairs_quantile_columns_by_their_names() -> None:
    figure = fan_figure(fan(), "temperature")
    names = ["2.5 % to 97.5 %", "10 % to 90 %", "median forecast", "issued", "observed"]
    assert legend(figure) == names
    assert len(figure.axes[0].collections) == 4  # each of the two fans has two bands


def test_a_fan_figure_draws_no_observed_line_over_a_gap() -> None:
    observed = fan_figure(fan(), "temperature").axes[0].lines[-1].get_ydata()
    values = np.asarray(observed, float)
    assert len(values) == 13  # two fans of six windows each, and one NaN between them
    assert np.isnan(values).sum() == 3  # two NaNs are missing actuals, and one separates the two fans


def test_a_fan_figure_without_rows_or_median_is_refused() -> None:
    for frame in (fan().clear(), fan().drop("q50")):
        with pytest.raises(ValueError, match="a fan needs both"):
            fan_figure(frame, "temperature")


def test_models_have_palette_colours_and_baselines_share_one_colour() -> None:
    figure = error_by_horizon_figure(scores())
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    assert [lines["lstm"].get_color(), lines["gru"].get_color()] == list(PALETTE[:2])
    assert lines["persistence"].get_color() == lines["seasonal naive"].get_color()
    assert lines["persistence"].get_linestyle() != lines["seasonal naive"].get_linestyle()
    assert legend(figure) == ["lstm", "gru", "persistence", "seasonal naive"]


def test_the_nominal_coverage_has_the_legend_entry_wanted() -> None:
    figure = coverage_by_horizon_figure(coverages(), 0.9)
    assert legend(figure) == ["wanted", "combined", "network"]
    low, high = figure.axes[0].get_ylim()
    assert low < 0.7
    assert high == 1.0


def test_the_latency_figure_shows_percentiles_and_the_outlier_count() -> None:
    figure = latency_figure(np.array([*range(1, 1000), 60_000], float))
    assert legend(figure) == ["p50: 500 ms", "p99: 990 ms", "last bar: 1 beyond 1,238 ms"]
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == pytest.approx(1.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("latencies", [[], [float("nan")], [1.0, float("inf")]])
def test_the_latency_figure_refuses_empty_or_non_finite_latencies(latencies: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        latency_figure(latencies)


def test_the_latency_figure_is_drawn_if_latencies_are_equal() -> None:
    assert svg_of(latency_figure([0.0, 0.0]))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: loss_figure([]),
        lambda: error_by_horizon_figure(scores().clear()),
        lambda: coverage_by_horizon_figure(coverages().clear(), 0.9),
    ],
)
def test_figures_without_data_are_refused(draw: object) -> None:
    assert callable(draw)
    with pytest.raises(ValueError, match="to draw"):
        draw()
