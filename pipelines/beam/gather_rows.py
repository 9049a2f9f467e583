"""Define Beam transforms that collect the rows of any source into frames, and split frames by shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import apache_beam as beam
import polars as pl
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MAX_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import Splitter, empty_batch
from forecaster.time.duplicates import DROPPED
from pipelines.beam.coders import FleetRows, ShardedRows
from pipelines.beam.model import Model
from pipelines.beam.validate import QUARANTINED, separated
from schemas import observations

Row = Mapping[str, Any]

PARTITION: Final = "rows"
"""Name of the one partition that all rows of a Beam source belong to; each of these rows has offset 0."""

_BUNDLE_ROWS = 10_000


@dataclass
class GatherRows(beam.PTransform[Any, Any]):
    """Convert single rows, frames and batches to frames of rows, which are the output ``rows``.

    The rejected rows that batches contain become a second output (``quarantined``).
    """

    def expand(self, rows: Any) -> Any:
        """Return an object with the outputs ``rows`` and ``quarantined``, each a PCollection[DataFrame]."""
        gather = beam.ParDo(_Gather()).with_output_types(pl.DataFrame, **{QUARANTINED: pl.DataFrame})
        return rows | gather.with_outputs(QUARANTINED, main="rows")


@dataclass
class SplitRows(beam.PTransform[Any, Any]):
    """Split frames of observations by shard: ``PCollection[DataFrame] -> PCollection[ShardedRows]``.

    Attributes:
        shards: the number of shards.
        model: the model, which defines the windows.
    """

    shards: int
    model: Model

    def expand(self, frames: Any) -> Any:
        """Return one element for each frame and shard, even if the frame has no row of the shard.

        The element holds the shard's number, its rows, and the ends of the frame's windows.
        """
        return frames | beam.ParDo(_SplitRows(self.shards, self.model)).with_output_types(ShardedRows)


class _Gather(beam.DoFn):
    """Convert single rows, frames and batches of a Beam bundle to frames of rows.

    Each frame gets the earliest event time of all rows that are gathered at the same time, so that the
    watermark does not pass any of its rows. Rejected rows of a batch are emitted at once, with a tag.
    """

    def start_bundle(self) -> None:
        self.frames: list[pl.DataFrame] = []
        self.single_rows: list[dict[str, Any]] = []
        self.earliest = MAX_TIMESTAMP

    def process(
        self, row: Row | pl.DataFrame | Batch, timestamp: Any = beam.DoFn.TimestampParam
    ) -> Iterator[Any]:
        self.earliest = min(self.earliest, timestamp)
        if isinstance(row, Batch):
            good, rejected = separated(row)
            self.frames.append(good)
            if len(rejected):
                yield beam.pvalue.TaggedOutput(QUARANTINED, rejected)
        elif isinstance(row, pl.DataFrame):
            self.frames.append(row)
        else:
            self.single_rows.append(dict(row))
        if len(self.single_rows) + sum(map(len, self.frames)) >= _BUNDLE_ROWS:
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        frames, earliest = self.frames, self.earliest
        if self.single_rows:
            frames.append(_frame_of(self.single_rows))
        self.start_bundle()
        for frame in frames:
            yield WindowedValue(frame, earliest, (GlobalWindow(),))


def _frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Convert rows to a frame with all required columns; a column that no row has holds only nulls."""
    names = dict.fromkeys((*observations.SCHEMA, *(name for row in rows for name in row)))
    return pl.DataFrame([_column(name, [row.get(name) for row in rows]) for name in names])


def _column(name: str, cells: list[Any]) -> pl.Series:
    """Convert cells to a column; the column holds text if the cells do not fit into one type."""
    try:
        return pl.Series(name, cells)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return pl.Series(name, [None if cell is None else str(cell) for cell in cells], pl.String)


class _SplitRows(beam.DoFn):
    """Split the rows of a frame by shard; send each shard the ends of all windows with a row in the frame."""

    splitter: Splitter

    def __init__(self, shards: int, model: Model) -> None:
        self.shards = shards
        self.model = model

    def setup(self) -> None:
        self.splitter = Splitter(self.shards)
        self.freq = self.model.load().window_config.frequency

    def process(self, rows: pl.DataFrame) -> Iterator[ShardedRows]:
        windows = rows.select(self.freq.window(pl.col("timestamp"))).to_series().unique().sort()
        ends = tuple(self.freq.end_us(windows.to_numpy()).tolist())
        rows = rows.with_columns(offset=pl.lit(0, pl.Int64))
        # The rows of a PCollection have no order, so versions of an event are compared only within a window:
        # a shard does not compare rows that have the columns `DROPPED` with versions in other windows.
        if "event_id" in rows.columns:
            rows = rows.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in DROPPED.items())
        batch = replace(empty_batch(PARTITION, 0), rows=rows)
        for number, part in self.splitter.split(batch).items():
            yield number, FleetRows(part.rows, ends)
