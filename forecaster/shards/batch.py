"""A piece of a partition's log, as it travels from a source to the shards that follow the partition."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Batch:
    """A piece of a partition's log: the rows at offsets ``[start, stop)``, on their way in.

    A batch reaches every shard of a job that follows its partition, with the rows of that shard alone, so
    that a shard without rows closes its windows when the others do.

    Attributes:
        partition: name of the partition.
        start: offset of the first row, from 0.
        stop: one past the offset of the last; ``start`` where the batch only carries a watermark.
        rows: observation frame with ``offset`` (Int64) beside its columns, and with
            `forecaster.shards.lateness.BEFORE` where the watermark moved between two of them so that one is
            late.
        rejected: frame of quarantined rows (``schemas.quarantine``) with ``offset``; a file that cannot be
            read is one of them, its ``row`` being 0.
        watermark_us: after this batch no row in time of this partition is older (event time in microseconds);
            None where that has not changed. It may change only where a re-read would change it, too.
        before_us: the watermark before this batch, by which its rows are late, whether or not the batches
            without rows that moved it have come by now; None where there are none of these.
        partitions: how many partitions the log had before this. A shard that knows of fewer lets it wait for
            their announcements: no window closes past a partition that a shard has not heard of.
        shard: the only one that follows the partition, as in a topic keyed by series; None where all do.
        outside: rows between ``start`` and ``stop`` that lie outside the job's time bounds.
        arrived_s: wall clock (seconds since 1970) at which the rows were due; 0 where nobody waits for them,
            as in a replay of a backlog.
        snapshot: after this batch, write a snapshot.
        ends: nothing follows; the snapshot must be there once this batch has been applied.
    """

    partition: str
    start: int
    stop: int
    rows: pl.DataFrame
    rejected: pl.DataFrame
    watermark_us: int | None = None
    outside: int = 0
    arrived_s: float = 0.0
    snapshot: bool = False
    ends: bool = False
    before_us: int | None = None
    partitions: int = 0
    shard: int | None = None
