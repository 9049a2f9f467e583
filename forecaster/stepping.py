"""The one function that moves state on.

The backfill, the streaming job, the evaluation and the served model all call `advance`, or what it calls,
`advance_in_place`; nothing else steps the network on behalf of a state.

A series is stepped from its first value on until it retires, which `forecaster.lifecycle` says; then it is no
longer forecast.

Letters: T windows, S series, N horizon, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from forecaster.arrays import Arrays, Bools, Floats
from forecaster.components.base import Block, Outputs
from forecaster.forecasts import Forecasts
from forecaster.lifecycle import Plan, plan_of
from forecaster.model import Forecaster
from forecaster.state import State, lay_as, live, put, taken
from forecaster.time.size_check import check_size
from forecaster.time.windows import Windows, aggregate
from schemas.errors import VersionMismatch

_CALL_STEPS = 10_000  # series-steps in one network call: what it makes on the way stays in the cache
_CALL_SERIES = 2_500  # series in one, at the most: so that a call of many series still is one of some windows
_MOSTLY = 0.9  # share of the slots from which on all are stepped: cheaper than copying some out and back


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
    _check_version(forecaster, state)
    block = (
        aggregate(window, forecaster.window_config).windows if isinstance(window, pl.DataFrame) else window
    )
    if block.series_ids == state.series_ids:
        state = state.copy()  # the stream's every step
    else:
        known = frozenset(state.series_ids)
        has_value = np.flatnonzero((~np.isnan(block.values)).any(axis=0))
        born = tuple(block.series_ids[i] for i in has_value if block.series_ids[i] not in known)
        start = min([block.start, *(state.clock[live(state)] + 1)])
        state = State.join([state, forecaster.unseen(born, start)])
        block = _by_slot(block, state.series_ids)
    made = []
    for run in block.runs():
        retired = _retired_at(state, forecaster.window_config.max_gap)
        if retired is not None and retired < run.start:  # nothing lives in the windows from then to the run
            made.append(_step_run(forecaster, state, replace(run.rows(0, 0), start=retired)))
        made.append(_step_run(forecaster, state, run))
    return state, made[0] if len(made) == 1 else Forecasts.join(made)


def _by_slot(block: Windows, series_ids: tuple[str, ...]) -> Windows:
    """The block with a column for each slot of a state; a series without a slot is left out."""
    place = {name: slot for slot, name in enumerate(series_ids)}
    slots = np.array([place.get(name, -1) for name in block.series_ids], np.int64)

    def laid(array: Floats) -> Floats:
        found = np.full((len(array), len(series_ids)), np.nan)
        found[:, slots[slots >= 0]] = array[:, slots >= 0]
        return found

    past = {name: laid(array) for name, array in block.past.items()}
    return Windows(series_ids, block.start, laid(block.values), past, block.index)


def _retired_at(state: State, max_gap: int) -> int | None:
    """The window after that in which the last live series retires if no row comes; None where none lives."""
    alive = live(state)
    return int((state.clock - state.silent)[alive].max()) + max_gap + 2 if alive.any() else None


def _step_run(forecaster: Forecaster, state: State, run: Windows) -> Forecasts:
    """Steps the state from its clock to the end of a run of windows; those between are missing."""
    start = min([run.start, *(state.clock[live(state)] + 1)])
    missing = run.start - start
    values, past = run.values, run.past_of(forecaster.covariates.features.observed)
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
    """Moves ``state`` itself on through a block of windows, and forecasts from each.

    Args:
        forecaster: weights and settings.
        state: a slot for every series, that of one without a value so far included. Its arrays are changed.
        values: ``[T, S]`` float64 by slot, NaN where missing. Not changed.
        start: index of the first window. Windows between the clock of a live series and it are not made up:
            there must be none.
        keep_members: whether the forecasts say what each member and the network alone forecast, too.
        past: ``[T, S, C]`` float64, the covariates observed beside the values, in the order of the
            forecaster's features, NaN where missing; by default all are.

    Raises:
        VersionMismatch: other weights made ``state`` (see `rewarm`).
        DataError: ``values`` holds values for windows that ``state`` has already closed, or a value, or a
            covariate, is infinite or too large to compute with (see `check_size`).
        ValueError: ``start`` leaves out windows of a live series.
    """
    _check_version(forecaster, state)
    config = forecaster.network_config
    members = forecaster.members if keep_members else ()
    result = Outputs.empty(len(config.quantiles), len(members), len(values), len(state), config.horizon)
    plan = plan_of(state, values, start, forecaster.window_config.max_gap)
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
            some = state.part(part)
            own, beside = plan.part(part), past[:, part]
            _step_block(forecaster, some, values[:, part], beside, start, own, result.series(part))
            if first == 0:
                lay_as(state.parts, some.parts)
            put(state.parts, part, some.parts)
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
    """Steps a block piece by piece; ``result`` is filled where something is issued."""
    for first, stop in plan.pieces(windows_per_call(len(state))):
        rows = slice(first, stop)
        _step(forecaster, state, values, past, start, plan, rows, result.windows(rows))


def windows_per_call(series: int) -> int:
    """How many windows of so many series are stepped in one network call, at the most."""
    return max(1, _CALL_STEPS // max(series, 1))


def _check_version(forecaster: Forecaster, state: State) -> None:
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
    """Steps a piece in two calls: the series that are there at its first window, and those that begin later.

    ``out`` is filled where something is issued.
    """
    values, start, begins = block_values[rows], block_start + rows.start, plan.begins[rows]
    past = block_past[rows]
    stop = start + len(values)
    _reset(forecaster, state, begins[0])
    ahead = state.clock >= start
    there = (live(state) | begins[0]) & ~ahead
    block = Block(np.array([start]), values, state.freq, past=past, out=out)
    stepped = begins.any(axis=0)
    if there.any() and there.mean() >= _MOSTLY and not ahead.any():
        block = block_knowing(forecaster, state.series_ids, block)
        state.parts.update(_chain(forecaster, state.parts, block))
        stepped = np.ones_like(there)
    elif there.any():
        index = np.flatnonzero(there)
        part = out.like(len(values), len(index))
        block = replace(block, values=values[:, index], past=past[:, index], out=part)
        block = block_knowing(forecaster, [state.series_ids[i] for i in index], block)
        put(state.parts, index, _chain(forecaster, taken(state.parts, index), block))
        for whole, some in zip(out, part, strict=True):
            whole[:, :, index] = some
        stepped |= there
    if begins[1:].any():
        _step_beginners(forecaster, state, values, past, start, begins, out)
    state.clock[:] = np.maximum(state.clock, stop - 1)
    # Retired, or stepped along without having begun: as before the first value.
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
    """Steps the series that begin after the first row, all shifted so that they begin together."""
    index = np.flatnonzero(begins[1:].any(axis=0))
    begin = begins[1:, index].argmax(axis=0) + 1
    lengths = len(values) - begin
    row = begin + np.arange(lengths.max())[:, None]
    inside = row < len(values)
    there = np.minimum(row, len(values) - 1)
    shifted = np.where(inside, values[there, index], np.nan)
    beside = np.where(inside[:, :, None], past[there, index], np.nan)
    part = out.like(*shifted.shape)
    block = Block(start + begin, shifted, state.freq, lengths, past=beside, out=part)
    block = block_knowing(forecaster, [state.series_ids[i] for i in index], block)
    put(state.parts, index, _chain(forecaster, _initial(forecaster, len(index)), block))
    at, which = np.nonzero(inside)
    for whole, some in zip(out, part, strict=True):
        whole[:, row[at, which], index[which]] = some[:, at, which]


def block_knowing(forecaster: Forecaster, series_ids: Sequence[str], block: Block) -> Block:
    """A block with what is known of its series and windows; the same one where nothing ever is."""
    covariates = forecaster.covariates
    if covariates.features.is_empty:
        return block
    windows = len(block.values) + block.out.forecast.shape[-1]
    known = covariates.known(series_ids, block.start, windows)
    return replace(block, known=known, static=covariates.static(series_ids))


def _reset(forecaster: Forecaster, state: State, which: Bools) -> None:
    if which.any():
        put(state.parts, np.flatnonzero(which), _initial(forecaster, 1))


def _chain(forecaster: Forecaster, parts: Mapping[str, Arrays], block: Block) -> dict[str, Arrays]:
    after = {}
    for component in forecaster.components:
        after[component.name], block = component.step(parts[component.name], block)
    return after


def _initial(forecaster: Forecaster, series: int) -> dict[str, Arrays]:
    return {component.name: component.init(series) for component in forecaster.components}
