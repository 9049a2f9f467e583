"""Running statistics of each series, such as its mean and usual change, by which components normalise values.

Letters: T windows, S series, m windows of a season.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats
from forecaster.components.base import Block, Field

# The rounding error of a value is at most about this share of the series' mean (four float64 epsilons).
_ROUNDING = 2.0**-50
# A series whose scale is at most this many rounding errors counts as constant: rounding alone may cause it.
_CONSTANT = 16.0
# Scale, unit and spread are at least this number: float64 can hold its square and the inverse of the square.
_LEAST = 1e-150
# A change is clipped to this many scales. The limit doubles with each consecutive clipped change.
_LARGEST = 8.0
# A value's distance from the mean is clipped to this many times the larger of spread and scale.
# If the value's clipped change is larger than this limit, the distance is clipped to that change instead.
_LARGEST_DISTANCE = 20.0
_SLOW = 8  # the slow mean of changes has this many times the half-life of the fast mean
_LONGEST_RUN = 40  # the field ``run`` counts consecutive clipped changes, up to this number
# A series counts as constant so far if it has more than this many values, and both means of changes are 0.
_STILL = 24
# If a series was constant from its first value on, its first `_IGNORED_CHANGES` changes are clipped to 0.
# Two changes are enough to ignore a single broken reading (away from the level, and back) or one step.
_IGNORED_CHANGES = 2
# When a constant series returns to its level, ``run`` is set to `_RETURNED` + `_STILL`.
# Each later value at the level lowers ``run`` by 1. When ``run`` would reach `_RETURNED`, it becomes 0.
_RETURNED = 64
# The unit is at least `_EARLY_UNIT` spreads until a series has as many changes from season to season as a
# season has windows.
_EARLY_UNIT = 0.3
_LEAST_UNIT = 0.01  # the unit is always at least this share of the spread

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
SEASONAL_FIELDS = ("seasonal", "seasons")
"""Fields that depend on the length of the season."""

_BLOCK_FIELDS = (
    *("mean", "spread", "last", "lowest", "highest", "falls", "rises"),
    *("scale", "unit", "age", "observed"),
)
"""The fields of a block that `_Running` computes for each window."""


@dataclass(frozen=True)
class Moments:
    """Tracks for each series: number of values, mean, spread, usual changes, range, last value and its age.

    The means forget exponentially, and are plain averages until enough values were observed (Finch 2009,
    "Incremental calculation of weighted mean and variance", equations 130 and 143). A series has begun if
    ``observed`` is above 0.

    The *scale* is the usual absolute change from value to value: the larger of a fast mean of changes and
    half of a slow one. With the slow one, a calm week does not make a usual day look like an outlier. A
    change over n windows is divided by the square root of n. A change counts as `_LARGEST` scales at most:
    otherwise one broken reading would raise the scale for months. If large changes follow one another, the
    series has begun to move in this way, and the limit doubles each time. If a series has been constant from
    its first value on, its first `_IGNORED_CHANGES` changes are a step or a broken reading and do not count,
    and its level is the value that repeats. A broken reading after which the series returns to its level is
    forgotten after `_STILL` windows at this level, so rare broken readings never set the scale.

    The *unit* is the usual absolute change from season to season, as in the scaled errors of Hyndman &
    Koehler 2006, "Another look at measures of forecast accuracy". The network's forecasts and its
    training loss are in this unit.

    ``falls`` and ``rises`` are means of how far a value passes the lowest or highest value before it, with 0
    for a value that does not. They tend to 0 if the range is constant, and to the slope if there is a trend.

    Attributes:
        halflife: windows with a value after which the weight of a value has halved.
        prior: the scale of a series with one value, as a share of that value.
        season: m; 1 if there is no season. The block's history must reach back at least as many windows.
    """

    halflife: int
    prior: float
    season: int = 1
    name: str = "moments"
    format_version: int = 4
    reads = frozenset({"history"})
    writes = frozenset({"before", "moves", *_BLOCK_FIELDS})

    def spec(self) -> Mapping[str, Field]:
        """Return the component's fields: fourteen numbers for each series."""
        return _FIELDS

    def init(self, series: int) -> Arrays:
        """Return the initial arrays for series that have no value yet: zeros."""
        return {name: np.zeros(series, field.dtype) for name, field in _FIELDS.items()}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Update the moments window by window, and add their fields to the block (see `Block`)."""
        values = block.values
        before = np.empty(values.shape)
        before[:1] = np.where((own["age"] == 0) & (own["observed"] > 0), own["last"], np.nan)
        before[1:] = values[:-1]
        season_changes = np.abs(values - self._season_ago(block, before))
        running = _Running(self, own)
        added: dict[str, Any] = {
            name: np.empty(values.shape, np.int64 if name in ("age", "observed") else np.float64)
            for name in _BLOCK_FIELDS
        }
        for t, (value, season_change) in enumerate(zip(values, season_changes, strict=True)):
            running.update(value, season_change)
            for name, array in added.items():
                array[t] = getattr(running, name)
        after: Arrays = {name: getattr(running, name) for name in _FIELDS}
        if block.lengths is not None:
            # Each padding row has raised the last value's age by 1: subtract the number of padding rows.
            after["age"] = running.age - (len(values) - block.lengths)
        least = np.maximum(_ROUNDING * np.abs(added["mean"]), _LEAST)
        moves = added["scale"] > _CONSTANT * least
        for name in ("scale", "unit", "spread"):
            np.maximum(added[name], least, out=added[name])
        return after, replace(block, before=before, moves=moves, **added)

    def _season_ago(self, block: Block, before: Floats) -> Floats:
        """Return the value one season before each window; without a season, one window before."""
        if self.season == 1:
            return before
        first = len(block.history) - len(block.values) - self.season
        return block.history[first : first + len(block.values)]


class _Running:
    """The moments of all series after the latest window, in arrays with one number for each series.

    The attributes are the fields of `Moments`, and ``scale``, ``unit`` and ``spread``, computed from them.
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

    def update(self, value: Floats, season_change: Floats) -> None:
        """Update all moments with the values of one window.

        Args:
            value: ``[S]``, NaN if missing.
            season_change: ``[S]``, the absolute change since one season ago; NaN if either value is missing.
        """
        has_value, begun = ~np.isnan(value), self.observed > 0
        self.observed = self.observed + has_value
        weight = has_value * np.maximum(1.0 / np.maximum(self.observed, 1), self.forget)
        still = (self.observed > _STILL) & (self.fast == 0) & (self.slow == 0)
        repeats = still & (value == self.last)
        change = self._update_change(value, has_value, begun, still)
        self._update_level(value, has_value, weight, change)
        self.mean = np.where(repeats, value, self.mean)
        self._update_season(season_change)
        self._update_range(value, has_value, begun, weight)
        self.age = np.where(has_value, 0, self.age + 1)

    def _update_change(self, value: Floats, has_value: Bools, begun: Bools, still: Bools) -> Floats:
        """Update the moments that depend on the change of each value, and return the clipped changes.

        These moments are the means of changes, the count ``run`` of clipped changes, the scale and the
        last value.
        """
        change = np.where(has_value & begun, np.abs(value - self.last) / np.sqrt(self.age + 1.0), 0.0)
        run = self.run
        most = _LARGEST * np.maximum(self.fast, 0.5 * self.slow) * np.exp2(run.astype(np.float64))
        # The mean of a constant series is its level: a series that left it returns with a value equal to it.
        returns = still & (run > 0) & (run <= _IGNORED_CHANGES) & (value == self.mean)
        is_far = begun & (change > most) & ((most > 0) | (still & (run < _IGNORED_CHANGES)) | returns)
        longer = np.where(is_far, np.minimum(run + 1, _LONGEST_RUN), np.where(still & (change == 0), run, 0))
        longer = np.where(is_far & returns, _RETURNED + _STILL, longer)
        forgets = ~is_far & (longer > _RETURNED)
        longer = np.where(forgets, np.where(longer > _RETURNED + 1, longer - 1, 0), longer)
        self.run = np.where(has_value, longer, run).astype(np.uint8)
        change = np.where(is_far, most, change)
        changes, share = has_value & begun, 1.0 / np.maximum(self.observed - 1, 1)
        self.fast = self.fast + changes * np.maximum(share, self.forget) * (change - self.fast)
        self.slow = self.slow + changes * np.maximum(share, self.forget_slow) * (change - self.slow)
        self.last = np.where(has_value, value, self.last)
        usual = np.maximum(self.fast, 0.5 * self.slow)
        self.scale = np.where(self.observed > 1, usual, self.prior * np.abs(self.last))
        return change

    def _update_level(self, value: Floats, has_value: Bools, weight: Floats, change: Floats) -> None:
        """Update the mean and the spread with the clipped distance of each value from the mean."""
        most = np.maximum(_LARGEST_DISTANCE * np.maximum(np.sqrt(self.variance), self.scale), change)
        most[self.observed == 1] = np.inf
        distance = np.clip(np.where(has_value, value - self.mean, 0.0), -most, most)
        self.mean = self.mean + weight * distance
        self.variance = (1.0 - weight) * (self.variance + weight * distance * distance)
        self.spread = np.sqrt(self.variance)

    def _update_season(self, season_change: Floats) -> None:
        """Update the mean absolute change from season to season, and the unit."""
        has_value = ~np.isnan(season_change)
        change = np.minimum(
            np.where(has_value, season_change, 0.0), _LARGEST * np.maximum(self.seasonal, self.scale)
        )
        self.seasons = self.seasons + has_value
        weight = has_value * np.maximum(1.0 / np.maximum(self.seasons, 1), self.forget)
        self.seasonal = self.seasonal + weight * (change - self.seasonal)
        early = np.maximum(self.scale, _EARLY_UNIT * self.spread)
        unit = np.where(self.seasons >= self.season, self.seasonal, early)
        self.unit = np.maximum(unit, _LEAST_UNIT * self.spread)

    def _update_range(self, value: Floats, has_value: Bools, begun: Bools, weight: Floats) -> None:
        """Update the lowest and highest value, and the means of how far each value passes them.

        A value that does not pass them counts as 0 in the means.
        """
        low = np.where(has_value & ((value < self.lowest) | ~begun), value, self.lowest)
        high = np.where(has_value & ((value > self.highest) | ~begun), value, self.highest)
        self.falls = self.falls + weight * (np.where(begun, self.lowest - low, 0.0) - self.falls)
        self.rises = self.rises + weight * (np.where(begun, high - self.highest, 0.0) - self.rises)
        self.lowest, self.highest = low, high
