"""Law: any arrival order within the allowed lateness gives the same forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from forecaster import windows
from forecaster.windows import Windows
from pipelines.coders import Batch
from pipelines.jobs.backfill import BackfillJob, run_backfill
from pipelines.jobs.stream import StreamJob, run_stream
from pipelines.sinks.files import read_forecasts
from pipelines.sources.feeds import Input, Step
from pipelines.sources.tables import Columns
from tests.fleets import (
    HOUR_US,
    Arrival,
    assert_same,
    assert_same_frames,
    assert_same_state,
    by_key,
    fleets,
    forecaster,
    rows_of,
    run_shards,
    scales,
    shuffled,
)


@pytest.mark.parametrize("aggregate", ["mean", "sum", "last"])
@given(fleet=fleets(windows=14), lateness_h=st.integers(0, 6), copies=st.integers(0, 5), data=st.data())
def test_rows_in_any_order_within_the_lateness_give_the_same_forecasts(
    aggregate: str, fleet: Windows, lateness_h: int, copies: int, data: st.DataObject
) -> None:
    model = forecaster(aggregate=aggregate)
    rows = rows_of(fleet)
    assume(len(rows))
    # A second row in some windows, and second copies of some rows.
    shifted = rows.head(copies).with_columns(
        pl.col("timestamp") + pl.duration(minutes=7), pl.col("value") * 2
    )
    rows = pl.concat([rows, shifted, rows.head(copies)])

    in_order = run_shards(model, [Arrival(rows, int(rows["timestamp"].dt.epoch("us").max()))])  # type: ignore[arg-type]
    arrivals = list(shuffled(data.draw, rows, lateness_h * HOUR_US))
    as_it_came = run_shards(model, arrivals)

    assert as_it_came.counts.late == 0
    assert as_it_came.counts.duplicates == in_order.counts.duplicates == min(copies, len(rows_of(fleet)))
    scale = scales(windows.aggregate(rows, model.window_config).windows)
    assert_same(by_key(in_order.forecasts), by_key(as_it_came.forecasts), scale)
    assert_same_state(in_order.states[0], as_it_came.states[0])


@dataclass(frozen=True)
class ArrivalsFeed:
    """Batches in a file each, with the watermark after each: a source that is not in order."""

    folder: Path
    watermarks_us: tuple[int, ...]
    is_paced: bool = False

    def step(self, position: str) -> Step | None:
        """Batch by batch; a position counts them."""
        at = int(position or 0)
        if at == len(self.watermarks_us):
            return None
        watermark_us = self.watermarks_us[at]
        closes = (watermark_us // HOUR_US * HOUR_US,)
        batch = Batch(pl.read_parquet(self.folder / f"{at}.parquet"), closes)
        return Step((batch,), str(at + 1), watermark_us, 0.0)


@pytest.mark.prism
def test_a_stream_of_shuffled_rows_gives_the_forecasts_of_a_backfill(
    small_fleet: Windows, small_file: Path, tmp_path: Path
) -> None:
    lateness_h = 5
    rows = rows_of(small_fleet)
    chance = np.random.default_rng(5)
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    rows = rows[np.argsort(event_us + chance.integers(0, lateness_h * HOUR_US, len(rows)), kind="stable")]
    newest = np.maximum.accumulate(rows["timestamp"].dt.epoch("us").to_numpy())
    ends = [*range(40, len(rows), 40), len(rows)]
    for number, end in enumerate(ends):
        rows[ends[number - 1] if number else 0 : end].write_parquet(tmp_path / f"{number}.parquet")
    watermarks_us = [int(newest[end - 1]) - lateness_h * HOUR_US for end in ends]
    last_us = small_fleet.stop * HOUR_US

    streamed = run_stream(
        StreamJob(
            forecaster(),
            ArrivalsFeed(tmp_path, (*watermarks_us[:-1], last_us)),
            tmp_path / "stream",
            shards=3,
        )
    )
    run_backfill(BackfillJob(forecaster(), (str(small_file),), Input(Columns()), tmp_path / "backfill"))

    assert streamed.counts.too_late == streamed.counts.missing == 0
    assert streamed.counts.used == len(rows)
    assert_same_frames(
        read_forecasts(tmp_path / "backfill"), read_forecasts(tmp_path / "stream"), scales(small_fleet)
    )
