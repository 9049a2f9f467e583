"""The seasonal shape of each series, such as its usual day: values minus shape are easier to forecast.

Letters: T windows, S series, K windows of a season, N horizon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from forecaster.arrays import Arrays, Bools, Floats, Ints
from forecaster.components.base import Block, Field, series_first, series_last
from forecaster.time.frequency import Frequency

_DAY_S, _WEEK_S = 86_400, 604_800
_LONGEST = 288  # a season in the state has at most this many windows: a day of 5-minute windows
# At most this many values are read at once, so that they fit into the cache: some windows of the season, for
# each window and series of the block. In a larger block, one window of the season is read at a time.
_READ_AT_ONCE = 16_384
# The seasonal shape learns from an error: a window's deviation from the season's mean, less the shape's
# value in the phase of that window. The error is clipped to this many scales.
_LARGEST = 8.0


def likely_season(freq: Frequency) -> int:
    """Return the number of windows in the likely season of a series: a day, a week or a year.

    The season is the shortest of these periods that lasts at least two windows. The result 1 means no season:
    even a year is shorter than two windows, or the season is not a whole number of windows. Forecasts use the
    season only if the ring is long enough (`ring_season`). The evaluation always uses it
    (`forecaster.evaluation.baselines`).
    """
    if freq.is_calendar:
        return 12 // freq.months if 12 % freq.months == 0 else 1
    freq_s = freq.seconds
    for period_s in (_DAY_S, _WEEK_S, 52 * _WEEK_S):
        if period_s >= 2 * freq_s:
            return period_s // freq_s if period_s % freq_s == 0 else 1
    return 1


def ring_season(ring: int, freq: Frequency) -> int:
    """Return the number of windows in the likely season of ``freq``, or 1 (no season).

    It is 1 if the season is longer than ``ring`` or 288 windows.
    """
    season = likely_season(freq)
    return season if season <= min(ring, _LONGEST) else 1


def ring_week(ring: int, freq: Frequency) -> int | None:
    """Return the number of windows in a week, for the weekly expert; None if there can be no such expert.

    It is None if a week is not a whole number of windows, is no longer than the season, or exceeds the ring.
    """
    if freq.is_calendar or _WEEK_S % freq.seconds:
        return None
    week = _WEEK_S // freq.seconds
    return week if ring_season(ring, freq) < week <= ring else None


@dataclass(frozen=True)
class Season:
    """Learns how far each seasonal phase of a series usually is from the mean of the season around it.

    Each phase has a running mean of these distances that forgets exponentially and learns once a season. The
    season's mean is centred on the value, which removes the trend (the classical decomposition of Hyndman &
    Athanasopoulos, "Forecasting: Principles and Practice", section 3.4, one value at a time).

    Attributes:
        season: K; 1 means no season, and the shape is 0.
        rate: the weight of the newest season, once more than ``1 / rate`` seasons were observed.
    """

    season: int
    rate: float = 0.1
    name: str = "season"
    format_version: int = 1
    reads = frozenset({"history", "last", "scale"})
    writes = frozenset({"shape"})

    def spec(self) -> Mapping[str, Field]:
        """Return the fields ``shape`` and ``seen``, or no fields if ``season`` is 1.

        ``seen`` is the number of updates of each phase, at most 250.
        """
        if self.season == 1:
            return {}
        return {"shape": Field("float64", (self.season,)), "seen": Field("uint8", (self.season,))}

    def init(self, series: int) -> Arrays:
        """Return seasonal shapes and update counts of 0, or no arrays if ``season`` is 1."""
        return {name: np.zeros((series, *f.shape), f.dtype) for name, f in self.spec().items()}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Learn each series' seasonal shape window by window; add the shapes to the block as ``shape``."""
        windows, series = block.values.shape
        if self.season == 1:
            return own, block.with_fields(shape=np.zeros((windows, 1, series)))
        shape, seen = series_last(own["shape"]), series_last(own["seen"])
        shapes = np.empty((windows, self.season, series))
        middle, deviation = self._deviation(block)
        known = ~np.isnan(deviation) & block.counts
        phase = (block.start + np.arange(windows)[:, None] - middle) % self.season
        for first in range(0, windows, self.season):
            some = slice(first, min(first + self.season, windows))
            part = (deviation[some], known[some], block.scale[some])
            self._learn(shape, seen, phase[some], *part, shapes[some])
        return {"shape": series_first(shape), "seen": series_first(seen)}, block.with_fields(shape=shapes)

    def _deviation(self, block: Block) -> tuple[int, Floats]:
        """Subtract the mean of the last ``season`` windows from the value in their middle, for each window.

        Returns:
            How many windows ago the middle was, and the differences ``[T, S]``: NaN if that value, or half of
            the season or more, is missing.
        """
        windows, middle = len(block.values), self.season // 2
        first = len(block.history) - windows - self.season + 1
        # The axes of ``past`` are window of the block, series, and window of the season.
        past = sliding_window_view(block.history[first:], self.season, axis=0)
        total, count = np.zeros(block.values.shape), np.zeros(block.values.shape)
        at_once = max(1, _READ_AT_ONCE // max(block.values.size, 1))
        for k in range(0, self.season, at_once):
            part = past[:, :, k : k + at_once].transpose(2, 0, 1)
            has_value = ~np.isnan(part)
            # Sum distances from the last value: sums of values in the billions would lose small differences.
            # Add one window of the season at a time: float sums depend on the order of the numbers, and must
            # not depend on the size of the block.
            for distance in np.where(has_value, part - block.last, 0.0):
                total += distance
            count += has_value.sum(axis=0)
        first = len(block.history) - windows - middle
        value = block.history[first : first + windows]
        enough = count > self.season / 2
        return middle, np.where(enough, value - block.last - total / np.maximum(count, 1), np.nan)

    def _learn(
        self,
        shape: Floats,
        seen: Ints,
        phase: Ints,
        deviation: Floats,
        known: Bools,
        scale: Floats,
        shapes: Floats,
    ) -> None:
        """Update ``shape`` and ``seen`` in place with the deviations of n windows from the season's mean.

        There are at most K windows, all with different phases, so no window changes what another one learns.

        Args:
            shape: ``[K, S]``.
            seen: ``[K, S]``.
            phase: ``[n, S]``, or ``[n, 1]`` if it is the same for all series.
            deviation: ``[n, S]``.
            known: ``[n, S]``, False if the deviation is missing or padding: the series does not change.
            scale: ``[n, S]``.
            shapes: ``[n, K, S]``, filled with the shape after each window.
        """
        at = (phase[:, 0],) if phase.shape[1] == 1 else (phase, np.arange(shape.shape[1]))
        count = np.minimum(seen[at] + known, 250)
        seen[at] = count
        weight, learned = np.maximum(self.rate, 1.0 / np.maximum(count, 1)), shape[at]
        error = np.where(known, deviation - learned, 0.0)
        learned += weight * np.clip(error, -_LARGEST * scale, _LARGEST * scale)
        for t, row in enumerate(learned):
            shape[(phase[t, 0] if len(at) == 1 else (phase[t], at[1]))] = row
            shapes[t] = shape


def phases(shape: Floats, windows: Ints) -> Floats:
    """Return the value that the seasonal ``shape`` has at the phase of each window in ``windows``.

    Args:
        shape: ``[K, ..., S]``.
        windows: ``[n, ..., S or 1]`` int64.

    Returns:
        ``[n, ..., S]``.
    """
    phase = windows % len(shape)
    if phase.shape[-1] > 1 or phase.ndim < 3:
        return np.take_along_axis(shape, phase, axis=0)
    found = np.empty((len(phase), *shape.shape[1:]))
    # Copy all series of one window at a time: this is several times as fast as copying single values.
    for t in range(phase.shape[1]):
        found[:, t] = shape[phase[:, t, 0], t]
    return found


def windows_ago(season: int, horizon: int) -> Ints:
    """Return, by horizon, how many windows ago the seasonal phase of the forecast window last occurred.

    0 is the current window, which is the last one before the forecast.

    Args:
        season: windows of a season.
        horizon: N.
    """
    ahead = np.arange(1, horizon + 1)
    return season * -(-ahead // season) - ahead
