"""The transforms: rows are validated, shards stepped, fleets forecast in somebody's own pipeline.

None has logic of its own: that is `schemas.validate`, `forecaster.shards.shard.apply` and
`pipelines.workers.worker`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import polars as pl
from apache_beam.coders import BytesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer

from forecaster.shards.batch import Batch
from forecaster.shards.sharding import Splitter
from pipelines.beam.coders import Sharded
from pipelines.workers import worker
from pipelines.workers.failure import store_worker_error
from pipelines.workers.step_settings import StepSettings
from pipelines.workers.worker import Workers
from schemas import observations
from schemas.errors import EngineError

QUARANTINED = "quarantined"


@dataclass
class Validate(beam.PTransform[Any, Any]):
    """Raw frames -> observation frames, and frames of the rows that are none (tagged ``quarantined``)."""

    def expand(self, frames: Any) -> Any:
        """``PCollection[DataFrame] -> {None: PCollection[DataFrame], "quarantined": ...}``."""
        typed = beam.FlatMap(_validated).with_output_types(pl.DataFrame, **{QUARANTINED: pl.DataFrame})
        return frames | typed.with_outputs(QUARANTINED, main="good")


def _validated(frame: pl.DataFrame) -> Iterator[Any]:
    good, bad = observations.validate(frame)
    yield good
    if len(bad):
        yield beam.pvalue.TaggedOutput(QUARANTINED, bad)


@dataclass
class StepShards(beam.PTransform[Any, Any]):
    """The batches of a log -> files in the output folder: forecasts, late and quarantined rows, snapshots.

    ``PCollection[Batch] -> PCollection[int]``: the numbers of shards as their batches are applied. A shard's
    key keeps its batches in order; the shard itself lives in the worker, and its snapshots, not the engine's
    state, are what a job goes on from.

    Attributes:
        settings: what workers need.
    """

    settings: StepSettings

    def expand(self, batches: Any) -> Any:
        """Two ParDos with the keys between them."""
        return (
            batches
            | "Split" >> beam.ParDo(_Split(self.settings.shards)).with_output_types(Sharded)
            | "Step" >> beam.ParDo(_Step(self.settings)).with_output_types(int)
        )


class _Split(beam.DoFn):
    splitter: Splitter

    def __init__(self, shards: int) -> None:
        self.shards = shards

    def setup(self) -> None:
        self.splitter = Splitter(self.shards)

    def process(self, batch: Batch) -> Iterable[Sharded]:
        return self.splitter.split(batch).items()


class _Step(beam.DoFn):
    # Whose memory the shard is in. An engine that replaces a worker and keeps this tells us so.
    OPENED = ReadModifyWriteStateSpec("opened", BytesCoder())

    # Never set. While a bundle runs whose stage has neither outputs nor timers, Prism (2.77.0, in
    # `stage.Execute`) waits for it with a core of its own; a timer has it wait asleep.
    WAIT = TimerSpec("wait", TimeDomain.WATERMARK)

    workers: Workers

    def __init__(self, settings: StepSettings) -> None:
        self.settings = settings

    def setup(self) -> None:
        self.workers = worker.workers_of_job(self.settings)

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
        """See `WAIT`."""

    def start_bundle(self) -> None:
        self.has_ended = False

    def finish_bundle(self) -> None:
        """Only the last bundle waits for its batches: with a snapshot they are safe, and no sooner.

        The others would have the threads wait for the engine; what goes wrong in one, the next is told.
        """
        if self.has_ended:
            with store_worker_error(self.settings.output):
                self.workers.wait()
