"""The one function that moves state on.

The backfill, the streaming job, the evaluation and the served model all call `advance`; nothing else steps
the network on behalf of a state.

Letters: T windows, S series, N horizon, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from numpy.typing import NDArray

from forecaster.components.moments import Moments, network_inputs
from forecaster.model import Forecaster
from forecaster.state import Floats, Ints, State
from forecaster.windows import MICROSECONDS, Windows, aggregate
from schemas.errors import DataError, ModelError, VersionMismatch
from schemas.forecasts import quantile_column

_CALL_STEPS = 10_000  # series-steps in one network call: what it makes on the way stays in the cache


@dataclass(frozen=True)
class Forecasts:
    """What was forecast as each of ``T`` windows closed.

    Attributes:
        model_version: version of the weights.
        freq_s: length of a window in seconds.
        quantile_levels: ``Q`` levels.
        series_ids: ``S`` ids.
        start: index of the first closed window.
        values: ``[Q, T, S, N]`` float64, in the series' own unit.
        issued: ``[T, S]`` bool, False where a series had not begun.
    """

    model_version: str
    freq_s: int
    quantile_levels: tuple[float, ...]
    series_ids: tuple[str, ...]
    start: int
    values: Floats
    issued: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.issued.sum())

    def frame(self) -> pl.DataFrame:
        """The forecasts as rows of ``schemas.forecasts``, window by window, nested by horizon."""
        _, windows, series, horizon = self.values.shape
        rows = windows * series
        end_us = (self.start + 1 + np.arange(windows)) * self.freq_s * MICROSECONDS
        steps = pa.array(np.tile(np.arange(1, horizon + 1, dtype=np.int16), rows))
        names = ["horizon", *(quantile_column(level) for level in self.quantile_levels)]
        nested = pa.StructArray.from_arrays([steps, *(pa.array(q.reshape(-1)) for q in self.values)], names)
        offsets = pa.array(np.arange(0, (rows + 1) * horizon, horizon, dtype=np.int64))
        ids = pa.array(self.series_ids, pa.large_string())
        table = pa.table(
            {
                "series_id": ids.take(pa.array(np.tile(np.arange(series), windows))),
                "issued_at": pa.array(np.repeat(end_us, series), pa.timestamp("us", "UTC")),
                "model_version": pa.repeat(pa.scalar(self.model_version, pa.large_string()), rows),
                "revision": pa.array(np.zeros(rows, np.int32)),
                "forecast": pa.LargeListArray.from_arrays(offsets, nested),
            }
        )
        frame = cast("pl.DataFrame", pl.from_arrow(table))
        return frame if self.issued.all() else frame.filter(pl.Series(self.issued.reshape(-1)))


def advance(forecaster: Forecaster, state: State, window: Windows | pl.DataFrame) -> tuple[State, Forecasts]:
    """Moves every series on to the end of ``window`` and forecasts from each window on the way.

    A known series without a value in a window is stepped with a missing one; a series that the state does
    not know begins at its first value. Windows between a series' clock and ``window`` are stepped as
    missing. Neither argument is changed.

    Args:
        forecaster: weights and settings.
        state: the fleet so far; `Forecaster.initial_state` to begin with.
        window: a block of windows, or an observation frame (``series_id, timestamp, value``) in any order,
            aggregated into windows first.

    Returns:
        The new state (series that were known keep their place, new ones follow) and the forecasts.

    Raises:
        VersionMismatch: other weights made ``state`` (see `rewarm`).
        DataError: ``window`` holds values for windows that ``state`` has already closed.
    """
    if state.model_version != forecaster.version:
        raise VersionMismatch(
            f"this state was made by {state.model_version} and cannot be fed to {forecaster.version}: "
            "re-warm it under the new weights"
        )
    block = (
        aggregate(window, forecaster.window_config).windows if isinstance(window, pl.DataFrame) else window
    )
    state, begin, block = _align(forecaster, state, block)
    values = block.values
    levels, horizon = forecaster.network_config.quantiles, forecaster.network_config.horizon
    issued = np.arange(len(values))[:, None] >= begin[None, :]
    if forecaster.window_config.empty == "zero":
        values = np.where(np.isnan(values) & issued, 0.0, values)
    bounds = np.unique([*begin[begin < len(values)], len(values)])
    if len(bounds) == 2 and bounds[0] == 0 and begin.max() == 0:
        state, result = _step(forecaster, state, values, block.start)
    else:
        # Series begin inside the block: step up to each beginning those that have begun by then.
        result = np.full((len(levels), *values.shape, horizon), np.nan)
        for first, stop in pairwise(bounds):
            index = np.flatnonzero(begin <= first)
            part, forecast = _step(
                forecaster, state.take(index), values[first:stop, index], block.start + int(first)
            )
            state = state.replace(index, part)
            result[:, first:stop, index] = forecast
    forecasts = Forecasts(
        state.model_version, state.freq_s, levels, state.series_ids, block.start, result, issued
    )
    return state, forecasts


def _align(forecaster: Forecaster, state: State, block: Windows) -> tuple[State, Ints, Windows]:
    """One order of series and one first window for both.

    Returns the state with the new series added, the ``[S]`` row of the block at which each series begins,
    and the block with every series of the state, from the earliest open window on.
    """
    if block.series_ids == state.series_ids and (state.clock == block.start - 1).all():
        return state, np.zeros(len(state), np.int64), block  # the stream's every step
    place = {name: i for i, name in enumerate(block.series_ids)}
    known = frozenset(state.series_ids)
    has_value = ~np.isnan(block.values)
    born = [name for name in block.series_ids if name not in known and has_value[:, place[name]].any()]
    first = np.array([block.start + int(has_value[:, place[name]].argmax()) for name in born], np.int64)
    start = min([block.start, *(state.clock + 1)])
    values = np.full((block.stop - start, len(state) + len(born)), np.nan)
    ids = (*state.series_ids, *born)
    columns = np.array([place.get(name, -1) for name in ids], np.int64)
    there = columns >= 0
    values[block.start - start :, there] = block.values[:, columns[there]]
    begin = np.concatenate([state.clock + 1, first]) - start
    closed = ~np.isnan(values) & (np.arange(len(values))[:, None] < begin[None, :])
    if closed.any():
        name = ids[int(closed.any(axis=0).argmax())]
        raise DataError(
            f"{int(closed.sum())} values belong to windows that are already closed (the first series is "
            f"{name!r}): feed only windows after the state's clock"
        )
    if born:
        fresh = forecaster.unseen(tuple(born), 0)
        state = State.join([state, fresh])
        clock = np.concatenate([state.clock[: -len(born)], first - 1])
        state = State(**{**vars(state), "clock": clock})
    return state, begin, Windows(ids, start, values)


def _step(forecaster: Forecaster, state: State, values: Floats, start: int) -> tuple[State, Floats]:
    """Steps series that all begin at window ``start`` through ``values`` ``[T, S]``: ``[Q, T, S, N]``."""
    moments = Moments(state.observed, state.mean, state.variance, state.last, state.age)
    inputs = network_inputs(
        values, np.array([start]), state.freq_s, moments, state.ring, forecaster.network_config
    )
    windows, series = values.shape
    config = forecaster.network_config
    x, hidden, cell = (torch.from_numpy(part) for part in (inputs.x, state.hidden, state.cell))
    scale, last = (torch.from_numpy(part).unsqueeze(-1) for part in (inputs.scale, inputs.last))
    # Levels in float64: a meter that stands at a billion still moves by single units.
    forecast = torch.empty((len(config.quantiles), windows, series, config.horizon), dtype=torch.float64)
    block = max(1, _CALL_STEPS // max(series, 1))
    with torch.inference_mode():
        for first in range(0, windows, block):
            part = slice(first, first + block)
            change, hidden, cell = forecaster.network(x[part], hidden, cell)
            torch.mul(change, scale[part], out=forecast[:, part]).add_(last[part])
    after = State(
        state.model_version,
        state.freq_s,
        state.series_ids,
        np.full(len(state), start + len(values) - 1, np.int64),
        inputs.moments.observed,
        inputs.moments.mean,
        inputs.moments.variance,
        inputs.moments.last,
        inputs.moments.age,
        hidden.numpy(),
        cell.numpy(),
        inputs.ring,
    )
    return after, forecast.numpy()


def rewarm(forecaster: Forecaster, state: State) -> State:
    """The state that ``forecaster`` would have, had it seen the last values of every series.

    The ring of each series is run through the new weights from a cold start, which begins at the ring's
    first value, as every series does; one whose ring holds no value is stepped through its silence. The
    moments (mean, variance, counts), which do not depend on weights, stay as they are. A state of the same
    weights is returned as it is.

    Raises:
        ModelError: the windows of state and forecaster differ in length.
    """
    if state.model_version == forecaster.version:
        return state
    if state.freq_s != forecaster.window_config.freq_s:
        raise ModelError(
            f"a state of {state.freq_s} s windows cannot be re-warmed for {forecaster.version}, "
            f"whose windows are {forecaster.window_config.freq_s} s long"
        )
    parts = [forecaster.initial_state()]
    for clock in np.unique(state.clock):
        old = state.take(np.flatnonzero(state.clock == clock))
        start = int(clock) + 1 - len(old.ring)
        silent = np.flatnonzero(np.isnan(old.ring).all(axis=0))
        new = forecaster.unseen(tuple(old.series_ids[i] for i in silent), start)
        new, _ = advance(forecaster, new, Windows(old.series_ids, start, old.ring))
        place = {name: i for i, name in enumerate(old.series_ids)}
        old = old.take(np.array([place[name] for name in new.series_ids]))
        kept = ("observed", "mean", "variance", "last", "age")
        parts.append(State(**{**vars(new), **{name: getattr(old, name) for name in kept}}))
    return State.join(parts)
