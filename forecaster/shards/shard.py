"""A shard: one value, computed by applying the batches of a partitioned log one after the other.

A `Shard` holds everything of a part of the fleet that must survive a crash. One function, `apply`, applies a
`Batch` to it. The backfill, the streaming job, the recovery and the tests all call `apply`. This module does
not depend on Beam, on files or on the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from forecaster.forecasts import Forecasts
from forecaster.lifecycle import forgotten_after
from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts, by_kind
from forecaster.shards.lateness import NONE_LATE, largest_watermark, smallest_watermark, split_late_rows
from forecaster.state import State, live
from forecaster.stepping import advance_in_place
from forecaster.time.windows import EVENTS, NO_DUPLICATES, ORIGIN, PARTITION, fill
from schemas import observations, quarantine, replaced

PENDING: dict[str, pl.DataType] = {
    "slot": pl.Int32(),
    "window": pl.Int64(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
    "offset": pl.Int64(),
    "partition": pl.String(),
}
"""Columns and types of pending rows, whose window is open; the columns of `optional_pending_columns` follow.

If two rows have the same series and time, the row with the larger offset is used, and of rows with equal
offsets the row with the greater partition name. Both belong to the row, so the same row is used in every
arrival order and every rerun. Rows that were pending in another job have offsets below 0, unless the new job
continues to read their partition (see `forecaster.shards.sharding.hand_over_shards`). Rows of a
snapshot that has no partitions have "" as their partition.
"""

_NONE_QUARANTINED, _NONE_REPLACED = quarantine.empty(), replaced.empty()

# Validation rejects observations before 1678, this time (`schemas.observations`).
_EARLIEST_US = -9_214_560_000_000_000
# Free the slots of forgotten series, which slow down steps, if more than one slot in this many is forgotten.
_SLOTS_PER_FORGOTTEN = 10
_BLOCK_STEPS = 1 << 18  # a block has at most this many series-steps: its forecasts take about 150 MB


@dataclass(frozen=True)
class Output:
    """Results of one part of applying a batch: of accepting its rows, or of closing one block of windows.

    Attributes:
        partition, start: partition and offset at which the rows begin. Together with the shard's number they
            name the files that are written.
        forecasts: forecasts of a block of windows; None if this output is not of a block.
        quarantined: rejected rows (``schemas.quarantine``).
        late: rows that arrived after their window had closed (``schemas.late``).
        replaced: rows of the block's windows that a later row replaced (``schemas.replaced``).
        done: the batch, in the last of its outputs: it has then been applied completely.
    """

    partition: str
    start: int
    forecasts: Forecasts | None = None
    quarantined: pl.DataFrame = field(default_factory=lambda: _NONE_QUARANTINED)
    late: pl.DataFrame = field(default_factory=lambda: NONE_LATE)
    replaced: pl.DataFrame = field(default_factory=lambda: _NONE_REPLACED)
    done: Batch | None = None


@dataclass(frozen=True)
class Shard:
    """A part of the series with their states, and the offsets up to which the log has been applied.

    `apply` returns a new shard. But it writes into the arrays of the old shard's state, so the old shard must
    not be used any more; `copy` it first to keep it.

    Attributes:
        number, of: this is shard ``number`` of ``of``.
        state: state of every series with a row so far. A series keeps its position, its slot, until it is
            forgotten.
        slots: ``series_id, slot`` of every series, for joins (see `slots_of`).
        pending: rows whose windows are open, see `PENDING`.
        offsets: by partition, the offset of the next row to apply.
        watermarks: by partition, its watermark in microseconds; None before its first.
        closed_through: index of the last closed window; None before the first.
        counts: numbers of rows by outcome.
        early: batches that wait, because a batch before them or a partition is still missing.
        keyed: whether each partition is followed by one shard only, as in a topic keyed by series.
    """

    number: int
    of: int
    state: State
    slots: pl.DataFrame
    pending: pl.DataFrame
    offsets: Mapping[str, int]
    watermarks: Mapping[str, int | None]
    closed_through: int | None
    counts: Counts
    early: tuple[Batch, ...] = ()
    keyed: bool = False

    @staticmethod
    def cold(number: int, of: int, state: State, partitions: Iterable[str]) -> Shard:
        """Return shard ``number`` of ``of`` before any row has been read.

        No window closes before each of ``partitions`` has a watermark. A further partition is added by its
        first batch. ``state`` is `Forecaster.initial_state`.
        """
        names, pending = tuple(partitions), pl.DataFrame(schema=PENDING)
        watermarks: dict[str, int | None] = dict.fromkeys(names)
        return Shard(
            number, of, state, slots_of(state), pending, dict.fromkeys(names, 0), watermarks, None, Counts()
        )

    def copy(self) -> Shard:
        """Return this shard with its own copy of the arrays."""
        return replace(self, state=self.state.copy())

    @property
    def watermark_us(self) -> int | None:
        """Smallest watermark of all partitions; None while a partition has none."""
        return smallest_watermark(self.watermarks.values())


def slots_of(state: State) -> pl.DataFrame:
    """Return ``series_id`` (String) and ``slot`` (Int32) of every series of a state."""
    ids = pl.Series("series_id", state.series_ids, dtype=pl.String)
    return pl.DataFrame({"series_id": ids, "slot": pl.int_range(len(ids), dtype=pl.Int32, eager=True)})


def apply(
    shard: Shard, batch: Batch, forecaster: Forecaster, windows_per_step: int = 32
) -> Iterator[tuple[Shard, Output]]:
    """Apply a batch to a shard: accept its rows, then close the windows that the watermark has passed.

    Rows that the shard has already applied are dropped one by one. A batch that arrives before its
    predecessor waits in ``Shard.early``. A row is late by the watermark of its own partition before the row,
    so a rerun gives the same late rows, in whatever order the batches arrive.

    Args:
        shard: must not be used after the call, see `Shard`.
        batch: this shard's part of a batch (see `forecaster.shards.sharding.Splitter`).
        forecaster: the weights that made the shard's state.
        windows_per_step: most windows in one network call; blocks end at multiples of it.

    Yields:
        A shard, and the output to write before the shard may be stored: first of the rows, then of each block
        of windows. Later batches can be applied to any of these shards.
    """
    todo = [batch]
    while todo:
        batch = todo.pop()
        if _is_early(shard, batch):
            yield replace(shard, early=(*shard.early, batch)), Output(batch.partition, batch.start)
            return
        for after, output in _apply_next(shard, batch, forecaster, windows_per_step):
            shard = after
            yield after, output
        ready = [early for early in shard.early if not _is_early(shard, early)]
        if ready:
            shard = replace(shard, early=tuple(early for early in shard.early if early is not ready[0]))
            todo.append(ready[0])


def _is_early(shard: Shard, batch: Batch) -> bool:
    """Return whether the batch must wait: the shard lacks rows before it, or follows too few partitions."""
    unread = batch.start > shard.offsets.get(batch.partition, 0)
    return unread or batch.partitions > len(shard.watermarks)


def _apply_next(
    shard: Shard, batch: Batch, forecaster: Forecaster, windows_per_step: int
) -> Iterator[tuple[Shard, Output]]:
    """Apply a batch that begins at or before the next offset of its partition."""
    shard, output = _accept_rows(shard, batch, forecaster)
    yield shard, output
    if (watermark_us := shard.watermark_us) is not None:
        through = forecaster.window_config.frequency.last_closed(watermark_us)
        for after, closed in _close_windows(shard, through, forecaster, windows_per_step):
            shard = after
            forecasts, replaced_rows = closed or (None, _NONE_REPLACED)
            yield after, Output(batch.partition, output.start, forecasts, replaced=replaced_rows)
    # Yield ``done`` in a separate output: only after the loop is it certain which block was the last.
    yield shard, Output(batch.partition, output.start, done=batch)


def _accept_rows(shard: Shard, batch: Batch, forecaster: Forecaster) -> tuple[Shard, Output]:
    """Add the batch's rows that are new to the shard to its pending rows, and advance offset and watermark.

    Late and rejected rows go into the output.
    """
    next_offset = shard.offsets.get(batch.partition, 0)
    if batch.stop < next_offset:  # the batch's rows and watermark were applied before
        return shard, Output(batch.partition, next_offset)
    rows, rejected = batch.rows, batch.rejected
    if batch.start < next_offset:
        rows, rejected = (frame.filter(pl.col("offset") >= next_offset) for frame in (rows, rejected))
    before_us = largest_watermark((shard.watermarks.get(batch.partition), batch.before_us))
    freq = forecaster.window_config.frequency
    in_time, too_late = split_late_rows(rows, batch.partition, before_us, shard.closed_through, freq)
    if len(in_time):
        with_partition = in_time.with_columns(pl.lit(batch.partition).alias(PARTITION))
        shard, with_slots = _assign_slots(shard, with_partition, forecaster)
        waiting = [frame for frame in (shard.pending, with_slots) if len(frame)]
        shard = replace(shard, pending=pl.concat(waiting, how="diagonal") if len(waiting) > 1 else with_slots)
    bad_files = int((rejected["row"] == 0).sum()) if len(rejected) else 0
    counts = shard.counts + Counts(
        rows_in=len(rows) + len(rejected) - bad_files,
        quarantined=by_kind(rejected.filter(pl.col("row") > 0)) if len(rejected) else {},
        late=len(too_late),
        pending=len(in_time),
        outside=batch.outside if batch.start >= next_offset else 0,
        bad_files=bad_files,
    )
    shard = replace(
        shard,
        offsets={**shard.offsets, batch.partition: max(batch.stop, next_offset)},
        watermarks={**shard.watermarks, batch.partition: largest_watermark((before_us, batch.watermark_us))},
        counts=counts,
    )
    quarantined = rejected.select(list(quarantine.SCHEMA)) if len(rejected) else _NONE_QUARANTINED
    return shard, Output(batch.partition, max(batch.start, next_offset), None, quarantined, too_late)


def _assign_slots(shard: Shard, rows: pl.DataFrame, forecaster: Forecaster) -> tuple[Shard, pl.DataFrame]:
    """Return the shard with a slot for every series of the rows, and the rows as pending rows with slots."""
    joined = rows.join(shard.slots, on="series_id", how="left", maintain_order="left")
    if joined["slot"].null_count():
        ids = tuple(joined.filter(pl.col("slot").is_null())["series_id"].unique(maintain_order=True))
        first_window = forecaster.window_config.frequency.window_of(_EARLIEST_US)
        start = first_window if shard.closed_through is None else shard.closed_through + 1
        state, old_count = shard.state.grown(forecaster.new_series_state(ids, start)), len(shard.state)
        new_slots = slots_of(state.part(slice(old_count, None))).with_columns(pl.col("slot") + old_count)
        shard = replace(shard, state=state, slots=pl.concat([shard.slots, new_slots]))
        joined = rows.join(shard.slots, on="series_id", how="left", maintain_order="left")
    names = [*PENDING, *optional_pending_columns(rows.columns)]
    if forecaster.window_config.aggregate not in EVENTS:
        names = [name for name in names if name != ORIGIN]
    return shard, pl.DataFrame([joined[name] for name in names])


def optional_pending_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns that pending rows have after `PENDING`: ``event_id``, covariates, `ORIGIN`."""
    known = list(columns)
    return [*observations.optional_columns(known), *([ORIGIN] if ORIGIN in known else [])]


