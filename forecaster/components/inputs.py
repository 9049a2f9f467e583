"""Level-free inputs: what the network sees of a value is how far it lies from the series' own past.

Letters: T windows, S series, F inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from forecaster.components.base import Block, Component, Floats, Floats32, Ints
from forecaster.components.moments import Moments
from forecaster.components.ring import Ring
from forecaster.config import NetworkConfig

_DAY_S, _WEEK_S = 86_400, 604_800
_CLIP = 10.0  # in scales; a first jump after a long constant stretch is 15 of them

INPUTS_BESIDE_LAGS = 8


class Inputs(NamedTuple):
    """What a block of windows gives the network.

    Attributes:
        x: ``[T, S, F]`` float32.
        last: ``[T, S]`` float64, last observed value at each window's end.
        scale: ``[T, S]`` float64, scale at each window's end, above 0.
    """

    x: Floats32
    last: Floats
    scale: Floats


def input_count(config: NetworkConfig) -> int:
    """F: inputs per series and window."""
    return INPUTS_BESIDE_LAGS + len(config.lags)


def before_network(config: NetworkConfig) -> tuple[Component, ...]:
    """The components that the inputs are made from; a ring of no windows is none."""
    moments = Moments(config.halflife, 0.0)
    return (moments, Ring(config.ring, max(config.lags, default=0))) if config.ring else (moments,)


def network_inputs(values: Floats, start: Ints, freq_s: int, config: NetworkConfig) -> Inputs:
    """Inputs of series from a cold start, none of which depends on a later window.

    Args:
        values: ``[T, S]`` float64, NaN where missing.
        start: ``[S]`` or ``[1]`` int64, window index of row 0 (of each series).
        freq_s: window length in seconds.
        config: lags and half-life.
    """
    block = Block(start, values, freq_s)
    for part in before_network(config):
        _, block = part.step(part.init(values.shape[1]), block)
    return Inputs(block_inputs(block, config.lags), block.last, block.scale)


def block_inputs(block: Block, lags: tuple[int, ...]) -> Floats32:
    """``[T, S, F]`` from what moments and ring have added to ``block``."""
    values = block.values
    windows, series = values.shape
    longest = len(block.history) - windows
    x = np.empty((windows, series, INPUTS_BESIDE_LAGS + len(lags)), np.float32)
    unit = 1.0 / block.scale
    with np.errstate(invalid="ignore", over="ignore"):
        x[:, :, 0] = (block.last - block.mean) * unit
        x[:, :, 1] = (values - block.before) * unit
        for column, lag in enumerate(lags, INPUTS_BESIDE_LAGS):
            past = block.history[longest - lag : longest - lag + windows]
            x[:, :, column] = (past - block.last) * unit
    np.clip(x, -_CLIP, _CLIP, out=x)
    x[np.isnan(x)] = 0.0  # where something was missing
    x[:, :, 2] = ~np.isnan(values)
    x[:, :, 3] = np.log1p(block.age) / 5
    at_s = (np.arange(1, windows + 1)[:, None] + block.start[None, :]) * block.freq_s
    for column, period_s in ((4, _DAY_S), (6, _WEEK_S)):
        phase = 2 * np.pi * ((at_s % period_s) / period_s)
        x[:, :, column], x[:, :, column + 1] = np.sin(phase), np.cos(phase)
    return x
