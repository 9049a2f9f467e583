"""Law: a model steps only states of its own version; states of another version are re-warmed first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given

from forecaster.model import Forecaster
from forecaster.shards import snapshot
from forecaster.shards.sharding import empty_batch
from forecaster.state import State
from forecaster.stepping.advance import advance
from forecaster.stepping.rewarming import rewarm
from forecaster.time.windows import Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.sinks.files import read_forecasts
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from schemas.errors import ModelError, VersionMismatch
from tests.comparisons import assert_same, assert_same_frames, assert_same_state, by_key
from tests.fleets import HOUR, HOUR_US, START, fleets, forecaster, rows_of, scales
from tests.folds import Arrival, fold_on, run_shards


def test_advance_refuses_a_state_of_another_model_version() -> None:
    old, new = forecaster(seed=1), forecaster(seed=2)
    fleet = Windows(("a",), START, np.ones((2, 1)))
    state, _ = advance(old, old.initial_state(), fleet.between(START, START + 1))
    with pytest.raises(VersionMismatch, match=rf"{old.version} .* {new.version}: re-warm"):
        advance(new, state, fleet.between(START + 1, START + 2))
    with pytest.raises(VersionMismatch):
        advance(new, old.initial_state(), fleet)


def test_stepping_a_shard_of_another_model_version_is_refused() -> None:
    old, new = forecaster(seed=1), forecaster(seed=2)
    arrivals = [Arrival(rows_of(Windows(("a",), START, np.ones((3, 1)))), (START + 2) * HOUR_US)]
    shard = snapshot.from_bytes(snapshot.to_bytes(run_shards(old, arrivals, to_the_end=False).shards[0]))
    end = replace(empty_batch("rows", 3), watermark_us=(START + 3) * HOUR_US)
    with pytest.raises(VersionMismatch, match=rf"{old.version} .* {new.version}: re-warm"):
        fold_on(new, [shard], [[end]])


def test_settings_that_keep_the_weights_still_change_the_version() -> None:
    versions = {
        forecaster().version,
        forecaster(aggregate="sum").version,
        forecaster(freq="30m").version,
        forecaster(ring=9).version,
        forecaster(allowed_lateness="1h").version,
    }
    assert len(versions) == 5


def test_states_of_different_model_versions_cannot_be_joined() -> None:
    old, new = forecaster(seed=1), forecaster(seed=2)
    states = [model.new_series_state((name,), START) for model, name in ((old, "a"), (new, "b"))]
    with pytest.raises(ModelError, match="several model versions"):
        State.join(states)


@pytest.mark.parametrize("empty", ["missing", "zero"])
@given(fleet=fleets(windows=12))
def test_rewarm_equals_stepping_all_windows_if_the_ring_suffices(empty: str, fleet: Windows) -> None:
    old, new = (forecaster(cell, ring=20, empty=empty) for cell in ("lstm", "gru"))
    assume(len(fleet.values) > 2)
    now = fleet.stop - 2
    state, _ = advance(old, old.initial_state(), fleet.between(fleet.start, now))
    warm = rewarm(new, state)
    cold, _ = advance(new, new.initial_state(), fleet.between(fleet.start, now))
    assert_same_state(cold, warm)

    _, after_warm = advance(new, warm, fleet.between(now, fleet.stop))
    _, after_cold = advance(new, cold, fleet.between(now, fleet.stop))
    assert_same(by_key([after_cold]), by_key([after_warm]), scales(fleet, empty))


def forecast_rest(model: Forecaster, output: Path, fleet: Windows) -> pl.DataFrame:
    """Return the forecasts that ``model`` issues from window START + 70 on, from a re-warmed state.

    The state is read from the state table in ``output``, and re-warmed for ``model``.
    """
    warm = rewarm(model, state_table.read(output / "state").state)
    _, forecasts = advance(model, warm, fleet.between(START + 70, fleet.stop))
    return forecasts.frame()


def test_a_job_rewarms_the_state_of_another_model_version(
    small_fleet: Windows, small_file: Path, tmp_path: Path
) -> None:
    old, new = forecaster("lstm", ring=60), forecaster("gru", ring=60)
    half_us = (START + 70) * HOUR_US
    before, after = Input(Columns(), end_us=half_us), Input(Columns(), start_us=half_us)
    run_backfill(BackfillJob(old, (str(small_file),), before, tmp_path / "old"))
    job = BackfillJob(
        new, (str(small_file),), after, tmp_path / "new", state_table=tmp_path / "old" / "state"
    )
    assert run_backfill(job).counts.missing == 0

    issued = read_forecasts(tmp_path / "new")
    assert issued["model_version"].unique().to_list() == [new.version]
    assert issued.select(pl.col("issued_at").min().dt.epoch("us")).item() == half_us + HOUR_US
    assert_same_frames(issued, forecast_rest(new, tmp_path / "old", small_fleet), scales(small_fleet))
    table = state_table.read(tmp_path / "new" / "state").state
    assert table.model_version == new.version
    assert sorted(table.series_ids) == sorted(small_fleet.series_ids)


def test_a_stream_rewarms_states_of_another_model_version(
    small_fleet: Windows, small_file: Path, tmp_path: Path
) -> None:
    old, new = forecaster("lstm", ring=60), forecaster("gru", ring=60)
    half_us, output = (START + 70) * HOUR_US, tmp_path / "out"
    before = Input(Columns(), end_us=half_us)
    run_backfill(BackfillJob(old, (str(small_file),), before, tmp_path / "old", shards=3))
    source = ReplaySource((str(small_file),), Input(Columns(), start_us=half_us), HOUR)
    for model in (old, new):
        start = tmp_path / "old" / "state"
        job = StreamJob(model, source, output, shards=3, state_table=start, fresh=True, runner="in-process")
        assert run_stream(job).counts.missing == 0

    # The output folder holds the forecasts of both versions.
    issued = read_forecasts(output)
    assert set(issued["model_version"]) == {old.version, new.version}
    identities = [
        set(issued.filter(pl.col("model_version") == m.version).select("series_id", "issued_at").rows())
        for m in (old, new)
    ]
    assert identities[0] == identities[1]
    mine = issued.filter(pl.col("model_version") == new.version)
    assert_same_frames(mine, forecast_rest(new, tmp_path / "old", small_fleet), scales(small_fleet))
    assert state_table.read(output / "state").state.model_version == new.version
    assert sorted(state_table.read(output / "state").state.series_ids) == sorted(small_fleet.series_ids)
