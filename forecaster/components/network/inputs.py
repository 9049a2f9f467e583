"""Level-free inputs: what the network sees of a value is how far it lies from the series' own past.

Letters: T windows, S series, F inputs, K experts, N horizon.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from forecaster.arrays import Floats, Floats32, Ints
from forecaster.components.base import Block, Component
from forecaster.components.moments import Moments
from forecaster.components.network.ridge import (
    EXPERTS,
    OTHER_LEVEL,
    distances,
    expert_forecasts,
    near_in_place,
)
from forecaster.components.ring import Ring
from forecaster.components.season import season_in
from forecaster.config import NetworkConfig
from forecaster.time.calendar import calendar
from forecaster.time.frequency import Frequency

_CLIP = 6.0  # in spreads
_LARGEST_RATIO = 1e3
_MOST_SPREADS = 1e30  # in a scale; a number in single precision
_LARGEST_ERROR = 1e6  # units

INPUTS_BESIDE_LAGS = 11


class Inputs(NamedTuple):
    """What a block of windows gives the network.

    Attributes:
        x: ``[T, S, F]`` float32.
        block: the windows, with what ring and moments say of them.
    """

    x: Floats32
    block: Block


def input_count(config: NetworkConfig, covariates: int = 0) -> int:
    """F: inputs per series and window, the errors of the experts and covariates where there are any."""
    return INPUTS_BESIDE_LAGS + len(config.lags) + (EXPERTS if config.linear else 0) + covariates


def with_covariates(x: Floats32, block: Block) -> Floats32:
    """``[T, S, F + C + D + I]`` float32, inputs ``[T, S, F]``, what is known of each window and series, and
    what was observed beside its value.
    """
    windows, series, _ = x.shape
    known = np.broadcast_to(block.known[:windows], (windows, series, block.known.shape[2]))
    static = np.broadcast_to(block.static, (windows, *block.static.shape))
    past = [block.past_inputs] if block.past_inputs.size else []
    return np.concatenate([x, known, static, *past], axis=2)


def known_ahead(block: Block, rows: slice, horizon: int) -> Floats32:
    """``[n, N, S or 1, C]`` float32, what is known of the windows after each of ``n`` rows of a block."""
    if block.known.ndim < 3:
        return np.zeros((len(block.values[rows]), horizon, 1, 0), np.float32)
    after = sliding_window_view(block.known[1:], horizon, axis=0)[: len(block.values)][rows]
    return np.moveaxis(after, 3, 1).copy()


def before_network(
    config: NetworkConfig, freq: Frequency, prior: float = 0.0, reach: int = 0
) -> tuple[Component, ...]:
    """The components that the inputs are made from.

    Args:
        config: half-life, ring, and what looks back.
        freq: length of a window.
        prior: see `Moments`.
        reach: how many windows others look back.
    """
    season = season_in(config.ring, freq)
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
    """Inputs of series from a cold start, none of which depends on a later window.

    Args:
        values: ``[T, S]`` float64, NaN where missing.
        start: ``[S]`` or ``[1]`` int64, window index of row 0 (of each series).
        freq: length of a window.
        config: lags and half-life.
        ridge: see `expert_forecasts`; needed where ``config.linear``.
        prior: see `Moments`.
    """
    block = Block(start, values, freq)
    for part in before_network(config, freq, prior):
        _, block = part.step(part.init(values.shape[1]), block)
    x = block_inputs(block, config.lags)
    if config.linear:
        if ridge is None:
            raise ValueError("inputs of a network with a linear part need its ridge")
        changes = expert_forecasts(block, ridge[:, :, :1], season_in(config.ring, freq))[..., 0]
        nothing = np.full((EXPERTS, values.shape[1]), np.nan, np.float32)
        x = np.concatenate([x, expert_errors(block, nothing, changes)], axis=2)
    return Inputs(x, block)


def expert_errors(block: Block, before: Floats32, expected: Floats32) -> Floats32:
    """``[T, S, K]`` float32, by how many units each expert missed each window, on a logarithmic scale.

    0 where the window or that before it has no value.

    Args:
        block: with what the moments say of it.
        before: ``[K, S]`` the change that was expected into the block's first window, in units; NaN where
            none was.
        expected: ``[K, T, S]`` the change that is expected into the window after each.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        came = ((block.values - block.before) / block.unit).astype(np.float32)
    off = np.concatenate([before[:, None], expected[:, :-1]], axis=1)
    np.subtract(came, off, out=off)
    off[np.isnan(off)] = 0.0
    np.clip(off, -_LARGEST_ERROR, _LARGEST_ERROR, out=off)
    return np.moveaxis(np.copysign(np.log1p(np.abs(off)), off), 0, -1)


def block_inputs(block: Block, lags: tuple[int, ...]) -> Floats32:
    """``[T, S, F]`` from what ring and moments have added to ``block``, without the experts' errors."""
    values = block.values
    windows, series = values.shape
    x = np.empty((windows, series, INPUTS_BESIDE_LAGS + len(lags)), np.float32)
    per_spread = 1.0 / block.spread
    with np.errstate(invalid="ignore", over="ignore"):
        x[:, :, 0] = (block.last - block.mean) * per_spread
        change = (values - block.before) * per_spread
        x[:, :, 1] = np.where(np.isnan(change), 0.0, change)  # where something was missing
        x[:, :, INPUTS_BESIDE_LAGS:] = np.moveaxis(_lagged(block, lags), 0, 2)
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
    """``[n, T, S]``, how many spreads lagged values lie from the last, or the mean where one is missing."""
    windows, longest = len(block.values), len(block.history) - len(block.values)
    size = OTHER_LEVEL * block.scale
    per_size, off = 1.0 / size, np.empty(block.values.shape)
    far, mean = np.empty((len(lags), *off.shape), np.float32), np.empty(off.shape, np.float32)
    for column, lag in enumerate(lags):
        past = block.history[longest - lag : longest - lag + windows]
        distances(past, block.last, per_size, far[column], off)
    distances(block.mean, block.last, per_size, mean, off)
    near_in_place(far, mean)
    far *= np.minimum(size / block.spread, _MOST_SPREADS).astype(np.float32)
    return far
