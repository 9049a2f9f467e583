"""The forecaster: network, state, `advance`, training, evaluation and models in MLflow, without Beam.

Letters in docstrings: T windows, S series, L layers, H hidden width, N horizon, Q quantiles.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
    from forecaster.evaluation.baselines import persistence, seasonal_naive
    from forecaster.evaluation.scores import calibration, errors, score, series_scale
    from forecaster.forecasts import Forecasts
    from forecaster.model import Forecaster
    from forecaster.registry.registry import Registry
    from forecaster.rewarming import rewarm
    from forecaster.shards.apply import apply
    from forecaster.shards.batch import Batch
    from forecaster.shards.counts import Counts
    from forecaster.shards.shard import Output, Shard
    from forecaster.state import State
    from forecaster.stepping import advance
    from forecaster.time.aggregation import aggregate
    from forecaster.time.window_config import WindowConfig
    from forecaster.time.windows import Windows
    from forecaster.training.train import Trained, train

_MODULE_OF = {
    "Batch": "shards.batch",
    "Counts": "shards.counts",
    "Forecaster": "model",
    "Forecasts": "forecasts",
    "NetworkConfig": "config",
    "OnlineConfig": "config",
    "Output": "shards.shard",
    "Registry": "registry.registry",
    "Shard": "shards.shard",
    "State": "state",
    "Trained": "training.train",
    "TrainingConfig": "config",
    "WindowConfig": "time.window_config",
    "Windows": "time.windows",
    "advance": "stepping",
    "aggregate": "time.aggregation",
    "apply": "shards.apply",
    "calibration": "evaluation.scores",
    "errors": "evaluation.scores",
    "persistence": "evaluation.baselines",
    "rewarm": "rewarming",
    "score": "evaluation.scores",
    "seasonal_naive": "evaluation.baselines",
    "series_scale": "evaluation.scores",
    "train": "training.train",
}

__all__ = [
    "Batch",
    "Counts",
    "Forecaster",
    "Forecasts",
    "NetworkConfig",
    "OnlineConfig",
    "Output",
    "Registry",
    "Shard",
    "State",
    "Trained",
    "TrainingConfig",
    "WindowConfig",
    "Windows",
    "advance",
    "aggregate",
    "apply",
    "calibration",
    "errors",
    "persistence",
    "rewarm",
    "score",
    "seasonal_naive",
    "series_scale",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first used.

    Importing torch takes two seconds and MLflow five, and not every program needs both.
    """
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # store the value, so that the next use of the name does not import again
    return value
