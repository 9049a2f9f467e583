"""A shard: one value folded over a partitioned log.

Everything of a part of the fleet that must survive a crash is one `Shard`, and one function, `apply`, moves
it on by a `Batch` of its log. The backfill, the stream, the recovery and the tests all call it; nothing in
this file knows Beam, files or clocks.
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
from forecaster.shards.lateness import NONE_LATE, least, newest, parted
from forecaster.state import State, live
from forecaster.stepping import advance_in_place
from forecaster.time.windows import EVENTS, NONE_DOUBLE, ORIGIN, PARTITION, fill
from schemas import observations, quarantine, replaced

PENDING: dict[str, pl.DataType] = {
    "slot": pl.Int32(),
    "window": pl.Int64(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
    "offset": pl.Int64(),
    "partition": pl.String(),
}
"""Columns and types of rows that wait for their window; what `more_of` a row has follows.

Of two rows of one observation that of the larger offset counts, and among equal offsets that of the greater
partition name. Both belong to the row, so every arrival order and every rerun choose the same row. Rows that
another job left have offsets below 0, unless the new job reads their partition on
(see `forecaster.shards.sharding.handed_over`); rows of a snapshot without partitions have "" as their
partition.
"""

_NONE_QUARANTINED, _NONE_REPLACED = quarantine.empty(), replaced.empty()

_EARLIEST_US = -9_214_560_000_000_000  # 1678: no observation is older (see `schemas.observations`)
_MOST_FORGOTTEN = 10  # series to one whose slot waits to be freed: more would slow down the others' steps
_BLOCK_STEPS = 1 << 18  # series-steps in one block: its forecasts are some 150 MB then


@dataclass(frozen=True)
class Output:
    """What the rows of a batch, or a block of the windows that it closed, gives.

    Attributes:
        partition, start: where in the log the rows begin; with the shard it names what is written of them.
        forecasts: of a block of windows; None where none was closed.
        quarantined: rows that are no observations (``schemas.quarantine``).
        late: rows whose window had closed (``schemas.late``).
        replaced: rows of the block's windows that a later row took the place of (``schemas.replaced``).
        done: the batch, on the last of its outputs: it has been applied.
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
    """A part of the fleet and of its log.

    A value: `apply` gives a new one. But the arrays of its state are written in place, so the one that goes
    in is used up; `copy` it to keep it.

    Attributes:
        number, of: this is shard ``number`` of ``of``.
        state: of every series with a row so far; a series keeps its place, its slot, until it is forgotten.
        slots: ``series_id, slot`` of every series, for joins (see `slots_of`).
        pending: rows whose windows are open, see `PENDING`.
        offsets: of each partition, the offset of the next row to take in.
        watermarks: of each partition, its watermark in microseconds; None before its first.
        closed_through: index of the last closed window; None before the first.
        counts: where the rows went.
        early: batches that came before those that they follow.
        keyed: it alone follows its partitions, and its series are those of their rows.
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
        """Shard ``number`` of ``of``, which has read nothing.

        No window closes before each of ``partitions`` has a watermark; another is announced by its first
        batch. ``state`` is `Forecaster.initial_state`.
        """
        names, pending = tuple(partitions), pl.DataFrame(schema=PENDING)
        watermarks: dict[str, int | None] = dict.fromkeys(names)
        return Shard(
            number, of, state, slots_of(state), pending, dict.fromkeys(names, 0), watermarks, None, Counts()
        )

    def copy(self) -> Shard:
        """This shard with arrays of its own."""
        return replace(self, state=self.state.copy())

    @property
    def watermark_us(self) -> int | None:
        """The least watermark of all partitions; None while one has none."""
        return least(self.watermarks.values())


def slots_of(state: State) -> pl.DataFrame:
    """``series_id`` (String) and ``slot`` (Int32) of every series of a state."""
    ids = pl.Series("series_id", state.series_ids, dtype=pl.String)
    return pl.DataFrame({"series_id": ids, "slot": pl.int_range(len(ids), dtype=pl.Int32, eager=True)})


def apply(
    shard: Shard, batch: Batch, forecaster: Forecaster, windows_per_step: int = 32
) -> Iterator[tuple[Shard, Output]]:
    """Moves a shard on by a batch of its log: takes the rows in, then closes what the watermark allows.

    What the shard has taken in before is dropped, row by row; a batch that comes before the one that it
    follows waits for it. A row is late by the watermark of its own partition before it, so a rerun decides
    alike, in whatever order batches come.

    Args:
        shard: used up, see `Shard`.
        batch: the part of a batch that is this shard's (see `forecaster.shards.sharding.Splitter`).
        forecaster: the weights that made the shard's state.
        windows_per_step: most windows in one network call; blocks end at multiples of it.

    Yields:
        The shard, and what to write before it is kept: first of the rows, then block by block. Any of these
        shards can be gone on from.
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
    unread = batch.start > shard.offsets.get(batch.partition, 0)
    return unread or batch.partitions > len(shard.watermarks)


