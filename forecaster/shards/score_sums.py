"""The sums of forecast errors by model version and scored horizon, which a shard's `Counts` hold.

Letters: T windows, S series, K scored horizons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from forecaster.forecasts import Forecasts

PARTS: Final = 1_000_000
"""Errors are summed as whole numbers of millionths of a unit, so sums do not depend on their order."""


class ScoreSums(NamedTuple):
    """How many forecasts of one model version were scored at one horizon, and the sums of their errors.

    The *unit* of a series is its usual change from season to season, as its state tracks it. So the mean
    absolute error in units is the MASE of Hyndman & Koehler 2006 ("Another look at measures of forecast
    accuracy"), with a scale that follows the series.

    Attributes:
        scored: number of forecasts whose actuals were observed.
        absolute: sum of the absolute errors of the median, in millionths of a unit.
        signed: sum of the errors of the median (actual less forecast), in millionths of a unit.
        intervals: number of those forecasts that have quantiles beside the median.
        pinball: sum of their pinball losses, averaged over the quantiles, in millionths of a unit.
        inside: number of those forecasts whose actual was inside the outermost quantiles.
    """

    scored: int = 0
    absolute: int = 0
    signed: int = 0
    intervals: int = 0
    pinball: int = 0
    inside: int = 0

    def plus(self, other: ScoreSums) -> ScoreSums:
        """Return these sums plus the sums of ``other``."""
        return ScoreSums(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: ScoreSums) -> ScoreSums:
        """Return these sums less the sums of ``other``."""
        return ScoreSums(*(a - b for a, b in zip(self, other, strict=True)))

    @property
    def mase(self) -> float | None:
        """Mean absolute error of medians, divided by each series' unit; None if no forecast was scored."""
        return self.absolute / PARTS / self.scored if self.scored else None

    @property
    def bias(self) -> float | None:
        """Mean of actual less median, divided by each series' unit; None if no forecast was scored."""
        return self.signed / PARTS / self.scored if self.scored else None

    @property
    def pinball_loss(self) -> float | None:
        """Mean pinball loss, divided by each series' unit; None if no scored forecast has an interval."""
        return self.pinball / PARTS / self.intervals if self.intervals else None

    @property
    def coverage(self) -> float | None:
        """Share of actuals inside the outermost quantiles; None if no scored forecast has an interval."""
        return self.inside / self.intervals if self.intervals else None

    def measures(self) -> dict[str, float]:
        """Return ``mase``, ``bias``, ``pinball`` and ``coverage`` by name; values of None are left out."""
        named = {
            "mase": self.mase,
            "bias": self.bias,
            "pinball": self.pinball_loss,
            "coverage": self.coverage,
        }
        return {name: value for name, value in named.items() if value is not None}


Scores = Mapping[str, Mapping[int, ScoreSums]]
"""The sums by model version and horizon."""


def add_scores(one: Scores, other: Scores) -> Scores:
    """Return the sums of ``one`` plus the sums of ``other``, by model version and horizon."""
    if not other:
        return one
    added = {version: dict(by_horizon) for version, by_horizon in one.items()}
    for version, by_horizon in other.items():
        own = added.setdefault(version, {})
        for horizon, sums in by_horizon.items():
            own[horizon] = own.get(horizon, ScoreSums()).plus(sums)
    return added


def scores_since(now: Scores, before: Scores) -> Scores:
    """Return the sums ``now`` less the earlier sums ``before``, by model version and horizon.

    A version and a horizon of which no forecast was scored in between are absent.
    """
    found: dict[str, dict[int, ScoreSums]] = {}
    for version, by_horizon in now.items():
        earlier = before.get(version, {})
        new = {h: sums.minus(earlier.get(h, ScoreSums())) for h, sums in by_horizon.items()}
        if counted := {h: sums for h, sums in new.items() if sums.scored > 0}:
            found[version] = counted
    return found


def scores_of(forecasts: Forecasts) -> Scores:
    """Return the sums of the errors in ``forecasts.scores``, by model version and scored horizon.

    They are errors of earlier forecasts; the actuals of these lie in the windows of ``forecasts``.
    """
    if forecasts.scores is None:
        return {}
    known = ~np.isnan(forecasts.scores)
    count, _, intervals = np.count_nonzero(known, axis=(1, 2))
    if not count.any():
        return {}
    error, pinball, inside = np.where(known, forecasts.scores, 0.0)
    absolute, signed, losses = (_sum(errors) for errors in (np.abs(error), error, pinball))
    rows = zip(count, absolute, signed, intervals, losses, inside.sum(axis=(0, 1)), strict=True)
    by_horizon = {
        horizon: ScoreSums(*map(int, row))
        for horizon, row in zip(forecasts.scored_horizons, rows, strict=True)
        if row[0]
    }
    return {forecasts.model_version: by_horizon}


def _sum(errors: np.ndarray) -> np.ndarray:
    """Sum errors over windows and series: one sum for each scored horizon, in millionths of a unit.

    ``errors`` is ``[T, S, K]`` in units, and the sums are ``[K]`` int64.
    """
    return np.asarray(np.rint(errors * PARTS).astype(np.int64).sum(axis=(0, 1)))
