"""Assign series to shards, split batches by shard, and change the number of shards of a state table."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from forecaster.arrays import Ints
from forecaster.shards.batch import Batch, is_quarantine
from forecaster.shards.counts import Counts
from forecaster.shards.history import LATE_ROWS, History, can_join, join_copies
from forecaster.shards.shard import PENDING, Shard, optional_pending_columns, slots_of
from forecaster.state import State
from forecaster.time.duplicates import ORIGIN, PARTITION
from schemas import quarantine
from schemas.errors import DataError


def shard_of(series_id: str, shards: int) -> int:
    """Return the shard of a series: the CRC-32 of its id modulo ``shards``, the same on every machine."""
    return zlib.crc32(series_id.encode()) % shards


class Splitter:
    """Splits batches by shard, and caches the shard of each series; not for use by several threads.

    Args:
        shards: number of shards.
    """

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self._shard_by_series = pl.DataFrame(schema={"series_id": pl.String, "shard": pl.Int32})
        # The series ids of the last batch, and their places by shard.
        self._last: tuple[pl.Series, dict[int, Ints]] = (pl.Series("series_id", [], pl.String), {})

    def split(self, batch: Batch) -> dict[int, Batch]:
        """Return, by shard number, a part of the batch for each shard that follows the batch's partition.

        Each part has the offsets and the watermark of the batch, so a shard without rows closes its windows
        at the same time as the other shards. Quarantined rows and rows outside the job's time bounds belong
        to no series; they go to one shard, which depends only on the partition's name.
        """
        if batch.shard is not None:
            return {batch.shard: batch}
        rows = self._by_shard(batch.rows)
        owner = shard_of(batch.partition, self.shards)
        no_rows, none_rejected = batch.rows.clear(), batch.rejected.clear()
        return {
            number: replace(
                batch,
                rows=rows.get(number, no_rows),
                rejected=batch.rejected if number == owner else none_rejected,
                outside=batch.outside if number == owner else 0,
            )
            for number in range(self.shards)
        }

    def _by_shard(self, rows: pl.DataFrame) -> dict[int, pl.DataFrame]:
        """Return the rows of each shard by its number; a shard without rows has no entry."""
        if not len(rows):
            return {}
        if self.shards == 1:
            return {0: rows}
        return {number: rows[places] for number, places in self._places(rows["series_id"]).items()}

    def _places(self, ids: pl.Series) -> dict[int, Ints]:
        """Return, by shard number, the places in ``ids`` of the shard's series, rising."""
        last_ids, places = self._last
        if ids.equals(last_ids):  # save time: batches often have the same series, in the same order
            return places
        shards = self._shards(ids)
        if shards.null_count():
            new = ids.filter(shards.is_null()).unique()
            numbers = pl.Series([shard_of(name, self.shards) for name in new], dtype=pl.Int32)
            assigned = pl.DataFrame({"series_id": new, "shard": numbers})
            self._shard_by_series = pl.concat([self._shard_by_series, assigned])
            shards = self._shards(ids)
        order = np.argsort(shards.to_numpy(), kind="stable")
        counts = np.bincount(shards.to_numpy(), minlength=self.shards)
        parts = np.split(order, np.cumsum(counts)[:-1])
        places = {number: part for number, part in enumerate(parts) if len(part)}
        self._last = ids, places
        return places

    def _shards(self, ids: pl.Series) -> pl.Series:
        """Return the shard of each series of ``ids``, null for a series whose shard is not computed yet."""
        known = self._shard_by_series
        return ids.to_frame().join(known, on="series_id", how="left", maintain_order="left")["shard"]


_KEYED_TABLE_ERROR = (
    "its series are assigned to shards by a keyed topic: only a stream with kafka.keyed = true and the same "
    "number of shards can resume from it"
)
"""Error message for a table that was written from a topic keyed by series."""


def empty_batch(partition: str, offset: int, *, snapshot: bool = False, ends: bool = False) -> Batch:
    """Return a batch without rows, such as one that announces a partition or triggers a snapshot."""
    rejected = quarantine.empty().with_columns(offset=pl.lit(0, pl.Int64))
    return Batch(partition, offset, offset, _NO_ROWS, rejected, snapshot=snapshot, ends=ends)


def add_partitions(
    shard: Shard, partitions: Mapping[str, int], owners: Mapping[str, int] | None = None
) -> Shard:
    """Add partitions to a shard, which then waits for the watermarks of these partitions, too.

    It closes no further window until each new partition has a watermark, except one with rows of the
    quarantine (see `forecaster.shards.batch.is_quarantine`). A pending row of an earlier job
    (see `hand_over_shards`) gets its own offset back if its partition is announced from a later offset: then
    the partition continues where the earlier job stopped.

    Args:
        shard: the shard so far.
        partitions: name of each partition, and the offset of its first row.
        owners: for a topic keyed by series, the only shard that follows each partition; else None.
    """
    owner_of, number = owners or {}, shard.number
    followed = {name: offset for name, offset in partitions.items() if owner_of.get(name, number) == number}
    new = {name: offset for name, offset in followed.items() if name not in shard.offsets}
    return replace(
        shard,
        pending=_restore_offsets(shard.pending, new),
        offsets={**followed, **shard.offsets},
        watermarks={
            **dict.fromkeys(name for name in followed if not is_quarantine(name)),
            **shard.watermarks,
        },
        keyed=bool(owner_of),
    )


