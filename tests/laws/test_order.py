"""Laws: the order of batches changes no output; the order of rows changes no forecast if no row is late.

Batches of different partitions may arrive in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from forecaster.shards.shard import Shard
from forecaster.time.aggregation import aggregate as aggregate_rows
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, Runner, StreamJob
from pipelines.sinks.files import read_forecasts
from pipelines.sources.base import Step
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from tests.comparisons import YOUNG, assert_same, assert_same_frames, assert_same_state, by_key, sorted_rows
from tests.fleets import HALF_A_DAY_US, HOUR_US, SHORT_WEEK, START, fleets, forecaster, rows_of, scales
from tests.folds import Arrival, batches_of, fold, fold_on, run_shards, shuffled
from tests.partitions import LONG_GAP, Log, Logs, all_logs, cut, interleaved


@pytest.mark.parametrize("aggregate", ["mean", "sum", "last"])
@given(fleet=fleets(windows=14), lateness_h=st.integers(0, 6), copies=st.integers(0, 5), data=st.data())
def test_forecasts_do_not_depend_on_row_order_within_the_lateness(
    aggregate: str, fleet: Windows, lateness_h: int, copies: int, data: st.DataObject
) -> None:
    model = forecaster(aggregate=aggregate)
    rows = rows_of(fleet)
    assume(len(rows))
    # Let some windows have two rows with different times, and let some rows have an exact copy.
    shifted = rows.head(copies).with_columns(
        pl.col("timestamp") + pl.duration(minutes=7), pl.col("value") * 2
    )
    rows = pl.concat([rows, shifted, rows.head(copies)])

    in_order = run_shards(model, [Arrival(rows, int(rows["timestamp"].dt.epoch("us").max()))])  # type: ignore[arg-type]
    arrivals = list(shuffled(data.draw, rows, lateness_h * HOUR_US))
    shuffled_order = run_shards(model, arrivals)

    assert shuffled_order.counts.late == 0
    # An exact copy of a row is a duplicate, except with the aggregates "sum" and "count": they count each row
    # without an event id as a separate event. The rows of this test have no event ids.
    expected = 0 if aggregate == "sum" else min(copies, len(rows_of(fleet)))
    assert shuffled_order.counts.duplicates == in_order.counts.duplicates == expected
    scale = scales(aggregate_rows(rows, model.window_config).windows)
    assert_same(by_key(in_order.forecasts), by_key(shuffled_order.forecasts), scale)
    assert_same_state(in_order.states[0], shuffled_order.states[0])


@pytest.mark.parametrize("max_gap", [3, LONG_GAP])
@given(logs=all_logs(), shards=st.integers(1, 3), data=st.data())
def test_outputs_do_not_depend_on_the_order_of_batches(
    max_gap: int, logs: Logs, shards: int, data: st.DataObject
) -> None:
    model = forecaster(max_gap=max_gap, **SHORT_WEEK)
    one = fold(model, logs.one_by_one(), shards, 32, logs.partitions)
    orders = [
        interleaved(data.draw, [cut(data.draw, log) for log in logs.parts], early=True) for _ in range(shards)
    ]
    cold = [Shard.cold(n, shards, model.initial_state(), logs.partitions) for n in range(shards)]
    other = fold_on(model, cold, orders, data.draw(st.integers(1, 9)))

    assert not any(shard.early for shard in other.shards)
    assert one.counts == other.counts
    assert_same(by_key(one.forecasts), by_key(other.forecasts), logs.scale, within=YOUNG)
    assert sorted_rows(one.late).equals(sorted_rows(other.late))
    assert sorted_rows(one.quarantined).equals(sorted_rows(other.quarantined))
    assert sorted_rows(one.replaced).equals(sorted_rows(other.replaced))
    assert {shard.closed_through for shard in one.shards + other.shards} == {one.shards[0].closed_through}


def late_offsets(log: Log) -> set[int]:
    """Return the offsets of the late rows of a log.

    A row is late if the watermark of its partition had passed the end of its window before the row.
    """
    at = sorted(log.watermarks_us)
    before = [max((log.watermarks_us[w] for w in at if w <= o), default=-1) for o in log.rows["offset"]]
    window = log.rows["timestamp"].dt.epoch("us") // HALF_A_DAY_US
    return {
        offset
        for offset, us, k in zip(log.rows["offset"], before, window, strict=True)
        if (k + 1) * HALF_A_DAY_US <= us
    }


@given(logs=all_logs(), data=st.data())
def test_the_late_rows_of_a_partition_do_not_depend_on_other_partitions(
    logs: Logs, data: st.DataObject
) -> None:
    expected = {(log.partition, o) for log in logs.parts for o in late_offsets(log)}
    order = interleaved(data.draw, [cut(data.draw, log) for log in logs.parts], early=True)
    # With several partitions, `one_by_one` gives all rows of the first partition before any window closes.
    for batches in (
        order,
        logs.one_by_one(),
    ):
        ran = fold(forecaster(max_gap=3, **SHORT_WEEK), batches, 2, partitions=logs.partitions)
        late = pl.concat(ran.late, how="diagonal") if ran.late else pl.DataFrame()
        found = set(late.select("partition", "offset").rows()) if len(late) else set()
        assert found == expected


@pytest.mark.parametrize("early", [False, True])
def test_a_row_behind_its_partition_watermark_is_late(early: bool) -> None:
    rows = rows_of(Windows(("a",), START, np.arange(4.0)[:, None]))
    arrivals = [
        Arrival(rows[part], us) for part, us in ((slice(2, 4), (START + 3) * HOUR_US), (slice(0, 2), 0))
    ]
    batches = batches_of(arrivals, "p0")
    ran = fold(forecaster(), batches[::-1] if early else batches, partitions=("p0", "p1"))
    assert sorted_rows(ran.late).select("partition", "offset").rows() == [("p0", 2), ("p0", 3)]
    assert ran.counts.pending == 2


@dataclass(frozen=True)
class ArrivalsSource:
    """A source that returns a batch for each file (``0.parquet``, ...); rows are not sorted by time."""

    folder: Path
    watermarks_us: tuple[int, ...]
    partition: str = "arrivals"
    is_paced: bool = False

    def step(self, offset: int) -> Step[int] | None:
        """Return the first batch that begins at ``offset`` or later, or None if there is no such batch."""
        files = [pl.read_parquet(self.folder / f"{at}.parquet") for at in range(len(self.watermarks_us))]
        arrivals = [Arrival(*both) for both in zip(files, self.watermarks_us, strict=True)]
        following = [batch for batch in batches_of(arrivals, self.partition) if batch.start >= offset]
        return Step((following[0],), following[0].stop) if following else None


@pytest.mark.prism
@pytest.mark.parametrize("runner", ["prism", "in-process"])
def test_shuffling_rows_within_the_lateness_does_not_change_forecasts(
    runner: Runner, small_fleet: Windows, small_file: Path, tmp_path: Path
) -> None:
    lateness_h = 5
    rows = rows_of(small_fleet)
    rng = np.random.default_rng(5)
    event_us = rows["timestamp"].dt.epoch("us").to_numpy()
    rows = rows[np.argsort(event_us + rng.integers(0, lateness_h * HOUR_US, len(rows)), kind="stable")]
    newest = np.maximum.accumulate(rows["timestamp"].dt.epoch("us").to_numpy())
    ends = [*range(100, len(rows), 100), len(rows)]
    for number, end in enumerate(ends):
        rows[ends[number - 1] if number else 0 : end].write_parquet(tmp_path / f"{number}.parquet")
    watermarks_us = [int(newest[end - 1]) - lateness_h * HOUR_US for end in ends]
    last_us = small_fleet.stop * HOUR_US

    source = ArrivalsSource(tmp_path, (*watermarks_us[:-1], last_us))
    streamed = run_stream(StreamJob(forecaster(), source, tmp_path / "stream", shards=3, runner=runner))
    run_backfill(BackfillJob(forecaster(), (str(small_file),), Input(Columns()), tmp_path / "backfill"))

    assert streamed.counts.late == streamed.counts.missing == 0
    assert streamed.counts.used == len(rows)
    assert_same_frames(
        read_forecasts(tmp_path / "backfill"), read_forecasts(tmp_path / "stream"), scales(small_fleet)
    )
