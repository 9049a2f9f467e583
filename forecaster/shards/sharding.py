"""Which shard a series belongs to, and tables of shards cut anew for another number of them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from forecaster.shards.shard import PENDING, Shard, more_of, slots_of
from forecaster.state import State
from forecaster.time.windows import ORIGIN, PARTITION
from schemas import quarantine
from schemas.errors import DataError


def shard_of(series_id: str, shards: int) -> int:
    """The shard of a series: the same on every worker, machine and run (CRC-32 of the id)."""
    return zlib.crc32(series_id.encode()) % shards


class Splitter:
    """Cuts batches into the parts of each shard; it remembers where series belong.

    Args:
        shards: number of shards.
    """

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self._known = pl.DataFrame(schema={"series_id": pl.String, "shard": pl.Int32})

    def split(self, batch: Batch) -> dict[int, Batch]:
        """The part of every shard that follows the batch's partition, by the shard's number.

        Each has the batch's place in the log and its watermark, so that a shard without rows closes its
        windows when the others do. What belongs to no series (quarantined rows, rows outside the job's
        time) goes to one shard, which its partition names.
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
        if not len(rows):
            return {}
        if self.shards == 1:
            return {0: rows}
        placed = self._placed(rows)
        if placed["shard"].null_count():
            new = placed.filter(pl.col("shard").is_null())["series_id"].unique()
            numbers = pl.Series([shard_of(name, self.shards) for name in new], dtype=pl.Int32)
            self._known = pl.concat([self._known, pl.DataFrame({"series_id": new, "shard": numbers})])
            placed = self._placed(rows)
        parts = placed.partition_by("shard", include_key=False, as_dict=True, maintain_order=True)
        return {int(key[0]): part for key, part in parts.items()}

    def _placed(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.join(self._known, on="series_id", how="left", maintain_order="left")


KEYED = (
    "its series lie by the partitions of a keyed topic: only a stream with kafka.keyed = true and as many "
    "shards can go on from it"
)


def no_batch(partition: str, offset: int, *, snapshot: bool = False, ends: bool = False) -> Batch:
    """A batch without rows at ``offset``: it announces a partition, or asks for a snapshot."""
    rejected = quarantine.empty().with_columns(offset=pl.lit(0, pl.Int64))
    return Batch(partition, offset, offset, _NO_ROWS, rejected, snapshot=snapshot, ends=ends)


def announced(shard: Shard, partitions: Mapping[str, int], owners: Mapping[str, int] | None = None) -> Shard:
    """Return a shard that follows more partitions, and waits for the watermark of each new one.

    A pending row of an earlier job (see `handed_over`) returns to its own offset if its partition is
    announced from a later offset on: the partition goes on where the earlier job stopped.

    Args:
        shard: as it was.
        partitions: of each the offset of its first row.
        owners: of each the only shard that follows it, of a keyed topic.
    """
    alone, number = owners or {}, shard.number
    mine = {name: offset for name, offset in partitions.items() if alone.get(name, number) == number}
    new = {name: offset for name, offset in mine.items() if name not in shard.offsets}
    return replace(
        shard,
        pending=_where_partitions_go_on(shard.pending, new),
        offsets={**mine, **shard.offsets},
        watermarks={**dict.fromkeys(mine), **shard.watermarks},
        keyed=bool(alone),
    )


def reshard(shards: Sequence[Shard], of: int) -> tuple[Shard, ...]:
    """The same series, rows and place in the log, in another number of shards.

    Raises:
        DataError: the shards do not stand at the same place in the log, as those of a job that was killed;
            or their series lie by partition, which nothing but their topic knows.
    """
    if shards[0].keyed:
        raise DataError(KEYED)
    if len({(s.closed_through, tuple(sorted(s.offsets.items()))) for s in shards}) > 1:
        raise DataError(
            "its shards stand at different places of their input, since the job that wrote it was killed: "
            f"go on with --resume and {shards[0].of} shards, end that job with Ctrl-C, and cut the table then"
        )
    first = shards[0]
    if len(shards) == of:
        return tuple(shards)
    pending = pl.concat([_named(shard) for shard in shards], how="diagonal")
    homes = [np.array([shard_of(name, of) for name in shard.state.series_ids], np.int64) for shard in shards]
    counts = sum((shard.counts for shard in shards), Counts())
    made = []
    for number in range(of):
        # not of all as one, which would be as much memory again
        taken = [s.state.take(np.flatnonzero(home == number)) for s, home in zip(shards, homes, strict=True)]
        part = State.join(taken)
        slots = slots_of(part)
        mine = pending.join(slots, on="series_id", how="inner", maintain_order="left").drop("series_id")
        columns = [*PENDING, *more_of(mine.columns)]
        own = counts if number == 0 else Counts()
        own = replace(own, pending=len(mine), windows=counts.windows)
        made.append(
            replace(
                first, number=number, of=of, state=part, slots=slots, pending=mine.select(columns), counts=own
            )
        )
    return tuple(made)


_LOWERED, _LEAST = 1 << 62, -(1 << 63)


def handed_over(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """Return the shards as another job begins with them: states and rows that wait, but a log of its own.

    The rows that wait get offsets below 0, so they come before every row of the new log. Where the new log
    is the old one from a later offset on, `announced` gives the rows their own offsets back.
    """
    return tuple(
        replace(
            shard,
            pending=_earlier(shard.pending),
            offsets={},
            watermarks={},
            early=(),
            counts=Counts(restored=len(shard.pending), pending=len(shard.pending)),
        )
        for shard in shards
    )


def _earlier(pending: pl.DataFrame) -> pl.DataFrame:
    """Return rows that wait at offsets below 0, in their order: lowered by `_LOWERED`.

    Rows that are below 0 already are of a log before that one: they keep only their order among themselves.
    """
    rank = pl.struct("offset", PARTITION).rank("dense").cast(pl.Int64)
    is_older = pl.col("offset") < 0
    return pending.with_columns(
        pl.when(is_older).then(rank + _LEAST).otherwise(pl.col("offset") - _LOWERED).alias("offset"),
        pl.when(is_older).then(pl.lit("")).otherwise(PARTITION).alias(PARTITION),
    ).drop(ORIGIN, strict=False)


def _where_partitions_go_on(pending: pl.DataFrame, begins: Mapping[str, int]) -> pl.DataFrame:
    """Undo `_earlier` for rows of partitions that begin at an offset after theirs."""
    if not begins or not len(pending):
        return pending
    own = pl.col("offset") + _LOWERED
    begin = pl.col(PARTITION).replace_strict(begins, default=0, return_dtype=pl.Int64)
    goes_on = (pl.col("offset") < 0) & (own >= 0) & (own < begin)
    return pending.with_columns(pl.when(goes_on).then(own).otherwise("offset").alias("offset"))


def _named(shard: Shard) -> pl.DataFrame:
    return shard.pending.join(shard.slots, on="slot", how="left", maintain_order="left").drop("slot")


_NO_ROWS = pl.DataFrame(
    schema={
        "series_id": pl.String(),
        "timestamp": pl.Datetime("us", "UTC"),
        "value": pl.Float64(),
        "offset": pl.Int64(),
    }
)
