"""Step the state of a fleet through windows, and forecast from each window.

The backfill, the streaming job, the evaluation and the served model all call `advance`, or
`advance_in_place`, which `advance` calls. No other code steps the network through the windows of a stored
state.

A series is stepped from its first value until it retires (see `forecaster.lifecycle`). A retired series is
not forecast.

Letters: T windows, S series, C observed covariates, N horizon, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from forecaster.arrays import Arrays, Bools, Floats
from forecaster.components.base import Block, Outputs
from forecaster.forecasts import Forecasts
from forecaster.lifecycle import Plan, plan_block
from forecaster.model import Forecaster
from forecaster.state import State, live, match_layout, put, taken
from forecaster.time.size_check import check_size
from forecaster.time.windows import Windows, aggregate
from schemas.errors import VersionMismatch

_CALL_STEPS = 10_000  # series-steps in one network call: more of them would not fit into the CPU's cache
_CALL_SERIES = 2_500  # most series in one call: with more, 10,000 series-steps would be too few windows
_MOSTLY = 0.9  # if at least this share of the slots is due, step all slots: copying a part costs more


def advance(forecaster: Forecaster, state: State, window: Windows | pl.DataFrame) -> tuple[State, Forecasts]:
    """Step every series to the end of ``window``, and return the new state and the forecasts of each window.

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
        forecasts.

    Raises:
        VersionMismatch: ``state`` belongs to other weights (see `rewarm`).
        DataError: ``window`` holds values for windows that ``state`` has already closed.
    """
    _check_version(forecaster, state)
    block = (
        aggregate(window, forecaster.window_config).windows if isinstance(window, pl.DataFrame) else window
    )
    if block.series_ids == state.series_ids:
        state = state.copy()  # the usual case in a stream
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
            # Step only until the last series has retired: no series is live until the next values.
            forecasts.append(_step_run(forecaster, state, replace(run.rows(0, 0), start=after)))
        forecasts.append(_step_run(forecaster, state, run))
    return state, forecasts[0] if len(forecasts) == 1 else Forecasts.join(forecasts)


def _by_slot(block: Windows, series_ids: tuple[str, ...]) -> Windows:
    """Return the block with one column per slot of a state; series without a slot are left out."""
    slot_of_id = {name: slot for slot, name in enumerate(series_ids)}
    slots = np.array([slot_of_id.get(name, -1) for name in block.series_ids], np.int64)

    def reorder(array: Floats) -> Floats:
        by_slot = np.full((len(array), len(series_ids)), np.nan)
        by_slot[:, slots[slots >= 0]] = array[:, slots >= 0]
        return by_slot

    past = {name: reorder(array) for name, array in block.past.items()}
    return Windows(series_ids, block.start, reorder(block.values), past, block.index)


def _after_last_retirement(state: State, max_gap: int) -> int | None:
    """Return the window after the one in which the last live series retires if no more rows arrive.

    None if no series is live.
    """
    alive = live(state)
    return int((state.clock - state.silent)[alive].max()) + max_gap + 2 if alive.any() else None


def _step_run(forecaster: Forecaster, state: State, run: Windows) -> Forecasts:
    """Step the state through the consecutive windows of ``run``, and forecast from each.

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
    """Step ``state`` itself through a block of windows, and forecast from each window.

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
        ValueError: windows between the clock of a live series and ``start`` are left out.
    """
    _check_version(forecaster, state)
    config = forecaster.network_config
    members = forecaster.members if keep_members else ()
    result = Outputs.empty(len(config.quantiles), len(members), len(values), len(state), config.horizon)
    plan = plan_block(state, values, start, forecaster.window_config.max_gap)
    if forecaster.window_config.empty == "zero":
        values = np.where(np.isnan(values) & plan.issued, 0.0, values)
    if past is None:
        past = np.empty((*values.shape, 0))
    names = forecaster.covariates.features.observed
    by_name = {name: past[:, :, place] for place, name in enumerate(names[: past.shape[2]])}
    check_size(Windows(state.series_ids, start, values, by_name))
    if len(state) <= _CALL_SERIES:
        _step_block(forecaster, state, values, past, start, plan, result)
    else:
        for first in range(0, len(state), _CALL_SERIES):
            part = slice(first, first + _CALL_SERIES)
            part_state, part_plan = state.part(part), plan.part(part)
            out = result.series(part)
            _step_block(forecaster, part_state, values[:, part], past[:, part], start, part_plan, out)
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
    )


def _step_block(
    forecaster: Forecaster,
    state: State,
    values: Floats,
    past: Floats,
    start: int,
    plan: Plan,
    result: Outputs,
) -> None:
    """Step a block piece by piece, and fill ``result`` for the series and windows that are forecast."""
    for first, stop in plan.pieces(windows_per_call(len(state))):
        rows = slice(first, stop)
        _step(forecaster, state, values, past, start, plan, rows, result.windows(rows))


