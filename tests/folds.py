"""Functions that apply batches to shards in this process, as a job does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from hypothesis import strategies as st

from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from forecaster.shards.models import Models
from forecaster.shards.shard import Output, Shard
from forecaster.shards.sharding import Splitter, empty_batch
from forecaster.state import State
from forecaster.time.frequency import Frequency


class Arrival(NamedTuple):
    """Rows that arrive together, and the watermark after them (event time in microseconds)."""

    rows: pl.DataFrame
    watermark_us: int


@dataclass
class Ran:
    """The result of applying batches: the shards, and all their outputs."""

    shards: list[Shard] = field(default_factory=list)
    forecasts: list[Forecasts | None] = field(default_factory=list)
    late: list[pl.DataFrame] = field(default_factory=list)
    quarantined: list[pl.DataFrame] = field(default_factory=list)
    replaced: list[pl.DataFrame] = field(default_factory=list)
    shadows: list[Forecasts | None] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """Return the sum of `Shard.counts` over all shards."""
        return sum((shard.counts for shard in self.shards), Counts())

    @property
    def states(self) -> list[State]:
        """Return the state of each shard."""
        return [shard.state for shard in self.shards]

    def take(self, output: Output) -> None:
        """Append the forecasts, the shadow's forecasts and the rows of an output to the lists."""
        self.forecasts.append(output.forecasts)
        self.late.append(output.late)
        self.quarantined.append(output.quarantined)
        self.replaced.append(output.replaced)
        self.shadows.append(output.shadow)


def run_shards(
    model: Forecaster,
    arrivals: Sequence[Arrival],
    shards: int = 1,
    windows_per_step: int = 4,
    to_the_end: bool = True,
) -> Ran:
    """Apply arrivals to new shards as a job does; return the shards and their outputs.

    With ``to_the_end``, a last watermark closes all windows.
    """
    batches = batches_of(arrivals)
    if to_the_end:
        freq = model.window_config.frequency
        last = last_window([arrival.rows for arrival in arrivals], freq)
        end = empty_batch(batches[-1].partition, batches[-1].stop)
        batches.append(replace(end, watermark_us=freq.end_us(last)))
    return fold(model, batches, shards, windows_per_step)


def batches_of(arrivals: Sequence[Arrival], partition: str = "rows") -> list[Batch]:
    """Return one batch with the rows and the watermark of each arrival, all of one partition, in order."""
    batches, start = [], 0
    for rows, watermark_us in arrivals:
        stop = start + len(rows)
        placed = rows.with_columns(offset=pl.int_range(start, stop, dtype=pl.Int64))
        batches.append(
            replace(empty_batch(partition, start), stop=stop, rows=placed, watermark_us=watermark_us)
        )
        start = stop
    return batches


def fold(
    model: Models | Forecaster,
    batches: Sequence[Batch],
    shards: int = 1,
    windows_per_step: int = 4,
    partitions: Sequence[str] = ("rows",),
) -> Ran:
    """Apply batches in order to ``shards`` new shards; return the shards and their outputs."""
    first = model.first if isinstance(model, Models) else model
    cold = [Shard.cold(n, shards, first.initial_state(), partitions) for n in range(shards)]
    return fold_on(model, cold, [batches] * shards, windows_per_step)


def fold_on(
    model: Models | Forecaster,
    shards: Sequence[Shard],
    orders: Sequence[Sequence[Batch]],
    windows_per_step: int = 4,
) -> Ran:
    """Apply batches to existing shards; ``orders[n]`` contains the batches of shard ``n`` in their order.

    The given shards are changed and must not be used again.
    """
    ran, splitter = Ran(list(shards)), Splitter(len(shards))
    every = {id(batch): batch for batches in orders for batch in batches}
    split = {key: splitter.split(batch) for key, batch in every.items()}
    for number, batches in enumerate(orders):
        for batch in batches:
            part = split[id(batch)][number]
            for shard, output in apply(ran.shards[number], part, model, windows_per_step):
                ran.shards[number] = shard
                ran.take(output)
    return ran


def last_window(frames: Sequence[pl.DataFrame], freq: Frequency) -> int:
    """Return the last window that has a row, 0 if there are no rows."""
    index = pl.concat(frames).select(freq.window(pl.col("timestamp"))).to_series()
    return int(index.max()) if len(index) else 0  # type: ignore[arg-type]


def shuffled(draw: Any, rows: pl.DataFrame, lateness_us: int) -> Iterator[Arrival]:
    """Yield ``rows`` shuffled, in batches of random sizes.

    No row has a time more than ``lateness_us`` before that of an earlier row.
    """
    if rows.is_empty():
        return
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    # Sort by event time plus a random delay of at most the lateness.
    # In this order, no row comes after a row that is newer by more than the lateness.
    order = np.argsort(event_us + rng.integers(0, lateness_us + 1, len(rows)), kind="stable")
    rows, newest = rows[order], np.maximum.accumulate(event_us[order])
    cuts = draw(st.lists(st.integers(0, len(rows)), max_size=8))
    bounds = sorted({0, len(rows), *cuts})
    for first, stop in pairwise(bounds):
        yield Arrival(rows[first:stop], int(newest[stop - 1]) - lateness_us)
