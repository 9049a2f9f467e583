"""What a label network sees of the values, under each scaling.

Letters: T steps, S sequences, C channels, F inputs.
"""

from __future__ import annotations

import numpy as np

from forecaster.arrays import Arrays, Floats, Floats32, Ints
from forecaster.components.base import Block
from forecaster.components.network.inputs import before_network, block_inputs, input_count
from forecaster.config import NetworkConfig
from forecaster.labelling.config import Scaling
from forecaster.time.frequency import Frequency

LEVEL_FREE = NetworkConfig(lags=(1, 2, 3, 6, 12, 18, 21, 22, 23, 24), ring=24, linear=False)
"""Level-free inputs are those of the forecasting network, lags and calendar among them."""
_STEP = Frequency(1)  # a length of which no season is known
_CLIP = 10.0  # in spreads
_TINY = 1e-12  # of the level: what moves less than this is constant


def count(scaling: Scaling, channels: int, config: NetworkConfig) -> int:
    """F: inputs per step."""
    return channels * (input_count(config) if scaling == "running" else 2)


def spread(values: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation ``[C]`` of each channel of ``[N, C]``; 0 and 1 where there is no value."""
    known = ~np.isnan(values)
    n = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / n
    deviation = np.where(known, values - mean, 0.0)
    std = np.sqrt((deviation**2).sum(axis=0) / n)
    return mean, np.where(std <= _TINY * np.maximum(np.abs(mean), 1.0), 1.0, std)


def scaled(values: Floats, mean: Floats, std: Floats) -> Floats32:
    """``[T, S, 2 C]`` float32: each channel in spreads from its mean, 0 where missing; then what is there."""
    known = ~np.isnan(values)
    x = np.clip(np.where(known, (values - mean) / std, 0.0), -_CLIP, _CLIP)
    return np.concatenate([x, known], axis=2).astype(np.float32)


def by_own_spread(values: Floats) -> Floats32:
    """`scaled`, each sequence by its own mean and spread: ``[T, S, C]`` to ``[T, S, 2 C]``."""
    own = [spread(values[:, s]) for s in range(values.shape[1])]
    mean, std = (np.stack(part) for part in zip(*own, strict=True))
    return scaled(values, mean, std)


def level_free_state(columns: int, config: NetworkConfig) -> dict[str, Arrays]:
    """What level-free inputs carry from step to step, of ``S x C`` columns that have seen nothing."""
    return {part.name: part.init(columns) for part in before_network(config, _STEP)}


def level_free(
    parts: dict[str, Arrays], values: Floats, start: Ints, freq_s: int, config: NetworkConfig
) -> tuple[dict[str, Arrays], Floats32]:
    """Inputs ``[T, S, F]`` of steps ``[T, S, C]`` that begin at windows ``start`` ``[S]``; the state after.

    The state that is given is used up: it may share memory with the one that comes back.
    """
    steps, series, channels = values.shape
    block = Block(np.repeat(start, channels), values.reshape(steps, series * channels), Frequency(freq_s))
    after = {}
    for part in before_network(config, _STEP):
        after[part.name], block = part.step(parts[part.name], block)
    return after, block_inputs(block, config.lags).reshape(steps, series, -1)
