"""Confidence intervals of the improvement of one model over another, by a block bootstrap over time.

Errors of successive forecasts are correlated: their targets overlap, and a hard day is hard for both models.
So whole blocks of successive issue times are drawn, and both models keep their errors at each of them
(a paired difference). The moving-block bootstrap is from Künsch 1989, "The jackknife and the bootstrap for
general stationary observations"; here the blocks wrap around the end of the history, so that every issue time
is drawn equally often (Politis & Romano 1992, "A circular block-resampling procedure for stationary data").

Letters: T issue times, K columns (such as horizons or classes of series), R resamples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from forecaster.arrays import Floats

_RESAMPLES = 2000
_SEED = 0  # a fixed seed, so that the same losses always give the same interval
_SIGNIFICANT = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution
_ROUNDING = 1e-12
# The difference of two mean losses is divided by the champion's mean loss, to get the `Improvement`.
# The divisor is at least this share of the error of seasonal naive.
_LEAST_LOSS = 1e-6


class Improvement(NamedTuple):
    """The share by which the loss of a challenger is smaller than that of a champion; negative if larger.

    Attributes:
        share: 1 minus the ratio of the challenger's mean loss to the champion's.
        low, high: confidence interval of the share.
    """

    share: float
    low: float
    high: float


def block_length(differences: Floats) -> int:
    """Return the block length for a circular block bootstrap of the mean of ``differences``.

    The length minimizes the mean squared error of the estimated variance (Politis & White 2004, "Automatic
    block-length selection for the dependent bootstrap", with the correction of Patton, Politis & White 2009).
    It is computed from the autocovariances up to twice the first lag from which on none is significant.
    ``differences`` is ``[T]``.
    """
    count = len(differences)
    centred = differences - differences.mean() if count else differences
    if count < 3 or np.abs(centred).max() <= _ROUNDING * np.abs(differences).max():
        return 1
    silent_lags = max(5, math.ceil(math.sqrt(math.log10(count))))
    most_lags = min(math.ceil(math.sqrt(count)) + silent_lags, count - 1)
    lagged = [centred[lag:] @ centred[: count - lag] / count for lag in range(most_lags + 1)]
    covariance = np.array(lagged)
    limit = _SIGNIFICANT * math.sqrt(math.log10(count) / count)
    is_significant = np.abs(covariance[1:] / covariance[0]) > limit
    first_silent = _first_silent_lag(is_significant, silent_lags)
    width = min(2 * max(first_silent, 1), most_lags)
    lag = np.arange(-width, width + 1)
    # These weights are the flat-top lag window of Politis & White.
    weight = np.clip(2.0 * (1.0 - np.abs(lag) / width), 0.0, 1.0)
    at = covariance[np.abs(lag)]
    slope, variance = (weight * np.abs(lag) * at).sum(), (weight * at).sum()
    if not variance:
        return 1
    length = (2 * slope**2 / (4 / 3 * variance**2)) ** (1 / 3) * count ** (1 / 3)
    most = math.ceil(min(3 * math.sqrt(count), count / 3))
    return int(min(max(math.ceil(length), 1), most))


def _first_silent_lag(is_significant: np.ndarray, silent_lags: int) -> int:
    """Return the first lag from which on ``silent_lags`` successive lags are not significant.

    If there are no such successive lags, return the largest significant lag, or 0 if no lag is significant.
    ``is_significant`` begins at lag 1.
    """
    for lag in range(len(is_significant) - silent_lags + 1):
        if not is_significant[lag : lag + silent_lags].any():
            return lag + 1
    found = np.flatnonzero(is_significant)
    return int(found[-1]) + 1 if len(found) else 0


def improvements(
    champion: Floats, challenger: Floats, count: Floats, length: int, confidence: float
) -> list[Improvement]:
    """Return the `Improvement` of each column of losses, with a percentile interval from 2,000 resamples.

    The K columns are, for example, the horizons or the classes of series.

    Args:
        champion: ``[T, K]`` sums of the champion's losses at each issue time, in units of the error of
            seasonal naive.
        challenger: ``[T, K]`` sums of the challenger's losses.
        count: ``[T, K]`` number of losses in each sum.
        length: issue times in a block.
        confidence: share of resamples inside the interval.
    """
    times = len(champion)
    drawn = np.random.default_rng(_SEED).integers(0, times, (-(-times // length), _RESAMPLES))
    least = _LEAST_LOSS * count.sum(axis=0)

    def shares(old: Floats, new: Floats, scale: float) -> Floats:
        share: Floats = (old - new) / np.maximum(old, np.maximum(scale * least, np.finfo(float).tiny))
        return share

    sums = []
    for losses in (champion, challenger):
        by_start = _circular_sums(losses, length)
        total = np.zeros((_RESAMPLES, losses.shape[1]))
        # Add one block to every resample at a time: the blocks of all resamples would not fit into memory.
        for starts in drawn:
            total += by_start[starts]
        sums.append(total)
    resampled = shares(sums[0], sums[1], len(drawn) * length / times)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    share = shares(champion.sum(axis=0), challenger.sum(axis=0), 1.0)
    return [Improvement(*map(float, found)) for found in zip(share, low, high, strict=True)]


def _circular_sums(losses: Floats, length: int) -> Floats:
    """For each row, return the sum of the ``length`` rows that begin with it; row 0 follows the last row."""
    times = len(losses)
    wrapped = np.concatenate([losses, losses[: min(length, times) - 1]])
    sums = np.concatenate([np.zeros((1, losses.shape[1])), np.cumsum(wrapped, axis=0)])
    found: Floats = sums[min(length, times) : min(length, times) + times] - sums[:times]
    return found
