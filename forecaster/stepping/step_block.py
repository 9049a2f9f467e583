"""Step the components of a forecaster through one block of windows, as the block's `Plan` requires.

Letters: T windows, S series, C observed covariates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats, Ints
from forecaster.components.base import Block, Outputs
from forecaster.model import Forecaster
from forecaster.state import State, live, put, taken
from forecaster.stepping.lifecycle import Plan

# In one network call, the number of windows times the number of series is at most `_CALL_STEPS`: the arrays
# then fit the cache.
# With more series than `_CALL_STEPS`, each call steps all series through one window.
_CALL_STEPS = 10_000

# If at least this share of the slots must be stepped, and no series is ahead of the block, step all slots.
# The alternative is to copy the arrays of the slots that must be stepped, and to step the copies. From this
# share on, making the copies would take longer than stepping the other slots too.
_MOSTLY = 0.9


@dataclass(frozen=True)
class PlannedBlock:
    """A block with the plan of when each series begins and retires, and with arrays for the forecasts.

    Attributes:
        values: ``[T, S]`` float64 by slot, NaN where missing.
        past: ``[T, S, C]`` float64, the observed covariates, NaN where missing.
        start: index of the first window.
        plan: when the series begin and retire.
        out: filled for the series and windows that are forecast.
    """

    values: Floats
    past: Floats
    start: int
    plan: Plan
    out: Outputs

    def series(self, part: slice) -> PlannedBlock:
        """Return this block with only the series in the slice ``part``, as views of its arrays."""
        plan, out = self.plan.part(part), self.out.series(part)
        return PlannedBlock(self.values[:, part], self.past[:, part], self.start, plan, out)

    def windows(self, part: slice) -> PlannedBlock:
        """Return this block with only the windows in the slice ``part``, as views of its arrays."""
        plan, out = self.plan.windows(part), self.out.windows(part)
        return PlannedBlock(self.values[part], self.past[part], self.start + part.start, plan, out)


def step_block(forecaster: Forecaster, state: State, block: PlannedBlock) -> None:
    """Step the state through a block, some windows at a time, and write the forecasts into the block."""
    for first, stop in block.plan.pieces(windows_per_call(len(state))):
        _step_piece(forecaster, state, block.windows(slice(first, stop)))


def windows_per_call(series: int) -> int:
    """Return the largest number of windows that one network call steps for ``series`` series, at least 1."""
    return max(1, _CALL_STEPS // max(series, 1))


def _step_piece(forecaster: Forecaster, state: State, piece: PlannedBlock) -> None:
    """Step the state through ``piece``, consecutive windows of a block; write forecasts into ``piece.out``.

    One call steps the series that are live or begin at the first row; a second call steps the later
    beginners.
    """
    begins, is_ahead = piece.plan.begins, state.clock >= piece.start
    _reset(forecaster, state, begins[0])
    is_due = (live(state) | begins[0]) & ~is_ahead
    steps_all_slots = is_due.any() and is_due.mean() >= _MOSTLY and not is_ahead.any()
    if steps_all_slots:
        _step_all(forecaster, state, piece)
    elif is_due.any():
        _step_some(forecaster, state, piece, np.flatnonzero(is_due))
    if begins[1:].any():
        _step_beginners(forecaster, state, piece)
    state.clock[:] = np.maximum(state.clock, piece.start + len(piece.values) - 1)
    # Reset series that have retired, and series that have not begun but were stepped by `_step_all`.
    stepped = is_due | begins.any(axis=0) | steps_all_slots
    _reset(forecaster, state, stepped & ~piece.plan.live[-1])


def _step_all(forecaster: Forecaster, state: State, piece: PlannedBlock) -> None:
    """Step every slot of the state through a piece of a block."""
    block = Block(np.array([piece.start]), piece.values, state.freq, past=piece.past, out=piece.out)
    block = _with_fields_of_caller(forecaster, state.series_ids, block)
    state.parts.update(_step_components(forecaster, state.parts, block))


def _step_some(forecaster: Forecaster, state: State, piece: PlannedBlock, slots: Ints) -> None:
    """Step copies of the arrays of the series at ``slots`` through a piece of a block; write them back."""
    values, past = piece.values[:, slots], piece.past[:, slots]
    out = piece.out.like(*values.shape)
    block = Block(np.array([piece.start]), values, state.freq, past=past, out=out)
    block = _with_fields_of_caller(forecaster, [state.series_ids[i] for i in slots], block)
    put(state.parts, slots, _step_components(forecaster, taken(state.parts, slots), block))
    for all_series, part in zip(piece.out, out, strict=True):
        all_series[:, :, slots] = part


def _step_beginners(forecaster: Forecaster, state: State, piece: PlannedBlock) -> None:
    """Step the series that begin, or begin again after they retired, after the first window of ``piece``.

    Each series is shifted so that its first value is in row 0, and one call steps all of these series.
    """
    begins = piece.plan.begins[1:]
    slots = np.flatnonzero(begins.any(axis=0))
    first_row = begins[:, slots].argmax(axis=0) + 1
    lengths = len(piece.values) - first_row
    # After the shift, row ``r`` of series ``slots[i]`` holds row ``row[r, i]`` of the piece, or NaN if the
    # piece has no such row.
    row = first_row + np.arange(lengths.max())[:, None]
    inside = row < len(piece.values)
    source_row = np.minimum(row, len(piece.values) - 1)
    values = np.where(inside, piece.values[source_row, slots], np.nan)
    past = np.where(inside[:, :, None], piece.past[source_row, slots], np.nan)
    out = piece.out.like(*values.shape)
    block = Block(piece.start + first_row, values, state.freq, lengths, past=past, out=out)
    block = _with_fields_of_caller(forecaster, [state.series_ids[i] for i in slots], block)
    put(state.parts, slots, _step_components(forecaster, _initial_arrays(forecaster, len(slots)), block))
    shifted_row, which = np.nonzero(inside)
    for all_series, part in zip(piece.out, out, strict=True):
        all_series[:, row[shifted_row, which], slots[which]] = part[:, shifted_row, which]


def _with_fields_of_caller(forecaster: Forecaster, series_ids: Sequence[str], block: Block) -> Block:
    """Return the block with known and static covariates, and with the deciles of the training values."""
    block = with_known_covariates(forecaster, series_ids, block)
    return block.with_fields(edges=forecaster.profile.edges_of(series_ids)) if forecaster.profile else block


def with_known_covariates(forecaster: Forecaster, series_ids: Sequence[str], block: Block) -> Block:
    """Return the block with the known and static covariates of ``series_ids`` as further fields.

    It is returned unchanged if the forecaster has no covariates.
    """
    covariates = forecaster.covariates
    if covariates.features.is_empty:
        return block
    windows = len(block.values) + block.out.forecast.shape[-1]
    known = covariates.known(series_ids, block.start, windows)
    return block.with_fields(known=known, static=covariates.static(series_ids))


def _reset(forecaster: Forecaster, state: State, which: Bools) -> None:
    """Set the arrays of the series that are True in ``which`` to the initial state."""
    if which.any():
        put(state.parts, np.flatnonzero(which), _initial_arrays(forecaster, 1))


def _step_components(forecaster: Forecaster, parts: Mapping[str, Arrays], block: Block) -> dict[str, Arrays]:
    """Step every component through the block, in order, and return each component's new arrays by name."""
    after = {}
    for component in forecaster.components:
        after[component.name], block = component.step(parts[component.name], block)
    return after


def _initial_arrays(forecaster: Forecaster, series: int) -> dict[str, Arrays]:
    """Return the initial arrays of each component for ``series`` new series, which have no value yet."""
    return {component.name: component.init(series) for component in forecaster.components}
