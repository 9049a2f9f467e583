"""Compute the p-value of each value, given the forecast issued one window before; raise alarms.

Letters: T windows, S series, E edges, Q quantiles.
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

# `_DISTANCES` are distances of a value from the forecast median, in band widths.
# The band reaches from the median to the lowest quantile for a value below the median, else to the highest.
# The state holds, by series and distance, the share of values at least that far from the forecast median.
_DISTANCES = np.array([0.33, 0.67, 1, 1.12, 1.25, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 6, 10, 30, 100, 1000], float)
_FARTHEST = 1e6
# P-values are interpolated in log(1 + distance), because the gaps between `_DISTANCES` grow.
# At a distance of 0, log(1 + distance) is 0, but log(distance) would be infinite.
_LOG_DISTANCES = np.log1p([0.0, *_DISTANCES, _FARTHEST])
# A run's length is the number of successive values that equal the value before: 0 if no value repeats.
# For each series and each length in `_RUNS`, the state holds the share of runs of at least this length.
_RUNS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256])

_FIELDS = {
    # ``expected`` holds the median that is forecast for the next window.
    # It also holds the widths of the bands below and above this median.
    "expected": Field("float64", (3,)),
    "beyond": Field("float32", (len(_DISTANCES),)),
    "known": Field("int32"),
    "lasting": Field("float32", (len(_RUNS),)),
    "runs": Field("int32"),
    "run": Field("int32"),
    "last": Field("float64"),
    "budget": Field("float64"),
    "alarming": Field("uint8"),
}

# A new series begins with assumed shares of windows (by distance) and of runs of equal values (by length).
# The assumed shares weigh about as much as shares of `_PRIOR` observed windows, or of `_PRIOR` observed runs.
_PRIOR = 20.0
# In a new series, values beyond a band's edge are assumed to exceed it by this many band widths on average.
# For a normal distribution with 5 % of its values beyond the edge, it is 0.25: heavier tails are assumed.
_EXCESS0 = 0.35
_REPEATS0 = 0.02  # in a new series, this share of values is assumed to repeat the value before
# A share is averaged over about `_MEMORY` / ``rate`` windows, or runs of equal values.
# About `_MEMORY` alarms are wanted in `_MEMORY` / ``rate`` windows: ``rate`` is the number per window.
_MEMORY = 20.0
# `_MEMORY` / ``rate`` is clipped to the range from `_LEAST_MEMORY` to `_LARGEST_MEMORY`.
# In an average over far more windows, the update of a share would be lost in float32 rounding.
_LEAST_MEMORY, _LARGEST_MEMORY = 2_000.0, 1_000_000.0
# A band, from the forecast median to an outer quantile, is at least this many scales wide.
# Without this limit, the band of a series whose values are mostly equal would have no width.
# `_LEAST_BAND` is not 0.1: a value one scale away would be at a distance of 10 bands, one of `_DISTANCES`,
# and rounding would decide whether it reaches this distance.
_LEAST_BAND = 0.0971
# A value counts as equal to the forecast median if the two differ by at most this share of the median.
_ROUNDING = 1e-15

# A series raises no alarm in its first `_YOUNG` windows with a p-value.
# A run of equal values has no p-value until the series has changed its value more than `_YOUNG` times.
_YOUNG = 40
_STEP = 0.4  # an alarm lowers the logarithm of the p-value threshold by this number times ``1 - rate``
_DEBT = 6.0  # no alarm is raised while ``budget`` (wanted minus raised alarms, capped) is at most ``-_DEBT``
_MOST = 0.1  # the p-value threshold is at most the larger of this number and ``min(3 * rate, 0.95)``
_CALM = 0.05  # an anomaly ends at the first p-value that is at least the larger of this number and ``rate``
# The bit `_LASTS` of ``alarming`` is set while an anomaly lasts.
# An alarm sets the bit `_REPEATS`; the next value that differs from the value before it clears the bit.
_LASTS, _REPEATS = 1, 2


@dataclass(frozen=True)
class Anomaly:
    """Computes the p-value of each value, and raises at most one alarm for each anomaly, at its beginning.

    The distance of a value from the median of its forecast is measured in bands ``z``: a band is the distance
    from the median to the outermost quantile on the value's side. The p-value is the share of the series'
    windows so far, this one included, with a value at least as far away. It is a conformal p-value (Vovk
    et al. 2005, "Algorithmic Learning in a Random World", section 2.2): it holds for any distribution, and is
    at least ``1 / (n + 1)`` after ``n`` windows. The shares of windows beyond the edges `_DISTANCES` are
    running means that forget; between two edges the p-value is interpolated.

    A *run* is a number of windows in which the same value repeats exactly. It has a p-value too: the share of
    the series' runs that lasted at least as long. So a sensor that hangs raises an alarm, although its
    forecasts are perfect, and a shop that is closed every night does not.

    The threshold of a series rises and falls with its budget: the wanted alarms so far less the alarms raised
    (quantile tracking, Angelopoulos et al. 2023, "Conformal PID Control", section 2.1). In the long run there
    are as many alarms as wanted, and never more than ``_DEBT + 1`` beyond the wanted number, whatever the
    values and forecasts are. An alarm marks the beginning of an anomaly: no other alarm is raised until a
    p-value is at least `_CALM` again, nor while the value that raised the alarm repeats itself.

    Attributes:
        low, high: the outermost quantile levels, 0 < low < 0.5 < high < 1.
        rate: wanted alarms per window with a value, above 0 and below 1.
        middle: the index of the median among the quantiles; the outermost are the first and the last.
    """

    low: float
    high: float
    rate: float
    middle: int
    name: str = "anomaly"
    format_version: int = 3
    reads = frozenset({"scale", "out.forecast"})
    writes = frozenset({"out.anomaly"})

    def spec(self) -> Mapping[str, Field]:
        """Return the component's fields, which take 177 bytes for each series.

        ``beyond`` holds the share of windows that were at least as far as each of `_DISTANCES`, ``lasting``
        the share of runs that lasted at least as long as each of `_RUNS`. ``known`` and ``runs`` are the
        numbers of windows and runs.
        """
        return _FIELDS

    def init(self, series: int) -> Arrays:
        """Return the initial arrays: no forecast is stored, so the first value of a series has no p-value."""
        own: Arrays = {name: np.zeros((series, *f.shape), f.dtype) for name, f in _FIELDS.items()}
        own["expected"][:], own["last"][:] = np.nan, np.nan
        own["beyond"][:] = self._first_shares
        own["lasting"][:] = _REPEATS0**_RUNS
        return own

    @cached_property
    def _first_shares(self) -> Floats:
        """For a new series, the assumed share of values beyond each of the `_DISTANCES`, in one row."""
        return _normal_shares(self.low, self.high, np.array([_EXCESS0]))

    @cached_property
    def _memory(self) -> float:
        """The number of recent windows, or of runs of equal values, over which a share is averaged."""
        return min(max(_MEMORY / self.rate, _LEAST_MEMORY), _LARGEST_MEMORY)

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Write the p-values and alarms of the block into ``out.anomaly``."""
        own = {name: series_last(array) for name, array in own.items()}
        forecast = block.out.forecast[:, :, :, 0]
        for t, value in enumerate(block.values):
            p_value, log_p = self._p_values(own, value)
            block.out.anomaly[0, t, :, 0] = p_value
            block.out.anomaly[1, t, :, 0] = self._alarm(own, log_p)
            after = self._bands(forecast[:, t], block.scale[t])
            counts = block.counts(t)
            own["expected"] = after if counts is None else np.where(counts, after, own["expected"])
        return {name: series_first(array) for name, array in own.items()}, block

    def _bands(self, forecast: Floats, scale: Floats) -> Floats:
        """Return the forecast median of the next window, and the widths of the bands below and above it.

        Args:
            forecast: quantiles ``[Q, S]``.
            scale: ``[S]``.

        Returns:
            ``[3, S]``.
        """
        middle = forecast[self.middle]
        least = np.maximum(_LEAST_BAND * scale, 8 * _ROUNDING * np.abs(middle))
        below, above = (np.maximum(np.abs(forecast[q] - middle), least) for q in (0, -1))
        return np.stack([middle, below, above])

    def _p_values(self, own: Arrays, value: Floats) -> tuple[Floats, Floats]:
        """Return each value's p-value, and for alarms a log p-value without the p-value's lower bound.

        The shares of windows and of runs are updated in place.

        Returns:
            ``[S]`` each, NaN if the value or its forecast is missing. The p-value has a lower bound. The log
            p-value can be smaller: of two values that are farther from their forecasts than any value before,
            the farther one has the smaller log p-value. Distances count as `_FARTHEST` at most.
        """
        middle, below, above = own["expected"]
        error = value - middle
        far = np.abs(error)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            far[far <= _ROUNDING * np.abs(middle)] = 0.0
            z = far / np.where(error < 0, below, above)
        known = ~np.isnan(z)
        z = np.where(known, np.minimum(z, _FARTHEST), 0.0)
        log_p, least = self._distance_p_value(own, z, known)
        log_run, least_run = self._run_p_value(own, value)
        # Where the p-value of the run of equal values is below 1, use twice the smaller p-value (Bonferroni).
        longer = log_run < log_p
        log_p = np.where(longer, log_run, log_p)
        log_p = np.where(log_run < 0, np.minimum(log_p + math.log(2.0), 0.0), log_p)
        p_value = np.maximum(np.exp(log_p), np.where(longer, least_run, least))
        return np.where(known, p_value, np.nan), np.where(known, log_p, np.nan)

    def _distance_p_value(self, own: Arrays, z: Floats, known: Bools) -> tuple[Floats, Floats]:
        """Return the log of the share of windows at distance ``z`` or more.

        Also return a lower bound of the p-value. Both are ``[S]``.
        """
        reached = z >= _DISTANCES[:, None]
        at = reached.sum(axis=0)
        # The p-value counts the current window, too: after n earlier windows, it is at least 1 / (n + 1).
        # The number n is at most `_memory`, because the weight of older windows decays.
        least = 1.0 / (np.minimum(own["known"], self._memory) + 1.0)
        series = np.arange(len(z))
        inner, outer = np.maximum(at - 1, 0), np.minimum(at, len(_DISTANCES) - 1)
        shares = own["beyond"]
        near = np.where(at > 0, shares[inner, series] + least / _DISTANCES[inner], 1.0)
        edge = np.where(at < len(_DISTANCES), _DISTANCES[outer], _FARTHEST)
        beyond = shares[outer, series] + least / edge
        part = (np.log1p(z) - _LOG_DISTANCES[at]) / (_LOG_DISTANCES[at + 1] - _LOG_DISTANCES[at])
        self._learn(shares, own["known"], reached, known)
        return np.log(np.minimum(near + part * (beyond - near), 1.0)), least

    def _run_p_value(self, own: Arrays, value: Floats) -> tuple[Floats, Floats]:
        """Return the log of the share of runs at least as long as the current run of equal values.

        Also return a lower bound of the run's p-value. Both are ``[S]``. The logarithm is 0 outside a run,
        and in a series that has changed its value at most `_YOUNG` times.
        """
        has_value = ~np.isnan(value)
        repeats = value == own["last"]
        run_ends = has_value & ~repeats & ~np.isnan(own["last"])
        self._learn(own["lasting"], own["runs"], own["run"] >= _RUNS[:, None], run_ends)
        own["run"] = np.where(has_value, np.where(repeats, own["run"] + 1, 0), own["run"])
        own["last"] = np.where(has_value, value, own["last"])
        run = own["run"]
        least = 1.0 / (np.minimum(own["runs"], self._memory) + 1.0)
        if not run.any():
            return np.zeros(len(value)), least
        at = np.maximum((run >= _RUNS[:, None]).sum(axis=0) - 1, 0)
        share = own["lasting"][at, np.arange(len(value))] + least / np.maximum(run, 1)
        applies = (run > 0) & (own["runs"] > _YOUNG)
        return np.where(applies, np.log(np.minimum(share, 1.0)), 0.0), least

    def _learn(self, shares: Floats32, count: NDArray[Any], reached: Bools, learns: Bools) -> None:
        """Update, for each distance (or length), the share of windows (or runs) that reached it.

        One window or run is added for each series where ``learns`` is True. The shares ``[E, S]`` and the
        number of windows or runs ``[S]`` are updated in place. ``reached`` ``[E, S]`` is True where the new
        window or run reaches the edge, a distance or a length.
        """
        weight = (learns / np.minimum(count + _PRIOR, self._memory)).astype(np.float32)
        shares += weight * (reached - shares)
        count += learns

    def _alarm(self, own: Arrays, log_p: Floats) -> Floats:
        """Return for each series 1 for an alarm, 0 for none, NaN without a p-value; update the alarm state.

        The result is ``[S]``. The alarm state is in the fields ``budget`` and ``alarming`` of ``own``.
        """
        known, budget, log_rate = ~np.isnan(log_p), own["budget"], math.log(self.rate)
        highest = math.log(max(_MOST, min(3.0 * self.rate, 0.95)))
        with np.errstate(invalid="ignore"):
            alarm = log_p < log_rate + _STEP * budget
            calm = log_p >= math.log(max(_CALM, self.rate))
        # If a value jumps and then repeats, only the jump raises an alarm, not also the run of equal values.
        before = own["alarming"]
        repeats = np.where(known & (own["run"] == 0), 0, before & _REPEATS)
        alarm &= (before & _LASTS == 0) & (repeats == 0) & (budget > -_DEBT) & (own["known"] > _YOUNG)
        lasts = np.where(known & calm, 0, before & _LASTS | alarm * _LASTS)
        own["alarming"] = (lasts | repeats | alarm * _REPEATS).astype(np.uint8)
        budget += np.where(known, self.rate - alarm, 0.0)
        np.minimum(budget, (highest - log_rate) / _STEP, out=budget)
        return np.where(known, alarm, np.nan)


def _normal_shares(low: float, high: float, excess: Floats) -> Floats:
    """For a new series, return the assumed share of values beyond each of the `_DISTANCES`.

    The distribution is normal within the band and exponential beyond it, with mean ``excess`` ``[S]`` there.
    The shares are ``[S, E]``.
    """
    usual = [abs(NormalDist().inv_cdf(level)) for level in (low, high)]
    inside = np.array([sum(NormalDist().cdf(-min(z, 1.0) * u) for u in usual) for z in _DISTANCES])
    shares: Floats = inside * np.exp(-np.maximum(_DISTANCES - 1.0, 0.0) / excess[:, None])
    return shares


def migrated_from_2(own: Arrays) -> Arrays:
    """Convert arrays of format 2, in which ``alarming`` was 0 or 1, to the present format.

    If an anomaly lasts and its value repeats, the value is taken to have repeated since the alarm.
    """
    lasting = (own["alarming"] > 0) & (own["run"] > 0)
    alarming = np.where(lasting, _LASTS | _REPEATS, own["alarming"]).astype(np.uint8)
    return {**own, "alarming": alarming}
