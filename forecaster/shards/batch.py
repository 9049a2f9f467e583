"""A batch: rows of one partition between two offsets, sent from a source to the shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

# The prefix of the partition names of quarantine replays. It contains "~", which a Kafka topic name cannot
# contain, so no Kafka partition has such a name.
_QUARANTINE: Final = "quarantine~"


def quarantine_partition(replay: str) -> str:
    """Return the partition name for a replay of the quarantine; ``replay`` identifies the replay."""
    return f"{_QUARANTINE}{replay}"


def is_quarantine(partition: str) -> bool:
    """Return whether the rows of a partition are replayed from the quarantine.

    Such a partition has no watermark: no shard waits for it, and its rows are late by the windows that are
    closed. Its rows were counted when they were rejected, so they are counted as replayed.
    """
    return partition.startswith(_QUARANTINE)


@dataclass(frozen=True)
class Batch:
    """The rows of a partition at offsets ``[start, stop)``, with the watermark after them.

    Every shard that follows the partition gets the batch with only its own rows. So a shard without rows
    closes its windows at the same time as the other shards.

    Attributes:
        partition: name of the partition.
        start: offset of the first row; the offsets of a partition begin at 0.
        stop: one past the offset of the last row; equal to ``start`` if the batch only moves the watermark.
        rows: observation frame with the additional column ``offset`` (Int64), and with
            `forecaster.shards.lateness.BEFORE` if the watermark moved between two rows so that a row is late.
        rejected: frame of quarantined rows (``schemas.quarantine``) with ``offset``. A file that cannot be
            read is one such row, whose ``row`` is 0.
        watermark_us: watermark of the partition after this batch, event time in microseconds; None if it did
            not change. A second read of the partition must give the same watermarks.
        before_us: watermark of the partition before this batch, which decides which of its rows are late. The
            shard may not have received this watermark yet, if batches without rows moved it. None if no such
            batch did.
        partitions: number of partitions of the log before this batch. A shard that follows fewer partitions
            holds the batch back until all are announced, so that it closes no window too early.
        shard: the only shard that follows the partition, as in a topic keyed by series; None if all follow
            it.
        outside: number of rows between ``start`` and ``stop`` that are outside the job's time bounds.
        arrived_s: wall clock time (seconds since 1970) at which the rows were due; 0 if latency is not
            measured, as in a replay of a backlog.
        snapshot: whether to write a snapshot after this batch.
        ends: whether this is the last batch; a snapshot must be stored once it has been applied.
        changes: number of records in the journal of model versions that were written before this batch. A
            worker that has read fewer reads the journal before it applies the batch.
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
    changes: int = 0
