"""Apply the batches of a partitioned log to a shard, one after the other.

The backfill, the streaming job, the recovery and the tests all call `apply`. This module does not depend on
Beam, on files or on the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from forecaster.model import Forecaster
from forecaster.shards.batch import Batch, is_quarantine
from forecaster.shards.close_windows import close_windows
from forecaster.shards.counts import Counts, by_kind
from forecaster.shards.history import Copy
from forecaster.shards.lateness import CLOSED, NEVER, Repair, largest_watermark, split_late_rows
from forecaster.shards.models import Models
from forecaster.shards.repair import repair_windows, with_history
from forecaster.shards.shard import (
    NONE_QUARANTINED,
    NONE_REPLACED,
    PENDING,
    Output,
    Shard,
    optional_pending_columns,
    slots_of,
)
from forecaster.shards.versions import CHANGED, drop_versions
from forecaster.time.duplicates import EVENTS, ORIGIN, PARTITION
from schemas import quarantine

# The beginning of 1678, in microseconds: validation rejects earlier rows (`schemas.observations`).
_EARLIEST_US = -9_214_560_000_000_000


def apply(
    shard: Shard, batch: Batch, models: Models | Forecaster, windows_per_step: int = 32
) -> Iterator[tuple[Shard, Output]]:
    """Apply a batch to a shard: accept its rows, then close the windows that the watermark has passed.

    Rows that the shard has already applied are dropped one by one. A batch that arrives before its
    predecessor waits in ``Shard.early``. Whether a row is late depends only on the watermark that its
    partition has before the row, so a rerun gives the same late rows, in whatever order the batches arrive.
    With ``models.repair``, windows are repaired with the late rows that are not too old, before more windows
    are closed.

    Args:
        shard: must not be used after the call, see `Shard`.
        batch: this shard's part of a batch (see `forecaster.shards.sharding.Splitter`).
        models: the version of the model for each window, or the only version. At a change, the state is
            re-warmed for the new version. One of the versions has made the shard's state.
        windows_per_step: most windows in one network call; blocks end at multiples of it, and at a change.

    Yields:
        A shard, and the output to write before the shard may be stored: first of the rows, then of each block
        of windows. Later batches can be applied to any of these shards.
    """
    models = Models(models) if isinstance(models, Forecaster) else models
    shard = with_history(shard, models.repair)
    todo = [batch]
    while todo:
        batch = todo.pop()
        if _is_early(shard, batch):
            yield replace(shard, early=(*shard.early, batch)), Output(batch.partition, batch.start)
            return
        for after, output in _apply_next(shard, batch, models, windows_per_step):
            shard = after
            yield after, output
        ready = [early for early in shard.early if not _is_early(shard, early)]
        if ready:
            shard = replace(shard, early=tuple(early for early in shard.early if early is not ready[0]))
            todo.append(ready[0])


def _is_early(shard: Shard, batch: Batch) -> bool:
    """Return whether a batch must wait until the shard has earlier rows, or follows more partitions.

    A batch must wait if the shard lacks rows of the batch's partition before ``batch.start``, or if the shard
    follows fewer than ``batch.partitions`` partitions.
    """
    unread = batch.start > shard.offsets.get(batch.partition, 0)
    return unread or batch.partitions > len(shard.watermarks)


def _apply_next(
    shard: Shard, batch: Batch, models: Models, windows_per_step: int
) -> Iterator[tuple[Shard, Output]]:
    """Apply a batch for which `_is_early` is False; yield a shard and an output after each step."""
    # Finish interrupted repairs before accepting new rows, so that a rerun makes the same repairs.
    for after, repaired in repair_windows(shard, models):
        shard = after
        yield after, repaired
    shard, output = _accept_rows(shard, batch, models)
    yield shard, output
    for after, repaired in repair_windows(shard, models):
        shard = after
        yield after, repaired
    if (watermark_us := shard.watermark_us) is not None:
        through = models.first.window_config.frequency.last_closed(watermark_us)
        for after, closed in close_windows(shard, through, models, windows_per_step):
            shard = after
            forecasts, replaced_rows, shadow = closed or (None, NONE_REPLACED, None)
            yield (
                after,
                Output(batch.partition, output.start, forecasts, replaced=replaced_rows, shadow=shadow),
            )
    # Yield one more output, only to report that the batch is done: while the loop above yields an output,
    # it does not know whether another one follows.
    yield shard, Output(batch.partition, output.start, done=batch)


def _accept_rows(shard: Shard, batch: Batch, models: Models) -> tuple[Shard, Output]:
    """Add the new rows of a batch to the pending rows of the shard, and advance offset and watermark.

    Late and rejected rows go into the output.
    """
    next_offset = shard.offsets.get(batch.partition, 0)
    if batch.stop < next_offset:  # the batch was applied before: change nothing
        return shard, Output(batch.partition, next_offset)
    rows, rejected = batch.rows, batch.rejected
    if batch.start < next_offset:
        rows, rejected = (frame.filter(pl.col("offset") >= next_offset) for frame in (rows, rejected))
    before_us = largest_watermark((shard.watermarks.get(batch.partition), batch.before_us))
    freq = models.first.window_config.frequency
    repair = _repair_of(shard, models)
    in_time, too_late = split_late_rows(rows, batch.partition, before_us, shard.closed_through, freq, repair)
    repaired = 0
    if len(in_time):
        shard, with_slots = _assign_slots(shard, in_time, batch.partition, models)
        if CLOSED in in_time.columns:
            shard, with_slots, repaired = _with_closed_windows(shard, with_slots, in_time[CLOSED], models)
        waiting = [frame for frame in (shard.pending, with_slots) if len(frame)]
        shard = replace(shard, pending=pl.concat(waiting, how="diagonal") if len(waiting) > 1 else with_slots)
    bad_files = int((rejected["row"] == 0).sum()) if len(rejected) else 0
    is_again = is_quarantine(batch.partition)
    count = len(rows) + len(rejected) - bad_files
    counts = shard.counts + Counts(
        rows_in=0 if is_again else count,
        replayed=count if is_again else 0,
        quarantined=by_kind(rejected.filter(pl.col("row") > 0)) if len(rejected) else {},
        late=len(too_late),
        pending=len(in_time),
        outside=batch.outside if batch.start >= next_offset else 0,
        bad_files=0 if is_again else bad_files,
        repaired=repaired,
    )
    watermark = {} if is_again else {batch.partition: largest_watermark((before_us, batch.watermark_us))}
    shard = replace(
        shard,
        offsets={**shard.offsets, batch.partition: max(batch.stop, next_offset)},
        watermarks={**shard.watermarks, **watermark},
        counts=counts,
    )
    quarantined = rejected.select(list(quarantine.SCHEMA)) if len(rejected) else NONE_QUARANTINED
    return shard, Output(batch.partition, max(batch.start, next_offset), None, quarantined, too_late)


def _repair_of(shard: Shard, models: Models) -> Repair | None:
    """Return the limits that decide which late rows are repaired; None if the job makes no repairs."""
    if shard.history is None:
        return None
    copies = shard.history.copies
    return Repair(models.repair, copies[0].through if copies else NEVER)


def _with_closed_windows(
    shard: Shard, rows: pl.DataFrame, closed: pl.Series, models: Models
) -> tuple[Shard, pl.DataFrame, int]:
    """Mark the event versions that do not count, and record the rows that change closed windows.

    Args:
        shard: the shard.
        rows: rows to be used, as pending rows.
        closed: the column `CLOSED` of the rows.
        models: the model versions of the job.

    Returns:
        The shard with the records (`History.late`) and with the versions that no longer count, the rows with
        the versions among them that do not count, and the number of records.
    """
    rows = rows.with_columns(closed, pl.col("window").alias(CHANGED))
    if "event_id" in rows.columns:
        shard, rows = drop_versions(shard, rows, models.repair, models.duplicates)
    records = rows.filter(pl.col(CHANGED) <= pl.col(CLOSED)).select(
        "slot", window=CHANGED, late_through=CLOSED
    )
    if shard.history is not None and len(records):
        shard = replace(shard, history=replace(shard.history, late=pl.concat([shard.history.late, records])))
    return shard, rows.drop(CLOSED, CHANGED), len(records)


def _assign_slots(
    shard: Shard, rows: pl.DataFrame, partition: str, models: Models
) -> tuple[Shard, pl.DataFrame]:
    """Return the shard with a slot for every series of ``rows``, and these rows as pending rows.

    The rows are rows of ``partition``.
    """
    windows = models.first.window_config
    slot = _slots_of_ids(shard, rows["series_id"])
    if slot.null_count():
        ids = tuple(rows["series_id"].filter(slot.is_null()).unique(maintain_order=True))
        first_window = windows.frequency.window_of(_EARLIEST_US)
        start = first_window if shard.closed_through is None else shard.closed_through + 1
        new_states = models.of_state(shard.state).new_series_state(ids, start)
        state, old_count = shard.state.grown(new_states), len(shard.state)
        if shard.shadow is not None and models.shadow is not None:
            new_shadows = models.shadow.new_series_state(ids, start)
            shard = replace(shard, shadow=shard.shadow.grown(new_shadows))
        if shard.history is not None:
            shard = replace(shard, history=shard.history.grown(lambda copy: _new_series(copy, ids, models)))
        new_slots = slots_of(state.part(slice(old_count, None))).with_columns(pl.col("slot") + old_count)
        shard = replace(shard, state=state, slots=pl.concat([shard.slots, new_slots]))
        slot = _slots_of_ids(shard, rows["series_id"])
    partitions = pl.Series(PARTITION, [partition]).new_from_index(0, len(rows))
    rows = rows.hstack([slot, partitions])
    names = [*PENDING, *optional_pending_columns(rows.columns)]
    if windows.aggregate not in EVENTS:
        names = [name for name in names if name != ORIGIN]
    return shard, pl.DataFrame([rows[name] for name in names])


def _slots_of_ids(shard: Shard, ids: pl.Series) -> pl.Series:
    """Return the column ``slot`` for a column of series ids; null for a series without a slot."""
    if ids.equals(shard.slots["series_id"]):  # save time: a batch often has one row of every series, in order
        return shard.slots["slot"]
    return ids.to_frame().join(shard.slots, on="series_id", how="left", maintain_order="left")["slot"]


def _new_series(copy: Copy, ids: tuple[str, ...], models: Models) -> Copy:
    """Return a `Copy` with only the initial states of the new series ``ids``, to be appended to ``copy``."""
    start = copy.through + 1
    shadow = None if models.shadow is None else models.shadow.new_series_state(ids, start)
    return Copy(copy.through, models.of_state(copy.state).new_series_state(ids, start), shadow)
