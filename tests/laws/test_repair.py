"""Law: after late rows were repaired, state and forecasts are those of a job that read the rows in time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.shards.batch import Batch
from forecaster.shards.counts import Counts
from forecaster.shards.models import ModelChange, Models
from forecaster.shards.shard import Output, Shard
from forecaster.time.aggregation import aggregate as aggregate_rows
from forecaster.time.window_config import WindowConfig
from tests.comparisons import YOUNG, assert_same, assert_same_live_series, newest_by_key, sorted_rows
from tests.disks import outputs
from tests.fleets import HALF_A_DAY, SHORT_WEEK, START, forecaster, scales
from tests.folds import Ran, fold
from tests.laws.test_crash import fold_with_kills
from tests.partitions import LONG_GAP, Logs, all_logs

AGGREGATES = ("mean", "sum", "count", "min", "max", "last")


def in_time(logs: Logs, late: Ran) -> Logs:
    """Return the logs without the rows that were late in a run, and with all other rows in time.

    Each log has only its last watermark, which closes every window.
    """
    rows = sorted_rows(late.late)
    parts = []
    for log in logs.parts:
        own = (
            rows.filter(pl.col("partition") == log.partition)["offset"]
            if len(rows)
            else pl.Series([], dtype=pl.Int64)
        )
        kept = log.rows.filter(~pl.col("offset").is_in(own.implode()))
        parts.append(replace(log, rows=kept, watermarks_us={log.stop: log.watermarks_us[log.stop]}))
    return Logs(tuple(parts), logs.scale)


def scales_of(logs: Logs, aggregate: str) -> dict[str, float]:
    """Return the scale of the windows of each series."""
    rows = pl.concat([log.rows for log in logs.parts]).drop("offset")
    config = WindowConfig.model_validate({"freq": str(HALF_A_DAY), "aggregate": aggregate})
    return {**logs.scale, **scales(aggregate_rows(rows, config).windows)}


def comparable(counts: Counts) -> Counts:
    """Return the counts that a repair brings to those of rows in time."""
    rows_in = counts.rows_in - counts.late
    return replace(counts, rows_in=rows_in, late=0, windows=0, replaced=0, repaired=0)


def assert_repaired(repaired: Ran, reference: Ran, scale: dict[str, float]) -> None:
    """Assert that a run that repaired late rows ends like a run that read them in time."""
    assert comparable(repaired.counts) == comparable(reference.counts)
    assert repaired.counts.missing == repaired.counts.pending == 0
    found = newest_by_key(repaired.forecasts)
    assert_same(newest_by_key(reference.forecasts), found, scale, within=YOUNG)
    assert_same_live_series(reference.states, repaired.states)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@given(
    logs=all_logs(),
    max_gap=st.sampled_from([3, LONG_GAP]),
    empty=st.sampled_from(["missing", "zero"]),
    repair=st.integers(1, 7),
    shards=st.integers(1, 3),
    kills=st.integers(0, 3),
    data=st.data(),
)
def test_repaired_rows_give_the_forecasts_of_rows_in_time(
    aggregate: str,
    logs: Logs,
    max_gap: int,
    empty: str,
    repair: int,
    shards: int,
    kills: int,
    data: st.DataObject,
) -> None:
    model = forecaster(aggregate=aggregate, empty=empty, max_gap=max_gap, **SHORT_WEEK)

    def steps(shard: Shard, batches: Iterable[Batch], per_step: int) -> Iterator[tuple[Shard, Output]]:
        return outputs(Models(model, repair=repair), shard, batches, per_step)

    repaired = fold_with_kills(model, logs, shards, kills, data.draw, steps)
    reference = in_time(logs, repaired)
    late = fold(model, logs.one_by_one(), shards, partitions=logs.partitions)
    assert repaired.counts.late + repaired.counts.repaired == late.counts.late
    assert_repaired(
        repaired,
        fold(model, reference.one_by_one(), shards, partitions=logs.partitions),
        scales_of(reference, aggregate),
    )


@given(
    logs=all_logs(),
    repair=st.integers(2, 7),
    change=st.integers(0, 24),
    shards=st.integers(1, 3),
    kills=st.integers(0, 3),
    data=st.data(),
)
def test_repairs_pass_a_model_change_and_include_the_shadow(
    logs: Logs, repair: int, change: int, shards: int, kills: int, data: st.DataObject
) -> None:
    old, new, shadow = (
        forecaster(cell, seed=seed, max_gap=LONG_GAP, **SHORT_WEEK)
        for seed, cell in enumerate(("lstm", "gru", "rnn"))
    )
    models = Models(old, (ModelChange(START // 12 + change, new),), shadow=shadow)

    def steps(shard: Shard, batches: Iterable[Batch], per_step: int) -> Iterator[tuple[Shard, Output]]:
        return outputs(replace(models, repair=repair), shard.with_shadow(shadow), batches, per_step)

    repaired = fold_with_kills(old, logs, shards, kills, data.draw, steps)
    reference = in_time(logs, repaired)
    every, alone = (
        fold(one, reference.one_by_one(), shards, partitions=logs.partitions)
        for one in (replace(models, shadow=None), shadow)
    )
    scale = scales_of(reference, "mean")
    assert_repaired(repaired, every, scale)
    assert_same(newest_by_key(alone.forecasts), newest_by_key(repaired.shadows), scale, within=YOUNG)
    for part in repaired.forecasts:
        if part is not None and len(part):
            assert {models.of_window(int(window)).version for window in part.index} == {part.model_version}
