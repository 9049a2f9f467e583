"""The seasonal shape of each series, such as its usual day: values less the shape are easier to forecast.

Letters: T windows, S series, K windows of a season, N horizon.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats, Ints
from forecaster.components.base import Block, Field, series_first, series_last
from forecaster.time.frequency import Frequency

_DAY_S, _WEEK_S = 86_400, 604_800
_LONGEST = 288  # a season in the state has at most this many windows: a day of 5-minute windows
# A deviation's distance from the shape's value in its phase is clipped to this many scales.
_LARGEST = 8.0


def likely_season(freq: Frequency) -> int:
    """Return how many windows the likely season of a frequency has: a day, a week, or a year.

    1 means no season: the season is not a whole number of windows. Forecasts use this season only if the ring
    is long enough (`ring_season`). The evaluation always uses it (`forecaster.evaluation.baselines`).
    """
    if freq.is_calendar:
        return 12 // freq.months if 12 % freq.months == 0 else 1
    freq_s = freq.seconds
    for period_s in (_DAY_S, _WEEK_S, 52 * _WEEK_S):
        if period_s >= 2 * freq_s:
            return period_s // freq_s if period_s % freq_s == 0 else 1
    return 1


def ring_season(ring: int, freq: Frequency) -> int:
    """Return the windows in the likely season of ``freq``; 1 (no season) if it exceeds the ring or 288."""
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
        """Return the initial arrays: for each series, a seasonal shape of zeros and update counts of 0."""
        return {name: np.zeros((series, *f.shape), f.dtype) for name, f in self.spec().items()}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Learn the shape window by window, and add ``shape`` to the block."""
        windows, series = block.values.shape
        if self.season == 1:
            return own, replace(block, shape=np.zeros((windows, 1, series)))
        shape, seen = series_last(own["shape"]), series_last(own["seen"])
        shapes = np.empty((windows, self.season, series))
        middle, deviation = self._deviation(block)
        columns = np.arange(series)
        for t in range(windows):
            known = ~np.isnan(deviation[t])
            if (counts := block.counts(t)) is not None:
                known &= counts
            self._learn(
                shape,
                seen,
                (block.start + t - middle) % self.season,
                columns,
                deviation[t],
                known,
                block.scale[t],
            )
            shapes[t] = shape
        return {"shape": series_first(shape), "seen": series_first(seen)}, replace(block, shape=shapes)

    def _deviation(self, block: Block) -> tuple[int, Floats]:
        """Return, for each window, the middle value of the last ``season`` windows less their mean.

        Returns:
            How many windows ago the middle was, and the differences ``[T, S]``: NaN if that value, or half of
            the season or more, is missing.
        """
        windows, middle = len(block.values), self.season // 2
        first = len(block.history) - windows - self.season + 1
        total, count = np.zeros(block.values.shape), np.zeros(block.values.shape)
        for k in range(self.season):
            part = block.history[first + k : first + k + windows]
            has_value = ~np.isnan(part)
            # Sum distances from the last value: sums of values in the billions would lose small differences.
            total += np.where(has_value, part - block.last, 0.0)
            count += has_value
        first = len(block.history) - windows - middle
        value = block.history[first : first + windows]
        enough = count > self.season / 2
        return middle, np.where(enough, value - block.last - total / np.maximum(count, 1), np.nan)

    def _learn(
        self,
        shape: Floats,
        seen: Ints,
        phase: Ints,
        columns: Ints,
        deviation: Floats,
        known: Bools,
        scale: Floats,
    ) -> None:
        """Update ``shape`` and ``seen`` in place with one window's deviations from the season's mean.

        Series whose ``known`` is False do not change. ``shape`` and ``seen`` are ``[K, S]``, the deviations
        ``[S]``.
        """
        rows: int | Ints = int(phase[0]) if len(phase) == 1 else phase
        at = (rows,) if len(phase) == 1 else (rows, columns)
        count = np.minimum(seen[at] + known, 250)
        weight = np.maximum(self.rate, 1.0 / np.maximum(count, 1))
        error = np.clip(np.where(known, deviation - shape[at], 0.0), -_LARGEST * scale, _LARGEST * scale)
        shape[at] += weight * error
        seen[at] = count


def phases(shape: Floats, windows: Ints) -> Floats:
    """Return the value of the seasonal shape in each of ``windows``.

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

    Args:
        season: windows of a season.
        horizon: N.
    """
    ahead = np.arange(1, horizon + 1)
    return season * -(-ahead // season) - ahead
