"""Step the state of a fleet through windows, and issue forecasts at the end of each window.

The backfill, the streaming job, the evaluation and the served model all call `advance`, or
`advance_in_place`, which `advance` calls. No other code steps the network through the windows of a stored
state.

A series is stepped from its first value until it retires (see `forecaster.stepping.lifecycle`). A retired
series is not forecast.

Letters: T windows, S series, C observed covariates, N horizon, Q quantiles.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from forecaster.arrays import Floats
from forecaster.components.base import Outputs
from forecaster.components.scores import scored_horizons
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.state import State, live, match_layout, put
from forecaster.stepping.lifecycle import plan_block
from forecaster.stepping.step_block import PlannedBlock, step_block
from forecaster.time.aggregation import aggregate
from forecaster.time.size_check import check_size
from forecaster.time.windows import Windows
from schemas.errors import VersionMismatch

# `step_block` is called with at most this many series, so one network call can step 4 windows of all of them.
_CALL_SERIES = 2_500


def advance(forecaster: Forecaster, state: State, window: Windows | pl.DataFrame) -> tuple[State, Forecasts]:
    """Step every series through a block of windows; return the new state and the forecasts issued in it.

    A series of the state that has no value in a window is stepped with a missing value. A series that the
    state does not hold begins at its first value. Windows between a series' clock and the start of ``window``
    are stepped as missing. Neither argument is changed.

    Args:
        forecaster: weights and settings.
        state: state of the fleet before ``window``; at first `Forecaster.initial_state`.
        window: a block of windows, or an observation frame (``series_id, timestamp, value``) in any order,
            which is first aggregated into windows.

    Returns:
        The new state, in which the series of ``state`` keep their slots and new series follow, and the
        forecasts issued at the end of each window.

    Raises:
        VersionMismatch: ``state`` belongs to other weights (see `rewarm`).
        DataError: ``window`` holds values for windows that ``state`` has already closed.
    """
    _check_version(forecaster, state)
    block = (
        aggregate(window, forecaster.window_config).windows if isinstance(window, pl.DataFrame) else window
    )
    if block.series_ids == state.series_ids:
        state = state.copy()  # the usual case: the columns of the block are in the order of the slots
    else:
        known_ids = frozenset(state.series_ids)
        has_value = np.flatnonzero((~np.isnan(block.values)).any(axis=0))
        new_ids = tuple(block.series_ids[i] for i in has_value if block.series_ids[i] not in known_ids)
        start = min([block.start, *(state.clock[live(state)] + 1)])
        state = State.join([state, forecaster.new_series_state(new_ids, start)])
        block = _by_slot(block, state.series_ids)
    forecasts = []
    for run in block.runs():
        after = _after_last_retirement(state, forecaster.window_config.max_gap)
        if after is not None and after < run.start:
            # Step up to and including the window in which the last live series retires. Skip the windows
            # after it, up to the start of ``run``, because no series is live in them.
            forecasts.append(_step_run(forecaster, state, replace(run.rows(0, 0), start=after)))
        forecasts.append(_step_run(forecaster, state, run))
    return state, forecasts[0] if len(forecasts) == 1 else Forecasts.join(forecasts)


def _by_slot(block: Windows, series_ids: tuple[str, ...]) -> Windows:
    """Return the block with its columns in the order of ``series_ids``.

    The column of a series that the block lacks is NaN. Other series of the block are left out.
    """
    slot_of_id = {name: slot for slot, name in enumerate(series_ids)}
    slots = np.array([slot_of_id.get(name, -1) for name in block.series_ids], np.int64)

    def reorder(array: Floats) -> Floats:
        by_slot = np.full((len(array), len(series_ids)), np.nan)
        by_slot[:, slots[slots >= 0]] = array[:, slots >= 0]
        return by_slot

    past = {name: reorder(array) for name, array in block.past.items()}
    return Windows(series_ids, block.start, reorder(block.values), past, block.index)


def _after_last_retirement(state: State, max_gap: int) -> int | None:
    """Return the window after the one in which the last live series retires, if no more rows arrive.

    None if no series is live.
    """
    alive = live(state)
    return int((state.clock - state.silent)[alive].max()) + max_gap + 2 if alive.any() else None


def _step_run(forecaster: Forecaster, state: State, run: Windows) -> Forecasts:
    """Step the state through consecutive windows, and return the forecasts issued at the end of each.

    Windows between a live series' clock and ``run`` are stepped first, as missing.
    """
    start = min([run.start, *(state.clock[live(state)] + 1)])
    missing = run.start - start
    values, past = run.values, run.stacked_covariates(forecaster.covariates.features.observed)
    if missing:
        values = np.concatenate([np.full((missing, values.shape[1]), np.nan), values])
        if past is not None:
            past = np.concatenate([np.full((missing, *past.shape[1:]), np.nan), past])
    return advance_in_place(forecaster, state, values, start, past=past)


def advance_in_place(
    forecaster: Forecaster,
    state: State,
    values: Floats,
    start: int,
    keep_members: bool = False,
    past: Floats | None = None,
) -> Forecasts:
    """Step ``state`` itself through a block of windows; return the forecasts issued at each window's end.

    Args:
        forecaster: weights and settings.
        state: has a slot for every series, also for a series without a value so far. Its arrays are changed.
        values: ``[T, S]`` float64 by slot, NaN where missing. Not changed.
        start: index of the first window. No window may lie between the clock of a live series and ``start``.
        keep_members: whether the result also holds the forecasts of each member and of the network alone.
        past: ``[T, S, C]`` float64, the observed covariates in the order of the forecaster's features, NaN
            where missing; by default all are missing.

    Raises:
        VersionMismatch: ``state`` belongs to other weights (see `rewarm`).
        DataError: ``values`` holds values for windows that ``state`` has already closed, or a value or a
            covariate is infinite or too large to compute with (see `check_size`).
        ValueError: there are windows between the clock of a live series and ``start``.
    """
    _check_version(forecaster, state)
    _add_missing_arrays(forecaster, state)
    config = forecaster.network_config
    members = forecaster.members if keep_members else ()
    # If nothing is combined, no component stores forecasts to be scored later.
    horizons = scored_horizons(config.horizon) if forecaster.members else ()
    result = Outputs.empty(
        len(config.quantiles), len(members), len(values), len(state), config.horizon, len(horizons)
    )
    plan = plan_block(state, values, start, forecaster.window_config.max_gap)
    if forecaster.window_config.empty == "zero":
        values = np.where(np.isnan(values) & plan.issued, 0.0, values)
    if past is None:
        past = np.empty((*values.shape, 0))
    names = forecaster.covariates.features.observed
    by_name = {name: past[:, :, place] for place, name in enumerate(names[: past.shape[2]])}
    check_size(Windows(state.series_ids, start, values, by_name))
    block = PlannedBlock(values, past, start, plan, result)
    if len(state) <= _CALL_SERIES:
        step_block(forecaster, state, block)
    else:
        for first in range(0, len(state), _CALL_SERIES):
            part = slice(first, first + _CALL_SERIES)
            part_state = state.part(part)
            step_block(forecaster, part_state, block.series(part))
            if first == 0:
                match_layout(state.parts, part_state.parts)
            put(state.parts, part, part_state.parts)
    if not plan.issued.all():
        for array in result:
            array[:, ~plan.issued] = np.nan
    state.silent[:] = plan.silent
    return Forecasts(
        state.model_version,
        state.freq,
        config.quantiles,
        state.series_ids,
        start,
        result.forecast,
        plan.issued,
        plan.cold_starts,
        result.anomaly[..., 0] if forecaster.online_config.alarms_per_week else None,
        result.network if members else None,
        dict(zip(members, result.members, strict=True)),
        scored_horizons=horizons,
        scores=result.scores,
    )


def _check_version(forecaster: Forecaster, state: State) -> None:
    """Raise VersionMismatch if the model version in the state is not the version of the forecaster."""
    if state.model_version != forecaster.version:
        raise VersionMismatch(
            f"this state was made by {state.model_version} and cannot be stepped by {forecaster.version}: "
            "re-warm it under the new weights"
        )


def _add_missing_arrays(forecaster: Forecaster, state: State) -> None:
    """Add the initial arrays of components that the state lacks, because an older release wrote it."""
    for component in forecaster.components:
        if component.name not in state.parts:
            state.parts[component.name] = component.init(len(state))
