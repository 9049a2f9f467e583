"""Figures of training losses; of the calibration, errors and coverage of forecasts; and of latencies.

They are drawn through Matplotlib's object interface, so no window opens and no figure stays in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from forecaster.reports.plot_style import INK, MUTED, PALETTE, PAPER, draw_legend, titled_axes
from forecaster.reports.plot_text import plain

_MARKERS = ("o", "s", "^", "D", "v", "P")
_REFERENCES = {"persistence": "--", "seasonal naive": ":"}


def loss_figure(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the training and validation loss by epoch, and mark the lowest validation loss.

    Args:
        history: one mapping per epoch with ``epoch``, ``train_loss`` and ``validation_loss`` (missing or NaN
            if no windows were held out).

    Raises:
        ValueError: ``history`` is empty.
    """
    if not history:
        raise ValueError("there is no epoch to draw")
    figure, axes = titled_axes("Loss by epoch", "epoch", "mean pinball loss (scaled)")
    epochs = np.array([row["epoch"] for row in history])
    for colour, marker, key, label in (
        (PALETTE[0], "o", "train_loss", "training"),
        (PALETTE[1], "s", "validation_loss", "validation"),
    ):
        losses = np.array([row.get(key, np.nan) for row in history], float)
        if np.isnan(losses).all():
            continue
        axes.plot(epochs, losses, color=colour, marker=marker, markersize=4, label=label)
        if key == "validation_loss":
            best = int(np.nanargmin(losses))
            axes.plot(epochs[best], losses[best], "o", mfc="none", mec=colour, mew=1.6, ms=12)
            axes.annotate(
                f"best: {losses[best]:.3g}",
                (epochs[best], losses[best]),
                xytext=(0, 12),
                textcoords="offset points",
                ha="right" if best > len(epochs) / 2 else "left",
                color=colour,
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.15)
    draw_legend(axes)
    return figure


def calibration_figure(levels: Sequence[float], observed: Sequence[float], label: str) -> Figure:
    """Draw the share of actuals at or below each quantile, against the quantile's level.

    Args:
        levels: quantile levels, 0 to 1.
        observed: share of actuals at or below the forecast of each level, 0 to 1.
        label: name of the model, for the legend.

    Raises:
        ValueError: ``levels`` and ``observed`` differ in length.
    """
    if len(levels) != len(observed):
        raise ValueError(f"{len(observed)} observed shares for {len(levels)} levels: give one for each")
    figure, axes = titled_axes(
        "Calibration of the quantiles", "quantile level", "observations at or under it", (5.4, 5.0)
    )
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1.2, label="calibrated")
    axes.plot(levels, observed, color=PALETTE[0], marker="o", markersize=7, label=plain(label))
    for level, share in zip(levels, observed, strict=True):
        # Keep labels off the diagonal: right and below in the lower half, left and above in the upper half.
        low = level < 0.5
        axes.annotate(
            f"{share:.1%}",
            (level, share),
            xytext=(10, -8) if low else (-10, 8),
            textcoords="offset points",
            va="top" if low else "bottom",
            ha="left" if low else "right",
            color=INK,
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    draw_legend(axes)
    return figure


MASE = "in seasonal naive's own error (MASE) on each series' training rows"
"""The default unit of errors, in words."""


def error_by_horizon_figure(scores: pl.DataFrame, unit: str = MASE) -> Figure:
    """Draw the mean absolute error by horizon, one line per model.

    Lines of persistence and seasonal naive are grey, as references.

    Args:
        scores: ``model: String, horizon: Int32, mae: Float64``.
        unit: unit of the errors, in words.

    Raises:
        ValueError: ``scores`` has no rows.
    """
    if scores.is_empty():
        raise ValueError("there is no score to draw")
    figure, axes = titled_axes(
        "Error by horizon",
        "horizon (windows ahead)",
        "mean absolute error,\n" + "\n".join(wrap(unit, 46)),
    )
    _by_horizon(axes, scores, "mae")
    axes.set_ylim(bottom=0)
    draw_legend(axes)
    return figure


def coverage_by_horizon_figure(scores: pl.DataFrame, wanted: float) -> Figure:
    """Draw the share of actuals in the prediction interval by horizon, one line per model.

    Args:
        scores: ``model: String, horizon: Int32, coverage: Float64`` (0 to 1).
        wanted: nominal coverage of the interval.

    Raises:
        ValueError: ``scores`` has no rows.
    """
    if scores.is_empty():
        raise ValueError("there is no score to draw")
    figure, axes = titled_axes(
        "Coverage by horizon", "horizon (windows ahead)", f"in the {wanted:.0%} interval"
    )
    axes.axhline(wanted, color=MUTED, linestyle="--", linewidth=1.2, label="wanted")
    _by_horizon(axes, scores, "coverage")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    low = float(np.nanmin(scores["coverage"].fill_null(np.nan).to_numpy()))
    axes.set_ylim(min(low - 0.02, wanted - 0.1), 1.0)
    draw_legend(axes)
    return figure


def _by_horizon(axes: Axes, scores: pl.DataFrame, column: str) -> None:
    """Draw one column of the scores by horizon, one line per model; baselines are grey."""
    colours = 0
    for model in scores["model"].unique(maintain_order=True):
        part = scores.filter(pl.col("model") == model).sort("horizon")
        dashes = _REFERENCES.get(str(model).replace("_", " ").lower())
        if dashes is not None:
            axes.plot(
                part["horizon"], part[column], color=MUTED, linestyle=dashes, label=plain(model), zorder=1.5
            )
            continue
        axes.plot(
            part["horizon"],
            part[column],
            color=PALETTE[colours % len(PALETTE)],
            marker=_MARKERS[colours % len(_MARKERS)],
            markersize=4,
            label=plain(model),
        )
        colours += 1
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def latency_figure(latencies_ms: Sequence[float] | NDArray[np.float64]) -> Figure:
    """Draw a histogram of latencies in milliseconds, and mark their 50th and 99th percentiles.

    Raises:
        ValueError: there is no latency, or a latency is not finite.
    """
    values = np.asarray(latencies_ms, float)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("there must be at least one latency, and all must be finite")
    figure, axes = titled_axes("Latency of the stream", "from row to forecast (ms)", "share of forecasts")
    p50, p99 = np.percentile(values, [50, 99])
    # Count the largest latencies in the last bar: a wider axis would press all others into one bar.
    edge = max(float(p99) * 1.25, float(values.min()) + 1e-3)
    axes.hist(
        np.minimum(values, edge),
        bins=np.linspace(min(0.0, float(values.min())), edge, 51).tolist(),
        weights=np.full(values.size, 1 / values.size),
        color=PALETTE[0],
        alpha=0.4,
        edgecolor=PAPER,
        linewidth=0.4,
    )
    for at, name, colour, dashes in ((p50, "p50", PALETTE[0], "-"), (p99, "p99", PALETTE[1], "--")):
        axes.axvline(at, color=colour, linestyle=dashes, linewidth=1.8, label=f"{name}: {at:,.0f} ms")
    beyond = int((values > edge).sum())
    if beyond:
        axes.plot([], [], " ", label=f"last bar: {beyond:,} beyond {edge:,.0f} ms")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    draw_legend(axes)
    return figure
