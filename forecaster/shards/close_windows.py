"""Close the windows of a shard: aggregate their rows, step the state, and return the forecasts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl

from forecaster.arrays import Bools, Floats, Ints
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.shards.counts import Counts
from forecaster.shards.history import copied_every
from forecaster.shards.models import Models
from forecaster.shards.score_sums import add_scores, scores_of
from forecaster.shards.shard import NONE_REPLACED, Shard, slots_of
from forecaster.state import State, live
from forecaster.stepping.advance import advance_in_place
from forecaster.stepping.lifecycle import forgotten_after
from forecaster.time.aggregation import fill
from forecaster.time.duplicates import NO_DUPLICATES
from schemas import replaced

# Forgotten series slow down every step: they are removed if they hold more than a tenth of the slots.
_SLOTS_PER_FORGOTTEN = 10

BLOCK_STEPS = 1 << 18
"""The most series-steps in a block; its forecasts then take about 150 MB."""

ClosedBlock = tuple[Forecasts, pl.DataFrame, Forecasts | None]
"""Forecasts of a block of windows, rows of the block that other rows replaced, forecasts of the shadow."""


def close_windows(
    shard: Shard, through: int, models: Models, windows_per_step: int, *, keeps_slots: bool = False
) -> Iterator[tuple[Shard, ClosedBlock | None]]:
    """Close every window up to and including ``through``, block by block.

    Windows in which no series is live are skipped, so one row years ahead does not close every window before
    it. With ``keeps_slots``, forgotten series keep their slots.

    Yields:
        The shard after each block of windows, and the results of the block; None in place of results if only
        windows without a live series were skipped.
    """
    if shard.closed_through is not None and through <= shard.closed_through:
        return
    if not keeps_slots:
        shard = _without_forgotten(shard, models.first.window_config.max_gap)
    pending = shard.pending
    if not pending["window"].is_sorted():
        pending = pending.sort("window", maintain_order=True)
    index, low = pending["window"].to_numpy(), 0
    every = copied_every(models.repair, windows_per_step) if shard.history is not None else 0
    while (start := _next_window(shard, index, low)) is not None and start <= through:
        most = max(1, min(windows_per_step, BLOCK_STEPS // max(len(shard.state), 1)))
        stop = min(through + 1, start + most, (start // windows_per_step + 1) * windows_per_step)
        stop = models.cut(start, stop)
        if every:
            stop = min(stop, (start // every + 1) * every)
            shard = _with_copy(shard, start, every)
        shard = _with_version_of(shard, start, models)
        high = int(np.searchsorted(index, stop))
        shard, closed = _close_block(shard, pending[low:high], start, stop, models)
        if shard.history is not None:
            shard = replace(shard, history=shard.history.with_rows(pending[low:high]))
        low = high
        yield replace(shard, pending=pending[high:]), closed
    # Also change the model version of a shard without live series.
    # All shards that have closed the same windows must have the same version.
    changed = _with_version_of(shard, through, models)
    if every:
        changed = _with_copy(changed, through + 1, every)
    if shard.closed_through != through or changed is not shard:
        yield replace(changed, pending=pending[low:], closed_through=through), None


def _with_version_of(shard: Shard, window: int, models: Models) -> Shard:
    """Return the shard, with its state re-warmed if the job steps ``window`` with another model version.

    A state that no version of the job made is left unchanged.
    """
    forecaster = models.of_window(window)
    if shard.state.model_version == forecaster.version or not models.has_made(shard.state):
        return shard
    return replace(shard, state=models.rewarm(forecaster, shard.state))


def _with_copy(shard: Shard, window: int, every: int) -> Shard:
    """Return the shard, with a copy of its state added to its history if one is due.

    ``window`` is the next window to close. A copy is due once in ``every`` windows, see `History.with_copy`.
    """
    if shard.history is None:
        return shard
    history = shard.history.with_copy(shard.state, shard.shadow, window, shard.closed_through, every)
    return shard if history is shard.history else replace(shard, history=history)


def _without_forgotten(shard: Shard, max_gap: int) -> Shard:
    """Return the shard without its forgotten series, if they have more than a tenth of its slots.

    The decision depends on the shard only, so a rerun frees the slots at the same batch.
    """
    state, through, history = shard.state, shard.closed_through, shard.history
    if through is None:
        return shard
    if history is None or not history.copies:
        is_forgotten = _is_forgotten(state, through, max_gap)
    else:
        # Find the forgotten series in the earliest copy of the state, not in the present state: a late row
        # for a window after this copy can still be repaired, and would end its series' gap.
        is_forgotten = _is_forgotten(history.copies[0].state, history.copies[0].through, max_gap)
        is_forgotten[history.slots()] = False
    is_forgotten[shard.pending["slot"].to_numpy()] = False
    if is_forgotten.sum() * _SLOTS_PER_FORGOTTEN <= len(state):
        return shard
    kept = np.flatnonzero(~is_forgotten)
    slot = pl.Series(np.cumsum(~is_forgotten) - 1, dtype=pl.Int32)
    pending = shard.pending.with_columns(slot=slot.gather(shard.pending["slot"]))
    state, shadow = state.take(kept), None if shard.shadow is None else shard.shadow.take(kept)
    history = None if shard.history is None else shard.history.take(kept, slot)
    return replace(shard, state=state, slots=slots_of(state), pending=pending, shadow=shadow, history=history)


def _is_forgotten(state: State, through: int, max_gap: int) -> Bools:
    """Return for each series whether it is forgotten after the window ``through``."""
    silent = state.silent + (through - state.clock)
    return np.asarray(~live(state) & (state.silent > 0) & (silent > forgotten_after(max_gap)))


def _next_window(shard: Shard, index: Ints, low: int) -> int | None:
    """Return the next window to close; None if no series is live and no row is pending.

    It is the window after the last closed one or, if no series is live, the next window with a row.
    """
    if shard.closed_through is not None and live(shard.state).any():
        return shard.closed_through + 1
    return int(index[low]) if low < len(index) else None


def _close_block(
    shard: Shard, rows: pl.DataFrame, start: int, stop: int, models: Models
) -> tuple[Shard, ClosedBlock]:
    """Close the windows ``[start, stop)``, and return the shard after them and the results of the block.

    Aggregate ``rows``, the rows of these windows; step the states of the model and of the shadow.
    """
    forecaster = models.of_state(shard.state)
    values = np.full((stop - start, len(shard.state)), np.nan)
    names = forecaster.covariates.features.observed
    past = np.full((*values.shape, len(names)), np.nan) if names else None
    duplicates = NO_DUPLICATES
    if len(rows):
        window, slot = rows["window"].to_numpy() - start, rows["slot"].to_numpy().astype(np.int64)
        duplicates = fill(
            values, rows, window, slot, forecaster.window_config, past, names, models.duplicates
        )
    forecasts = advance_in_place(forecaster, shard.state, values, start, past=past)
    shadow = _step_shadow(shard, models.shadow, values, start, past, names)
    if shard.history is not None:
        revision = shard.history.revisions(forecasts.index, np.arange(len(shard.state)))
        forecasts = replace(forecasts, revision=revision)
        shadow = None if shadow is None else replace(shadow, revision=revision)
    counts = shard.counts + Counts(
        used=len(rows) - duplicates.dropped,
        duplicates=duplicates.dropped,
        replaced=len(duplicates.replaced),
        pending=-len(rows),
        series_steps=len(forecasts),
        cold_starts=forecasts.cold_starts,
        scores=add_scores(scores_of(forecasts), {} if shadow is None else scores_of(shadow)),
    )
    # Count only windows with a forecast. Windows without a live series are skipped between blocks but not
    # within a block, so the number of such windows that are stepped depends on where the blocks end.
    counts = replace(counts, windows=counts.windows + int(forecasts.issued.any(axis=1).sum()))
    replaced_rows = (
        replaced.frame(duplicates.replaced.join(shard.slots, on="slot", how="left"))
        if len(duplicates.replaced)
        else NONE_REPLACED
    )
    return replace(shard, closed_through=stop - 1, counts=counts), (forecasts, replaced_rows, shadow)


def _step_shadow(
    shard: Shard,
    forecaster: Forecaster | None,
    values: Floats,
    start: int,
    past: Floats | None,
    names: tuple[str, ...],
) -> Forecasts | None:
    """Step the shadow of a shard through a block of windows, and return its forecasts; None without a shadow.

    ``names`` is the order of the observed covariates in ``past``. The arrays are as in `advance_in_place`.
    """
    if forecaster is None or shard.shadow is None:
        return None
    own_names = forecaster.covariates.features.observed
    own_past = None if past is None else past[:, :, [names.index(name) for name in own_names]]
    return advance_in_place(forecaster, shard.shadow, values, start, past=own_past)