def windows_per_call(series: int) -> int:
    """Return how many windows of ``series`` series are stepped in one network call, at most."""
    return max(1, _CALL_STEPS // max(series, 1))


def _check_version(forecaster: Forecaster, state: State) -> None:
    """Raise VersionMismatch if the state does not belong to the forecaster's weights."""
    if state.model_version != forecaster.version:
        raise VersionMismatch(
            f"this state was made by {state.model_version} and cannot be fed to {forecaster.version}: "
            "re-warm it under the new weights"
        )


def _step(
    forecaster: Forecaster,
    state: State,
    block_values: Floats,
    block_past: Floats,
    block_start: int,
    plan: Plan,
    rows: slice,
    out: Outputs,
) -> None:
    """Step one piece of a block, and fill ``out`` for the series and windows that are forecast.

    One call steps the series that are live or begin at the first row; a second call steps the later
    beginners.
    """
    values, start, begins = block_values[rows], block_start + rows.start, plan.begins[rows]
    past = block_past[rows]
    stop = start + len(values)
    _reset(forecaster, state, begins[0])
    is_ahead = state.clock >= start
    is_due = (live(state) | begins[0]) & ~is_ahead
    block = Block(np.array([start]), values, state.freq, past=past, out=out)
    stepped = begins.any(axis=0)
    if is_due.any() and is_due.mean() >= _MOSTLY and not is_ahead.any():
        block = with_known_covariates(forecaster, state.series_ids, block)
        state.parts.update(_step_components(forecaster, state.parts, block))
        stepped = np.ones_like(is_due)
    elif is_due.any():
        index = np.flatnonzero(is_due)
        part_out = out.like(len(values), len(index))
        block = replace(block, values=values[:, index], past=past[:, index], out=part_out)
        block = with_known_covariates(forecaster, [state.series_ids[i] for i in index], block)
        put(state.parts, index, _step_components(forecaster, taken(state.parts, index), block))
        for all_series, part in zip(out, part_out, strict=True):
            all_series[:, :, index] = part
        stepped |= is_due
    if begins[1:].any():
        _step_beginners(forecaster, state, values, past, start, begins, out)
    state.clock[:] = np.maximum(state.clock, stop - 1)
    # Reset series that retired, and series that were stepped although they have not begun.
    _reset(forecaster, state, stepped & ~plan.live[rows][-1])


def _step_beginners(
    forecaster: Forecaster,
    state: State,
    values: Floats,
    past: Floats,
    start: int,
    begins: Bools,
    out: Outputs,
) -> None:
    """Step the series that begin after the first row of a piece.

    Each series is shifted so that its first value is in row 0, and one call steps all of them.
    """
    index = np.flatnonzero(begins[1:].any(axis=0))
    begin = begins[1:, index].argmax(axis=0) + 1
    lengths = len(values) - begin
    row = begin + np.arange(lengths.max())[:, None]
    inside = row < len(values)
    source_row = np.minimum(row, len(values) - 1)
    shifted = np.where(inside, values[source_row, index], np.nan)
    shifted_past = np.where(inside[:, :, None], past[source_row, index], np.nan)
    part_out = out.like(*shifted.shape)
    block = Block(start + begin, shifted, state.freq, lengths, past=shifted_past, out=part_out)
    block = with_known_covariates(forecaster, [state.series_ids[i] for i in index], block)
    put(state.parts, index, _step_components(forecaster, _initial_arrays(forecaster, len(index)), block))
    shifted_row, which = np.nonzero(inside)
    for all_series, part in zip(out, part_out, strict=True):
        all_series[:, row[shifted_row, which], index[which]] = part[:, shifted_row, which]


def with_known_covariates(forecaster: Forecaster, series_ids: Sequence[str], block: Block) -> Block:
    """Return the block with its known and static covariates.

    It is returned unchanged if the forecaster has no covariates.
    """
    covariates = forecaster.covariates
    if covariates.features.is_empty:
        return block
    windows = len(block.values) + block.out.forecast.shape[-1]
    known = covariates.known(series_ids, block.start, windows)
    return replace(block, known=known, static=covariates.static(series_ids))


def _reset(forecaster: Forecaster, state: State, which: Bools) -> None:
    """Set the arrays of the series ``which`` (``[S]`` bool) to the initial state."""
    if which.any():
        put(state.parts, np.flatnonzero(which), _initial_arrays(forecaster, 1))


def _step_components(forecaster: Forecaster, parts: Mapping[str, Arrays], block: Block) -> dict[str, Arrays]:
    """Step every component through the block, in order, and return their new arrays by name."""
    after = {}
    for component in forecaster.components:
        after[component.name], block = component.step(parts[component.name], block)
    return after


def _initial_arrays(forecaster: Forecaster, series: int) -> dict[str, Arrays]:
    """Return the arrays of ``series`` series that have seen no value, by component."""
    return {component.name: component.init(series) for component in forecaster.components}
