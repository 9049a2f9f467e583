"""Compute a label network's inputs from its channels, with scaling ``train``, ``series`` or ``running``.

Letters: T steps, S sequences, C channels, F inputs, N values.
"""

from __future__ import annotations

import numpy as np

from forecaster.arrays import Arrays, Floats, Floats32, Ints
from forecaster.components.base import Block
from forecaster.components.network.inputs import block_inputs, input_components, input_count
from forecaster.config import NetworkConfig
from forecaster.labelling.config import Scaling
from forecaster.time.frequency import Frequency

LEVEL_FREE = NetworkConfig(lags=(1, 2, 3, 6, 12, 18, 21, 22, 23, 24), ring=24, linear=False)
"""Settings of the inputs for scaling "running", as in the forecasting network, with lags and calendar."""
# A step counts as a window of one second. The season of such windows, one day, is longer than the ring.
# So the inputs use no season.
_STEP = Frequency(1)
_CLIP = 10.0  # standardised values are clipped to at most this distance from 0
# a channel counts as constant if its standard deviation is at most 1e-12 · max(abs(mean), 1)
_TINY = 1e-12


def count(scaling: Scaling, channels: int, config: NetworkConfig) -> int:
    """Return how many inputs the label network has at each step."""
    return channels * (input_count(config) if scaling == "running" else 2)


def mean_and_std(values: Floats) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation of each channel.

    ``values`` is ``[N, C]``. The mean is 0 and the standard deviation 1 if there is no value. The standard
    deviation of a constant channel is 1.
    """
    has_value = ~np.isnan(values)
    n = np.maximum(has_value.sum(axis=0), 1)
    mean = np.where(has_value, values, 0.0).sum(axis=0) / n
    deviation = np.where(has_value, values - mean, 0.0)
    std = np.sqrt((deviation**2).sum(axis=0) / n)
    return mean, np.where(std <= _TINY * np.maximum(np.abs(mean), 1.0), 1.0, std)


def scaled(values: Floats, mean: Floats, std: Floats) -> Floats32:
    """Standardise values by mean and standard deviation, and add flags: 1 for a value, 0 for a missing one.

    Standardised values are clipped to ±10.

    Returns:
        ``[T, S, 2 C]`` float32: the C values, 0 where missing, then the C flags.
    """
    has_value = ~np.isnan(values)
    x = np.clip(np.where(has_value, (values - mean) / std, 0.0), -_CLIP, _CLIP)
    return np.concatenate([x, has_value], axis=2).astype(np.float32)


def scaled_by_sequence(values: Floats) -> Floats32:
    """Standardise each channel of each sequence by its own mean and standard deviation; flag missing values.

    A flag is 1 for a value and 0 for a missing value, as in `scaled`.

    Args:
        values: ``[T, S, C]``, NaN where missing.

    Returns:
        ``[T, S, 2 C]`` float32.
    """
    own = [mean_and_std(values[:, s]) for s in range(values.shape[1])]
    mean, std = (np.stack(part) for part in zip(*own, strict=True))
    return scaled(values, mean, std)


def level_free_state(columns: int, config: NetworkConfig) -> dict[str, Arrays]:
    """Return the initial state of the components that compute the inputs for ``scaling="running"``.

    ``columns`` is the number of series times the number of channels.
    """
    return {part.name: part.init(columns) for part in input_components(config, _STEP)}


def level_free(
    parts: dict[str, Arrays], values: Floats, start: Ints, freq_s: int, config: NetworkConfig
) -> tuple[dict[str, Arrays], Floats32]:
    """Step the components that compute the network's inputs for ``scaling="running"``.

    Return the new state of the components, and the inputs.

    The inputs are ``[T, S, F]``. The given state must not be used again, as it may share memory with the
    returned one.

    Args:
        parts: the state before the steps.
        values: ``[T, S, C]``, NaN where missing.
        start: ``[S]``, index of each series' first window.
        freq_s: seconds of a window.
        config: settings of the inputs.
    """
    steps, series, channels = values.shape
    block = Block(np.repeat(start, channels), values.reshape(steps, series * channels), Frequency(freq_s))
    after = {}
    for part in input_components(config, _STEP):
        after[part.name], block = part.step(parts[part.name], block)
    return after, block_inputs(block, config.lags).reshape(steps, series, -1)
