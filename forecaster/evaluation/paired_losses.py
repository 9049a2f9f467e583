"""Sum the losses of two models and the baselines over the same series, issue times and horizons.

Letters: T issue rows, S series, N horizon, Q quantiles, C classes of series.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from forecaster.arrays import Bools, Floats, Ints
from forecaster.evaluation.bootstrap import Improvement, block_length, improvements
from forecaster.evaluation.metrics import ratio

BASELINES = ("persistence", "seasonal_naive")


class PairedLosses:
    """Sums of the losses of two models and the baselines, over the same series, issue times and horizons.

    The losses of the models are summed by issue time and horizon, and by issue time and class of series; the
    losses of the baselines by horizon. Only sums over series are stored, so the memory hardly depends on the
    number of series.
    A loss is divided by the scale of its series, except for the weighted quantile loss.

    Args:
        unit: ``[S]`` scale of each series, see `forecaster.evaluation.rolling.training_scale`.
        is_scored: ``[S]``, False for a series without a scale, which is left out.
        classes: class of each series.
        levels: ``Q`` quantile levels, rising, with 0.5 among them.
        horizon: N.
        issues: number of issue rows.
    """

    def __init__(
        self,
        unit: Floats,
        is_scored: Bools,
        classes: Sequence[str],
        levels: tuple[float, ...],
        horizon: int,
        issues: int,
    ) -> None:
        self._unit, self._is_scored, self._levels = unit[:, None], is_scored, np.array(levels)
        self._names = sorted({name for name, scored in zip(classes, is_scored, strict=True) if scored})
        self._in_class = np.array([[name == own for own in self._names] for name in classes], float)
        self._in_class *= is_scored[:, None]
        self.count = np.zeros((issues, horizon))
        self._count_by_class = np.zeros((issues, len(self._names)))
        self._by_class = np.zeros((2, issues, len(self._names)))
        self._by_horizon = np.zeros((2, issues, horizon))
        self._pinball, self._absolute = np.zeros((2, horizon)), np.zeros((2 + len(BASELINES), horizon))
        self._inside, self._width = np.zeros((2, 2, horizon))
        self._size = np.zeros(horizon)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The two quantile levels of the widest central interval; None if no two levels have a sum of 1."""
        for low in self._levels:
            if low < 0.5 and any(np.isclose(1 - low, self._levels)):
                return float(low), float(1 - low)
        return None

    def add(self, row: int, actuals: Floats, forecasts: Sequence[Floats], points: Sequence[Floats]) -> None:
        """Add the losses of both models and of the baselines at successive issue times.

        Args:
            row: row of the first of these windows, counted from the first issue row.
            actuals: ``[T, S, N]`` actuals; NaN where missing.
            forecasts: ``[Q, T, S, N]`` of the champion, then of the challenger.
            points: ``[T, S, N]`` of each baseline.
        """
        is_pair = self._is_scored[:, None] & ~np.isnan(actuals)
        for found in (*points, *(quantile for model in forecasts for quantile in model)):
            is_pair &= ~np.isnan(found)
        y, rows = np.where(is_pair, actuals, 0.0), slice(row, row + len(actuals))
        self.count[rows] = is_pair.sum(axis=1)
        self._count_by_class[rows] = is_pair.sum(axis=2) @ self._in_class
        self._size += np.abs(y).sum(axis=(0, 1))
        for model, quantiles in enumerate(forecasts):
            self._add_model(model, rows, y, [np.where(is_pair, q, 0.0) for q in quantiles], is_pair)
        for baseline, found in enumerate(points):
            miss = np.abs(y - np.where(is_pair, found, 0.0)) / self._unit
            self._absolute[2 + baseline] += miss.sum(axis=(0, 1))

    def _add_model(
        self, model: int, rows: slice, y: Floats, quantiles: Sequence[Floats], is_pair: Bools
    ) -> None:
        """Add one model's losses to the sums.

        Where ``is_pair`` is False, the actual and the quantiles are 0, so they add no loss.
        """
        pinball = np.zeros_like(y)
        for level, quantile in zip(self._levels, quantiles, strict=True):
            miss = y - quantile
            pinball += np.maximum(level * miss, (level - 1) * miss) / len(self._levels)
            if level == 0.5:
                self._absolute[model] += (np.abs(miss) / self._unit).sum(axis=(0, 1))
        self._pinball[model] += pinball.sum(axis=(0, 1))
        pinball /= self._unit
        self._by_class[model, rows] = pinball.sum(axis=2) @ self._in_class
        self._by_horizon[model, rows] = pinball.sum(axis=1)
        if self.interval is not None:
            low, high = (quantiles[int(np.abs(self._levels - end).argmin())] for end in self.interval)
            self._inside[model] += ((low <= y) & (y <= high) & is_pair).sum(axis=(0, 1))
            self._width[model] += ((high - low) / self._unit).sum(axis=(0, 1))

    def block_length(self) -> int:
        """Return how many successive issue times the bootstrap draws together.

        It is the estimate of `bootstrap.block_length`, within two limits. It is at least the horizon N,
        because even the errors of an optimal forecast are correlated over N - 1 issue times. It is at most
        half of the issue times, even if that is less than N.
        """
        old, new = self._by_horizon.sum(axis=2)
        count = self.count.sum(axis=1)
        mean = np.divide(old - new, count, out=np.zeros(len(count)), where=count > 0)
        return min(max(block_length(mean), self.count.shape[1]), max(len(count) // 2, 1))

    def improvements(
        self, block: int, confidence: float
    ) -> tuple[Improvement, dict[int, Improvement], dict[str, Improvement]]:
        """Return the challenger's improvements over the champion: overall, by horizon, by class of series.

        A forecast counts only if its actual is known, and if both models and every
        baseline made it.

        Args:
            block: how many successive issue times the bootstrap draws together.
            confidence: share of the bootstrap's resamples inside the interval of an improvement.
        """

        def improved(losses: Floats, count: Floats) -> list[Improvement]:
            return improvements(losses[0], losses[1], count, block, confidence)

        overall = self._by_horizon.sum(axis=2, keepdims=True), self.count.sum(axis=1, keepdims=True)
        return (
            improved(*overall)[0],
            dict(enumerate(improved(self._by_horizon, self.count), 1)),
            dict(zip(self._names, improved(self._by_class, self._count_by_class), strict=True)),
        )

    @property
    def series_by_class(self) -> dict[str, int]:
        """Number of scored series of each class."""
        return dict(zip(self._names, self._in_class.sum(axis=0).astype(int).tolist(), strict=True))

    def coverage(self) -> tuple[float, float] | None:
        """Return the share of actuals inside `interval`, for champion and challenger, over all horizons.

        The result is None if `interval` is None.
        """
        if self.interval is None:
            return None
        old, new = (self._inside.sum(axis=1) / self.count.sum()).tolist()
        return old, new

    def scores(self) -> pl.DataFrame:
        """Return the scores of champion, challenger and baselines; see `PairedComparison.scores`."""
        count = self.count.sum(axis=0)
        mase = ratio(self._absolute, count)
        columns: dict[str, Any] = {
            "count": np.broadcast_to(count.astype(np.int64), mase.shape),
            "skill": 1.0 - ratio(mase, mase[2 + BASELINES.index("persistence")]),
            "mase": mase,
            "wql": ratio(2 * self._pinball, self._size),
            "coverage": ratio(self._inside, count) if self.interval else np.full_like(self._inside, np.nan),
            "width": ratio(self._width, count) if self.interval else np.full_like(self._width, np.nan),
        }
        parts = []
        for place, model in enumerate(("champion", "challenger", *BASELINES)):
            own: dict[str, Floats | Ints] = {
                name: table[place] if place < len(table) else np.full(len(count), np.nan)
                for name, table in columns.items()
            }
            steps = pl.int_range(1, len(count) + 1, dtype=pl.Int32, eager=True)
            part = pl.DataFrame({"horizon": steps, **own}).with_columns(pl.col(pl.Float64).fill_nan(None))
            parts.append(part.select(pl.lit(model.replace("_", " ")).alias("model"), pl.all()))
        return pl.concat(parts)
