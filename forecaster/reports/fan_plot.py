"""Figures of observed values with fans of forecast quantiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import NDArray

from forecaster.reports.plot_style import FONT, INK, MUTED, PALETTE, stacked_axes

_SIZE = (9.0, 4.2)  # width and height of the axes of one series, in inches


def fan_figure(frame: pl.DataFrame, title: str) -> Figure:
    """Draw the observed values of a series, and one fan of forecast quantiles for each issue time.

    Args:
        frame: ``target_at`` and ``issued_at`` (datetimes), ``observed`` (number, null where missing) and one
            column per quantile (``q10``, ``q50``, ``q90``; at least ``q50``), one row per issue and target,
            in any order. A row without ``issued_at`` has an observed value only.
        title: title, with the unit.

    Raises:
        ValueError: ``frame`` has no forecast, or no column ``q50``.
    """
    return fans_figure({title: frame})


def fans_figure(frames: Mapping[str, pl.DataFrame]) -> Figure:
    """Draw several series below each other, each as `fan_figure` does.

    Args:
        frames: the frame of each series (see `fan_figure`), by its title; at least one.

    Raises:
        ValueError: there is no series, or a frame has no forecast or no column ``q50``.
    """
    if not frames:
        raise ValueError("there is no series to draw")
    figure, stacked = stacked_axes([*frames], "time (UTC)", "value", _SIZE)
    for axes, frame in zip(stacked, frames.values(), strict=True):
        _draw_fans(axes, frame)
    handles: dict[str, Any] = {}  # all axes have the same colours, so one legend names each label once
    for axes in stacked:
        handles |= {name: line for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=5, fontsize=FONT - 1, labelcolor=INK,
        frameon=False,
    )  # fmt: skip
    return figure


def _draw_fans(axes: Axes, frame: pl.DataFrame) -> None:
    """Draw the forecast fans of one series (``frame``: see `fan_figure`), then its observed values on top."""
    names = sorted((n for n in frame.columns if _level(n) is not None), key=lambda n: _level(n) or 0.0)
    starts = frame["issued_at"].drop_nulls().unique().sort()
    if "q50" not in names or starts.is_empty():
        raise ValueError("the frame has no forecast or no column q50: a fan needs both")
    actuals = _with_gaps(frame.unique("target_at").sort("target_at"))
    pairs = [
        (low, high) for low, high in zip(names, reversed(names), strict=True) if _has_lower_level(low, high)
    ]
    for number, start in enumerate(starts):
        fan = frame.filter(pl.col("issued_at") == start).sort("target_at")
        at = _dates(fan["target_at"])
        first = number == 0
        for depth, (low, high) in enumerate(pairs):
            axes.fill_between(
                at,
                fan[low].to_numpy(),
                fan[high].to_numpy(),
                color=PALETTE[0],
                alpha=0.16 + 0.16 * depth,
                linewidth=0,
                label=f"{_level(low):g} % to {_level(high):g} %" if first else None,
            )
        axes.plot(at, fan["q50"], color=PALETTE[0], linewidth=1.6, label="median forecast" if first else None)
    for number, start in enumerate(_dates(starts)):
        axes.axvline(start, color=MUTED, linewidth=0.9, linestyle=":", label=None if number else "issued")
    axes.plot(
        _dates(actuals["target_at"]),
        actuals["observed"].to_numpy(),
        color=INK,
        linewidth=1.3,
        label="observed",
    )
    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.margins(x=0.01)


def _level(name: str) -> float | None:
    """Return the level of a quantile column in percent, such as 2.5 for ``q2.5``; None for other columns."""
    if name[:1] != "q":
        return None
    try:
        return float(name[1:])
    except ValueError:
        return None


def _has_lower_level(low: str, high: str) -> bool:
    """Return True if the quantile column ``low`` has a lower level than the column ``high``."""
    return (_level(low) or 0.0) < (_level(high) or 0.0)


def _with_gaps(targets: pl.DataFrame) -> pl.DataFrame:
    """Insert a row without a value where two target times are more than 1.5 times the median step apart.

    So a line that is drawn through the observed values has a gap there.
    """
    step = pl.col("target_at").diff(-1).abs()
    ends = targets.filter(step > 1.5 * step.median())
    gaps = ends.with_columns(pl.col("target_at") + pl.duration(microseconds=1), observed=None)
    return pl.concat([targets, gaps], how="vertical_relaxed").sort("target_at")


def _dates(times: pl.Series) -> NDArray[np.datetime64]:
    """Return times as UTC without a zone, as Matplotlib needs them."""
    naive: NDArray[np.datetime64] = times.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy()
    return naive
