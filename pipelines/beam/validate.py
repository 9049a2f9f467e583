"""Define a Beam transform that validates raw rows, and separates observations from rejected rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl

from forecaster.shards.batch import Batch
from forecaster.shards.lateness import BEFORE
from forecaster.time.duplicates import DROPPED, ORIGIN, has_dropped
from schemas import observations, quarantine

GOOD = "good"
QUARANTINED = "quarantined"


@dataclass
class Validate(beam.PTransform[Any, Any]):
    """Split frames of raw rows into observations (``good``) and rejected rows (``quarantined``).

    Each row is in exactly one of the two outputs; see `schemas.validate`. The source has already validated
    the batches of `pipelines.ReadLog`, so their observations and rejected rows are only separated.

    >>> import apache_beam as beam
    >>> import polars as pl
    >>> from pipelines import Validate
    >>> raw = pl.DataFrame({
    ...     "series_id": ["a", "b"], "timestamp": ["2013-01-01T00:00Z", "never"], "value": ["1.5", "2"],
    ... })
    >>> with beam.Pipeline("FnApiRunner") as pipeline:
    ...     rows = pipeline | beam.Create([raw]) | Validate()
    ...     _ = rows["quarantined"] | beam.Map(lambda frame: print(frame["reason"].to_list()))
    ["'never' is not a time"]
    """

    def expand(self, frames: Any) -> Any:
        """Return two outputs: ``good``, frames of valid rows; ``quarantined``, frames of rejected rows."""
        split = beam.FlatMap(_validated).with_output_types(pl.DataFrame, **{QUARANTINED: pl.DataFrame})
        return frames | split.with_outputs(QUARANTINED, main=GOOD)


def _validated(rows: pl.DataFrame | Batch) -> Iterator[Any]:
    good, bad = separated(rows) if isinstance(rows, Batch) else observations.validate(rows)
    if len(good):
        yield good
    if len(bad):
        yield beam.pvalue.TaggedOutput(QUARANTINED, bad)


def separated(batch: Batch) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return two frames: the observations of a batch, and its rejected rows.

    Neither frame has the rows that a replay has marked (`DROPPED`) because another version of their event
    counts.
    """
    rows = batch.rows.filter(pl.col("dropped_at").is_null()) if has_dropped(batch.rows) else batch.rows
    rows = rows.drop("offset", BEFORE, ORIGIN, *DROPPED, strict=False)
    return rows, batch.rejected.select(list(quarantine.SCHEMA))
