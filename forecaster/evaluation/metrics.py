"""Compute standard accuracy measures of forecasts from sums of errors, which are updated block by block.

A `Tally` stores sums per series and horizon and no forecasts, so the length of a history is not limited.

Letters: T issue rows, S series, N horizon, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Bools, Floats, Ints

COVERAGE = 0.9
"""Nominal coverage of the scored interval, which is between the quantiles .05 and .95."""
_LEVEL_TOLERANCE = 1e-9
_ROUNDING = 2.0**-48  # a mean error of at most this share of a series' largest absolute value counts as 0


def seasonal_scale(values: Floats, season: int, index: Ints | None = None) -> Floats:
    """Return each series' scale for MASE: the mean absolute error of seasonal naive on ``values``.

    Hyndman & Koehler, "Another look at measures of forecast accuracy", 2006. The scales are ``[S]``. If a
    series has no two values a season apart, or if all its seasons are equal, the scale is the mean absolute
    change from one window to the next. If these changes are missing or 0, too, the scale is 1.
    """
    return _scale_of(values, season, index)[0]


def has_scale(values: Floats, season: int, index: Ints | None = None) -> Bools:
    """Return, for each series, whether it has two values that are one season or one window apart."""
    return _scale_of(values, season, index)[1]


def _scale_of(values: Floats, season: int, index: Ints | None) -> tuple[Floats, Bools]:
    """Return the results of `seasonal_scale` and `has_scale`."""
    unit, has_pairs = np.ones(values.shape[1]), np.zeros(values.shape[1], bool)
    rounding = _ROUNDING * np.fmax.reduce(np.abs(values), axis=0, initial=0.0)
    is_done = np.zeros(values.shape[1], bool)
    for gap in dict.fromkeys((season, 1)):
        error = np.abs(values[gap:] - values[:-gap])
        if index is not None:
            error[index[gap:] - index[:-gap] != gap] = np.nan
        pairs = (~np.isnan(error)).sum(axis=0)
        error[np.isnan(error)] = 0.0
        mean = error.sum(axis=0) / np.maximum(pairs, 1)
        is_positive = ~is_done & (mean > rounding)
        unit[is_positive] = mean[is_positive]
        is_done |= is_positive
        has_pairs |= pairs > 0
    return unit, has_pairs


@dataclass(frozen=True)
class Measures:
    """Accuracy of one member; a measure that does not apply is NaN, such as the coverage of point forecasts.

    Attributes:
        count: number of pairs of a forecast and its actual.
        mse, mae: mean squared and mean absolute error of the median.
        mase: mean absolute error over that of seasonal naive on the training rows (`seasonal_scale`).
        smape: symmetric mean absolute percentage error, in percent (M4's: 200 |y - f| / (|y| + |f|)).
        wql: weighted quantile loss: twice the pinball loss over the sum of ``|y|``, averaged over levels.
        msis: mean scaled interval score (M4's) of the outermost quantiles, in the unit of ``mase``.
        coverage_90: share of actuals in the 90 % interval, at the largest horizon.
        width_90: mean width of the 90 % interval, at the largest horizon.
        coverage_by_series: ``[S]`` ``coverage_90`` of each series; NaN for a series without pairs.
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
    """Sums from which the accuracy of one member is computed, per series and horizon.

    Args:
        levels: quantile levels of its forecasts, rising, with 0.5 among them; ``(0.5,)`` for points.
        series: number of series.
        horizon: the largest horizon.
    """

    def __init__(self, levels: tuple[float, ...], series: int, horizon: int) -> None:
        self.levels = levels
        self.count = np.zeros((series, horizon), np.int64)
        self._squared, self._absolute, self._symmetric, self._size = np.zeros((4, series, horizon))
        self._pinball = np.zeros((len(levels), series, horizon))
        self._under = np.zeros((len(levels), series, horizon), np.int64)
        self._interval, self._inside, self._width = np.zeros((3, series, horizon))

    def add(self, actuals: Floats, quantiles: Floats, is_scored: Bools) -> None:
        """Add the errors of a block of forecasts to the sums.

        Args:
            actuals: ``[T, S, N]`` actuals; any number where ``is_scored`` is False.
            quantiles: ``[Q, T, S, N]`` forecasts; any number where ``is_scored`` is False.
            is_scored: ``[T, S, N]``, True for the pairs to count.
        """
        y = np.where(is_scored, actuals, 0.0)
        self.count += is_scored.sum(axis=0)
        self._size += np.abs(y).sum(axis=0)
        kept = [np.where(is_scored, q, 0.0) for q in quantiles]
        for k, (level, q) in enumerate(zip(self.levels, kept, strict=True)):
            miss = y - q
            if level == 0.5:
                self._add_point(y, q, miss)
            self._under[k] += ((miss <= 0) & is_scored).sum(axis=0)
            self._pinball[k] += np.maximum(level * miss, (level - 1) * miss).sum(axis=0)
        if len(kept) > 1:
            low, high = self.levels[0], self.levels[-1]
            below, above = np.maximum(kept[0] - y, 0.0), np.maximum(y - kept[-1], 0.0)
            self._interval += (kept[-1] - kept[0] + below / low + above / (1 - high)).sum(axis=0)
        if (pair := _interval_of(self.levels)) is not None:
            low_90, high_90 = (kept[k] for k in pair)
            self._inside += ((low_90 <= y) & (y <= high_90) & is_scored).sum(axis=0)
            self._width += (high_90 - low_90).sum(axis=0)

    def _add_point(self, y: Floats, point: Floats, miss: Floats) -> None:
        """Add the squared, absolute and symmetric errors of the median forecasts to their sums."""
        absolute, size = np.abs(miss), np.abs(y) + np.abs(point)
        self._squared += np.square(miss).sum(axis=0)
        self._absolute += absolute.sum(axis=0)
        self._symmetric += np.divide(absolute, size, out=np.zeros_like(size), where=size > 0).sum(axis=0)

    def measures(self, horizon: int, unit: Floats) -> Measures:
        """Return the error measures over the forecasts at horizons 1 to ``horizon`` together.

        Coverage and width are measured at ``horizon`` alone. Each measure is the mean over series of the
        series' mean over its pairs. Only ``wql``, which weights by the size of the actuals, is one ratio over
        all series.

        Args:
            horizon: the largest horizon to count.
            unit: ``[S]`` `seasonal_scale` of the training rows.
        """
        steps, at = slice(horizon), horizon - 1
        count = self.count[:, steps].sum(axis=1)
        by_series = {
            name: ratio(sums[:, steps].sum(axis=1), count)
            for name, sums in {
                "mse": self._squared,
                "mae": self._absolute,
                "smape": 200 * self._symmetric,
                "msis": self._interval,
            }.items()
        }
        size = self._size[:, steps].sum()
        wql = 2 * float(self._pinball[:, :, steps].sum(axis=(1, 2)).mean()) / size if size > 0 else np.nan
        coverage = self._coverage()[:, at]
        return Measures(
            count=int(count.sum()),
            mse=_mean(by_series["mse"]),
            mae=_mean(by_series["mae"]),
            mase=_mean(by_series["mae"] / unit),
            smape=_mean(by_series["smape"]),
            wql=float(wql),
            msis=_mean(by_series["msis"] / unit) if len(self.levels) > 1 else np.nan,
            coverage_90=_mean(coverage),
            width_90=_mean(ratio(self._width, self.count)[:, at]) if self.has_interval else np.nan,
            coverage_by_series=coverage,
        )

    @property
    def has_interval(self) -> bool:
        """Whether the quantiles .05 and .95 are among the levels."""
        return _interval_of(self.levels) is not None

    def mase_by_step(self, unit: Floats) -> Floats:
        """Return the MASE at each horizon, averaged over series; ``unit`` holds the scale of each series."""
        return _means(ratio(self._absolute, self.count) / unit[:, None])

    def coverage_by_step(self) -> Floats:
        """Return the coverage of the 90 % interval at each horizon, averaged over series.

        It is ``[N]``, NaN if the levels do not include the interval.
        """
        return _means(self._coverage())

    def calibration(self) -> Floats:
        """Return the share of actuals at or below each quantile, averaged over series.

        It is ``[Q]``. All horizons are counted together.
        """
        return _means(ratio(self._under.sum(axis=2), self.count.sum(axis=1)).T)

    def _coverage(self) -> Floats:
        """Return the 90 % interval's coverage by series and horizon; NaN without an interval or actuals."""
        if not self.has_interval:
            return np.full(self.count.shape, np.nan)
        return ratio(self._inside, self.count)


def _interval_of(levels: tuple[float, ...]) -> tuple[int, int] | None:
    """Return the positions of the quantile levels .05 and .95; None if one is not among ``levels``."""
    found = [
        [k for k, level in enumerate(levels) if abs(level - bound) < _LEVEL_TOLERANCE]
        for bound in ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
    ]
    return (found[0][0], found[1][0]) if all(found) else None


def ratio(sums: Floats | Ints, count: Floats | Ints) -> Floats:
    """Return sums divided by counts; NaN where the count is 0."""
    means = np.full(sums.shape, np.nan)
    np.divide(sums, count, out=means, where=np.broadcast_to(count > 0, sums.shape))
    return means


def _mean(by_series: Floats) -> float:
    """Return the mean of the numbers that are not NaN; NaN if all are NaN."""
    known = by_series[~np.isnan(by_series)]
    return float(known.mean()) if len(known) else float("nan")


def _means(by_series: Floats) -> Floats:
    """Return the `_mean` of each column of an array that has one row for each series."""
    return np.array([_mean(column) for column in by_series.T])
