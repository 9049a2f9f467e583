"""How surprising a value is under the forecast of the window before, and whether to raise an alarm.

Letters: T windows, S series, E edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecaster.arrays import Arrays, Bools, Floats, Floats32
from forecaster.components.base import Block, Field, series_first, series_last

_DISTANCES = np.array([0.33, 0.67, 1, 1.12, 1.25, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 6, 10, 30, 100, 1000], float)
_FARTHEST = 1e6
# Logarithms, since the widest gaps between edges are in the tail; of 1 + z, which may be 0.
_LOG_DISTANCES = np.log1p([0.0, *_DISTANCES, _FARTHEST])
_RUNS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256])

_FIELDS = {
    "expected": Field("float64", (3,)),  # the median for the next window, and the band below and above it
    "beyond": Field("float32", (len(_DISTANCES),)),
    "known": Field("int32"),
    "lasting": Field("float32", (len(_RUNS),)),
    "runs": Field("int32"),
    "run": Field("int32"),
    "last": Field("float64"),
    "budget": Field("float64"),
    "alarming": Field("uint8"),
}

_PRIOR = 20.0  # windows, or runs, that a first guess of a distribution counts as
_EXCESS0 = 0.35  # bands, mean distance beyond the band: that of a normal tail beyond 5 % is 0.25
_REPEATS0 = 0.02
_MEMORY = 20.0  # memory of a distribution: the windows in which this many alarms are wanted
_LEAST_MEMORY, _LARGEST_MEMORY = 2_000.0, 1_000_000.0  # windows; float32 shares resolve no more
# Of the scale: least width of a band, which is 0 where most values are equal. Not a round number: changes
# are often whole scales, and where one lay on an edge the last bit of a forecast would decide.
_OF_SCALE = 0.0971
_ROUNDING = 1e-15  # of the level: a value that is nearer to its forecast is equal to it in float64

_YOUNG = 40  # windows, or runs, before the first alarm
_STEP = 0.4  # natural logarithms of the p-value by which one alarm lowers the threshold
_DEBT = 6.0
_MOST = 0.1  # largest threshold (a p-value), unless 3 times the wanted rate is larger
_CALM = 0.05  # least p-value that ends an anomaly
# Bits of ``alarming``: the anomaly lasts; the value has not changed since the alarm.
_LASTS, _REPEATS = 1, 2


@dataclass(frozen=True)
class Anomaly:
    """The p-value of each value, and an alarm where an anomaly begins.

    The value is measured in bands ``z``: its distance from the median over that of the outermost quantile on
    its side. Its p-value is the share of the windows so far, the series' own, whose value was as far or
    farther, this one included: a conformal p-value (Vovk et al. 2005, "Algorithmic Learning in a Random
    World", section 2.2), which holds whatever the distribution is and after ``n`` windows is at least
    ``1 / (n + 1)``. The shares beyond the edges `_DISTANCES` are running means that forget, and between two
    edges the p-value is interpolated.

    A value that repeats itself exactly for a run of windows has a p-value of that run besides: the share of
    the series' runs that lasted as long. So a sensor that hangs is seen, whose forecasts are perfect, but not
    a shop that is closed every night.

    The threshold of a series rises and falls with its budget, the wanted alarms so far less the alarms
    raised (quantile tracking, Angelopoulos et al. 2023, "Conformal PID Control", section 2.1). In the long
    run there are as many alarms as wanted, and never more than `_DEBT` and one more, whatever values and
    forecasts are. An alarm marks the beginning of an anomaly: there is no further one until the p-value has
    been `_CALM` again, nor while the value of the alarm, or of the run that raised it, repeats itself.

    Attributes:
        low, high: the outermost quantile levels, 0 < low < 0.5 < high < 1.
        rate: wanted alarms per window with a value, above 0 and below 1.
        middle: which of the quantiles is the median; the outermost are the first and the last.
    """

    low: float
    high: float
    rate: float
    middle: int
    name: str = "anomaly"
    format_version: int = 3

    def spec(self) -> Mapping[str, Field]:
        """177 bytes a series.

        ``beyond`` holds the share of windows that were as far as each of `_DISTANCES`, ``lasting`` the share
        of runs that lasted as long as each of `_RUNS`, ``known`` and ``runs`` how many of them there were.
        """
        return _FIELDS

    def init(self, series: int) -> Arrays:
        """Nothing expected yet: the first value has no p-value."""
        own: Arrays = {name: np.zeros((series, *f.shape), f.dtype) for name, f in _FIELDS.items()}
        own["expected"][:], own["last"][:] = np.nan, np.nan
        own["beyond"][:] = _normal_shares(self.low, self.high, np.array([_EXCESS0]))
        own["lasting"][:] = _REPEATS0**_RUNS
        return own

    @cached_property
    def _memory(self) -> float:
        return min(max(_MEMORY / self.rate, _LEAST_MEMORY), _LARGEST_MEMORY)

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Fills ``out.anomaly``."""
        own = {name: series_last(array) for name, array in own.items()}
        forecast = block.out.forecast[:, :, :, 0]
        for t, value in enumerate(block.values):
            p_value, log_p = self._judge(own, value)
            block.out.anomaly[0, t, :, 0] = p_value
            block.out.anomaly[1, t, :, 0] = self._alarm(own, log_p)
            after = self._expect(forecast[:, t], block.scale[t])
            counts = block.counts(t)
            own["expected"] = after if counts is None else np.where(counts, after, own["expected"])
        return {name: series_first(array) for name, array in own.items()}, block

    def _expect(self, forecast: Floats, scale: Floats) -> Floats:
        """``[3, S]``: the median, and the band below and above it, of quantiles ``[Q, S]``."""
        middle = forecast[self.middle]
        least = np.maximum(_OF_SCALE * scale, 8 * _ROUNDING * np.abs(middle))
        below, above = (np.maximum(np.abs(forecast[q] - middle), least) for q in (0, -1))
        return np.stack([middle, below, above])

    def _judge(self, own: Arrays, value: Floats) -> tuple[Floats, Floats]:
        """The p-value of a window's values and the logarithm that alarms go by; moves the shares on.

        Returns:
            ``[S]`` each, NaN where there is no value or no forecast for it. The logarithm falls on where no
            value was as far yet, so that of two such values the farther one is the more surprising.
        """
        middle, below, above = own["expected"]
        error = value - middle
        far = np.abs(error)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            far[far <= _ROUNDING * np.abs(middle)] = 0.0
            z = far / np.where(error < 0, below, above)
        known = ~np.isnan(z)
        z = np.where(known, np.minimum(z, _FARTHEST), 0.0)
        log_p, least = self._of_distance(own, z, known)
        log_run, least_run = self._of_run(own, value)
        # The smaller of two p-values, twice (Bonferroni), where there is a run at all.
        longer = log_run < log_p
        log_p = np.where(longer, log_run, log_p)
        log_p = np.where(log_run < 0, np.minimum(log_p + math.log(2.0), 0.0), log_p)
        p_value = np.maximum(np.exp(log_p), np.where(longer, least_run, least))
        return np.where(known, p_value, np.nan), np.where(known, log_p, np.nan)

    def _of_distance(self, own: Arrays, z: Floats, known: Bools) -> tuple[Floats, Floats]:
        """``[S]`` the logarithm of the share of windows beyond ``z``, and the least share."""
        reached = z >= _DISTANCES[:, None]
        at = reached.sum(axis=0)
        one = 1.0 / (np.minimum(own["known"], self._memory) + 1.0)  # this window
        series = np.arange(len(z))
        inner, outer = np.maximum(at - 1, 0), np.minimum(at, len(_DISTANCES) - 1)
        shares = own["beyond"]
        near = np.where(at > 0, shares[inner, series] + one / _DISTANCES[inner], 1.0)
        edge = np.where(at < len(_DISTANCES), _DISTANCES[outer], _FARTHEST)
        beyond = shares[outer, series] + one / edge
        part = (np.log1p(z) - _LOG_DISTANCES[at]) / (_LOG_DISTANCES[at + 1] - _LOG_DISTANCES[at])
        self._learn(shares, own["known"], reached, known)
        return np.log(np.minimum(near + part * (beyond - near), 1.0)), one

    def _of_run(self, own: Arrays, value: Floats) -> tuple[Floats, Floats]:
        """``[S]`` the logarithm of the share of runs as long as this one, 0 without one; the least share."""
        there = ~np.isnan(value)
        repeats = value == own["last"]
        ends = there & ~repeats & ~np.isnan(own["last"])
        self._learn(own["lasting"], own["runs"], own["run"] >= _RUNS[:, None], ends)
        own["run"] = np.where(there, np.where(repeats, own["run"] + 1, 0), own["run"])
        own["last"] = np.where(there, value, own["last"])
        run = own["run"]
        one = 1.0 / (np.minimum(own["runs"], self._memory) + 1.0)
        if not run.any():
            return np.zeros(len(value)), one
        at = np.maximum((run >= _RUNS[:, None]).sum(axis=0) - 1, 0)
        share = own["lasting"][at, np.arange(len(value))] + one / np.maximum(run, 1)
        judged = (run > 0) & (own["runs"] > _YOUNG)
        return np.where(judged, np.log(np.minimum(share, 1.0)), 0.0), one

    def _learn(self, shares: Floats32, count: NDArray[Any], reached: Bools, learns: Bools) -> None:
        """Moves shares ``[E, S]``, and what they are a share of, on by one where ``learns``."""
        weight = (learns / np.minimum(count + _PRIOR, self._memory)).astype(np.float32)
        shares += weight * (reached - shares)
        count += learns

    def _alarm(self, own: Arrays, log_p: Floats) -> Floats:
        """``[S]``: 1 for an alarm, 0 for none, NaN where there is no p-value; moves the budget on."""
        known, budget, log_rate = ~np.isnan(log_p), own["budget"], math.log(self.rate)
        highest = math.log(max(_MOST, min(3.0 * self.rate, 0.95)))
        with np.errstate(invalid="ignore"):
            alarm = log_p < log_rate + _STEP * budget
            calm = log_p >= math.log(max(_CALM, self.rate))
        # A run of equal values that began with an alarm, as after a jump, raises none for its length.
        before = own["alarming"]
        repeats = np.where(known & (own["run"] == 0), 0, before & _REPEATS)
        alarm &= (before & _LASTS == 0) & (repeats == 0) & (budget > -_DEBT) & (own["known"] > _YOUNG)
        lasts = np.where(known & calm, 0, before & _LASTS | alarm * _LASTS)
        own["alarming"] = (lasts | repeats | alarm * _REPEATS).astype(np.uint8)
        budget += np.where(known, self.rate - alarm, 0.0)
        np.minimum(budget, (highest - log_rate) / _STEP, out=budget)
        return np.where(known, alarm, np.nan)


def _normal_shares(low: float, high: float, excess: Floats) -> Floats:
    """``[S, E]`` how many values lie beyond each distance: a normal band, an exponential tail ``[S]``."""
    usual = [abs(NormalDist().inv_cdf(level)) for level in (low, high)]
    inside = np.array([sum(NormalDist().cdf(-min(z, 1.0) * u) for u in usual) for z in _DISTANCES])
    shares: Floats = inside * np.exp(-np.maximum(_DISTANCES - 1.0, 0.0) / excess[:, None])
    return shares


def migrated(own: Arrays) -> Arrays:
    """Return arrays of format 1 (mean excess, share of repeats, threshold) as those of this format."""
    series = len(own["last"])
    after = {name: np.zeros((series, *f.shape), f.dtype) for name, f in _FIELDS.items()}
    low, middle, high = own["expected"].T
    least = 8 * _ROUNDING * np.abs(middle) + np.finfo(float).tiny
    after["expected"][:] = np.stack(
        [middle, np.maximum(middle - low, least), np.maximum(high - middle, least)], axis=1
    )
    after["beyond"][:] = _normal_shares(0.05, 0.95, own["excess"].astype(np.float64))
    after["known"][:] = 10 * own["beyond"]  # windows, of which one in ten lay beyond the band
    after["lasting"][:] = own["repeats"].astype(np.float64)[:, None] ** _RUNS
    after["runs"][:] = after["known"] * (1.0 - own["repeats"])
    after["run"][:], after["last"][:] = own["run"], own["last"]
    return after


def migrated_from_2(own: Arrays) -> Arrays:
    """Return arrays of format 2, where ``alarming`` was 0 or 1, as those of this format.

    An anomaly that lasts, and whose value repeats itself, has done so since its alarm.
    """
    lasting = (own["alarming"] > 0) & (own["run"] > 0)
    alarming = np.where(lasting, _LASTS | _REPEATS, own["alarming"]).astype(np.uint8)
    return {**own, "alarming": alarming}
