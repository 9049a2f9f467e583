"""How far off forecasts are, in the field's measures, summed up block by block.

A `Tally` keeps sums per series and step, never a forecast: a history may be as long as it likes.

Letters: T issue rows, S series, N steps ahead, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Bools, Floats, Ints

COVERAGE = 0.9
"""Share of what comes that the judged interval is to hold: between the quantiles .05 and .95."""
_LEVEL_TOLERANCE = 1e-9
_ROUNDING = 2.0**-48  # of a series' largest value: an error no larger is none


def seasonal_scale(values: Floats, season: int, index: Ints | None = None) -> Floats:
    """``[S]`` mean absolute error of seasonal naive on ``[T, S]`` values: the unit of MASE.

    Hyndman & Koehler, "Another look at measures of forecast accuracy", 2006. A series without two values a
    season apart, or whose seasons are all alike, is measured by its steps from one value to the next, and
    by 1, in its own unit, where these are none or 0 as well.
    """
    return _scale_of(values, season, index)[0]


def has_scale(values: Floats, season: int, index: Ints | None = None) -> Bools:
    """``[S]`` whether `seasonal_scale` measures a series by two of its ``[T, S]`` values at all."""
    return _scale_of(values, season, index)[1]


def _scale_of(values: Floats, season: int, index: Ints | None) -> tuple[Floats, Bools]:
    """``[S]`` scale, and whether a series has two values a season or a step apart."""
    unit, has_pairs = np.ones(values.shape[1]), np.zeros(values.shape[1], bool)
    rounding = _ROUNDING * np.fmax.reduce(np.abs(values), axis=0, initial=0.0)
    known = np.zeros(values.shape[1], bool)
    for apart in dict.fromkeys((season, 1)):
        error = np.abs(values[apart:] - values[:-apart])
        if index is not None:
            error[index[apart:] - index[:-apart] != apart] = np.nan
        pairs = (~np.isnan(error)).sum(axis=0)
        error[np.isnan(error)] = 0.0
        mean = error.sum(axis=0) / np.maximum(pairs, 1)
        fits = ~known & (mean > rounding)
        unit[fits] = mean[fits]
        known |= fits
        has_pairs |= pairs > 0
    return unit, has_pairs


@dataclass(frozen=True)
class Measures:
    """How a member did; NaN for what it has no number of, as an interval of a point.

    Attributes:
        count: pairs of a forecast and what came.
        mse, mae: mean squared and mean absolute error of the median.
        mase: mean absolute error over that of seasonal naive on the training rows (`seasonal_scale`).
        smape: symmetric mean absolute percentage error, in percent (M4's: 200 |y - f| / (|y| + |f|)).
        wql: weighted quantile loss: twice the pinball loss over the sum of ``|y|``, averaged over levels.
        msis: mean scaled interval score (M4's) of the outermost quantiles, in the unit of ``mase``.
        coverage_90: share of what came in the 90 % interval, at the last step.
        width_90: mean width of that interval, at the last step.
        coverage_by_series: ``[S]`` ``coverage_90`` of each series; NaN where nothing was judged.
    """

    count: int
    mse: float
    mae: float
    mase: float
    smape: float
    wql: float
    msis: float
    coverage_90: float
    width_90: float
    coverage_by_series: Floats


class Tally:
    """Sums of one member's errors, per series and step.

    Args:
        levels: the quantile levels it forecasts, rising, 0.5 among them; ``(0.5,)`` for a point.
        series: number of series.
        horizon: steps ahead.
    """

    def __init__(self, levels: tuple[float, ...], series: int, horizon: int) -> None:
        self.levels = levels
        self.count = np.zeros((series, horizon), np.int64)
        self._squared, self._absolute, self._symmetric, self._size = np.zeros((4, series, horizon))
        self._pinball = np.zeros((len(levels), series, horizon))
        self._under = np.zeros((len(levels), series, horizon), np.int64)
        self._interval, self._inside, self._width = np.zeros((3, series, horizon))

    def add(self, truth: Floats, quantiles: Floats, judged: Bools) -> None:
        """Takes in a block.

        Args:
            truth: ``[T, S, N]`` what came; anything where not judged.
            quantiles: ``[Q, T, S, N]`` what was forecast; anything where not judged.
            judged: ``[T, S, N]`` the pairs that count.
        """
        y = np.where(judged, truth, 0.0)
        self.count += judged.sum(axis=0)
        self._size += np.abs(y).sum(axis=0)
        kept = [np.where(judged, q, 0.0) for q in quantiles]
        for k, (level, q) in enumerate(zip(self.levels, kept, strict=True)):
            miss = y - q
            if level == 0.5:
                self._add_point(y, q, miss)
            self._under[k] += ((miss <= 0) & judged).sum(axis=0)
            self._pinball[k] += np.maximum(level * miss, (level - 1) * miss).sum(axis=0)
        if len(kept) > 1:
            low, high = self.levels[0], self.levels[-1]
            below, above = np.maximum(kept[0] - y, 0.0), np.maximum(y - kept[-1], 0.0)
            self._interval += (kept[-1] - kept[0] + below / low + above / (1 - high)).sum(axis=0)
        if (pair := _interval_of(self.levels)) is not None:
            low_90, high_90 = (kept[k] for k in pair)
            self._inside += ((low_90 <= y) & (y <= high_90) & judged).sum(axis=0)
            self._width += (high_90 - low_90).sum(axis=0)

    def _add_point(self, y: Floats, point: Floats, miss: Floats) -> None:
        absolute, size = np.abs(miss), np.abs(y) + np.abs(point)
        self._squared += np.square(miss).sum(axis=0)
        self._absolute += absolute.sum(axis=0)
        self._symmetric += np.divide(absolute, size, out=np.zeros_like(size), where=size > 0).sum(axis=0)

    def measures(self, horizon: int, unit: Floats) -> Measures:
        """The measures over the steps 1 to ``horizon``, those of the interval at step ``horizon`` itself.

        Each is the mean over series of each series' mean over its pairs; ``wql``, whose weights are the
        sizes of what came, is one ratio over all series.

        Args:
            horizon: steps ahead.
            unit: ``[S]`` `seasonal_scale` of the training rows.
        """
        steps, at = slice(horizon), horizon - 1
        count = self.count[:, steps].sum(axis=1)
        by_series = {
            name: _ratio(sums[:, steps].sum(axis=1), count)
            for name, sums in {
                "mse": self._squared,
                "mae": self._absolute,
                "smape": 200 * self._symmetric,
                "msis": self._interval,
            }.items()
        }
        size = self._size[:, steps].sum()
        wql = 2 * float(self._pinball[:, :, steps].sum(axis=(1, 2)).mean()) / size if size > 0 else np.nan
        coverage = self._covered()[:, at]
        return Measures(
            count=int(count.sum()),
            mse=_mean(by_series["mse"]),
            mae=_mean(by_series["mae"]),
            mase=_mean(by_series["mae"] / unit),
            smape=_mean(by_series["smape"]),
            wql=float(wql),
            msis=_mean(by_series["msis"] / unit) if len(self.levels) > 1 else np.nan,
            coverage_90=_mean(coverage),
            width_90=_mean(_ratio(self._width, self.count)[:, at]) if self.has_interval else np.nan,
            coverage_by_series=coverage,
        )

    @property
    def has_interval(self) -> bool:
        """Whether the quantiles .05 and .95 are among those that it forecasts."""
        return _interval_of(self.levels) is not None

    def mase_by_step(self, unit: Floats) -> Floats:
        """``[N]`` mean absolute error at each step, in ``unit`` ``[S]``, averaged over series."""
        return _means(_ratio(self._absolute, self.count) / unit[:, None])

    def coverage_by_step(self) -> Floats:
        """``[N]`` coverage of the 90 % interval at each step, averaged over series; NaN without one."""
        return _means(self._covered())

    def calibration(self) -> Floats:
        """``[Q]`` share of what came at or under each quantile, over all steps, averaged over series."""
        return _means(_ratio(self._under.sum(axis=2), self.count.sum(axis=1)).T)

    def _covered(self) -> Floats:
        """``[S, N]`` coverage of the 90 % interval; NaN without one, or without pairs."""
        if not self.has_interval:
            return np.full(self.count.shape, np.nan)
        return _ratio(self._inside, self.count)


def _interval_of(levels: tuple[float, ...]) -> tuple[int, int] | None:
    """Which levels bound the interval of `COVERAGE`; None where one of them is not forecast."""
    found = [
        [k for k, level in enumerate(levels) if abs(level - bound) < _LEVEL_TOLERANCE]
        for bound in ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
    ]
    return (found[0][0], found[1][0]) if all(found) else None


def _ratio(sums: Floats | Ints, count: Ints) -> Floats:
    """Means of what was counted; NaN where nothing was."""
    means = np.full(sums.shape, np.nan)
    np.divide(sums, count, out=means, where=np.broadcast_to(count > 0, sums.shape))
    return means


def _mean(by_series: Floats) -> float:
    """Mean over the series that have a number; NaN without one."""
    known = by_series[~np.isnan(by_series)]
    return float(known.mean()) if len(known) else float("nan")


def _means(by_series: Floats) -> Floats:
    """`_mean` of each column of ``[S, ...]``."""
    return np.array([_mean(column) for column in by_series.T])
