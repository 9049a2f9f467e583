"""Compute the network's inputs, such as changes divided by the spread; none depends on a series' level.

Letters: T windows, S series, F inputs, K linear experts, N horizon, C known features, D static features, I
inputs from observed covariates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from forecaster.arrays import Floats, Floats32, Ints
from forecaster.components.base import Block, Component
from forecaster.components.moments import Moments
from forecaster.components.network.ridge import (
    LINEAR_EXPERT_COUNT,
    OTHER_LEVEL,
    distances,
    expert_forecasts,
    limit_distances,
)
from forecaster.components.ring import Ring
from forecaster.components.season import ring_season
from forecaster.config import NetworkConfig
from forecaster.time.calendar import calendar
from forecaster.time.frequency import Frequency

_CLIP = 6.0  # changes, and distances from the mean or the last value, are clipped to this many spreads
# ``scale / spread`` and ``unit / spread`` are clipped to the range 1 / `_LARGEST_RATIO` to `_LARGEST_RATIO`.
_LARGEST_RATIO = 1e3
# ``OTHER_LEVEL * scale / spread`` is clipped to at most this number, which float32 can hold.
_MOST_SPREADS = 1e30
_LARGEST_ERROR = 1e6  # forecast errors of linear experts are clipped to this many units
# About this many lagged values (lags times windows times series) are read at once, to fit the cache.
_READ_AT_ONCE = 16_384

INPUTS_BESIDE_LAGS = 11


class Inputs(NamedTuple):
    """The inputs of the network for a block of windows.

    Attributes:
        x: ``[T, S, F]`` float32.
        block: the windows, with the fields of ring and moments.
    """

    x: Floats32
    block: Block


def input_count(config: NetworkConfig, covariates: int = 0) -> int:
    """Return the number of inputs of the network.

    There are 11, one for each lag, and one for each input from covariates. With ``config.linear``, there is
    also one for each linear expert of `forecaster.components.network.ridge`.
    """
    return INPUTS_BESIDE_LAGS + len(config.lags) + (LINEAR_EXPERT_COUNT if config.linear else 0) + covariates


def with_covariates(x: Floats32, block: Block) -> Floats32:
    """Return the inputs ``x`` of the network, extended by the inputs that are computed from covariates.

    ``x`` is ``[T, S, F]``, float32. The result is ``[T, S, F + C + D + I]``: the F inputs, the C known and D
    static features, and the I inputs computed from observed covariates.
    """
    windows, series, _ = x.shape
    known = np.broadcast_to(block.known[:windows], (windows, series, block.known.shape[2]))
    static = np.broadcast_to(block.static, (windows, *block.static.shape))
    past = [block.observed_inputs] if block.observed_inputs.size else []
    return np.concatenate([x, known, static, *past], axis=2)


def future_features(block: Block, rows: slice, horizon: int) -> Floats32:
    """For each of the block's windows in ``rows``, return the known features of the next ``horizon`` windows.

    The result is ``[n, N, S or 1, C]`` float32. The series axis is 1 if the features are the same for all
    series.
    """
    if block.known.ndim < 3:
        return np.zeros((len(block.values[rows]), horizon, 1, 0), np.float32)
    after = sliding_window_view(block.known[1:], horizon, axis=0)[: len(block.values)][rows]
    return np.moveaxis(after, 3, 1).copy()


def input_components(
    config: NetworkConfig, freq: Frequency, prior: float = 0.0, reach: int = 0
) -> tuple[Component, ...]:
    """Return the ring and the moments: `block_inputs` computes the network's inputs from their fields.

    Args:
        config: half-life, ring and lags.
        freq: length of a window.
        prior: see `Moments`.
        reach: how many windows before a block other components read.
    """
    season = ring_season(config.ring, freq)
    moments = Moments(config.halflife, prior, season)
    own = config.ring if config.linear else max([*config.lags, season if season > 1 else 0])
    return Ring(config.ring, max(own, reach)), moments


def network_inputs(
    values: Floats,
    start: Ints,
    freq: Frequency,
    config: NetworkConfig,
    ridge: Floats32 | None = None,
    prior: float = 0.0,
) -> Inputs:
    """Compute the network's inputs for series that start in the initial state, without earlier values.

    The inputs of a window do not depend on later windows.

    Args:
        values: ``[T, S]`` float64, NaN if missing.
        start: ``[S]`` or ``[1]`` int64, window index of row 0 (of each series).
        freq: length of a window.
        config: lags and half-life.
        ridge: see `expert_forecasts`; required if ``config.linear``.
        prior: see `Moments`.
    """
    block = Block(start, values, freq)
    for part in input_components(config, freq, prior):
        _, block = part.step(part.init(values.shape[1]), block)
    x = block_inputs(block, config.lags)
    if config.linear:
        if ridge is None:
            raise ValueError(
                "ridge is None: give the ridge regressions, which the network's linear part needs"
            )
        changes = expert_forecasts(block, ridge[:, :, :1], ring_season(config.ring, freq))[..., 0]
        nothing = np.full((LINEAR_EXPERT_COUNT, values.shape[1]), np.nan, np.float32)
        x = np.concatenate([x, expert_errors(block, nothing, changes)], axis=2)
    return Inputs(x, block)


def expert_errors(block: Block, before: Floats32, expected: Floats32) -> Floats32:
    """Return the errors of the linear experts in each window, as signed logarithms.

    The error is the actual change less the change that was forecast, in units. The result is the logarithm of
    1 plus the error's size, with the error's sign. The error is 0 if the value of the window, the value of
    the window before, or the forecast is missing.

    Args:
        block: with the fields of the moments.
        before: ``[K, S]`` the change that was forecast for the block's first window, in units; NaN without a
            forecast.
        expected: ``[K, T, S]`` the change that each window's forecast expects in the next window.

    Returns:
        ``[T, S, K]`` float32.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        actual = ((block.values - block.before) / block.unit).astype(np.float32)
    error = np.concatenate([before[:, None], expected[:, :-1]], axis=1)
    np.subtract(actual, error, out=error)
    error[np.isnan(error)] = 0.0
    np.clip(error, -_LARGEST_ERROR, _LARGEST_ERROR, out=error)
    signed: Floats32 = np.copysign(np.log1p(np.abs(error)), error)
    return signed.transpose(1, 2, 0)


