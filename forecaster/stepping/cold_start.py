"""Forecast any number of windows ahead with the network alone, even for series with no value or one value.

A series without a value has no level to forecast from. Its level and scale are predicted from its static
features, with a ridge regression that was fitted to the fleet. The decoder forecasts its values as if
the series began at that window: its initial state is a learned function of the same features.

Letters: T windows, S series, D static features, N windows ahead, Q quantiles.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import torch

from forecaster.arrays import Floats
from forecaster.components.base import Block, Outputs
from forecaster.covariates.encoding import SERIES, Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.state import State, live
from forecaster.stepping.step_block import with_known_covariates
from schemas import cells
from schemas.errors import DataError, ModelError


def trajectory(
    forecaster: Forecaster,
    static: pl.DataFrame,
    start: int,
    horizon: int,
    first: Floats | None = None,
    name: str = "the features",
) -> Forecasts:
    """Forecast ``horizon`` windows of new series, which have no value or one value, with the network alone.

    Args:
        forecaster: has a decoder and was trained with static features; its tables hold the known covariates
            of the windows.
        static: ``series_id`` and the columns of static features, one row per series.
        start: index of the first window.
        horizon: N, the number of windows to forecast.
        first: ``[S]`` float64, the value of each series in the first window; None if the series have no
            values.
        name: name of the file of ``static``, for error messages.

    Returns:
        One forecast per series: without ``first``, of ``start`` and the windows after it, issued at the
        beginning of ``start``; with ``first``, of the windows after ``start``, issued at its end.

    Raises:
        DataError: the features cannot be read, or ``first`` is missing for a series.
        ModelError: the forecaster was trained without a decoder, or without static features.
    """
    features = forecaster.covariates.features
    if not (forecaster.network_config.decoder and features.static):
        raise ModelError(
            f"{forecaster.version} cannot forecast series without values: train it with "
            "network.decoder = true and covariates.static"
        )
    own = Covariates.of(features, forecaster.window_config.frequency, Tables(None, Table(static, name)))
    known = replace(forecaster.covariates, by_series=own.by_series, rows=own.rows)
    forecaster = forecaster.with_covariates(known)
    ids = tuple(cells.names(static[SERIES]))
    if first is not None:
        if np.isnan(first).any():
            raise DataError(
                f"series {ids[int(np.isnan(first).argmax())]!r} has no first value: give first values for "
                "all series, or for none"
            )
        return unroll_network(forecaster, forecaster.new_series_state(ids, start), first, horizon)
    future_features = known.known(ids, np.array([start]), horizon)
    with torch.inference_mode():
        static_features = torch.from_numpy(known.static(ids))
        level, scale = forecaster.network.level_and_scale(static_features)
        scaled = forecaster.network.cold(static_features, torch.from_numpy(future_features[None]))
        values = level[:, None] + scale[:, None] * scaled.double()
    return _as_forecasts(forecaster, ids, start - 1, values.numpy(), np.ones(len(ids), bool))


def unroll_network(forecaster: Forecaster, state: State, values: Floats, horizon: int) -> Forecasts:
    """Step a copy of ``state`` through one window; return the network's own forecasts of later windows.

    The other members, stacking and intervals are not used.
    A network without a decoder repeats its last season after the horizon that it was trained for.

    Args:
        forecaster: weights and settings.
        state: all its series have the same next window. Not changed.
        values: ``[S]`` float64 by slot, the values of that next window; NaN where missing.
        horizon: N, the number of windows to forecast.

    Raises:
        ValueError: the series' clocks differ.
    """
    closed = int(state.clock[0])
    if (state.clock != closed).any():
        raise ValueError(
            "the series were stepped up to different windows (their clocks differ): step all series to the "
            "same window first"
        )
    quantiles = len(forecaster.network_config.quantiles)
    out = Outputs.empty(quantiles, 0, 1, len(state), horizon)
    block = Block(np.array([closed + 1]), values[None], state.freq, out=out)
    block = with_known_covariates(forecaster, state.series_ids, block)
    parts = state.copy().parts
    for component in forecaster.components:
        _, block = component.step(parts[component.name], block)
        if component.name == forecaster.network.name:
            break
    issued = live(state) | ~np.isnan(values)
    return _as_forecasts(forecaster, state.series_ids, closed + 1, out.forecast, issued)


def _as_forecasts(
    forecaster: Forecaster, ids: tuple[str, ...], closed: int, values: Floats, issued: np.ndarray
) -> Forecasts:
    """Return an array of quantiles as `Forecasts` issued at the end of window ``closed``.

    The array is ``[Q, T, S, N]``, with T = 1. The quantiles of series that are not ``issued`` (``[S]`` bool)
    become NaN.
    """
    values = np.where(issued[:, None], values, np.nan)
    levels, freq = forecaster.network_config.quantiles, forecaster.window_config.frequency
    return Forecasts(forecaster.version, freq, levels, ids, closed, values, issued[None])
