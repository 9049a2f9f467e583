"""Helpers for tests of training: small fleets, and trainings of a few epochs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import Trained, train
from tests.fleets import START

NETWORK = NetworkConfig(hidden=8, layers=1, horizon=6, lags=(1, 2, 3), ring=8)
BRIEF = TrainingConfig(epochs=2, segment=16, validation=0.2, backtest=0.0, refit=False)


def fleet_of(values: NDArray[np.float64]) -> Windows:
    return Windows(tuple(f"s{i}" for i in range(values.shape[1])), START, values)


def sines(windows: int, series: int = 24, seed: int = 0) -> Windows:
    """Return hourly sine waves with a period of a day, random phases, heights and levels, and 10 % noise."""
    chance = np.random.default_rng(seed)
    phase, level = chance.uniform(0, 2 * np.pi, series), chance.normal(0, 100, series)
    height = 10.0 ** chance.uniform(-1, 2, series)
    t = np.arange(windows)[:, None]
    noise = 0.1 * chance.normal(size=(windows, series))
    return fleet_of(level + height * (np.sin(2 * np.pi * t / 24 + phase) + noise))


def train_briefly(windows: Windows | None = None, **changes: object) -> Trained:
    """Train `NETWORK` on ``windows``, or else on sine waves; ``changes`` replace settings of `BRIEF`."""
    training = TrainingConfig.model_validate(BRIEF.model_dump() | changes)
    return train(windows or sines(100, 6), NETWORK, training, WindowConfig())


def weights(trained: Trained) -> NDArray[np.float32]:
    """Return all parameters and buffers of the trained network as one flat array."""
    parts = trained.forecaster.network.state_dict().values()
    return np.concatenate([part.numpy().reshape(-1) for part in parts])