def block_inputs(block: Block, lags: tuple[int, ...]) -> Floats32:
    """Return the network's inputs from ring, moments and calendar: 11 inputs, then one for each lag.

    The result is ``[T, S, 11 + number of lags]``.
    """
    values = block.values
    windows, series = values.shape
    x = np.empty((windows, series, INPUTS_BESIDE_LAGS + len(lags)), np.float32)
    per_spread = 1.0 / block.spread
    with np.errstate(invalid="ignore", over="ignore"):
        x[:, :, 0] = (block.last - block.mean) * per_spread
        change = (values - block.before) * per_spread
        # The change is set to 0 if the window or the window before has no value.
        x[:, :, 1] = np.where(np.isnan(change), 0.0, change)
        x[:, :, INPUTS_BESIDE_LAGS:] = _lagged(block, lags).transpose(1, 2, 0)
        np.clip(x, -_CLIP, _CLIP, out=x)
        for column, moved in ((2, block.unit), (3, block.scale)):
            ratio = np.clip(moved * per_spread, 1.0 / _LARGEST_RATIO, _LARGEST_RATIO)
            x[:, :, column] = np.log(ratio)
    x[:, :, 4] = ~np.isnan(values)
    x[:, :, 5] = np.log1p(block.age) / 5
    x[:, :, 6] = np.log1p(block.observed) / 7
    following = np.arange(1, windows + 1)[:, None] + block.start[None, :]
    periods = ("month", "year") if block.freq.is_calendar else ("day", "week")
    x[:, :, 7:11] = calendar(following, block.freq, periods)
    return x


def _lagged(block: Block, lags: tuple[int, ...]) -> Floats32:
    """Return the value at each lag less the last value, in spreads.

    The result is ``[number of lags, T, S]``. A missing lag counts as the running mean, a lag on another level
    as the last value.
    """
    windows, longest = len(block.values), len(block.history) - len(block.values)
    size = OTHER_LEVEL * block.scale
    per_size, mean = 1.0 / size, np.empty(block.values.shape, np.float32)
    distance = np.empty((len(lags), *block.values.shape), np.float32)
    rows = (longest - np.array(lags))[:, None] + np.arange(windows)
    at_once = max(1, _READ_AT_ONCE // max(block.values.size, 1))
    off = np.empty((min(at_once, len(lags)), *block.values.shape))
    for first in range(0, len(lags), at_once):
        some = slice(first, first + at_once)
        # A large block reads one lag at a time, as a slice, which is not copied.
        start = longest - lags[first]
        past = block.history[None, start : start + windows] if at_once == 1 else block.history[rows[some]]
        distances(past, block.last, per_size, distance[some], off[: len(past)])
    distances(block.mean, block.last, per_size, mean)
    limit_distances(distance, mean)
    distance *= np.minimum(size / block.spread, _MOST_SPREADS).astype(np.float32)
    return distance
