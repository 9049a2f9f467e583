"""Rolling origin: a history goes window by window through what the stream calls, and every member is judged.

Nothing here can see ahead: the network learns from the first rows alone, and a forecast issued at a row comes
from `forecaster.stepping.advance_in_place`, which has been given the rows up to it and none after.

Letters: T issue rows, S series, N steps ahead, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl

from forecaster.arrays import Bools, Floats, Ints
from forecaster.components.season import season_of
from forecaster.evaluation.baselines import baseline_points, last_values
from forecaster.evaluation.metrics import Tally, seasonal_scale
from forecaster.evaluation.point_intervals import PointIntervals
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.stepping import advance_in_place
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows, observed
from schemas.errors import ConfigError
from schemas.forecasts import quantile_column

_BLOCK_CELLS = 300_000  # forecasts of a member at a time: what judging them makes stays in the cache
_FAN_WINDOWS, _MOST_FANS, _FAN_SERIES = 168, 28, 4


@dataclass(frozen=True)
class Split:
    """Which rows of a history are learned from, and which are forecast and judged.

    Every member and horizon is judged on forecasts issued at the same rows: those whose targets, up to the
    farthest step, all lie in the test rows.

    Attributes:
        train_rows: the first rows, which alone are learned from and give each series' scale.
        first, stop: the test rows ``[first, stop)``.
        horizon: the farthest step ahead.

    Raises:
        ConfigError: the test rows begin among the training rows, or are fewer than the steps ahead.
    """

    train_rows: int
    first: int
    stop: int
    horizon: int

    def __post_init__(self) -> None:
        if self.first < self.train_rows:
            raise ConfigError(
                f"the test rows begin at {self.first:,}, among the {self.train_rows:,} training rows: let "
                "them begin after these"
            )
        if self.stop - self.first < self.horizon:
            raise ConfigError(
                f"{max(self.stop - self.first, 0):,} test rows ({self.first:,} to {self.stop:,}) are too few "
                f"to judge {self.horizon:,} steps ahead: give more rows, or a shorter horizon"
            )

    @property
    def issues(self) -> range:
        """Rows at whose end judged forecasts are issued."""
        return range(self.first - 1, self.stop - self.horizon)


@dataclass(frozen=True)
class Member:
    """What one member forecast: ``values`` ``[Q, T, S, N]`` at ``levels``."""

    levels: tuple[float, ...]
    values: Floats


@dataclass(frozen=True)
class Rolled:
    """A block of judged forecasts.

    Attributes:
        rows: ``[T]`` rows at whose end they were issued.
        members: by name, ``combined`` first where there is one.
        truth: ``[T, S, N]`` what came; NaN where nothing did.
        judged: ``[T, S, N]`` the pairs that count: what came, where every member had a forecast.
    """

    rows: Ints
    members: Mapping[str, Member]
    truth: Floats
    judged: Bools


def normalised(windows: Windows, train_rows: int, config: WindowConfig) -> Windows:
    """Each series less the mean of its training rows, over their standard deviation (1 where that is 0).

    What an empty window means is settled first (`observed`). A series without a training row stays as it is.
    """
    values = observed(windows, config).values
    train = values[:train_rows]
    known = ~np.isnan(train)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, train, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(known, np.square(train - mean), 0.0).sum(axis=0) / count)
    return replace(windows, values=(values - mean) / np.where(spread > 0, spread, 1.0))


def training_scale(windows: Windows, train_rows: int, config: WindowConfig) -> Floats:
    """``[S]`` the unit of MASE: what seasonal naive errs by on the training rows (`seasonal_scale`)."""
    train = observed(windows, config).rows(0, train_rows)
    return seasonal_scale(train.values, season_of(config.frequency), train.index)


def rolled(
    forecaster: Forecaster,
    windows: Windows,
    split: Split,
    on_windows: Callable[[int], None] = lambda windows: None,
) -> Iterator[Rolled]:
    """Carries a fleet from the first window on, and yields what is forecast at the rows that are judged.

    A member that is points gets quantiles by its own errors so far (`PointIntervals`). A series without a
    value in the training rows has no scale and is not judged.

    Args:
        forecaster: trained on the training rows alone; its horizon is that of ``split``.
        windows: the whole history, the test rows included.
        split: what is judged.
        on_windows: told how many windows have been stepped.
    """
    config = forecaster.window_config
    came = observed(windows, config).values
    filled = last_values(came)
    has_scale = (~np.isnan(came[: split.train_rows])).any(axis=0)
    state = forecaster.unseen(windows.series_ids, windows.start)
    levels, scale = forecaster.network_config.quantiles, training_scale(windows, split.train_rows, config)
    intervals: PointIntervals | None = None
    most = max(1, _BLOCK_CELLS // (len(windows.series_ids) * split.horizon))
    for rows in _blocks(split, most, np.flatnonzero(np.diff(windows.index) > 1) + 1):
        block = windows.rows(rows.start, rows.stop)
        start, at = block.start, np.arange(rows.start, rows.stop)
        beside = block.past_of(forecaster.covariates.features.observed)
        forecasts = advance_in_place(forecaster, state, block.values, start, keep_members=True, past=beside)
        members = members_of(forecasts)
        for name, values in baseline_points(windows, filled, at, config, split.horizon).items():
            members.setdefault(name, Member((0.5,), values[None]))
        points = {name: member.values[0] for name, member in members.items() if member.levels == (0.5,)}
        intervals = intervals or PointIntervals(tuple(points), levels, split.horizon, scale, config.frequency)
        for name, quantiles in intervals.step(start, came[rows.start : rows.stop], points).items():
            members[name] = Member(levels, quantiles)
        if rows.start >= split.issues.start:
            yield _judged(
                at, members, _ahead(came, windows.index, at, split.horizon), forecasts.issued & has_scale
            )
        on_windows(len(rows))


def members_of(forecasts: Forecasts) -> dict[str, Member]:
    """What a forecaster issued, by member: ``combined`` and ``network``, then the points of each expert.

    Points are quantiles of the level 0.5 alone. A forecaster without an online part is its network alone.
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


