"""Tests of the state copies and rows that a shard keeps for repairs, and of its revised forecasts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.shards import snapshot
from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.models import Models
from forecaster.shards.shard import Output, Shard
from forecaster.shards.sharding import empty_batch
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from tests.fleets import HOUR_US, START, forecaster, rows_of


def batches(windows: int, late: dict[int, list[tuple[str, int]]]) -> list[Batch]:
    """Return a batch for each window of the series ``a`` and ``b``, with the window's end as the watermark.

    ``late`` has the series and windows of late rows by the batch in which they arrive; they are left out of
    the batches of their windows.
    """
    fleet = Windows(("a", "b"), START, 10 + np.random.default_rng(1).normal(size=(windows, 2)))
    moved = {row: at for at, rows in late.items() for row in rows}
    window = pl.col("timestamp").dt.epoch("us") // HOUR_US - START
    rows = rows_of(fleet).with_columns(window=window)
    at = [moved.get((name, w), w) for name, w in zip(rows["series_id"], rows["window"], strict=True)]
    found, offset = [], 0
    rows = rows.with_columns(at=pl.Series(at)).sort("at", maintain_order=True)
    for arrival, part in rows.group_by("at", maintain_order=True):
        stop = offset + len(part)
        placed = part.drop("window", "at").with_columns(offset=pl.int_range(offset, stop, dtype=pl.Int64))
        end_us = (START + int(arrival[0]) + 1) * HOUR_US
        batch = replace(empty_batch("rows", offset), stop=stop, rows=placed, watermark_us=end_us)
        found.append(batch)
        offset = stop
    return found


def run(
    some: list[Batch], repair: int, shard: Shard | None = None, model: Forecaster | None = None
) -> tuple[Shard, list[Output]]:
    model = model or forecaster()
    shard, found = shard or Shard.cold(0, 1, model.initial_state(), ["rows"]), []
    for batch in some:
        for after, output in apply(shard, batch, Models(model, repair=repair), 4):
            shard = after
            found.append(output)
    return shard, found


def revised(outputs: list[Output]) -> list[tuple[str, int, int]]:
    """Return the series, the issuing window (counted from 0) and the revision of each revised forecast."""
    frames = [one.forecasts.frame() for one in outputs if one.revises and one.forecasts is not None]
    rows = pl.concat(frames).with_columns(w=pl.col("issued_at").dt.epoch("us") // HOUR_US - START - 1)
    return rows.sort("series_id", "w", "revision").select("series_id", "w", "revision").rows()


def test_a_late_row_revises_all_forecasts_since_its_window() -> None:
    shard, outputs = run(batches(12, {8: [("a", 5)]}), repair=4)
    assert revised(outputs) == [("a", 5, 1), ("a", 6, 1), ("a", 7, 1)]
    assert (shard.counts.repaired, shard.counts.late, shard.counts.pending) == (1, 0, 0)


def test_each_late_row_raises_the_revision_of_changed_forecasts() -> None:
    _, outputs = run(batches(12, {8: [("a", 5), ("a", 6)], 9: [("a", 7)]}), repair=4)
    assert revised(outputs) == [("a", 5, 1), ("a", 6, 2), ("a", 7, 2), ("a", 7, 3), ("a", 8, 1)]


@pytest.mark.parametrize(("arrives", "repaired"), [(8, 0), (7, 1)])
def test_no_row_older_than_the_repair_limit_is_repaired(arrives: int, repaired: int) -> None:
    shard, outputs = run(batches(12, {arrives: [("b", 4)]}), repair=3)
    assert (shard.counts.repaired, shard.counts.late) == (repaired, 1 - repaired)
    assert sum(len(one.late) for one in outputs) == 1 - repaired
    assert shard.counts.missing == 0


def test_with_repair_a_late_row_replaces_its_earlier_duplicate() -> None:
    some = batches(12, {})
    row = some[5].rows.filter(pl.col("series_id") == "a").with_columns(value=pl.lit(99.0))
    stop = some[7].stop
    late = replace(some[7], start=stop, stop=stop + 1, rows=row.with_columns(offset=pl.lit(stop, pl.Int64)))
    shard, outputs = run([*some[:8], late], repair=4)
    (replaced,) = [one.replaced for one in outputs if len(one.replaced)]
    assert replaced.select("value", "replaced_by").rows() == [(some[5].rows["value"][0], 99.0)]
    assert (shard.counts.duplicates, shard.counts.replaced) == (1, 1)


def test_windows_closed_before_repair_was_enabled_are_not_repaired() -> None:
    some = batches(14, {8: [("a", 6)], 12: [("a", 10)]})
    shard, _ = run(some[:8], repair=0)
    shard, outputs = run(some[8:], repair=6, shard=shard)
    assert (shard.counts.repaired, shard.counts.late) == (1, 1)
    assert revised(outputs) == [("a", 10, 1), ("a", 11, 1)]


def test_a_shard_keeps_two_state_copies_and_few_rows_for_repair() -> None:
    some = batches(60, {})
    for stop in range(8, 60, 5):
        shard, _ = run(some[:stop], repair=6)
        assert shard.history is not None
        assert len(shard.history.copies) == 2
        # The copies are 8 windows apart, because ``repair=6`` is rounded up to whole blocks of 4 windows.
        assert sum(map(len, shard.history.rows)) <= 2 * 2 * 8
        assert len(shard.history.late) == 0


def test_models_and_repair_0_snapshots_have_no_repair_fields() -> None:
    shard, _ = run(batches(6, {4: [("a", 2)]}), repair=0)
    table = snapshot.to_arrow(shard)
    assert not [name for name in table.column_names if name in ("closed", "late") or "copy" in name]
    rest: dict[str, Any] = json.loads(table.schema.metadata[b"statecast.shard"])
    assert "copies_through" not in rest
    assert "repaired" not in rest["counts"]
    assert "repaired" not in shard.counts.as_json()
    network = NetworkConfig(hidden=8, horizon=2)
    models = [Forecaster.untrained(network, WindowConfig(repair=repair)) for repair in (0, 24)]
    assert models[0].version == models[1].version
    assert models[0].to_bytes() == models[1].to_bytes()
    assert b"repair" not in models[0].to_bytes()


def test_a_shard_without_repair_drops_the_history_of_an_earlier_run() -> None:
    some = batches(12, {})
    shard, _ = run(some[:8], repair=4)
    shard, _ = run(some[8:], repair=0, shard=snapshot.from_bytes(snapshot.to_bytes(shard)))
    assert shard.history is None