_ClosedBlock = tuple[Forecasts, pl.DataFrame]
"""Forecasts of a block of windows, and the rows of these windows that later rows replaced."""


def _close_windows(
    shard: Shard, through: int, forecaster: Forecaster, windows_per_step: int
) -> Iterator[tuple[Shard, _ClosedBlock | None]]:
    """Close every window up to and including ``through``, block by block.

    Windows in which no series is live are skipped, so one row years ahead does not close every window before
    it.

    Yields:
        The shard after each block of windows, and the results of the block; None in place of results if only
        windows without a live series were skipped.
    """
    if shard.closed_through is not None and through <= shard.closed_through:
        return
    shard = _without_forgotten(shard, forecaster.window_config.max_gap)
    pending = shard.pending
    if not pending["window"].is_sorted():
        pending = pending.sort("window", maintain_order=True)
    index, low = pending["window"], 0
    while (start := _next_window(shard, index, low)) is not None and start <= through:
        most = max(1, min(windows_per_step, _BLOCK_STEPS // max(len(shard.state), 1)))
        stop = min(through + 1, start + most, (start // windows_per_step + 1) * windows_per_step)
        high = int(index.search_sorted(stop, side="left"))
        shard, closed = _close_block(shard, pending[low:high], start, stop, forecaster)
        low = high
        yield replace(shard, pending=pending[high:]), closed
    if shard.closed_through is None or shard.closed_through < through:
        yield replace(shard, pending=pending[low:], closed_through=through), None


def _without_forgotten(shard: Shard, max_gap: int) -> Shard:
    """Return the shard without its forgotten series, if these hold more than a tenth of its slots.

    The decision depends on the shard only, so a rerun frees the slots at the same batch.
    """
    state = shard.state
    if shard.closed_through is None:
        return shard
    silent = state.silent + (shard.closed_through - state.clock)
    is_forgotten = ~live(state) & (state.silent > 0) & (silent > forgotten_after(max_gap))
    is_forgotten[shard.pending["slot"].to_numpy()] = False
    if is_forgotten.sum() * _SLOTS_PER_FORGOTTEN <= len(state):
        return shard
    kept = np.flatnonzero(~is_forgotten)
    slot = pl.Series(np.cumsum(~is_forgotten) - 1, dtype=pl.Int32)
    pending = shard.pending.with_columns(slot=slot.gather(shard.pending["slot"]))
    state = state.take(kept)
    return replace(shard, state=state, slots=slots_of(state), pending=pending)


def _next_window(shard: Shard, index: pl.Series, low: int) -> int | None:
    """Return the next window to close, or None if there is none.

    It is the window after the last closed one or, if no series is live, the next window with a row.
    """
    if shard.closed_through is not None and live(shard.state).any():
        return shard.closed_through + 1
    return int(index[low]) if low < len(index) else None


def _close_block(
    shard: Shard, rows: pl.DataFrame, start: int, stop: int, forecaster: Forecaster
) -> tuple[Shard, _ClosedBlock]:
    """Aggregate the rows of windows ``[start, stop)``, step the state, and return the forecasts."""
    values = np.full((stop - start, len(shard.state)), np.nan)
    names = forecaster.covariates.features.observed
    past = np.full((*values.shape, len(names)), np.nan) if names else None
    duplicates = NO_DUPLICATES
    if len(rows):
        window, slot = rows["window"].to_numpy() - start, rows["slot"].to_numpy().astype(np.int64)
        duplicates = fill(values, rows, window, slot, forecaster.window_config, past, names)
    forecasts = advance_in_place(forecaster, shard.state, values, start, past=past)
    counts = shard.counts + Counts(
        used=len(rows) - duplicates.dropped,
        duplicates=duplicates.dropped,
        replaced=len(duplicates.replaced),
        pending=-len(rows),
        series_steps=len(forecasts),
        cold_starts=forecasts.cold_starts,
    )
    # Count the windows that have a forecast: the sum over blocks then does not depend on the size of blocks.
    counts = replace(counts, windows=counts.windows + int(forecasts.issued.any(axis=1).sum()))
    replaced_rows = (
        replaced.frame(duplicates.replaced.join(shard.slots, on="slot", how="left"))
        if (len(duplicates.replaced))
        else _NONE_REPLACED
    )
    return replace(shard, closed_through=stop - 1, counts=counts), (forecasts, replaced_rows)
