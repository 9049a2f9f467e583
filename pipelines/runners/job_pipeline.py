"""Build the Beam pipeline of a job for Prism and Flink."""

from __future__ import annotations

from functools import partial

import apache_beam as beam

from pipelines.beam.read_log import ReadLog
from pipelines.beam.step_shards import SplitBatches, StepShards
from pipelines.runners.base import Run
from pipelines.sinks import numbers


def build_pipeline(pipeline: beam.Pipeline, run: Run, *, by_timer: bool = False) -> None:
    """Add the steps of a job to a Beam pipeline: read the log, split each batch by shard, step the shards.

    Args:
        pipeline: the pipeline.
        run: the run of the job.
        by_timer: see `ReadLog`.
    """
    settings = run.settings
    read = ReadLog(
        run.log,
        run.places,
        run.stop_file,
        moves_watermark=False,
        snapshot_every_s=run.snapshot_every_s,
        applied=partial(numbers.applied, settings.output, settings.shards),
        output=settings.output,
        by_timer=by_timer,
    )
    (
        pipeline
        | "Read the log" >> read
        | "Split by shard" >> SplitBatches(settings.shards)
        | "Step the shards" >> StepShards(settings)
    )
