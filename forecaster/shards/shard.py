"""A shard: a part of the fleet's series with their states, to which batches of rows are applied in turn.

A `Shard` holds everything of a part of the fleet that must survive a crash. One function, `apply`, applies a
`Batch` to it. The backfill, the streaming job, the recovery and the tests all call `apply`. This module does
not depend on Beam, on files or on the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from forecaster.shards.history import History
from forecaster.shards.lateness import NONE_LATE, smallest_watermark
from forecaster.state import State
from forecaster.stepping.rewarming import rewarm
from forecaster.time.duplicates import DROPPED, ORIGIN
from schemas import observations, quarantine, replaced

PENDING: dict[str, pl.DataType] = {
    "slot": pl.Int32(),
    "window": pl.Int64(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
    "offset": pl.Int64(),
    "partition": pl.String(),
}
"""Columns and types of pending rows; the columns of `optional_pending_columns` follow.

The window of a pending row is open. With ``windows.repair``, late rows also wait here for their repair, and
rows of closed windows of which another version was found (`forecaster.shards.versions`).

If two rows have the same series and time, the row with the larger offset is used, and of rows with equal
offsets the row with the greater partition name; with ``data.duplicates = "first"``, the other row. Offset and
partition belong to the row, so the same row is used in every arrival order and every rerun. Rows that were
pending in another job have offsets below 0, unless the new job continues to read their partition (see
`forecaster.shards.sharding.hand_over_shards`). Rows of a snapshot that has no partitions have "" as their
partition.
"""

NONE_QUARANTINED, NONE_REPLACED = quarantine.empty(), replaced.empty()


@dataclass(frozen=True)
class Output:
    """The results of one step of applying a batch, such as accepting its rows or closing a block of windows.

    Attributes:
        partition, start: partition and offset at which the rows begin. Together with the shard's number they
            name the files that are written. For a repair, they are the place of its first late row.
        forecasts: forecasts of a block of windows; None if the step closed no windows.
        shadow: forecasts of the shadow for the same block; None without a shadow.
        quarantined: rejected rows (``schemas.quarantine``).
        late: rows that arrived after their window had closed (``schemas.late``).
        replaced: rows of the block's windows that another row replaced (``schemas.replaced``).
        done: the batch, if this is the last of its outputs: the batch is then applied completely.
        revises: whether the step repaired windows that were closed before; ``forecasts`` are then revised.
    """

    partition: str
    start: int
    forecasts: Forecasts | None = None
    quarantined: pl.DataFrame = field(default_factory=lambda: NONE_QUARANTINED)
    late: pl.DataFrame = field(default_factory=lambda: NONE_LATE)
    replaced: pl.DataFrame = field(default_factory=lambda: NONE_REPLACED)
    done: Batch | None = None
    shadow: Forecasts | None = None
    revises: bool = False


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
        shadow: state of the same series under the shadow's weights, in the same slots; None without a shadow.
        history: what is needed to repair late rows; None if the job repairs none.
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
    shadow: State | None = None
    history: History | None = None

    @staticmethod
    def cold(number: int, of: int, state: State, partitions: Iterable[str]) -> Shard:
        """Return shard ``number`` of a job with ``of`` shards, before any row has been read.

        No window closes before each of ``partitions`` has a watermark. A further partition is added by its
        first batch. ``state`` is `Forecaster.initial_state`.
        """
        names, pending = tuple(partitions), pl.DataFrame(schema=PENDING)
        watermarks: dict[str, int | None] = dict.fromkeys(names)
        return Shard(
            number, of, state, slots_of(state), pending, dict.fromkeys(names, 0), watermarks, None, Counts()
        )

    def copy(self) -> Shard:
        """Return this shard with copies of the arrays of its state, its shadow and its history."""
        shadow = None if self.shadow is None else self.shadow.copy()
        history = None if self.history is None else self.history.copy()
        return replace(self, state=self.state.copy(), shadow=shadow, history=history)

    def with_shadow(self, forecaster: Forecaster | None) -> Shard:
        """Return this shard with a state for the shadow ``forecaster``; None removes the shadow.

        A new shadow is re-warmed; one of the same version keeps its state. A change removes the history,
        which has states of the earlier shadow.
        """
        if forecaster is None:
            return self if self.shadow is None else replace(self, shadow=None, history=None)
        if self.shadow is not None and self.shadow.model_version == forecaster.version:
            return self
        state = rewarm(forecaster, self.state)
        return replace(self, shadow=state.copy() if state is self.state else state, history=None)

    @property
    def watermark_us(self) -> int | None:
        """Smallest watermark of all partitions; None if there is no partition, or one has no watermark."""
        return smallest_watermark(self.watermarks.values())


def slots_of(state: State) -> pl.DataFrame:
    """Return ``series_id`` (String) and ``slot`` (Int32) of every series of a state."""
    ids = pl.Series("series_id", state.series_ids, dtype=pl.String)
    return pl.DataFrame({"series_id": ids, "slot": pl.int_range(len(ids), dtype=pl.Int32, eager=True)})


def optional_pending_columns(columns: Iterable[str]) -> list[str]:
    """Return the names in ``columns`` that are optional columns of pending rows.

    The optional columns are ``event_id``, covariates, `ORIGIN` and `DROPPED`. `ORIGIN` and `DROPPED` come
    last; the other names keep their order.
    """
    known = list(columns)
    return [*observations.optional_columns(known), *(name for name in (ORIGIN, *DROPPED) if name in known)]
