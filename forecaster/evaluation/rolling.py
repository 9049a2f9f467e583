"""Rolling-origin evaluation: step a fleet through a history as the stream does, and score its forecasts.

A member is a source of forecasts that is scored: the combined forecast, the network, an expert or a baseline.
No forecast can depend on later rows. The network is trained on the first rows only. A forecast issued at a
row is made by `advance_in_place`, which has received the rows up to it and no later row.

Letters: T issue rows, S series, N horizon, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl

from forecaster.arrays import Bools, Floats, Ints
from forecaster.components.season import likely_season
from forecaster.evaluation.baselines import baseline_points, last_values
from forecaster.evaluation.metrics import Tally, seasonal_scale
from forecaster.evaluation.point_intervals import PointIntervals
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance_in_place
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows, observed
from schemas.errors import ConfigError
from schemas.forecasts import quantile_column

# A block of several windows has at most this many cells: windows times series times horizons.
# This number of cells fits into the CPU's cache.
_BLOCK_CELLS = 300_000
_FAN_WINDOWS, _MOST_FANS, _FAN_SERIES = 168, 28, 4


@dataclass(frozen=True)
class Split:
    """The training rows of a history, and its test rows, which are forecast and scored.

    Every member and horizon is scored on forecasts issued at the same rows. These are the rows after which
    all windows up to the largest horizon are test rows.

    Attributes:
        train_rows: the network learns, and the scales are computed, from this many first rows only.
        first, stop: the test rows ``[first, stop)``.
        horizon: the largest horizon.

    Raises:
        ConfigError: the test rows overlap the training rows, or are fewer than ``horizon``.
    """

    train_rows: int
    first: int
    stop: int
    horizon: int

    def __post_init__(self) -> None:
        if self.first < self.train_rows:
            raise ConfigError(
                f"the test rows begin at {self.first:,}, among the {self.train_rows:,} training rows: "
                "move them after the training rows"
            )
        if self.stop - self.first < self.horizon:
            raise ConfigError(
                f"{max(self.stop - self.first, 0):,} test rows ({self.first:,} to {self.stop:,}) are too few "
                f"to score {self.horizon:,} steps ahead: give more rows, or a shorter horizon"
            )

    @property
    def issue_rows(self) -> range:
        """The rows of the windows at whose ends the scored forecasts are issued."""
        return range(self.first - 1, self.stop - self.horizon)


@dataclass(frozen=True)
class Member:
    """The quantile levels of one member, and its forecasts by level, issue row, series and horizon."""

    levels: tuple[float, ...]
    values: Floats


@dataclass(frozen=True)
class ScoredBlock:
    """A block of forecasts to score, with their actuals.

    Attributes:
        rows: ``[T]`` rows at whose end the forecasts were issued.
        members: the forecasts of each member by its name, ``combined`` first if there is one.
        actuals: ``[T, S, N]`` actuals; NaN where missing.
        is_scored: ``[T, S, N]``, True for the pairs to score: an actual, and a forecast of every member.
    """

    rows: Ints
    members: Mapping[str, Member]
    actuals: Floats
    is_scored: Bools


def normalised(windows: Windows, train_rows: int, config: WindowConfig) -> Windows:
    """Standardise each series by the mean and the standard deviation of its training rows.

    A standard deviation of 0 is replaced by 1. Empty windows are first replaced as the configuration
    specifies (`observed`). A series without a value in the training rows stays unchanged.
    """
    values = observed(windows, config).values
    train = values[:train_rows]
    has_value = ~np.isnan(train)
    count = np.maximum(has_value.sum(axis=0), 1)
    mean = np.where(has_value, train, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(has_value, np.square(train - mean), 0.0).sum(axis=0) / count)
    return replace(windows, values=(values - mean) / np.where(spread > 0, spread, 1.0))


def training_scale(windows: Windows, train_rows: int, config: WindowConfig) -> Floats:
    """Return each series' scale for MASE, which `seasonal_scale` computes from the training rows."""
    train = observed(windows, config).rows(0, train_rows)
    return seasonal_scale(train.values, likely_season(config.frequency), train.index)


