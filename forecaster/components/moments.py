"""Level-free inputs: what the network sees of a value is how far it lies from the series' own past.

Letters: T windows, S series, F inputs, R ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from forecaster.config import NetworkConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_DAY_S, _WEEK_S = 86_400, 604_800
_CLIP = 10.0  # in scales; a first jump after a long constant stretch is 15 of them
_TINY = 1e-12  # of the level: a meter that stands at a billion and moves by single units is not constant

INPUTS_BESIDE_LAGS = 8


@dataclass(frozen=True)
class Moments:
    """What is known of each series' level and spread; arrays ``[S]``, as in `forecaster.state.State`."""

    observed: Ints
    mean: Floats
    variance: Floats
    last: Floats
    age: Ints

    @staticmethod
    def unseen(series: int) -> Moments:
        """Before the first value of ``series`` series."""
        zeros, count = np.zeros(series), np.zeros(series, np.int64)
        return Moments(count, zeros, zeros, zeros, count)


class Inputs(NamedTuple):
    """What one block of windows gives the network, and what remains for the next block.

    Attributes:
        x: ``[T, S, F]`` float32.
        last: ``[T, S]`` float64, last observed value at each window's end.
        scale: ``[T, S]`` float64, scale at each window's end, above 0.
        moments: moments after the block.
        ring: ``[R, S]`` float64, ring after the block.
    """

    x: NDArray[np.float32]
    last: Floats
    scale: Floats
    moments: Moments
    ring: Floats


def input_count(config: NetworkConfig) -> int:
    """F: inputs per series and window."""
    return INPUTS_BESIDE_LAGS + len(config.lags)


def network_inputs(
    values: Floats, start: Ints, freq_s: int, moments: Moments, ring: Floats, config: NetworkConfig
) -> Inputs:
    """Inputs of a block of windows, none of which depends on a later window.

    The running mean and variance forget exponentially, with a plain average until enough was seen
    (Finch 2009, "Incremental calculation of weighted mean and variance", equations 143 and following).

    Args:
        values: ``[T, S]`` float64, NaN where missing.
        start: ``[S]`` or ``[1]`` int64, window index of row 0 (of each series).
        freq_s: window length in seconds.
        moments: moments before the block.
        ring: ``[R, S]`` values before the block, oldest first.
        config: lags and half-life.
    """
    windows, series = values.shape
    mean, last, scale, age, moments = _follow(values, moments, config.halflife)
    history = np.concatenate([ring, values])
    x = np.zeros((windows, series, input_count(config)), np.float32)
    seen = ~np.isnan(values)
    before = np.concatenate([history[len(ring) - 1 : len(ring)], values[:-1]])
    with np.errstate(invalid="ignore"):
        x[:, :, 0] = _clipped((last - mean) / scale)
        x[:, :, 1] = _clipped((values - before) / scale)
        for column, lag in enumerate(config.lags, INPUTS_BESIDE_LAGS):
            past = history[len(ring) - lag : len(ring) - lag + windows]
            x[:, :, column] = _clipped((past - last) / scale)
    x[:, :, 2] = seen
    x[:, :, 3] = np.log1p(age) / 5
    at_s = (np.arange(1, windows + 1)[:, None] + start[None, :]) * freq_s
    for column, period_s in ((4, _DAY_S), (6, _WEEK_S)):
        phase = 2 * np.pi * ((at_s % period_s) / period_s)
        x[:, :, column], x[:, :, column + 1] = np.sin(phase), np.cos(phase)
    return Inputs(x, last, scale, moments, history[windows:].copy())


def _clipped(deviation: Floats) -> Floats:
    """Within what the network is used to; 0 where something was missing."""
    return np.nan_to_num(np.clip(deviation, -_CLIP, _CLIP), copy=False, nan=0.0)


def _follow(values: Floats, moments: Moments, halflife: int) -> tuple[Floats, Floats, Floats, Ints, Moments]:
    """The moments after each window: mean, last, scale and age ``[T, S]``, then those after the block."""
    forget = 1.0 - 2.0 ** (-1.0 / halflife)
    observed, mean, variance = moments.observed, moments.mean, moments.variance
    last, age = moments.last, moments.age
    means, lasts, scales = np.empty_like(values), np.empty_like(values), np.empty_like(values)
    ages = np.empty(values.shape, np.int64)
    for t, value in enumerate(values):
        seen = ~np.isnan(value)
        observed = observed + seen
        weight = seen * np.maximum(1.0 / np.maximum(observed, 1), forget)
        delta = np.where(seen, value - mean, 0.0)
        mean = mean + weight * delta
        variance = (1.0 - weight) * (variance + weight * delta * delta)
        last = np.where(seen, value, last)
        age = np.where(seen, 0, age + 1)
        means[t], lasts[t], ages[t] = mean, last, age
        scales[t] = np.maximum(np.sqrt(variance), _TINY * np.maximum(np.abs(mean), 1.0))
    return means, lasts, scales, ages, Moments(observed, mean, variance, last, age)
