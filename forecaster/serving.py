"""Forecast from the history in a request to MLflow's ``python_function`` interface.

If the model was trained with covariates, they are columns of the history. Static covariates have the same
value in all rows of a series. Known covariates of future windows are in further rows without a value, after
the last row with a value.

This module does not import MLflow; MLflow loads it through `forecaster.registry.loader`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from forecaster.arrays import Ints
from forecaster.covariates.lookup import Covariates
from forecaster.covariates.request import History, read_history
from forecaster.model import Forecaster
from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Shard
from forecaster.state import State, live
from forecaster.stepping.advance import advance
from forecaster.stepping.rewarming import rewarm
from forecaster.threads import compute_threads
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas import quarantine
from schemas.errors import DataError, ModelError, StatecastError
from schemas.forecasts import quantile_column

STATE, RETURN_STATE = "state", "return_state"
"""Names of the two parameters of a request."""

_NOT_FINITE = "the model gives a forecast that is not finite: serve another version of the model"
_NOT_FINITE_FROM_STATE = "the state gives a forecast that is not finite: start from a history instead"


class ServedForecaster:
    """The object that MLflow serves. Each request contains all data: no state is kept between calls."""

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster

    @compute_threads(1)
    def predict(self, frame: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return the last forecast of every series, from a history alone or from a state and newer rows.

        Rows are validated and stepped as in a job over files. A row without a value is not an observation,
        but the windows before it are closed.

        Args:
            frame: a Polars or pandas frame with the columns ``series_id``, ``timestamp`` (datetime, or text
                in ISO 8601; UTC without a zone) and ``value`` (number, empty where missing); and one column
                for each covariate that the forecaster was trained with, empty where missing.
            params: ``state``, base64 text of the state that an earlier call returned; without it every series
                starts cold. ``return_state``, whether to return the state after the rows.

        Returns:
            One row per series and horizon, in the library of ``frame``: ``series_id``, ``issued_at`` (UTC),
            ``model_version``, ``horizon`` (windows ahead), one column per quantile, such as ``q50``, in the
            unit of ``value``, and ``note``: why the forecast is less accurate than later ones, or "". With
            ``return_state``, a dictionary: ``forecasts``, the rows as dictionaries, and ``state``, base64
            text.

        Raises:
            DataError: a column is missing, a row is not an observation or its window is closed in the state,
                or no series has a value.
            ModelError: the state cannot be read.
        """
        given = params or {}
        history = read_history(frame, self.forecaster.covariates.features)
        state = _read_state(self.forecaster, given[STATE]) if given.get(STATE) else None
        found, after = last_forecasts(with_tables(self.forecaster, history), history.rows, state)
        if given.get(RETURN_STATE):
            return {"forecasts": found.to_dicts(), "state": base64.b64encode(after.to_bytes()).decode()}
        return found if isinstance(frame, pl.DataFrame) else found.to_pandas()


def with_tables(forecaster: Forecaster, history: History) -> Forecaster:
    """Return a forecaster that looks up known and static covariates in a history, not in its own tables."""
    features = forecaster.covariates.features
    if not (features.known or features.static):
        return forecaster
    frequency = forecaster.window_config.frequency
    return forecaster.with_covariates(Covariates.of(features, frequency, history.tables))


def last_forecasts(
    forecaster: Forecaster, history: pl.DataFrame, state: State | None = None
) -> tuple[pl.DataFrame, State]:
    """Return the last forecast of every series, and the state after the history.

    The windows are stepped in the same blocks as in a backfill with the default settings, so the forecasts
    are the same.

    Args:
        forecaster: weights, settings and covariates.
        history: observation frame; a row without a value (NaN) only closes the windows before it.
        state: the state before the history; by default every series starts cold. Not changed.

    Returns:
        The forecasts as in `ServedForecaster.predict`, and the state.

    Raises:
        DataError: a row belongs to a window that the state has closed, or there is nothing to forecast.
        ModelError: a forecast is not finite.
    """
    freq = forecaster.window_config.frequency
    shard = _shard_of(forecaster, state)
    windows = freq.window_of(history["timestamp"].to_physical().to_numpy())
    _check_open(windows, shard.closed_through)
    has_value = history["value"].is_not_nan()
    if forecaster.covariates.features.known and has_value.any():
        # Do not close the windows after the last value: their rows only hold known covariates.
        windows = windows[windows <= windows[has_value.to_numpy()].max()]
    rows = history.filter(has_value)
    rows = _rows_since_last_begin(rows, forecaster.window_config) if state is None else rows
    rows = rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("offset"))
    closed_us = int(freq.end_us(int(windows.max())))
    batch = Batch("history", 0, len(rows), rows, quarantine.empty(offset=True), closed_us)
    found: pl.DataFrame | None = None
    for after, output in apply(shard, batch, forecaster):
        shard = after
        if output.forecasts is not None:
            # Keep only each series' last forecast: all forecasts of a long history could fill the memory.
            newer = output.forecasts.latest().frame()
            both = newer if found is None else pl.concat([found, newer])
            found = both.unique("series_id", keep="last", maintain_order=True)
    if found is None:
        raise DataError("the history has no value: send a value of at least one series")
    answer = _answer(forecaster, found.sort("series_id"), shard.state)
    names = map(quantile_column, forecaster.network_config.quantiles)
    if not np.isfinite(answer.select(names).to_numpy()).all():
        raise ModelError(_NOT_FINITE if state is None else _NOT_FINITE_FROM_STATE)
    return answer, shard.state