def reshard(shards: Sequence[Shard], of: int) -> tuple[Shard, ...]:
    """Distribute the series and pending rows of all shards over ``of`` shards; each keeps the old offsets.

    Raises:
        DataError: the shards are at different offsets, as after a job was killed; or the series are assigned
            to shards by the partitions of a topic keyed by series.
    """
    if shards[0].keyed:
        raise DataError(_KEYED_TABLE_ERROR)
    if len({(s.closed_through, tuple(sorted(s.offsets.items()))) for s in shards}) > 1:
        raise DataError(
            "the shards are at different offsets of their input, because the job was killed: "
            f"run a job with --resume and {shards[0].of} shards, end it with Ctrl-C, and try again"
        )
    first = shards[0]
    if len(shards) == of:
        return tuple(shards)
    pending = pl.concat([_with_series_ids(shard, shard.pending) for shard in shards], how="diagonal")
    history = _HistoryById.of(shards)
    ids = [shard.state.series_ids for shard in shards]
    new_shards = [np.array([shard_of(name, of) for name in names], np.int64) for names in ids]
    counts = sum((shard.counts for shard in shards), Counts())
    made = []
    for number in range(of):
        # Build one new shard at a time: joining all states first would need memory for one more copy of them.
        own = [np.flatnonzero(to == number) for to in new_shards]
        own_state = State.join([shard.state.take(index) for shard, index in zip(shards, own, strict=True)])
        slots = slots_of(own_state)
        waiting = _with_slots(pending, slots)
        own_counts = counts if number == 0 else Counts()
        own_counts = replace(own_counts, pending=len(waiting), windows=counts.windows)
        made.append(
            replace(
                first,
                number=number,
                of=of,
                state=own_state,
                slots=slots,
                pending=waiting,
                shadow=None,
                history=None if history is None else history.part(own, slots),
                counts=own_counts,
            )
        )
    return tuple(made)


_LOWERED, _LEAST = 1 << 62, -(1 << 63)


def hand_over_shards(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """Return the shards with which another job begins: states and pending rows, but no partition offsets.

    The rows themselves get offsets below 0, so they are before every row of the new log. If the new log
    continues the old one from a later offset, `add_partitions` restores the rows' original offsets.
    """
    return tuple(
        replace(
            shard,
            pending=_before_offset_0(shard.pending),
            offsets={},
            watermarks={},
            early=(),
            shadow=None,
            history=None,
            counts=Counts(restored=len(shard.pending), pending=len(shard.pending)),
        )
        for shard in shards
    )


def _before_offset_0(pending: pl.DataFrame) -> pl.DataFrame:
    """Replace the offsets of pending rows by offsets below 0, and keep the rows in their order.

    So the rows precede every row of a new log. `_LOWERED` is subtracted from an offset of at least 0. A row
    with an offset below 0 is from an even older log: only the order of such rows among themselves is kept.
    """
    rank = pl.struct("offset", PARTITION).rank("dense").cast(pl.Int64)
    is_older = pl.col("offset") < 0
    return pending.with_columns(
        pl.when(is_older).then(rank + _LEAST).otherwise(pl.col("offset") - _LOWERED).alias("offset"),
        pl.when(is_older).then(pl.lit("")).otherwise(PARTITION).alias(PARTITION),
    ).drop(ORIGIN, strict=False)


def _restore_offsets(pending: pl.DataFrame, begins: Mapping[str, int]) -> pl.DataFrame:
    """Restore a pending row's original offset if its partition begins at a larger offset in the new log.

    `_before_offset_0` had lowered these offsets below 0.
    """
    if not begins or not len(pending):
        return pending
    own = pl.col("offset") + _LOWERED
    begin = pl.col(PARTITION).replace_strict(begins, default=0, return_dtype=pl.Int64)
    continues = (pl.col("offset") < 0) & (own >= 0) & (own < begin)
    return pending.with_columns(pl.when(continues).then(own).otherwise("offset").alias("offset"))


def _with_series_ids(shard: Shard, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a shard with ``series_id`` instead of ``slot``."""
    return rows.join(shard.slots, on="slot", how="left", maintain_order="left").drop("slot")


def _with_slots(rows: pl.DataFrame, slots: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the series in ``slots`` as pending rows, with ``slot`` instead of ``series_id``."""
    own = rows.join(slots, on="series_id", how="inner", maintain_order="left").drop("series_id")
    return own.select(*PENDING, *optional_pending_columns(own.columns))


@dataclass(frozen=True)
class _HistoryById:
    """The histories of all shards of a state table, with series ids instead of slots in their rows.

    Attributes:
        histories: history of each shard.
        rows, late: their rows and records with ``series_id`` instead of ``slot``.
    """

    histories: Sequence[History]
    rows: pl.DataFrame
    late: pl.DataFrame

    @staticmethod
    def of(shards: Sequence[Shard]) -> _HistoryById | None:
        """Return the histories of all ``shards``; None if a shard has no history or `can_join` is False."""
        histories = [shard.history for shard in shards if shard.history is not None]
        if len(histories) < len(shards) or not can_join(histories):
            return None
        both = [*zip(shards, histories, strict=True)]
        rows = [
            _with_series_ids(shard, frame)
            for shard, one in both
            for frame in (shard.pending.clear(), *one.rows)
        ]
        late = [_with_series_ids(shard, one.late) for shard, one in both]
        return _HistoryById(histories, pl.concat(rows, how="diagonal"), pl.concat(late))

    def part(self, own: Sequence[Ints], slots: pl.DataFrame) -> History:
        """Return the history of a new shard, joined from the histories of the old shards.

        Args:
            own: the slots of its series in each old shard.
            slots: the slots of its series in the new shard.
        """
        late = self.late.join(slots, on="series_id", how="inner", maintain_order="left").select(*LATE_ROWS)
        return History(join_copies(self.histories, own), (_with_slots(self.rows, slots),), late)


_NO_ROWS = pl.DataFrame(
    schema={
        "series_id": pl.String(),
        "timestamp": pl.Datetime("us", "UTC"),
        "value": pl.Float64(),
        "offset": pl.Int64(),
    }
)
