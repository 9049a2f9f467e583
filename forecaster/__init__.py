"""The forecaster: network, state, `advance`, training, evaluation and models in MLflow, without Beam.

Letters in docstrings: T windows, S series, L layers, H hidden width, N horizon, Q quantiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy_imports import lazy_names

if TYPE_CHECKING:
    from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
    from forecaster.evaluation.baselines import persistence, seasonal_naive
    from forecaster.evaluation.scores import calibration, errors, score, series_scale
    from forecaster.forecast_frame import forecast
    from forecaster.forecasts import Forecasts
    from forecaster.model import Forecaster
    from forecaster.registry.registry import Registry
    from forecaster.shards.apply import apply
    from forecaster.shards.batch import Batch
    from forecaster.shards.counts import Counts
    from forecaster.shards.shard import Output, Shard
    from forecaster.state import State
    from forecaster.stepping.advance import advance
    from forecaster.stepping.rewarming import rewarm
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
    "advance": "stepping.advance",
    "aggregate": "time.aggregation",
    "apply": "shards.apply",
    "calibration": "evaluation.scores",
    "errors": "evaluation.scores",
    "forecast": "forecast_frame",
    "persistence": "evaluation.baselines",
    "rewarm": "stepping.rewarming",
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
    "forecast",
    "persistence",
    "rewarm",
    "score",
    "seasonal_naive",
    "series_scale",
    "train",
]

__getattr__ = lazy_names(__name__, _MODULE_OF)
