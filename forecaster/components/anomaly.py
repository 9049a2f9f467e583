"""Compute the p-value of each value, given the forecast issued one window before; raise alarms.

Letters: T windows, S series, E edges, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats, Floats32, Ints32, accumulate_rows
from forecaster.components.alarms import LASTS, REPEATS, YOUNG, raise_alarms
from forecaster.components.base import Block, Field, series_first, series_last

# `_DISTANCES` are distances of a value from the forecast median, in band widths.
# The band reaches from the median to the lowest quantile for a value below the median, else to the highest.
# The state holds, by series and distance, the share of values at least that far from the forecast median.
_DISTANCES = np.array([0.33, 0.67, 1, 1.12, 1.25, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 6, 10, 30, 100, 1000], float)
_FARTHEST = 1e6
# P-values are interpolated in log(1 + distance), because the gaps between large `_DISTANCES` are wide.
# At a distance of 0, log(1 + distance) is 0, but log(distance) would be infinite.
_LOG_DISTANCES = np.log1p([0.0, *_DISTANCES, _FARTHEST])
# A run's length is the number of successive values that equal the value before: 0 if no value repeats.
# The state holds, by series and length in `_RUNS`, the share of runs of equal values at least this long.
_RUNS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256])

_FIELDS = {
    # ``expected`` holds three numbers for the next window: the forecast median, the width of the band below
    # the median, and the width of the band above it.
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

# A new series begins with assumed shares: for each of `_DISTANCES`, the share of windows with a value at
# least this far from the median; for each of `_RUNS`, the share of runs of equal values at least this long.
# The assumed shares of windows weigh about as much as `_PRIOR` observed windows,
# and the assumed shares of runs about as much as `_PRIOR` observed runs.
_PRIOR = 20.0
# In a new series, values beyond a band's edge are assumed to exceed it by this many band widths on average.
# In a normal distribution with 5 % of its values beyond the edge, this average is 0.25 band widths.
# `_EXCESS0` is larger, because heavier tails are assumed.
_EXCESS0 = 0.35
_REPEATS0 = 0.02  # in a new series, this share of values is assumed to repeat the value before
# A share of windows is averaged over about `_MEMORY` / ``rate`` windows, a share of runs of equal values
# over the same number of such runs.
# ``rate`` is the wanted number of alarms per window, so `_MEMORY` alarms are wanted in `_MEMORY` / ``rate``
# windows.
_MEMORY = 20.0
# `_MEMORY` / ``rate`` is clipped to the range from `_LEAST_MEMORY` to `_LARGEST_MEMORY`.
# Over far more windows, each update of a share would be so small that float32 rounding could remove it.
_LEAST_MEMORY, _LARGEST_MEMORY = 2_000.0, 1_000_000.0
# A band, from the forecast median to an outer quantile, is at least this many scales wide.
# Without this limit, the band of a series whose values are mostly equal would have no width.
# `_LEAST_BAND` is not 0.1, to avoid ties: a value one scale from the median would be exactly 10 bands
# away, one of `_DISTANCES`, and rounding would decide whether it reaches that distance.
_LEAST_BAND = 0.0971
# A value counts as equal to the forecast median if the two differ by at most this share of the median.
_ROUNDING = 1e-15


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
    are as many alarms as wanted, and never more than 7 beyond the wanted number, whatever the
    values and forecasts are. An alarm marks the beginning of an anomaly: no other alarm is raised until a
    p-value is at least 0.05 again, nor while the value that raised the alarm repeats itself.

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
        """A new series begins with these shares of values at or beyond each distance, ``[1, E]``."""
        return _normal_shares(self.low, self.high, np.array([_EXCESS0]))

    @cached_property
    def _memory(self) -> float:
        """The number of recent windows, or of recent runs, over which a share in the state is averaged."""
        return min(max(_MEMORY / self.rate, _LEAST_MEMORY), _LARGEST_MEMORY)

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Write the p-values and alarms of the block into ``out.anomaly``."""
        own = {name: series_last(array) for name, array in own.items()}
        series = block.values.shape[1]
        bands = self._bands(block.out.forecast[:, :, :, 0], block.scale)
        expected = np.concatenate([own["expected"][None], bands])
        p_value, log_p, runs = self._p_values(own, block.values, expected[:-1])
        block.out.anomaly[0, :, :, 0] = p_value
        block.out.anomaly[1, :, :, 0] = raise_alarms(own, log_p, runs, self.rate)
        last = expected[-1] if block.lengths is None else expected[block.lengths, :, np.arange(series)].T
        own["expected"] = last.copy()
        return {name: series_first(array) for name, array in own.items()}, block

    def _bands(self, forecast: Floats, scale: Floats) -> Floats:
        """Return the forecast median of the next window, and the widths of the bands below and above it.

        Args:
            forecast: quantiles ``[Q, T, S]``.
            scale: ``[T, S]``.

        Returns:
            ``[T, 3, S]``.
        """
        middle = forecast[self.middle]
        least = np.maximum(_LEAST_BAND * scale, 8 * _ROUNDING * np.abs(middle))
        below, above = (np.maximum(np.abs(forecast[q] - middle), least) for q in (0, -1))
        return np.stack([middle, below, above], axis=1)

    def _p_values(self, own: Arrays, value: Floats, expected: Floats) -> tuple[Floats, Floats, Ints32]:
        """Return p-values, log p-values without a lower bound, and the lengths of runs of equal values.

        The shares of windows and of runs are updated in place.

        Args:
            own: the component's arrays.
            value: ``[T, S]``.
            expected: ``[T, 3, S]``, the forecast median of each window and the widths of its bands.

        Returns:
            The p-value and the log p-value, NaN if the value or its forecast is missing; and the length of
            the run after each window; ``[T, S]`` each. The p-value has a lower bound. The log p-value can be
            smaller: of two values that are farther from their forecasts than any value before, the farther
            one has the smaller log p-value. Distances count as `_FARTHEST` at most.
        """
        middle, below, above = expected.swapaxes(0, 1)
        error = value - middle
        far = np.abs(error)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            far[far <= _ROUNDING * np.abs(middle)] = 0.0
            z = far / np.where(error < 0, below, above)
        known = ~np.isnan(z)
        z = np.where(known, np.minimum(z, _FARTHEST), 0.0)
        log_p, least = self._distance_p_values(own, z, known)
        log_run, least_run, runs = self._run_p_values(own, value)
        # Each value has two p-values: one of its distance, and one of the run of equal values.
        # If the run's p-value is below 1, use twice the smaller of the two (Bonferroni).
        longer = log_run < log_p
        log_p = np.where(longer, log_run, log_p)
        log_p = np.where(log_run < 0, np.minimum(log_p + math.log(2.0), 0.0), log_p)
        p_value = np.maximum(np.exp(log_p), np.where(longer, least_run, least))
        return np.where(known, p_value, np.nan), np.where(known, log_p, np.nan), runs

    def _distance_p_values(self, own: Arrays, z: Floats, known: Bools) -> tuple[Floats, Floats]:
        """Return the log p-value of each value: the log of the share of windows at its distance or farther.

        The distances ``z`` are measured from the forecast median in band widths, see `_DISTANCES`. Also
        return a lower bound of the p-value. Both results and ``z`` are ``[T, S]``.
        """
        reached = z[:, None] >= _DISTANCES[:, None]
        at = reached.sum(axis=1)
        shares, counts = self._learn(own["beyond"], own["known"], reached, known)
        # The p-value counts the current window, too: after n earlier windows, it is at least 1 / (n + 1).
        # The number n is at most `_memory`, because the weight of older windows decays.
        least = 1.0 / (np.minimum(counts[:-1], self._memory) + 1.0)
        row, series = np.arange(len(z))[:, None], np.arange(z.shape[1])
        inner, outer = np.maximum(at - 1, 0), np.minimum(at, len(_DISTANCES) - 1)
        near = np.where(at > 0, shares[row, inner, series] + least / _DISTANCES[inner], 1.0)
        edge = np.where(at < len(_DISTANCES), _DISTANCES[outer], _FARTHEST)
        beyond = shares[row, outer, series] + least / edge
        part = (np.log1p(z) - _LOG_DISTANCES[at]) / (_LOG_DISTANCES[at + 1] - _LOG_DISTANCES[at])
        return np.log(np.minimum(near + part * (beyond - near), 1.0)), least

    def _run_p_values(self, own: Arrays, value: Floats) -> tuple[Floats, Floats, Ints32]:
        """Return the log of the share of runs at least as long as the run of equal values at each window.

        Also return a lower bound of the run's p-value, and the length of the run after each window. All three
        are ``[T, S]``. The logarithm is 0 outside a run, and in a series that has changed its value at most
        `YOUNG` times.
        """
        has_value = ~np.isnan(value)
        last = np.concatenate([own["last"][None], value])
        for t in np.flatnonzero(~has_value.all(axis=1)).tolist():
            np.copyto(last[t + 1], last[t], where=~has_value[t])
        repeats = value == last[:-1]
        run_ends = has_value & ~repeats & ~np.isnan(last[:-1])
        run = np.concatenate([own["run"][None], repeats], dtype=np.int32)
        for before, after, lasts in zip(run[:-1], run[1:], repeats | ~has_value, strict=True):
            after += before * lasts
        reached = run[:-1, None] >= _RUNS[:, None]
        shares, counts = self._learn(own["lasting"], own["runs"], reached, run_ends)
        own["run"], own["last"], run = run[-1].copy(), last[-1].copy(), run[1:]
        least = 1.0 / (np.minimum(counts[1:], self._memory) + 1.0)
        if not run.any():
            return np.zeros_like(value), least, run
        at = np.maximum((run[:, None] >= _RUNS[:, None]).sum(axis=1) - 1, 0)
        share = shares[np.arange(1, len(run) + 1)[:, None], at, np.arange(run.shape[1])]
        share = share + least / np.maximum(run, 1)
        applies = (run > 0) & (counts[1:] > YOUNG)
        return np.where(applies, np.log(np.minimum(share, 1.0)), 0.0), least, run

    def _learn(
        self, shares: Floats32, count: Ints32, reached: Bools, learns: Bools
    ) -> tuple[Floats32, Ints32]:
        """Update the share of windows that reached each distance, or of runs that reached each length.

        Args:
            shares: ``[E, S]``, updated in place.
            count: ``[S]``, the number of windows or runs, updated in place.
            reached: ``[T, E, S]``, True where the new window or run reaches the edge, a distance or a length.
            learns: ``[T, S]``; one window or run is added for each True.

        Returns:
            The shares ``[T + 1, E, S]`` and counts ``[T + 1, S]`` before the first window and after each.
        """
        counts = np.concatenate([count[None], learns], dtype=np.int32)
        accumulate_rows(np.add, counts)
        count[:] = counts[-1]
        weights = (learns / np.minimum(counts[:-1] + _PRIOR, self._memory)).astype(np.float32)
        history: Floats32 = np.empty((len(learns) + 1, *shares.shape), shares.dtype)
        history[0] = shares
        for before, after, new, weight in zip(history[:-1], history[1:], reached, weights, strict=True):
            np.subtract(new, before, out=after)
            after *= weight
            after += before
        shares[:] = history[-1]
        return history, counts


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
    alarming = np.where(lasting, LASTS | REPEATS, own["alarming"]).astype(np.uint8)
    return {**own, "alarming": alarming}
