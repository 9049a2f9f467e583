"""The shape of a season, such as a day, in each series: without it values are easier to forecast.

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
_LONGEST = 288  # windows: a day of five minutes
_LARGEST = 8.0  # scales by which one value can differ from what its phase is used to


def season_of(freq: Frequency) -> int:
    """Windows in the season that windows of this length are likely to have: a day, a week, or a year.

    1, which is none, where a window does not divide it. What a series is forecast with has this season if it
    fits (`season_in`), and what a series is judged by has it always (`forecaster.evaluation.baselines`).
    """
    if freq.is_calendar:
        return 12 // freq.months if 12 % freq.months == 0 else 1
    freq_s = freq.seconds
    for period_s in (_DAY_S, _WEEK_S, 52 * _WEEK_S):
        if period_s >= 2 * freq_s:
            return period_s // freq_s if period_s % freq_s == 0 else 1
    return 1


def season_in(ring: int, freq: Frequency) -> int:
    """Windows in the season that a state keeps; 1, which is none, where the ring, or 288, is shorter."""
    season = season_of(freq)
    return season if season <= min(ring, _LONGEST) else 1


def week_in(ring: int, freq: Frequency) -> int | None:
    """Windows in a week; None where they are no whole number, as few as a season, or more than the ring."""
    if freq.is_calendar or _WEEK_S % freq.seconds:
        return None
    week = _WEEK_S // freq.seconds
    return week if season_in(ring, freq) < week <= ring else None


@dataclass(frozen=True)
class Season:
    """Per series and phase of its season, how far values lie from the mean of the season around them.

    A running mean that forgets, once a season; the centred mean takes the trend out (the classical
    decomposition of Hyndman & Athanasopoulos, "Forecasting: Principles and Practice", section 3.4, one value
    at a time).

    Attributes:
        season: K; 1 is no season, with a shape of nothing but 0.
        rate: what the newest season counts, when there have been more than its inverse.
    """

    season: int
    rate: float = 0.1
    name: str = "season"
    format_version: int = 1

    def spec(self) -> Mapping[str, Field]:
        """The shape and how often each of its phases was seen; nothing where there is no season."""
        if self.season == 1:
            return {}
        return {"shape": Field("float64", (self.season,)), "seen": Field("uint8", (self.season,))}

    def init(self, series: int) -> Arrays:
        """A shape of 0."""
        return {name: np.zeros((series, *f.shape), f.dtype) for name, f in self.spec().items()}

    def step(self, own: Arrays, block: Block) -> tuple[Arrays, Block]:
        """Adds ``shape``."""
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
        """How long ago the middle of the last season was; its value's distance ``[T, S]`` from the mean."""
        windows, middle = len(block.values), self.season // 2
        first = len(block.history) - windows - self.season + 1
        total, count = np.zeros(block.values.shape), np.zeros(block.values.shape)
        for k in range(self.season):
            part = block.history[first + k : first + k + windows]
            there = ~np.isnan(part)
            total += np.where(there, part - block.last, 0.0)  # near 0: sums of billions would lose the shape
            count += there
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
        rows: int | Ints = int(phase[0]) if len(phase) == 1 else phase
        at = (rows,) if len(phase) == 1 else (rows, columns)
        times = np.minimum(seen[at] + known, 250)
        weight = np.maximum(self.rate, 1.0 / np.maximum(times, 1))
        off = np.clip(np.where(known, deviation - shape[at], 0.0), -_LARGEST * scale, _LARGEST * scale)
        shape[at] += weight * off
        seen[at] = times


def phases(shape: Floats, windows: Ints) -> Floats:
    """The shape ``[K, ..., S]`` at some windows: ``[n, ..., S]`` for ``windows`` ``[n, ..., S or 1]``."""
    phase = windows % len(shape)
    if phase.shape[-1] > 1 or phase.ndim < 3:
        return np.take_along_axis(shape, phase, axis=0)
    found = np.empty((len(phase), *shape.shape[1:]))
    for t in range(phase.shape[1]):  # whole rows: some times as fast as number by number
        found[:, t] = shape[phase[:, t, 0], t]
    return found


def windows_ago(season: int, horizon: int) -> Ints:
    """``[N]`` how many windows before the last the last one of the same phase lies, of each window ahead."""
    ahead = np.arange(1, horizon + 1)
    return season * -(-ahead // season) - ahead
