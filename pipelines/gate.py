"""The gate of every job: raw rows in; valid rows by shard, and quarantined ones, out.

It has no logic of its own: that is `schemas.observations.validate` and `forecaster.shard.shard_of`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl

from forecaster.shard import shard_of
from pipelines.coders import Batch, Sharded
from pipelines.sinks.metrics import counter
from schemas import observations

QUARANTINED = "quarantined"


@dataclass
class Gate(beam.PTransform[Any, Any]):
    """Batches of raw rows -> `Sharded` batches of valid ones, and the quarantined frames (tagged).

    Every batch reaches every shard, if only with its `Batch.closes`, so that a shard without rows closes its
    windows when the others do.
    """

    shards: int

    def expand(self, batches: Any) -> Any:
        """``PCollection[Batch] -> {None: PCollection[Sharded], "quarantined": PCollection[DataFrame]}``."""
        validate = beam.ParDo(_Validate(self.shards))
        typed = validate.with_output_types(Sharded, **{QUARANTINED: pl.DataFrame})
        return batches | typed.with_outputs(QUARANTINED, main="good")


class _Validate(beam.DoFn):
    def __init__(self, shards: int) -> None:
        self.shards = shards
        self.quarantined = counter("quarantined")
        self.too_late = counter("too_late")

    def process(self, batch: Batch) -> Iterator[Any]:
        good, bad = observations.validate(batch.rows)
        if len(bad):
            self.quarantined.inc(len(bad))
            yield beam.pvalue.TaggedOutput(QUARANTINED, bad)
        if batch.late_before is not None:
            in_time = good.filter(pl.col("timestamp").dt.epoch("us") >= batch.late_before)
            self.too_late.inc(len(good) - len(in_time))
            good = in_time
        parts = self.by_shard(good)
        for shard in range(self.shards):
            yield shard, Batch(parts.get(shard, good.clear()), batch.closes, None, batch.arrived_s)

    def setup(self) -> None:
        """An empty table of the shards of series; it grows with what comes."""
        self.known = pl.DataFrame(schema={"series_id": pl.String, "shard": pl.Int32})

    def by_shard(self, rows: pl.DataFrame) -> dict[int, pl.DataFrame]:
        """The rows of each shard that has any."""
        if not len(rows):
            return {}
        shard = self.known_shards(rows)
        if shard.null_count():
            new = rows.filter(shard.is_null())["series_id"].unique()
            numbers = pl.Series([shard_of(name, self.shards) for name in new], dtype=pl.Int32)
            self.known.extend(pl.DataFrame({"series_id": new, "shard": numbers}))
            shard = self.known_shards(rows)
        return {number: rows.filter(shard == number) for number in shard.unique()}

    def known_shards(self, rows: pl.DataFrame) -> pl.Series:
        """The shard of each row's series; null where it is a new one."""
        found = rows.select("series_id").join(self.known, "series_id", "left", maintain_order="left")
        return found["shard"]