def _apply_next(
    shard: Shard, batch: Batch, forecaster: Forecaster, windows_per_step: int
) -> Iterator[tuple[Shard, Output]]:
    """`apply` for a batch that follows what the shard has taken in, or begins before that."""
    shard, output = _take_in(shard, batch, forecaster)
    yield shard, output
    if (watermark_us := shard.watermark_us) is not None:
        through = forecaster.window_config.frequency.last_closed(watermark_us)
        for after, closed in _close(shard, through, forecaster, windows_per_step):
            shard = after
            forecasts, lost = closed or (None, _NONE_REPLACED)
            yield after, Output(batch.partition, output.start, forecasts, replaced=lost)
    # On its own: to know which block is the last, the next one would have to be stepped, in place.
    yield shard, Output(batch.partition, output.start, done=batch)


def _take_in(shard: Shard, batch: Batch, forecaster: Forecaster) -> tuple[Shard, Output]:
    """The rows of a batch that are new to the shard: into its pending rows, or out."""
    reached = shard.offsets.get(batch.partition, 0)
    if batch.stop < reached:  # read before, watermark and all
        return shard, Output(batch.partition, reached)
    rows, rejected = batch.rows, batch.rejected
    if batch.start < reached:
        rows, rejected = (frame.filter(pl.col("offset") >= reached) for frame in (rows, rejected))
    before_us = newest((shard.watermarks.get(batch.partition), batch.before_us))
    freq = forecaster.window_config.frequency
    in_time, too_late = parted(rows, batch.partition, before_us, shard.closed_through, freq)
    if len(in_time):
        placed_at = in_time.with_columns(pl.lit(batch.partition).alias(PARTITION))
        shard, placed = _placed(shard, placed_at, forecaster)
        waiting = [frame for frame in (shard.pending, placed) if len(frame)]
        shard = replace(shard, pending=pl.concat(waiting, how="diagonal") if len(waiting) > 1 else placed)
    whole_files = int((rejected["row"] == 0).sum()) if len(rejected) else 0
    counts = shard.counts + Counts(
        rows_in=len(rows) + len(rejected) - whole_files,
        quarantined=by_kind(rejected.filter(pl.col("row") > 0)) if len(rejected) else {},
        late=len(too_late),
        pending=len(in_time),
        outside=batch.outside if batch.start >= reached else 0,
        bad_files=whole_files,
    )
    shard = replace(
        shard,
        offsets={**shard.offsets, batch.partition: max(batch.stop, reached)},
        watermarks={**shard.watermarks, batch.partition: newest((before_us, batch.watermark_us))},
        counts=counts,
    )
    quarantined = rejected.select(list(quarantine.SCHEMA)) if len(rejected) else _NONE_QUARANTINED
    return shard, Output(batch.partition, max(batch.start, reached), None, quarantined, too_late)


