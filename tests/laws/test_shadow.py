"""Law: a shadow forecasts as if it ran alone, and changes no forecast of the version in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.shards.batch import Batch
from forecaster.shards.models import ModelChange, Models
from forecaster.shards.shard import Output, Shard
from pipelines.jobs.forecast import run_stream
from pipelines.sinks.files import SHADOW, read_forecasts
from pipelines.state import state_table
from tests.comparisons import YOUNG, assert_same, assert_same_frames, by_key
from tests.disks import outputs
from tests.fleets import SHORT_WEEK, START, forecaster
from tests.folds import fold
from tests.laws.test_crash import fold_with_kills
from tests.logs import half_of, job_of, small_log
from tests.partitions import LONG_GAP, Logs, all_logs


@pytest.mark.parametrize("max_gap", [3, LONG_GAP])
@settings(max_examples=8)
@given(
    logs=all_logs(),
    shards=st.integers(1, 3),
    kills=st.integers(0, 3),
    changes=st.booleans(),
    data=st.data(),
)
def test_a_shadow_forecasts_as_if_it_ran_alone(
    max_gap: int, logs: Logs, shards: int, kills: int, changes: bool, data: st.DataObject
) -> None:
    old, new, shadow = (
        forecaster(cell, seed=seed, max_gap=max_gap, **SHORT_WEEK)
        for seed, cell in enumerate(("lstm", "gru", "rnn"))
    )
    models = Models(old, (ModelChange(START // 12 + 8, new),) if changes else ())

    def steps(shard: Shard, batches: Iterable[Batch], per_step: int) -> Iterator[tuple[Shard, Output]]:
        both = replace(models, shadow=shadow)
        return outputs(both, shard.with_shadow(shadow), batches, per_step)

    ran = fold_with_kills(old, logs, shards, kills, data.draw, steps)
    without, alone = (
        fold(model, logs.one_by_one(), shards, partitions=logs.partitions) for model in (models, shadow)
    )
    assert ran.counts == without.counts
    assert {one.model_version for one in ran.shadows if one is not None} <= {shadow.version}
    assert_same(by_key(alone.forecasts), by_key(ran.shadows), logs.scale, within=YOUNG)
    assert_same(by_key(without.forecasts), by_key(ran.forecasts), logs.scale, within=YOUNG)


def test_a_stream_stores_forecasts_of_a_shadow_separately(tmp_path: Path) -> None:
    log, scale = small_log(windows=24, every=8)
    shadow = forecaster("gru", seed=3, **SHORT_WEEK)
    job = replace(job_of(log, tmp_path / "both", shards=2), shadow=shadow)
    run_stream(replace(job_of(log, job.output, shards=2, stop=half_of(log)), shadow=shadow))
    assert {shard.shadow is not None for shard in state_table.read(job.states).shards} == {True}
    run_stream(job)  # the second run resumes the shadow from the snapshots of the first
    run_stream(job_of(log, tmp_path / "old", shards=2))
    run_stream(replace(job_of(log, tmp_path / "new", shards=2), forecaster=shadow))
    old, new = (read_forecasts(tmp_path / name) for name in ("old", "new"))
    assert_same_frames(old, read_forecasts(job.output), scale)
    assert_same_frames(new, read_forecasts(job.output, SHADOW), scale)
    run_stream(job_of(log, job.output, shards=2))
    assert {shard.shadow for shard in state_table.read(job.states).shards} == {None}


def test_a_shadow_can_forecast_a_share_of_the_series(tmp_path: Path) -> None:
    log, _ = small_log(windows=24, every=8)
    shadow = forecaster("gru", seed=3, **SHORT_WEEK)
    job = replace(job_of(log, tmp_path, shards=4), shadow=shadow, shadow_share=0.5)
    run_stream(job)
    shards = state_table.read(job.states).shards
    assert [shard.shadow is not None for shard in shards] == [True, True, False, False]
    ids = {name for shard in shards[:2] for name in shard.state.series_ids}
    assert set(read_forecasts(tmp_path, SHADOW)["series_id"]) == ids