def rolling_forecasts(
    forecaster: Forecaster,
    windows: Windows,
    split: Split,
    on_windows: Callable[[int], None] = lambda windows: None,
) -> Iterator[ScoredBlock]:
    """Step a fleet through a history; yield the forecasts to score, with their actuals, block by block.

    A member with point forecasts gets quantiles from its own earlier errors (`PointIntervals`). A series
    without a value in the training rows has no scale and is not scored.

    Args:
        forecaster: trained on the training rows only; its horizon is the horizon of ``split``.
        windows: the whole history, including the test rows.
        split: the rows to score.
        on_windows: called with the number of windows that have been stepped since the last call.
    """
    config = forecaster.window_config
    actuals = observed(windows, config).values
    filled = last_values(actuals)
    has_scale = (~np.isnan(actuals[: split.train_rows])).any(axis=0)
    state = forecaster.new_series_state(windows.series_ids, windows.start)
    levels, scale = forecaster.network_config.quantiles, training_scale(windows, split.train_rows, config)
    intervals: PointIntervals | None = None
    block_rows = max(1, _BLOCK_CELLS // (len(windows.series_ids) * split.horizon))
    for rows in blocks(split, block_rows, np.flatnonzero(np.diff(windows.index) > 1) + 1):
        block = windows.rows(rows.start, rows.stop)
        start, at = block.start, np.arange(rows.start, rows.stop)
        past = block.stacked_covariates(forecaster.covariates.features.observed)
        forecasts = advance_in_place(forecaster, state, block.values, start, keep_members=True, past=past)
        members = forecasts_by_member(forecasts)
        for name, values in baseline_points(windows, filled, at, config, split.horizon).items():
            members.setdefault(name, Member((0.5,), values[None]))
        points = {name: member.values[0] for name, member in members.items() if member.levels == (0.5,)}
        intervals = intervals or PointIntervals(tuple(points), levels, split.horizon, scale, config.frequency)
        for name, quantiles in intervals.step(start, actuals[rows.start : rows.stop], points).items():
            members[name] = Member(levels, quantiles)
        if rows.start >= split.issue_rows.start:
            block_actuals = values_ahead(actuals, windows.index, at, split.horizon)
            yield _scored_block(at, members, block_actuals, forecasts.issued & has_scale)
        on_windows(len(rows))


def forecasts_by_member(forecasts: Forecasts) -> dict[str, Member]:
    """Return the forecasts of each member by its name: ``combined``, then ``network``, then each expert.

    Experts have point forecasts, with the quantile level 0.5 only. A forecaster without experts and
    intervals has only ``network``.
    """
    levels = forecasts.quantile_levels
    if not forecasts.members:
        return {"network": Member(levels, forecasts.values)}
    members = {"combined": Member(levels, forecasts.values)}
    if forecasts.network is not None:
        members["network"] = Member(levels, forecasts.network)
    for name, values in forecasts.members.items():
        members.setdefault(name, Member((0.5,), values[None]))
    return members


def tally(tallies: dict[str, Tally], block: ScoredBlock) -> None:
    """Add the errors of a block of forecasts to the tally of each member; create missing tallies.

    A member is the combined forecast, the network, an expert, or a baseline.
    """
    for name, member in block.members.items():
        if name not in tallies:
            tallies[name] = Tally(member.levels, *block.actuals.shape[1:])
        tallies[name].add(block.actuals, member.values, block.is_scored)


class FanSample:
    """Forecasts of some series at successive issue times, to draw as fans with `fan_plot.fan_figure`.

    The forecasts are from the middle of the scored rows. Each is issued where the forecast before it ends.
    """

    def __init__(self, windows: Windows, split: Split, freq: Frequency) -> None:
        count = len(windows.series_ids)
        chosen = np.unique(np.linspace(0, count - 1, min(_FAN_SERIES, count), dtype=int))
        self._series = {windows.series_ids[i]: int(i) for i in chosen}
        fans = min(max(_FAN_WINDOWS // split.horizon, 4), _MOST_FANS)
        issues = split.issue_rows
        first = max(issues.start, (issues.start + issues.stop - fans * split.horizon) // 2)
        self._rows = range(first, min(first + fans * split.horizon, issues.stop), split.horizon)
        self._index, self._freq = windows.index, freq
        self._parts: dict[str, list[pl.DataFrame]] = {name: [] for name in self._series}

    def add(self, block: ScoredBlock) -> None:
        """Store combined forecasts (the network's if none exist) for the chosen series and issue times."""
        member = next(iter(block.members.values()))
        columns = [quantile_column(level) for level in member.levels]
        for t in np.flatnonzero(np.isin(block.rows, self._rows)):
            first = int(self._index[block.rows[t]]) + 1
            target_us = self._freq.start_us(first + np.arange(block.actuals.shape[2]))
            for name, s in self._series.items():
                quantiles = dict(zip(columns, member.values[:, t, s], strict=True))
                fan = pl.DataFrame({"target_at": target_us, "observed": block.actuals[t, s], **quantiles})
                self._parts[name].append(
                    fan.filter(pl.col(columns[0]).is_not_nan()).with_columns(
                        issued_at=pl.lit(self._freq.start_us(first))
                    )
                )

    def frames(self) -> dict[str, pl.DataFrame]:
        """Return, by series id, a frame for each series that has forecasts to draw."""
        time = pl.col("target_at", "issued_at").cast(pl.Datetime("us", "UTC"))
        joined = {name: pl.concat(parts) for name, parts in self._parts.items() if parts}
        return {
            name: frame.with_columns(time, pl.col("observed").fill_nan(None))
            for name, frame in joined.items()
            if len(frame)
        }


def blocks(split: Split, most: int, breaks: Ints) -> Iterator[range]:
    """Split the rows from 0 to the end of ``split.issue_rows`` into ranges of at most ``most`` rows.

    A range ends before each of ``breaks``, the rows whose window does not directly follow that of the row
    before. No range has both rows of ``split.issue_rows`` and rows before them.
    """
    for rows in (range(split.issue_rows.start), split.issue_rows):
        bounds = [rows.start, *(int(row) for row in breaks if rows.start < row < rows.stop), rows.stop]
        for first, stop in pairwise(bounds):
            for start in range(first, stop, most):
                yield range(start, min(start + most, stop))


def values_ahead(values: Floats, index: Ints, rows: Ints, horizon: int) -> Floats:
    """Return the values of each series in the ``horizon`` windows after each array position in ``rows``.

    The result is ``[T, S, N]``. The value of a window that has no row is NaN.
    """
    ahead = np.lib.stride_tricks.sliding_window_view(values, horizon, axis=0)[rows + 1]
    windows = np.lib.stride_tricks.sliding_window_view(index, horizon)[rows + 1]
    follows = windows - index[rows][:, None] == np.arange(1, horizon + 1)
    return ahead if follows.all() else np.where(follows[:, None, :], ahead, np.nan)


def _scored_block(rows: Ints, members: Mapping[str, Member], actuals: Floats, issued: Bools) -> ScoredBlock:
    """Return a block that marks the forecasts to score.

    A forecast is scored if ``issued`` is True for its row and series, no member's forecast is NaN, and its
    actual is not NaN.
    """
    is_scored = issued[:, :, None] & ~np.isnan(actuals)
    for member in members.values():
        is_scored &= ~np.isnan(member.values).any(axis=0)
    return ScoredBlock(rows, members, actuals, is_scored)