def _answer(forecaster: Forecaster, found: pl.DataFrame, state: State) -> pl.DataFrame:
    """Return one row per series and horizon, with a ``note`` if the series has few values or has retired."""
    config = forecaster.network_config
    wanted = config.ring or config.halflife
    values = state.parts["moments"]["observed"].astype(np.int64)
    few = pl.format("only {} of the {} values that full accuracy needs", "values", pl.lit(wanted))
    ids = pl.Series(state.series_ids, dtype=pl.String)
    notes = pl.DataFrame({"series_id": ids, "values": values, "live": live(state)})
    retired = pl.lit("the series has retired: this is its last forecast")
    short = pl.when(pl.col("values") < wanted).then(few).otherwise(pl.lit(""))
    notes = notes.select("series_id", note=pl.when("live").then(short).otherwise(retired))
    return (
        found.explode("forecast")
        .unnest("forecast")
        .drop("revision", "p_value", "alarm")
        # Widen the horizon to 32 bits, because MLflow's signatures have no 16-bit integers.
        .with_columns(pl.col("horizon").cast(pl.Int32))
        .join(notes, on="series_id", how="left", maintain_order="left")
    )


def _shard_of(forecaster: Forecaster, state: State | None) -> Shard:
    """Return a shard that starts from ``state``, or cold if it is None.

    All live series are stepped to the last window of the state.
    """
    shard = Shard.cold(0, 1, forecaster.initial_state() if state is None else state, ["history"])
    if state is None or not len(state):
        return shard
    closed = int(state.clock.max())
    nothing = Windows(state.series_ids, closed + 1, np.empty((0, len(state))))
    # The block has no windows, but `advance` first steps live series through the windows before a block.
    # `advance` returns a copy of the state, so `apply` does not change the arrays of the caller's state.
    aligned, _ = advance(forecaster, state, nothing)
    return replace(shard, state=aligned, closed_through=closed)


def _check_open(windows: Ints, closed_through: int | None) -> None:
    """Raise DataError if the state has closed the window of a row; ``windows`` holds one window per row."""
    is_closed = windows <= closed_through if closed_through is not None else np.zeros(len(windows), bool)
    if is_closed.any():
        others = f" (and {int(is_closed.sum()) - 1:,} more rows)" if is_closed.sum() > 1 else ""
        raise DataError(
            f"the history: row {int(is_closed.argmax()) + 1}{others} is in a window that the state has "
            "closed: send only rows of later windows"
        )


def _read_state(forecaster: Forecaster, text: object) -> State:
    """Return the state of a request, re-warmed if another model version made it.

    Raises:
        ModelError: the text is not a state that the forecaster can continue.
    """
    try:
        state = State.from_bytes(base64.b64decode(cast("str", text), validate=True))
        state = rewarm(forecaster, state)
        if _layout(state) != _layout(forecaster.new_series_state(state.series_ids, 0)):
            raise ModelError("the arrays of the state do not fit this model")
        oldest = state.clock[live(state)].min(initial=state.clock.max(initial=0))
        if state.clock.max(initial=0) - oldest > forecaster.window_config.max_gap:
            raise ModelError(
                "the state's series were stepped to windows that are more than windows.max_gap windows apart"
            )
        return state
    except StatecastError as error:
        reason = str(error)
    except binascii.Error as error:
        reason = f"it is not base64 text: {error}"
    except Exception as error:
        reason = f"{type(error).__name__} while reading it"
    raise ModelError(
        f"the parameter {STATE!r} is not a state that this model can continue: {reason}; send the state that "
        "an earlier request returned, or none"
    )


def _layout(state: State) -> dict[tuple[str, str], Any]:
    """Return the dtype and shape of each array of a state, by the pair of component name and field name."""
    return {(name, f): (a.dtype, a.shape) for name, own in state.parts.items() for f, a in own.items()}


def _rows_since_last_begin(rows: pl.DataFrame, config: WindowConfig) -> pl.DataFrame:
    """Return the rows of each series that follow its last gap of more than ``max_gap`` windows.

    The series begins anew after such a gap, so earlier rows do not change the last forecast. All rows of a
    series without such a gap are returned.
    """
    window = config.frequency.window(pl.col("timestamp"))
    is_begin = (pl.col("_window").diff() > config.max_gap + 1).fill_null(False)
    period = is_begin.cum_sum().over("series_id")
    marked = rows.with_columns(_window=window).sort("_window").with_columns(_period=period)
    is_last = pl.col("_period") == pl.col("_period").max().over("series_id")
    return marked.filter(is_last).drop("_window", "_period")


def _load_pyfunc(path: str) -> ServedForecaster:
    """Load a model that an old release registered; newer models use `forecaster.registry.loader`."""
    return ServedForecaster(Forecaster.load(Path(path)))
