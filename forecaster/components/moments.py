"""The level of each series and how much it moves: what makes its values level-free.

Letters: T windows, S series, m windows of a season.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats
from forecaster.components.base import Block, Field

_ROUNDING = 2.0**-50  # of the level: a few times the distance between neighbouring float64 numbers
_STANDS_STILL = 16.0  # times the rounding: a scale up to this may be nothing but rounding
_LEAST = 1e-150  # smallest scale, in any unit: float64 holds its square and the inverse of that
_LARGEST = 8.0  # scales that one change counts as at the most
_LARGEST_DISTANCE = 20.0  # spreads that one distance from the mean counts as at the most
_SLOW = 8  # half-lives in that of the slow mean
_LONGEST_RUN = 40
_STILL = 24  # equal values after which a series stands still
_MOVES = 2  # uncounted first changes of a still series: a broken reading makes two, a step one
_RETURNED = 64  # in ``run``: the last uncounted change led back; above it, windows until that is forgotten
_OF_SPREAD = 0.3  # of the spread, about what a season's change is before a season has passed
_LEAST_OF_SPREAD = 0.01

_FIELDS = {
    "observed": Field("int64"),
    "mean": Field("float64"),
    "variance": Field("float64"),
    "fast": Field("float64"),
    "slow": Field("float64"),
    "run": Field("uint8"),
    "seasonal": Field("float64"),
    "seasons": Field("int64"),
    "lowest": Field("float64"),
    "highest": Field("float64"),
    "falls": Field("float64"),
    "rises": Field("float64"),
    "last": Field("float64"),
    "age": Field("int64"),
}
OF_SEASON = ("seasonal", "seasons")
"""Fields that count changes from season to season."""

_SAID = (
    *("mean", "spread", "last", "lowest", "highest", "falls", "rises"),
    *("scale", "unit", "age", "observed"),
)
"""What the component adds to a block for the components after it, for each window."""


@dataclass(frozen=True)
class Moments:
    """Per series: how many values it had, their mean and spread, how much they change, the last and its age.

    All are running means that forget exponentially, plain averages until enough was seen (Finch 2009,
    "Incremental calculation of weighted mean and variance", equations 130 and 143). A series has begun where
    ``observed`` is above 0.

    The scale is that of absolute changes from value to value, the larger of a fast one and half of a slow
    one: a quiet week does not make a usual day look like an outlier. Of a change of many scales only
    `_LARGEST` count, or one broken reading would set the scale for months; where one follows another that is
    how the series moves now, and twice as many count each time. Of a series that has stood still from its
    first value on, the first `_MOVES` changes are a step or a broken reading, and do not count: its level is
    the value that repeats itself. A broken reading after which the series goes back to its level is forgotten
    after `_STILL` windows at this level, so rare broken readings never set the scale.

    The unit is that of absolute changes from season to season, as in the scaled errors of Hyndman & Koehler
    2006, "Another look at measures of forecast accuracy": forecasts are made and judged in it.

    ``falls`` and ``rises`` are by how much a value passes all those before it, per value: 0 after long where
    the range of a series is known, its slope where it has a trend.

    Attributes:
        halflife: windows with a value after which half is forgotten.
        prior: scale of a series of one value, as a share of it.
        season: m; 1 where there is none. The ring has as many windows, at least.
    """

    halflife: int
    prior: float
    season: int = 1
    name: str = "moments"
    format_version: int = 4

    def spec(self) -> Mapping[str, Field]:
        """Fourteen numbers a series."""
        return _FIELDS

    def init(self, series: int) -> Arrays:
        """Zeros."""
        return {name: np.zeros(series, field.dtype) for name, field in _FIELDS.items()}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Adds ``before`` and everything that `Block` says is from the moments."""
        values = block.values
        before = np.empty(values.shape)
        before[:1] = np.where((own["age"] == 0) & (own["observed"] > 0), own["last"], np.nan)
        before[1:] = values[:-1]
        rounds = np.abs(values - self._season_ago(block, before))
        running = _Running(self, own)
        said: dict[str, Any] = {
            name: np.empty(values.shape, np.int64 if name in ("age", "observed") else np.float64)
            for name in _SAID
        }
        for t, (value, round_) in enumerate(zip(values, rounds, strict=True)):
            running.take(value, round_)
            for name, array in said.items():
                array[t] = getattr(running, name)
        after: Arrays = {name: getattr(running, name) for name in _FIELDS}
        if block.lengths is not None:
            # Padding has no value, and moves nothing else.
            after["age"] = running.age - (len(values) - block.lengths)
        least = np.maximum(_ROUNDING * np.abs(said["mean"]), _LEAST)
        moves = said["scale"] > _STANDS_STILL * least
        for name in ("scale", "unit", "spread"):
            np.maximum(said[name], least, out=said[name])
        return after, replace(block, before=before, moves=moves, **said)

    def _season_ago(self, block: Block, before: Floats) -> Floats:
        if self.season == 1:
            return before
        first = len(block.history) - len(block.values) - self.season
        return block.history[first : first + len(block.values)]


