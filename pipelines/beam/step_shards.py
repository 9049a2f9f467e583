"""Define the Beam transforms of a job after its source: split batches by shard, and step the shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import Splitter
from pipelines.beam.coders import Sharded
from pipelines.beam.metrics import RowMetrics
from pipelines.workers import worker
from pipelines.workers.failure import store_worker_error
from pipelines.workers.step_settings import StepSettings
from pipelines.workers.worker import Workers
from schemas.errors import EngineError


@dataclass
class SplitBatches(beam.PTransform[Any, Any]):
    """Split each batch by shard: ``PCollection[Batch] -> PCollection[Sharded]``.

    Every shard that follows the partition gets a part. A part without rows still has offsets and a watermark.

    Attributes:
        shards: the number of shards.
    """

    shards: int

    def expand(self, batches: Any) -> Any:
        """Split each batch by shard; an element of the result is a shard's number and its part of a batch."""
        return batches | beam.ParDo(_SplitBatch(self.shards)).with_output_types(Sharded)


class _SplitBatch(beam.DoFn):
    splitter: Splitter

    def __init__(self, shards: int) -> None:
        self.shards = shards

    def setup(self) -> None:
        self.splitter = Splitter(self.shards)

    def process(self, batch: Batch) -> Iterable[Sharded]:
        return self.splitter.split(batch).items()


@dataclass
class StepShards(beam.PTransform[Any, Any]):
    """Step the shards of a job and write their output: ``PCollection[Sharded] -> PCollection[int]``.

    The threads of the worker process write forecasts, late rows, quarantined rows and snapshots into the
    output folder of the job. The key of a shard keeps its batches in order. The shard itself is in the memory
    of the worker process, and a job resumes from its snapshots, not from the engine's state. The output is
    the number of the shard of each batch that was passed to a thread. Beam counts rows, windows and forecasts
    as `pipelines.beam.metrics` describes.

    Attributes:
        settings: the settings of the worker.
    """

    settings: StepSettings

    def expand(self, parts: Any) -> Any:
        """Pass each part of a batch to the thread of its shard; return the shard number of each part."""
        return parts | beam.ParDo(_StepShard(self.settings)).with_output_types(int)


class _StepShard(beam.DoFn):
    # A worker writes the Beam state "opened" of a shard when it first opens the shard.
    # If a shard has this state but is new to its worker, another worker opened it before, and is lost.
    OPENED = ReadModifyWriteStateSpec("opened", BytesCoder())

    # On Prism, a stage with neither outputs nor timers keeps a core busy while it waits for a bundle (2.77.0,
    # `stage.Execute`). So this step declares the timer "wait", which is never set.
    WAIT = TimerSpec("wait", TimeDomain.WATERMARK)

    workers: Workers

    def __init__(self, settings: StepSettings) -> None:
        self.settings = settings

    def setup(self) -> None:
        self.workers = worker.workers_of_job(self.settings)
        self.metrics = RowMetrics()

    def process(
        self,
        element: Sharded,
        opened: Any = beam.DoFn.StateParam(OPENED),
        wait: Any = beam.DoFn.TimerParam(WAIT),
    ) -> Iterator[int]:
        number, batch = element
        self.has_ended |= batch.ends
        with store_worker_error(self.settings.output):
            if self.workers.is_new(number):
                if opened.read():
                    raise EngineError(
                        f"the worker that held shard {number} is lost: run the same command with --resume"
                    )
                opened.write(b"1")
            self.workers.put(number, batch)
        yield number

    @on_timer(WAIT)
    def on_wait(self) -> None:
        """Do nothing; this method is never called, because the timer `WAIT` is never set."""

    def start_bundle(self) -> None:
        self.has_ended = False

    def finish_bundle(self) -> None:
        """Add the shards' new counts to Beam's counters.

        In a bundle with the last batch of a shard, first wait until the threads have applied all batches.

        Other bundles do not wait, because the threads would be idle until the engine sends the next bundle.
        So a thread may apply a batch after the bundle of the batch has ended. A later bundle then adds the
        counts of this batch, or raises the error of the thread. The later bundle may have no batches of the
        same shard, so each bundle adds the counts of all shards of this process.
        """
        if self.has_ended:
            with store_worker_error(self.settings.output):
                self.workers.wait()
        for before, after in self.workers.take_counts():
            self.metrics.add(before, after)