def _placed(shard: Shard, rows: pl.DataFrame, forecaster: Forecaster) -> tuple[Shard, pl.DataFrame]:
    """The rows by slot, as they wait; and the shard, with a slot for each series that had none."""
    found = rows.join(shard.slots, on="series_id", how="left", maintain_order="left")
    if found["slot"].null_count():
        ids = tuple(found.filter(pl.col("slot").is_null())["series_id"].unique(maintain_order=True))
        first = forecaster.window_config.frequency.window_of(_EARLIEST_US)
        start = first if shard.closed_through is None else shard.closed_through + 1
        state, born = shard.state.grown(forecaster.unseen(ids, start)), len(shard.state)
        more = slots_of(state.part(slice(born, None))).with_columns(pl.col("slot") + born)
        shard = replace(shard, state=state, slots=pl.concat([shard.slots, more]))
        found = rows.join(shard.slots, on="series_id", how="left", maintain_order="left")
    names = [*PENDING, *more_of(rows.columns)]
    if forecaster.window_config.aggregate not in EVENTS:
        names = [name for name in names if name != ORIGIN]
    return shard, pl.DataFrame([found[name] for name in names])


def more_of(columns: Iterable[str]) -> list[str]:
    """Return the columns of pending rows after those of `PENDING`: ``event_id``, covariates, `ORIGIN`."""
    known = list(columns)
    return [*observations.more_of(known), *([ORIGIN] if ORIGIN in known else [])]


_Closed = tuple[Forecasts, pl.DataFrame]
"""Forecasts of a block of windows, and the rows of these windows that were replaced."""


def _close(
    shard: Shard, through: int, forecaster: Forecaster, windows_per_step: int
) -> Iterator[tuple[Shard, _Closed | None]]:
    """Closes every window up to and including ``through``, a block at a time.

    Stretches in which no series lives are passed over: a lone row years away makes no window between.
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

    Whether slots are freed depends on the shard alone, so a rerun frees them at the same batch.
    """
    state = shard.state
    if shard.closed_through is None:
        return shard
    silent = state.silent + (shard.closed_through - state.clock)
    is_forgotten = ~live(state) & (state.silent > 0) & (silent > forgotten_after(max_gap))
    is_forgotten[shard.pending["slot"].to_numpy()] = False
    if is_forgotten.sum() * _MOST_FORGOTTEN <= len(state):
        return shard
    kept = np.flatnonzero(~is_forgotten)
    slot = pl.Series(np.cumsum(~is_forgotten) - 1, dtype=pl.Int32)
    pending = shard.pending.with_columns(slot=slot.gather(shard.pending["slot"]))
    state = state.take(kept)
    return replace(shard, state=state, slots=slots_of(state), pending=pending)


def _next_window(shard: Shard, index: pl.Series, low: int) -> int | None:
    """The next window to close: the one after the last, or where no series lives the next with a row."""
    if shard.closed_through is not None and live(shard.state).any():
        return shard.closed_through + 1
    return int(index[low]) if low < len(index) else None


def _close_block(
    shard: Shard, rows: pl.DataFrame, start: int, stop: int, forecaster: Forecaster
) -> tuple[Shard, _Closed]:
    values = np.full((stop - start, len(shard.state)), np.nan)
    names = forecaster.covariates.features.observed
    past = np.full((*values.shape, len(names)), np.nan) if names else None
    duplicates = NONE_DOUBLE
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
    # Not stop - start: where all series retire within a block depends on how windows are cut into blocks.
    counts = replace(counts, windows=counts.windows + int(forecasts.issued.any(axis=1).sum()))
    lost = (
        replaced.frame(duplicates.replaced.join(shard.slots, on="slot", how="left"))
        if (len(duplicates.replaced))
        else _NONE_REPLACED
    )
    return replace(shard, closed_through=stop - 1, counts=counts), (forecasts, lost)
