"""Trajectories of series that nothing, or one value, is known of; and any number of windows ahead of others.

A series without a value has no level to forecast from: where its values lie and how far they scatter is a
ridge regression on its static features, fitted to the fleet. How it goes on from there the decoder says, from
a first state that is a learned map of the same features, as if the series began at that window.

Letters: S series, D static features, N windows ahead, Q quantiles.
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
from forecaster.stepping import block_knowing
from schemas import cells
from schemas.errors import DataError, ModelError

_SHRINKAGE = 1.0  # series' worth of evidence that a feature says nothing
_EVERY = 4  # rows to one at which a series is learned from as if it began there


def trajectory(
    forecaster: Forecaster,
    static: pl.DataFrame,
    start: int,
    horizon: int,
    first: Floats | None = None,
    name: str = "the features",
) -> Forecasts:
    """Forecasts of a whole trajectory of new series, as the network alone says it.

    Args:
        forecaster: with a decoder, trained with static features; its tables say what is known of the windows.
        static: ``series_id`` and the columns of static features, a row a series.
        start: the first window.
        horizon: N, as many windows as are wanted.
        first: ``[S]`` float64, the value of each series in the first window, if there is one.
        name: of the file of ``static``, for people.

    Returns:
        One issue: of ``start`` and the windows after it, issued as it begins; or, where there is a first
        value, of those after it, issued as it ends.

    Raises:
        DataError: the features cannot be read, or a series has no first value while there are some.
        ModelError: the forecaster was trained without a decoder, or without static features.
    """
    features = forecaster.covariates.features
    if not (forecaster.network_config.decoder and features.static):
        raise ModelError(
            f"{forecaster.version} cannot forecast what has not begun: train it with network.decoder = true "
            "and covariates.static"
        )
    own = Covariates.of(features, forecaster.window_config.frequency, Tables(None, Table(static, name)))
    known = replace(forecaster.covariates, by_series=own.by_series, rows=own.rows)
    forecaster = forecaster.knowing(known)
    ids = tuple(cells.names(static[SERIES]))
    if first is not None:
        if np.isnan(first).any():
            raise DataError(
                f"series {ids[int(np.isnan(first).argmax())]!r} has no first value: leave out all"
            )
        return unrolled(forecaster, forecaster.unseen(ids, start), first, horizon)
    ahead = known.known(ids, np.array([start]), horizon)
    with torch.inference_mode():
        of_series = torch.from_numpy(known.static(ids))
        level, scale = forecaster.network.level_and_scale(of_series)
        said = forecaster.network.cold(of_series, torch.from_numpy(ahead[None]))
        values = level[:, None] + scale[:, None] * said.double()
    return _issued(forecaster, ids, start - 1, values.numpy(), np.ones(len(ids), bool))


def unrolled(forecaster: Forecaster, state: State, values: Floats, horizon: int) -> Forecasts:
    """What the network alone forecasts for any number of windows after one more, from a carried state.

    Beyond the trained horizon a network without a decoder repeats its last season.

    Args:
        forecaster: weights and settings.
        state: of series whose next window is the same. Not changed.
        values: ``[S]`` float64 by slot, of that window; NaN where missing.
        horizon: N, as many windows as are wanted.

    Raises:
        ValueError: the series' clocks differ.
    """
    closed = int(state.clock[0])
    if (state.clock != closed).any():
        raise ValueError("series whose clocks differ have no next window in common")
    quantiles = len(forecaster.network_config.quantiles)
    out = Outputs.empty(quantiles, 0, 1, len(state), horizon)
    block = Block(np.array([closed + 1]), values[None], state.freq, out=out)
    block = block_knowing(forecaster, state.series_ids, block)
    parts = state.copy().parts
    for component in forecaster.components:
        _, block = component.step(parts[component.name], block)
        if component.name == forecaster.network.name:
            break
    issued = live(state) | ~np.isnan(values)
    return _issued(forecaster, state.series_ids, closed + 1, out.forecast, issued)


def _issued(
    forecaster: Forecaster, ids: tuple[str, ...], closed: int, values: Floats, issued: np.ndarray
) -> Forecasts:
    values = np.where(issued[:, None], values, np.nan)
    levels, freq = forecaster.network_config.quantiles, forecaster.window_config.frequency
    return Forecasts(forecaster.version, freq, levels, ids, closed, values, issued[None])