class _Running:
    """The moments of all series, ``[S]`` each, as they stand after one window and before the next.

    Attributes are the fields of `Moments`, and what is made of them for `Block`: ``scale, unit, spread``.
    """

    def __init__(self, settings: Moments, own: Arrays) -> None:
        self.season, self.prior = settings.season, settings.prior
        self.forget, self.forget_slow = (1.0 - 2.0 ** (-1.0 / (settings.halflife * k)) for k in (1, _SLOW))
        self.observed, self.age, self.last = own["observed"], own["age"], own["last"]
        self.fast, self.slow, self.run = own["fast"], own["slow"], own["run"]
        self.mean, self.variance = own["mean"], own["variance"]
        self.seasonal, self.seasons = own["seasonal"], own["seasons"]
        self.lowest, self.highest = own["lowest"], own["highest"]
        self.falls, self.rises = own["falls"], own["rises"]

    def take(self, value: Floats, round_: Floats) -> None:
        """Moves all on by a window.

        Args:
            value: ``[S]``, NaN where missing.
            round_: ``[S]``, the absolute change from a season ago; NaN where either value is missing.
        """
        there, known = ~np.isnan(value), self.observed > 0
        self.observed = self.observed + there
        weight = there * np.maximum(1.0 / np.maximum(self.observed, 1), self.forget)
        still = (self.observed > _STILL) & (self.fast == 0) & (self.slow == 0)
        stands = still & (value == self.last)
        change = self._take_change(value, there, known, still)
        self._take_level(value, there, weight, change)
        self.mean = np.where(stands, value, self.mean)
        self._take_season(round_)
        self._take_range(value, there, known, weight)
        self.age = np.where(there, 0, self.age + 1)

    def _take_change(self, value: Floats, there: Bools, known: Bools, still: Bools) -> Floats:
        """Fast and slow mean of changes, and the scale; returns the change as it counts."""
        change = np.where(there & known, np.abs(value - self.last) / np.sqrt(self.age + 1.0), 0.0)
        run = self.run
        most = _LARGEST * np.maximum(self.fast, 0.5 * self.slow) * np.exp2(run.astype(np.float64))
        # Of a series that stands still the mean is exactly the value that repeats itself.
        returns = still & (run > 0) & (run <= _MOVES) & (value == self.mean)
        is_far = known & (change > most) & ((most > 0) | (still & (run < _MOVES)) | returns)
        longer = np.where(is_far, np.minimum(run + 1, _LONGEST_RUN), np.where(still & (change == 0), run, 0))
        longer = np.where(is_far & returns, _RETURNED + _STILL, longer)
        forgets = ~is_far & (longer > _RETURNED)
        longer = np.where(forgets, np.where(longer > _RETURNED + 1, longer - 1, 0), longer)
        self.run = np.where(there, longer, run).astype(np.uint8)
        change = np.where(is_far, most, change)
        changes, share = there & known, 1.0 / np.maximum(self.observed - 1, 1)
        self.fast = self.fast + changes * np.maximum(share, self.forget) * (change - self.fast)
        self.slow = self.slow + changes * np.maximum(share, self.forget_slow) * (change - self.slow)
        self.last = np.where(there, value, self.last)
        usual = np.maximum(self.fast, 0.5 * self.slow)
        self.scale = np.where(self.observed > 1, usual, self.prior * np.abs(self.last))
        return change

    def _take_level(self, value: Floats, there: Bools, weight: Floats, change: Floats) -> None:
        """Mean and spread; a distance from the mean counts as so many spreads at the most."""
        most = np.maximum(_LARGEST_DISTANCE * np.maximum(np.sqrt(self.variance), self.scale), change)
        most[self.observed == 1] = np.inf
        off = np.clip(np.where(there, value - self.mean, 0.0), -most, most)
        self.mean = self.mean + weight * off
        self.variance = (1.0 - weight) * (self.variance + weight * off * off)
        self.spread = np.sqrt(self.variance)

    def _take_season(self, round_: Floats) -> None:
        """Mean of changes from season to season, and the unit."""
        there = ~np.isnan(round_)
        change = np.minimum(np.where(there, round_, 0.0), _LARGEST * np.maximum(self.seasonal, self.scale))
        self.seasons = self.seasons + there
        weight = there * np.maximum(1.0 / np.maximum(self.seasons, 1), self.forget)
        self.seasonal = self.seasonal + weight * (change - self.seasonal)
        early = np.maximum(self.scale, _OF_SPREAD * self.spread)
        unit = np.where(self.seasons >= self.season, self.seasonal, early)
        self.unit = np.maximum(unit, _LEAST_OF_SPREAD * self.spread)

    def _take_range(self, value: Floats, there: Bools, known: Bools, weight: Floats) -> None:
        """Lowest and highest value, and by how much a value passes them."""
        low = np.where(there & ((value < self.lowest) | ~known), value, self.lowest)
        high = np.where(there & ((value > self.highest) | ~known), value, self.highest)
        self.falls = self.falls + weight * (np.where(known, self.lowest - low, 0.0) - self.falls)
        self.rises = self.rises + weight * (np.where(known, high - self.highest, 0.0) - self.rises)
        self.lowest, self.highest = low, high
