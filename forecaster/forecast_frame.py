"""One call from rows to forecasts: train a forecaster or take a given one, step each series, and forecast.

Letters: T windows, S series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.covariates.encoding import Tables
from forecaster.evaluation.backtest import backtest, score_beside_baselines, step_in_blocks
from forecaster.evaluation.scores import errors
from forecaster.forecasts import Forecasts, flat, flat_column
from forecaster.model import Forecaster
from forecaster.threads import compute_threads
from forecaster.time.aggregation import aggregate
from forecaster.time.infer_freq import infer_freq
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.epochs import Epoch
from forecaster.training.train import held_out_from, train
from schemas import observations
from schemas.errors import ConfigError, DataError


@dataclass(frozen=True)
class FleetForecast:
    """The forecasts after the last value of each series, the forecaster, and its backtest scores.

    Attributes:
        forecasts: see `forecast`.
        forecaster: the forecaster that made them.
        scores: backtest of the forecaster and the baselines on the last part of the windows
            (``schemas.scores``), with errors as multiples of the scale of each series (MASE); empty if no
            windows were held out or none has an actual.
    """

    forecasts: pl.DataFrame
    forecaster: Forecaster
    scores: pl.DataFrame


@compute_threads(1)
def forecast(
    frame: pl.DataFrame,
    horizon: int = 24,
    *,
    freq: str | None = None,
    quantiles: Sequence[float] = (0.05, 0.95),
    model: Forecaster | None = None,
) -> pl.DataFrame:
    """Forecast each series of a frame after its last value, with ``model`` or a model trained on the frame.

    Args:
        frame: ``series_id``, ``timestamp`` and ``value``, in any order.
        horizon: number of windows to forecast; with ``model``, at most the horizon of the model.
        freq: length of a window, such as ``"1h"``; None takes the one that fits the times of the rows
            (`forecaster.time.infer_freq`). With ``model``, the frequency of the model is used.
        quantiles: levels beside the median.
        model: a trained forecaster to use; None trains one with the default settings.

    Returns:
        One row for each series and target window: ``series_id``, ``timestamp`` (the start of the target
        window, UTC), ``horizon``, ``forecast`` (the median) and one column per level, such as ``q05``.

    Raises:
        ConfigError: a setting is invalid, or ``model`` has a smaller horizon, or lacks a quantile.
        DataError: a row is not an observation, no frequency can be found, or no series is long enough.
    """
    rows, rejected = observations.validate(frame)
    if len(rejected):
        row = rejected.row(0, named=True)
        raise DataError(f"the frame: row {row['row']}: {row['reason']}: correct it, or leave it out")
    config = WindowConfig(freq=freq or infer_freq(rows).freq) if model is None else model.window_config
    windows = aggregate(rows, config).windows
    if model is None:
        network = NetworkConfig(horizon=horizon, quantiles=tuple(sorted({*quantiles, 0.5})))
        found = train_and_forecast(windows, config, network)
    else:
        found = forecast_with(model, windows)
    return select(found.forecasts, horizon, quantiles)


def train_and_forecast(
    windows: Windows,
    config: WindowConfig,
    network: NetworkConfig,
    training: TrainingConfig | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    online: OnlineConfig | None = None,
    tables: Tables | None = None,
) -> FleetForecast:
    """Train a forecaster on ``windows``, and forecast each series after its last value.

    The arguments are as in `forecaster.training.train.train`. The backtest scores the weights from before
    the refit, which have not seen the windows of the backtest.
    """
    training = training or TrainingConfig()
    trained = train(windows, network, training, config, on_epoch, online, tables)
    _, first = held_out_from(len(windows.values), training)
    tested = backtest(trained.chosen, windows, first) if 0 < first < len(windows.values) else None
    scores = pl.DataFrame() if tested is None else tested.comparison.scores
    last, _ = _step(trained.forecaster, windows, len(windows.values))
    return FleetForecast(last, trained.forecaster, scores)


def forecast_with(model: Forecaster, windows: Windows) -> FleetForecast:
    """Step every series through ``windows``, and forecast each series after its last value.

    The forecasts that are issued in the last tenth of the windows are scored.

    Args:
        model: the forecaster.
        windows: the history of the series.
    """
    last, scores = _step(model, windows, round(0.9 * len(windows.values)))
    return FleetForecast(last, model, scores)


def select(forecasts: pl.DataFrame, horizon: int, quantiles: Sequence[float]) -> pl.DataFrame:
    """Select the forecasts at horizons 1 to ``horizon``, with the median and the levels ``quantiles``.

    Args:
        forecasts: the result of `forecaster.forecasts.flat`.
        horizon: the largest horizon to return.
        quantiles: the levels to return beside the median.

    Raises:
        ConfigError: the forecasts do not reach the horizon, or lack a level.
    """
    longest = int(forecasts["horizon"].max() or 0)  # type: ignore[arg-type]
    if horizon > longest:
        raise ConfigError(
            f"the model forecasts {longest} windows ahead, and {horizon} are wanted: choose a smaller horizon"
        )
    names = {level: flat_column(level) for level in quantiles if level != 0.5}
    if lacking := [level for level, name in names.items() if name not in forecasts.columns]:
        raise ConfigError(
            f"the model has no quantile {lacking[0]:g}: choose from {', '.join(forecasts.columns[3:])}"
        )
    return forecasts.filter(pl.col("horizon") <= horizon).select(*forecasts.columns[:4], *names.values())


def _step(model: Forecaster, windows: Windows, first: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Step a new state through ``windows``; return the forecast after each series' last value, and scores.

    Returns:
        The flat forecasts that follow the last value of each series; and the scores of the forecasts that are
        issued at the ends of the windows ``first`` and later, counted from 0. The scores are empty if none of
        these forecasts has an actual, or if ``first`` is 0.
    """
    last, scored, last_window = [], [], _windows_of_last_values(windows)
    for start, forecasts in step_in_blocks(model, windows, first):
        last.append(_after_last_value(forecasts, last_window))
        if start >= first:
            scored.append(errors(forecasts.frame(), windows, model.window_config))
    own = pl.concat(scored) if scored else pl.DataFrame()
    is_scored = first > 0 and len(own) > 0
    scores = score_beside_baselines(model, own, windows, first).scores if is_scored else pl.DataFrame()
    return flat(pl.concat(last), model.window_config.frequency), scores


def _windows_of_last_values(windows: Windows) -> dict[str, int]:
    """Return, by series id, the index of the window that holds the last value of the series."""
    has_value = ~np.isnan(windows.values)
    last_row = len(windows.values) - 1 - has_value[::-1].argmax(axis=0)
    return dict(zip(windows.series_ids, windows.index[last_row].tolist(), strict=True))


def _after_last_value(forecasts: Forecasts, last_window: dict[str, int]) -> pl.DataFrame:
    """Return only the forecasts issued at the end of the window that holds the last value of their series."""
    last = np.array([last_window[name] for name in forecasts.series_ids], np.int64)
    return replace(forecasts, issued=forecasts.issued & (forecasts.index[:, None] == last)).frame()
