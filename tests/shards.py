"""Shards that have read a small fleet, and an assertion that two shards are equal."""

from __future__ import annotations

import numpy as np
import polars as pl

from forecaster.shards.shard import Shard
from forecaster.time.windows import Windows
from tests.comparisons import assert_same_state
from tests.fleets import HOUR_US, START, forecaster, rows_of
from tests.folds import Arrival, batches_of, fold

NAMES = tuple(f"series {i}" for i in range(20))


def shards_of(windows: Windows, of: int, closed: int, event: str | None = None) -> list[Shard]:
    """Return ``of`` shards that have read all rows of a fleet and closed its first ``closed`` windows."""
    rows = rows_of(windows)
    if event is not None:
        rows = rows.with_columns(event_id=pl.format("{} {}", pl.lit(event), pl.int_range(pl.len())))
    arrival = Arrival(rows, (windows.start + closed) * HOUR_US)
    return fold(forecaster(), batches_of([arrival]), of).shards


def shards_after_five_windows(of: int, closed: int = 3, event: str | None = None) -> list[Shard]:
    """Divide the series `NAMES` into ``of`` shards; return them with 5 windows read and ``closed`` closed."""
    values = np.random.default_rng(0).normal(size=(5, len(NAMES)))
    return shards_of(Windows(NAMES, START, values), of, closed, event)


def rows_by_series(shard: Shard) -> pl.DataFrame:
    """Return the pending rows of a shard with their series ids, sorted."""
    named = shard.pending.join(shard.slots, on="slot", how="left").drop("slot")
    return named.select(sorted(named.columns)).sort("series_id", "timestamp", "value")


def assert_equal(a: Shard, b: Shard) -> None:
    """Assert that two shards are equal, whatever the order of their pending rows.

    The fields ``early``, ``keyed``, ``shadow`` and ``history`` are not compared.
    """
    for name in ("number", "of", "offsets", "watermarks", "closed_through", "counts"):
        assert getattr(a, name) == getattr(b, name), name
    assert a.state.series_ids == b.state.series_ids
    assert a.slots.equals(b.slots)
    assert_same_state(a.state, b.state)
    assert a.pending.schema == b.pending.schema
    assert rows_by_series(a).equals(rows_by_series(b))
