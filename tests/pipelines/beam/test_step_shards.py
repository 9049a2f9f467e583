"""Test of the Beam counters of the step that applies batches to shards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.shard import Shard
from forecaster.shards.sharding import Splitter
from pipelines.beam.step_shards import _StepShard
from pipelines.workers import worker
from pipelines.workers.step_settings import StepSettings
from tests.fleets import forecaster
from tests.pipelines.workers.test_worker import batches_of_windows, begin

PATIENCE_S = 30.0


def test_a_bundle_counts_rows_applied_since_the_previous_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle is a group of elements that Beam processes together; batches are applied in the background."""
    free = threading.Event(), threading.Event()  # shard n applies batches only after free[n] is set
    added: list[int] = []

    def apply_late(shard: Shard, batch: Batch, *more: Any) -> Iterator[Any]:
        assert free[shard.number].wait(PATIENCE_S)
        return apply(shard, batch, *more)

    def run_bundle(number: int) -> None:
        new_key = SimpleNamespace(read=lambda: None, write=lambda value: None)
        step.start_bundle()
        assert list(step.process((number, parts[number]), new_key)) == [number]
        step.finish_bundle()

    monkeypatch.setattr("pipelines.workers.shard_worker.apply", apply_late)
    settings = StepSettings("a job", forecaster().to_bytes(), 2, 4, tmp_path, "parquet", 2, resumed=False)
    begin(settings)
    parts = Splitter(2).split(batches_of_windows()[0])
    step = _StepShard(settings)
    step.setup()
    monkeypatch.setattr(
        step.metrics, "add", lambda before, after: added.append(after.rows_in - before.rows_in)
    )
    try:
        run_bundle(0)
        assert sum(added) == 0
        free[0].set()
        step.workers.wait()
        run_bundle(1)
        assert sum(added) == len(parts[0].rows) > 0
    finally:
        free[1].set()
        worker.end_job(settings.job)
