"""The level of each series and how much it moves: what makes its values level-free.

Letters: T windows, S series, m windows of a season.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecaster.components.base import Arrays, Block, Field, Floats

_TINY = 1e-12  # of the level: a meter that stands at a billion and moves by single units is not constant
_LARGEST = 8.0  # scales that one change counts as at the most
_LARGEST_DISTANCE = 20.0  # spreads that one distance from the mean counts as at the most
_SLOW = 8  # half-lives in that of the slow mean
_LONGEST_RUN = 40
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


@dataclass(frozen=True)
class Moments:
    """Per series: how many values it had, their mean and spread, how much they change, the last and its age.

    All are running means that forget exponentially, plain averages until enough was seen (Finch 2009,
    "Incremental calculation of weighted mean and variance", equations 130 and 143). A series has begun where
    ``observed`` is above 0.

    The scale is that of absolute changes from value to value, the larger of a fast one and half of a slow
    one: a quiet week does not make a usual day look like an outlier. Of a change of many scales only
    `_LARGEST` count, or one broken reading would set the scale for months; where one follows another that is
    how the series moves now, and twice as many count each time.

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
    format_version: int = 3

    def spec(self) -> Mapping[str, Field]:
        """Fourteen numbers a series."""
        return _FIELDS

    def init(self, series: int) -> Arrays:
        """Zeros."""
        return {name: np.zeros(series, field.dtype) for name, field in _FIELDS.items()}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Adds ``before`` and everything that `Block` says is from the moments."""
        forget, forget_slow = (1.0 - 2.0 ** (-1.0 / (self.halflife * k)) for k in (1, _SLOW))
        observed, mean, variance, fast, slow, run, seasonal, seasons = (
            own[name] for name in list(_FIELDS)[:8]
        )
        lowest, highest, falls, rises, last, age = (own[name] for name in list(_FIELDS)[8:])
        values = block.values
        seen, shape = ~np.isnan(values), values.shape
        before, means, lasts, scales, units, spreads = (np.empty(shape) for _ in range(6))
        lows, highs, fallings, risings = (np.empty(shape) for _ in range(4))
        ages, counts = np.empty(shape, np.int64), np.empty(shape, np.int64)
        before[:1] = np.where((age == 0) & (observed > 0), last, np.nan)
        before[1:] = values[:-1]
        round_ = np.abs(values - self._season_ago(block, before))
        rounds = ~np.isnan(round_)
        round_[~rounds] = 0.0
        for t, (value, there) in enumerate(zip(values, seen, strict=True)):
            known = observed > 0
            observed = counts[t] = observed + there
            share, of_changes = 1.0 / np.maximum(observed, 1), 1.0 / np.maximum(observed - 1, 1)
            weight = there * np.maximum(share, forget)
            change = np.where(there & known, np.abs(value - last) / np.sqrt(age + 1.0), 0.0)
            most = _LARGEST * np.maximum(fast, 0.5 * slow) * np.exp2(run.astype(np.float64))
            is_far = known & (change > most) & (most > 0)
            run = np.where(there, np.where(is_far, np.minimum(run + 1, _LONGEST_RUN), 0), run).astype(
                np.uint8
            )
            change = np.where(is_far, most, change)
            changes = there & known
            fast = fast + changes * np.maximum(of_changes, forget) * (change - fast)
            slow = slow + changes * np.maximum(of_changes, forget_slow) * (change - slow)
            last = lasts[t] = np.where(there, value, last)
            np.maximum(fast, 0.5 * slow, out=scales[t])
            scales[t] = np.where(observed > 1, scales[t], self.prior * np.abs(last))
            most = np.maximum(_LARGEST_DISTANCE * np.maximum(np.sqrt(variance), scales[t]), change)
            most[observed == 1] = np.inf
            off = np.clip(np.where(there, value - mean, 0.0), -most, most)
            mean = np.add(mean, weight * off, out=means[t])
            variance = (1.0 - weight) * (variance + weight * off * off)
            spread = np.sqrt(variance, out=spreads[t])
            most = _LARGEST * np.maximum(seasonal, scales[t])
            seasons = seasons + rounds[t]
            seasonal = seasonal + rounds[t] * np.maximum(1.0 / np.maximum(seasons, 1), forget) * (
                np.minimum(round_[t], most) - seasonal
            )
            early = np.maximum(scales[t], _OF_SPREAD * spread)
            units[t] = np.maximum(
                np.where(seasons >= self.season, seasonal, early), _LEAST_OF_SPREAD * spread
            )
            new_low, new_high = (
                np.where(there & (is_further(value, bound) | ~known), value, bound)
                for is_further, bound in ((np.less, lowest), (np.greater, highest))
            )
            falls = fallings[t] = falls + weight * (np.where(known, lowest - new_low, 0.0) - falls)
            rises = risings[t] = rises + weight * (np.where(known, new_high - highest, 0.0) - rises)
            lowest, highest = lows[t], highs[t] = new_low, new_high
            age = ages[t] = np.where(there, 0, age + 1)
        after: Arrays = {
            "observed": observed,
            "mean": mean.copy(),  # not a view, which would keep the whole block
            "variance": variance,
            "fast": fast,
            "slow": slow,
            "run": run,
            "seasonal": seasonal,
            "seasons": seasons,
            "lowest": lowest,
            "highest": highest,
            "falls": falls,
            "rises": rises,
            "last": last,
            "age": age,
        }
        least = _TINY * np.maximum(np.abs(means), 1.0)
        moves = scales > 10 * least
        for array in (scales, units, spreads):
            np.maximum(array, least, out=array)
        if block.lengths is not None:
            after["age"] = age - (len(values) - block.lengths)  # padding has no value, and moves nothing else
        return after, replace(
            block,
            before=before,
            mean=means,
            spread=spreads,
            last=lasts,
            lowest=lows,
            highest=highs,
            falls=fallings,
            rises=risings,
            scale=scales,
            unit=units,
            age=ages,
            observed=counts,
            moves=moves,
        )

    def _season_ago(self, block: Block, before: Floats) -> Floats:
        if self.season == 1:
            return before
        first = len(block.history) - len(block.values) - self.season
        return block.history[first : first + len(block.values)]
