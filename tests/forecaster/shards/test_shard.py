"""Tests of how a shard applies batches: late rows, closed windows, offsets, corrected and repeated rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.model import Forecaster
from forecaster.shards import snapshot
from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.lateness import BEFORE, NEVER
from forecaster.shards.shard import Output, Shard
from forecaster.shards.sharding import add_partitions, empty_batch, hand_over_shards
from forecaster.time.windows import Windows
from schemas import observations, quarantine
from tests.fleets import HOUR_US, START, fleets, forecaster, rows_of
from tests.folds import Arrival, batches_of


def steps(model: Forecaster, batches: list[Batch], per_step: int = 32) -> Iterator[tuple[Shard, Output]]:
    """Apply batches to a new shard one after the other; yield the shard and the output after each step."""
    shard = Shard.cold(0, 1, model.initial_state(), ["rows"])
    for batch in batches:
        for updated, output in apply(shard, batch, model, per_step):
            shard = updated
            yield updated, output


def last_shard(model: Forecaster, batches: list[Batch]) -> Shard:
    *_, (shard, _) = steps(model, batches)
    return shard


def rows_of_ones(series: tuple[str, ...], windows: int, start: int = START) -> pl.DataFrame:
    return rows_of(Windows(series, start, np.ones((windows, len(series)))))


def closing(window: int, start: int = 0) -> Batch:
    """Return a batch without rows whose watermark closes all windows up to and including ``window``."""
    return replace(empty_batch("rows", start), watermark_us=(window + 1) * HOUR_US)


@given(fleet=fleets(windows=10), closed=st.integers(-2, 12))
def test_a_row_is_late_once_its_window_has_closed(fleet: Windows, closed: int) -> None:
    rows = rows_of(fleet)
    (batch,) = batches_of([Arrival(rows, 0)])
    updated = last_shard(forecaster(), [closing(fleet.start + closed), replace(batch, watermark_us=None)])
    expected_late = int((~np.isnan(fleet.values[: max(closed + 1, 0)])).sum())
    assert updated.counts.late == expected_late
    assert updated.counts.pending == len(updated.pending) == len(rows) - expected_late


def test_all_rows_are_pending_before_the_first_watermark() -> None:
    (batch,) = batches_of([Arrival(rows_of_ones(("a",), 3), 0)])
    found = list(steps(forecaster(), [replace(batch, watermark_us=None)]))
    assert found[-1][0].counts.pending == 3
    assert not any(output.forecasts for _, output in found)


def test_windows_close_once_every_partition_has_a_watermark() -> None:
    model = forecaster()
    shard = Shard.cold(0, 1, model.initial_state(), ["rows", "others"])
    (batch,) = batches_of([Arrival(rows_of_ones(("a",), 3), (START + 3) * HOUR_US)])
    *_, (shard, _) = apply(shard, batch, model)
    assert shard.closed_through is None
    other = replace(empty_batch("others", 0), watermark_us=(START + 2) * HOUR_US)
    *_, (shard, _) = apply(shard, other, model)
    assert shard.closed_through == START + 1


@pytest.mark.parametrize("per_step", [1, 4, 100])
def test_block_boundaries_do_not_depend_on_the_first_window(per_step: int) -> None:
    ends = []
    for begin in (START, START + 1, START + 6):
        batches = batches_of(
            [Arrival(rows_of_ones(("a",), START + 11 - begin, begin), (START + 11) * HOUR_US)]
        )
        blocks = [out.forecasts for _, out in steps(forecaster(), batches, per_step) if out.forecasts]
        stops = [block.start + block.values.shape[1] for block in blocks]
        assert all(block.values.shape[1] <= per_step for block in blocks)
        assert all(stop == following.start for stop, following in zip(stops, blocks[1:], strict=False))
        ends.append(set(stops))
    assert ends[2] <= ends[1] <= ends[0]


def test_late_rows_in_the_output_have_lateness_and_offset() -> None:
    first, second = batches_of(
        [Arrival(rows_of_ones(("a",), 3), (START + 3) * HOUR_US), Arrival(rows_of_ones(("a",), 1), 0)]
    )
    (late,) = [out.late for _, out in steps(forecaster(), [first, second]) if len(out.late)]
    within_s = rows_of_ones(("a",), 1)["timestamp"].dt.epoch("us")[0] / 1e6 - START * 3600
    assert late["late_s"].to_list() == [3 * 3600 - within_s]
    assert late.select("series_id", "partition", "offset").rows() == [("a", "rows", 3)]


def test_a_batch_that_overtakes_the_preceding_batch_waits_for_it() -> None:
    model, rows = forecaster(), rows_of_ones(("a",), 6)
    arrivals = [Arrival(rows[i : i + 2], (START + i + 2) * HOUR_US) for i in (0, 2, 4)]
    first, second, third = batches_of(arrivals)
    early = last_shard(model, [third, second])
    assert len(early.early) == 2
    assert early.counts.rows_in == 0
    updated = last_shard(model, [third, second, first])
    assert updated.early == ()
    assert updated.counts == last_shard(model, [first, second, third]).counts
    assert updated.offsets == {"rows": 6}


def test_reordered_batches_of_a_partition_give_the_same_late_rows() -> None:
    model, rows = forecaster(), rows_of_ones(("a",), 3)
    first, second = batches_of([Arrival(rows[:1], 0), Arrival(rows[1:], 0)])
    watermark_us = (START + 2) * HOUR_US
    watermark_only = replace(empty_batch("rows", 1), watermark_us=watermark_us)
    second = replace(second, before_us=watermark_us)
    for order in (
        [first, watermark_only, second],
        [first, second, watermark_only],
        [second, watermark_only, first],
        [watermark_only, second, first],
    ):
        found = list(steps(model, order))
        (late,) = [output.late for _, output in found if len(output.late)]
        assert late["offset"].to_list() == [1]
        assert found[-1][0].closed_through == START + 1


def test_lateness_is_measured_from_the_watermark_before_each_row() -> None:
    """The column `BEFORE` holds, for each row, the watermark before the row."""
    rows = rows_of_ones(("a",), 3)
    (batch,) = batches_of([Arrival(rows, 0)])
    before = pl.Series(BEFORE, [NEVER, (START + 1) * HOUR_US, (START + 5) * HOUR_US])
    (late,) = [
        o.late
        for _, o in steps(forecaster(), [replace(batch, rows=batch.rows.hstack([before]))])
        if len(o.late)
    ]
    assert late["offset"].to_list() == [2]
    assert late["late_s"].to_list() == [((START + 5) * HOUR_US - rows["timestamp"].dt.epoch("us")[2]) / 1e6]


def test_a_shard_applies_no_batch_before_all_partitions_are_known() -> None:
    model = forecaster()
    (batch,) = batches_of([Arrival(rows_of_ones(("a",), 3), (START + 3) * HOUR_US)])
    closed_us = (START + 1) * HOUR_US
    others = [
        replace(empty_batch(name, 0), watermark_us=closed_us, partitions=n)
        for n, name in ((1, "b"), (2, "c"))
    ]
    shard = last_shard(model, [replace(batch, partitions=3), others[1]])
    assert (len(shard.early), shard.closed_through, shard.counts.rows_in) == (2, None, 0)
    shard = last_shard(model, [replace(batch, partitions=3), others[1], others[0]])
    assert (shard.early, shard.closed_through, shard.counts.rows_in) == ((), START, 3)


def test_a_shard_drops_rows_that_it_has_already_applied() -> None:
    model, rows = forecaster(), rows_of_ones(("a", "b"), 6)
    whole = batches_of([Arrival(rows, (START + 6) * HOUR_US)])
    cut = batches_of([Arrival(rows[:5], 0), Arrival(rows[5:], (START + 6) * HOUR_US)])
    again = replace(whole[0], watermark_us=None)
    assert last_shard(model, [cut[0], *whole, again]).counts == last_shard(model, whole).counts


def test_quarantined_rows_are_counted_by_kind() -> None:
    raw = pl.DataFrame({"series_id": ["a", "", "b", "c"], "timestamp": ["x", "y", "2013-01-01", "never"]})
    raw = raw.with_columns(value=pl.Series(["1", "2", "much", "3"]), offset=pl.int_range(4))
    _, rejected = observations.validate(raw)
    broken = quarantine.whole_file("a.csv", "no column value", 4)
    batch = replace(empty_batch("rows", 0), stop=5, rejected=pl.concat([rejected, broken]))
    found = list(steps(forecaster(), [batch, batch]))
    counts = found[-1][0].counts
    assert counts.quarantined == {"is not a number": 1, "is not a time": 2, "series_id is missing": 1}
    assert (counts.rows_in, counts.rejected, counts.bad_files, counts.missing) == (4, 4, 1, 0)
    (written,) = [out.quarantined for _, out in found if len(out.quarantined)]
    assert len(written) == 5
    assert list(written.columns) == list(quarantine.SCHEMA)


def test_long_gaps_are_stepped_only_until_the_series_retires() -> None:
    model = forecaster(max_gap=5)
    rows = pl.concat([rows_of_ones(("a",), 1, START - 300_000), rows_of_ones(("a",), 3)])
    (batch,) = batches_of([Arrival(rows, (START + 3) * HOUR_US)])
    outputs = [out for _, out in steps(model, [batch], 4)]
    blocks = [out.forecasts for out in outputs if out.forecasts]
    assert sum(len(block.issued) for block in blocks) < 20
    counts = last_shard(model, [batch]).counts
    # The series is stepped in 6 windows until it retires, and in 3 windows after the gap.
    # The gap is so long that the series is forgotten. It then counts as new, and not in ``cold_starts``.
    assert (counts.used, counts.cold_starts, counts.series_steps) == (4, 0, 6 + 3)


def test_only_the_last_output_of_a_batch_marks_the_batch_as_done() -> None:
    (batch,) = batches_of([Arrival(rows_of_ones(("a",), 20), (START + 20) * HOUR_US)])
    done = [out.done for _, out in steps(forecaster(), [batch], 4)]
    assert len(done) > 5
    assert done[-1] is batch
    assert not any(done[:-1])


def correction(value: float, start: int) -> Batch:
    """Return a batch with one row of series a at the time `START`, with ``value`` and offset ``start``."""
    rows = rows_of_ones(("a",), 1).with_columns(value=pl.lit(value), offset=pl.lit(start, pl.Int64))
    return replace(empty_batch("rows", start), stop=start + 1, rows=rows)


def test_a_later_row_replaces_duplicates_across_snapshots_and_jobs() -> None:
    model = forecaster()
    shard = Shard.cold(0, 1, model.initial_state(), ["rows"])
    for offset, value in enumerate((3.0, 9.0, 5.0)):
        *_, (shard, _) = apply(shard, correction(value, offset), model)
        shard = snapshot.from_bytes(snapshot.to_bytes(shard))
    (other,) = hand_over_shards([shard.copy()])
    (other,) = hand_over_shards([other])
    assert other.pending.sort("offset")["value"].to_list() == [3.0, 9.0, 5.0]
    # The second job reads another input, and the offsets of that input begin at 0 again.
    # All rows have the same series and time: the second job's row replaces all three rows of the first job.
    *_, (other, _) = apply(other, correction(4.0, 0), model)
    for kept, expected in ((shard, [(3.0, 5.0), (9.0, 5.0)]), (other, [(3.0, 4.0), (5.0, 4.0), (9.0, 4.0)])):
        outputs = list(apply(kept, closing(START, kept.offsets.get("rows", 0)), model))
        replaced = pl.concat([output.replaced for _, output in outputs]).sort("value")
        assert replaced.select("value", "replaced_by").rows() == expected
        assert outputs[-1][0].counts.replaced == len(expected)
        assert outputs[-1][0].counts.missing == 0


def test_a_snapshot_without_offsets_of_pending_rows_can_be_read() -> None:
    """Earlier versions wrote such snapshots."""
    model = forecaster()
    *_, (shard, _) = apply(Shard.cold(0, 1, model.initial_state(), ["rows"]), correction(3.0, 0), model)
    old = snapshot.to_arrow(replace(shard, pending=shard.pending.drop("offset")))
    *_, (shard, _) = apply(snapshot.from_arrow(old), correction(1.0, 1), model)
    outputs = list(apply(shard, closing(START, 2), model))
    assert pl.concat([output.replaced for _, output in outputs])["replaced_by"].to_list() == [1.0]


def in_partition(name: str, value: float, start: int) -> Batch:
    return replace(correction(value, start), partition=name)


@given(order=st.permutations([("p0", 9.0, 5), ("p1", 2.0, 5), ("p2", 7.0, 4)]), stop=st.integers(0, 3))
def test_among_rows_with_equal_time_the_largest_offset_counts(
    order: list[tuple[str, float, int]], stop: int
) -> None:
    """If rows of several partitions have equal offsets, the row of the last partition by name is used."""
    model, begins = forecaster(), {"p0": 5, "p1": 5, "p2": 4}
    shard = add_partitions(Shard.cold(0, 1, model.initial_state(), ()), begins)
    for done, (name, value, offset) in enumerate(order):
        if done == stop:
            shard = snapshot.from_bytes(snapshot.to_bytes(shard))
            ends = {**begins, **{before: offset + 1 for before, _, offset in order[:done]}}
            shard = add_partitions(hand_over_shards([shard])[0], ends)
        *_, (shard, _) = apply(shard, in_partition(name, value, offset), model)
    assert _used_value(shard, model) == 2.0


def test_new_rows_replace_pending_rows_that_will_be_reread() -> None:
    model = forecaster()
    shard = add_partitions(Shard.cold(0, 1, model.initial_state(), ()), {"p0": 50})
    *_, (shard, _) = apply(shard, in_partition("p0", 3.0, 50), model)
    # The pending row has offset 50. Another job is to read p0 from 0 or 50, but first reads a row of p1.
    for begin in (0, 50):
        other = add_partitions(hand_over_shards([shard.copy()])[0], {"p0": begin, "p1": 0})
        *_, (other, _) = apply(other, in_partition("p1", 4.0, 0), model)
        assert _used_value(other, model) == 4.0


def test_snapshots_without_partitions_of_pending_rows_can_be_read() -> None:
    """Earlier versions wrote such snapshots."""
    model = forecaster()
    shard = add_partitions(Shard.cold(0, 1, model.initial_state(), ()), {"p0": 7, "p1": 0})
    *_, (shard, _) = apply(shard, in_partition("p0", 3.0, 7), model)
    old = snapshot.from_arrow(snapshot.to_arrow(replace(shard, pending=shard.pending.drop("partition"))))
    assert old.pending["partition"].to_list() == [""]
    for batch, expected in ((in_partition("p1", 1.0, 0), 3.0), (in_partition("p0", 2.0, 8), 2.0)):
        *_, (after, _) = apply(old.copy(), batch, model)
        assert _used_value(after, model) == expected


def _used_value(shard: Shard, model: Forecaster) -> float:
    """Close the window of the pending rows in a copy of the shard; return the value of the row that counts.

    All pending rows have the same series and time, so only one of them counts.
    """
    shard = shard.copy()
    for name, offset in shard.offsets.items():
        end = replace(closing(START, offset), partition=name)
        *_, (shard, _) = apply(shard, end, model)
    return float(shard.state.parts["moments"]["last"][0])
