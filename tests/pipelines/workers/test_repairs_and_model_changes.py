"""Test of a model version that is warmed up in the background while late rows are repaired."""

from __future__ import annotations

from pathlib import Path

from forecaster.shards.apply import apply
from forecaster.shards.models import ModelChange, Models
from forecaster.shards.shard import Shard
from pipelines.sources.model_changes import Change, _write_changes, store_model
from pipelines.workers.shard_models import ShardModels, WarmingThread
from pipelines.workers.step_settings import StepSettings
from tests.comparisons import assert_same_state
from tests.fleets import START, forecaster
from tests.forecaster.shards.test_repair import batches


def test_a_repair_during_a_rewarm_rewarms_the_series_again(tmp_path: Path) -> None:
    old, new, window = forecaster(), forecaster("gru", seed=1), START + 20
    settings = StepSettings(
        "run", old.to_bytes(), 1, 4, tmp_path, "parquet", 1, resumed=False, follows=True, repair=6
    )
    (tmp_path / "state").mkdir()
    store_model(tmp_path, new)
    changes = (Change(old.version, "m/1", None), Change(new.version, "m/2", window))
    _write_changes(settings.states, changes)
    thread = WarmingThread(lambda: False)
    models = ShardModels(settings, 0, thread)
    shard, repaired = Shard.cold(0, 1, old.initial_state(), ["rows"]), 0
    # The ring has 8 windows and the model changes at window 20, so the re-warm begins at window 12.
    for batch in batches(24, {15: [("a", 12)]}):
        for after, output in apply(shard, batch, models.models(batch), 4):
            shard = after
            if output.revises and output.forecasts is not None:
                repaired += 1
                models.note_repaired(output.forecasts.series_ids)
            models.warm_up(shard)
    thread.close()
    assert repaired == 1
    expected = Shard.cold(0, 1, old.initial_state(), ["rows"])
    for batch in batches(24, {}):
        for after, _ in apply(expected, batch, Models(old, (ModelChange(window, new),)), 4):
            expected = after
    assert shard.state.model_version == new.version
    assert_same_state(expected.state, shard.state)
