"""Running statistics of each series, such as its mean and usual change, by which components normalise values.

Letters: T windows, S series, m windows of a season.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Arrays, Floats
from forecaster.components.base import Block, Field
from forecaster.components.running_means import PlainMoments, RunningMeans

# The rounding error of a series' values is taken to be this share of the series' absolute mean: four
# float64 epsilons.
_ROUNDING = 2.0**-50
# A series whose scale is at most this many rounding errors counts as constant: rounding alone may cause it.
_CONSTANT = 16.0
# Scale, unit and spread are at least this number: float64 can hold its square and the inverse of the square.
_LEAST = 1e-150
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


@dataclass(frozen=True)
class Moments:
    """Tracks for each series: number of values, mean, spread, usual changes, range, last value and its age.

    The means forget exponentially, and are plain averages until enough values were observed (Finch 2009,
    "Incremental calculation of weighted mean and variance", equations 130 and 143). A series has begun if
    ``observed`` is above 0.

    The *scale* is the usual absolute change from value to value: the larger of a fast mean of changes and
    half of a slow one. With the slow one, a calm week does not make a usual day look like an outlier. A
    change over n windows is divided by the square root of n. A change counts as 8 scales at most:
    otherwise one broken reading would raise the scale for months. If large changes follow one another, the
    series has begun to move in this way, and the limit doubles each time. If a series has been constant from
    its first value on, its first two changes are a step or a broken reading and do not count,
    and its level is the value that repeats. A broken reading after which the series returns to its level is
    forgotten after 24 windows at this level, so rare broken readings never set the scale.

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
    writes = frozenset(
        {
            *("before", "mean", "spread", "last", "lowest", "highest", "falls", "rises"),
            *("scale", "unit", "age", "observed", "moves"),
        }
    )

    def spec(self) -> Mapping[str, Field]:
        """Return the component's fields: fourteen numbers for each series."""
        return _FIELDS

    def init(self, series: int) -> Arrays:
        """Return the initial arrays for series that have no value yet: zeros."""
        return {name: np.zeros(series, field.dtype) for name, field in _FIELDS.items()}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Update the moments window by window, and add their fields to the block (see `Block`)."""
        values, past = block.values, PlainMoments.of(own, block.values)
        before = np.empty(values.shape)
        before[:1] = np.where((own["age"] == 0) & (own["observed"] > 0), own["last"], np.nan)
        before[1:] = values[:-1]
        running = RunningMeans(self.halflife, self.prior, own, values, past)
        running.update_all(np.abs(values - self._season_ago(block, before)))
        mean, scale, spread = running.mean[1:], running.scale, running.spread[1:]
        unit = self._unit(running)
        least = np.maximum(_ROUNDING * np.abs(mean), _LEAST)
        moves = scale > _CONSTANT * least
        for array in (scale, unit, spread):
            np.maximum(array, least, out=array)
        after = {name: array.copy() for name, array in (past.newest() | running.newest()).items()}
        if block.lengths is not None:
            # Each padding row has raised the last value's age by 1: subtract the number of padding rows.
            after["age"] -= len(values) - block.lengths
        return after, block.with_fields(
            before=before,
            moves=moves,
            mean=mean,
            spread=spread,
            scale=scale,
            unit=unit,
            falls=running.tracks[1:, 2].copy(),
            rises=running.tracks[1:, 3].copy(),
            **{name: getattr(past, name)[1:] for name in ("observed", "last", "age", "lowest", "highest")},
        )

    def _season_ago(self, block: Block, before: Floats) -> Floats:
        """Return the value one season before each window; without a season, one window before."""
        if self.season == 1:
            return before
        first = len(block.history) - len(block.values) - self.season
        return block.history[first : first + len(block.values)]

    def _unit(self, running: RunningMeans) -> Floats:
        """Return the unit after each window, ``[T, S]``, before `step` raises it to its lower bound."""
        spread = running.spread[1:]
        early = np.maximum(running.scale, _EARLY_UNIT * spread)
        unit = np.where(running.seasons[1:] >= self.season, running.seasonal[1:], early)
        return np.maximum(unit, _LEAST_UNIT * spread)
