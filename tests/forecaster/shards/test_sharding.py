"""Tests of how series are assigned to shards, and of how batches are split by shard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from forecaster.shards.sharding import Splitter, empty_batch, shard_of
from forecaster.time.windows import Windows
from schemas import quarantine
from tests.fleets import fleets, rows_of


def test_the_shard_of_a_series_never_changes() -> None:
    # Existing state tables depend on these shard numbers. If `shard_of` changes, the tables must be migrated.
    assert [shard_of(name, 8) for name in ("a", "EWR temp", "Zürich", "🚲", "")] == [3, 7, 6, 6, 0]


@given(seed=st.integers(0, 1000), shards=st.integers(1, 16))
def test_series_are_spread_over_all_shards(seed: int, shards: int) -> None:
    names = [f"site {seed} meter {i}" for i in range(400)]
    counts = np.bincount([shard_of(name, shards) for name in names], minlength=shards)
    assert len(counts) == shards
    assert counts.min() > 0
    assert counts.max() < 4 * len(names) / shards


@given(fleet=fleets(), shards=st.integers(1, 9))
def test_splitting_a_batch_by_shard_puts_each_row_into_one_part(fleet: Windows, shards: int) -> None:
    rows = rows_of(fleet).with_row_index("offset").with_columns(pl.col("offset").cast(pl.Int64))
    rows = rows.select("series_id", "timestamp", "value", "offset")
    rejected = quarantine.whole_file("a.csv", "why", 0)
    batch = replace(
        empty_batch("rows", 0), stop=len(rows), rows=rows, rejected=rejected, outside=3, watermark_us=7
    )
    splitter = Splitter(shards)
    # The splitter keeps the shards of the series from call to call, and the places of a batch's series while
    # the next batch has the same series in the same order.
    for order in (batch, batch, replace(batch, rows=rows.reverse()), batch):
        parts = splitter.split(order)
        assert len(parts) == shards
        assert pl.concat([part.rows for part in parts.values()]).sort("offset").equals(rows)
        for number, part in parts.items():
            assert {shard_of(name, shards) for name in part.rows["series_id"]} <= {number}
            assert part.rows["offset"].is_sorted(descending=order is not batch)
            assert (part.start, part.stop, part.watermark_us) == (0, len(rows), 7)
        assert sum(part.outside for part in parts.values()) == 3
        assert sum(len(part.rejected) for part in parts.values()) == 1