def tally(tallies: dict[str, Tally], block: Rolled) -> None:
    """Adds a block to the sums of every member, which begin with its first."""
    for name, member in block.members.items():
        if name not in tallies:
            tallies[name] = Tally(member.levels, *block.truth.shape[1:])
        tallies[name].add(block.truth, member.values, block.judged)


class FanSample:
    """Some series' forecasts, end to end around the middle of the judged rows, for `plots.fan_figure`."""

    def __init__(self, windows: Windows, split: Split, freq: Frequency) -> None:
        count = len(windows.series_ids)
        chosen = np.unique(np.linspace(0, count - 1, min(_FAN_SERIES, count), dtype=int))
        self._series = {windows.series_ids[i]: int(i) for i in chosen}
        fans = min(max(_FAN_WINDOWS // split.horizon, 4), _MOST_FANS)
        issues = split.issues
        first = max(issues.start, (issues.start + issues.stop - fans * split.horizon) // 2)
        self._rows = range(first, min(first + fans * split.horizon, issues.stop), split.horizon)
        self._index, self._freq = windows.index, freq
        self._parts: dict[str, list[pl.DataFrame]] = {name: [] for name in self._series}

    def add(self, block: Rolled) -> None:
        """Keeps what the sample wants of a block's first member."""
        member = next(iter(block.members.values()))
        columns = [quantile_column(level) for level in member.levels]
        for t in np.flatnonzero(np.isin(block.rows, self._rows)):
            first = int(self._index[block.rows[t]]) + 1
            target_us = self._freq.start_us(first + np.arange(block.truth.shape[2]))
            for name, s in self._series.items():
                quantiles = dict(zip(columns, member.values[:, t, s], strict=True))
                fan = pl.DataFrame({"target_at": target_us, "observed": block.truth[t, s], **quantiles})
                self._parts[name].append(
                    fan.filter(pl.col(columns[0]).is_not_nan()).with_columns(
                        issued_at=pl.lit(self._freq.start_us(first))
                    )
                )

    def frames(self) -> dict[str, pl.DataFrame]:
        """A frame for each series that has something to draw."""
        time = pl.col("target_at", "issued_at").cast(pl.Datetime("us", "UTC"))
        whole = {name: pl.concat(parts) for name, parts in self._parts.items() if parts}
        return {
            name: frame.with_columns(time, pl.col("observed").fill_nan(None))
            for name, frame in whole.items()
            if len(frame)
        }


def _blocks(split: Split, most: int, breaks: Ints) -> Iterator[range]:
    """The rows from the first to the last that a judged forecast is issued at, ``most`` at a time.

    A block ends before each of ``breaks``, the rows before which windows are left out.
    """
    for rows in (range(split.issues.start), split.issues):
        bounds = [rows.start, *(int(row) for row in breaks if rows.start < row < rows.stop), rows.stop]
        for first, stop in pairwise(bounds):
            for start in range(first, stop, most):
                yield range(start, min(start + most, stop))


def _ahead(came: Floats, index: Ints, rows: Ints, horizon: int) -> Floats:
    """``[T, S, N]`` what came in the windows after each of ``T`` rows; NaN where windows are left out."""
    ahead = np.lib.stride_tricks.sliding_window_view(came, horizon, axis=0)[rows + 1]
    at = np.lib.stride_tricks.sliding_window_view(index, horizon)[rows + 1]
    follows = at - index[rows][:, None] == np.arange(1, horizon + 1)
    return ahead if follows.all() else np.where(follows[:, None, :], ahead, np.nan)


def _judged(rows: Ints, members: Mapping[str, Member], truth: Floats, issued: Bools) -> Rolled:
    judged = issued[:, :, None] & ~np.isnan(truth)
    for member in members.values():
        judged &= ~np.isnan(member.values).any(axis=0)
    return Rolled(rows, members, truth, judged)
