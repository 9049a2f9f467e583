"""What a backfill and a stream are, and what one that has ended tells."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from forecaster.model import Forecaster
from forecaster.shards.counts import Counts
from pipelines.runners.base import FlinkSettings
from pipelines.sinks.files import Format
from pipelines.sinks.kafka import Topics
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Log, Source
from pipelines.sources.files.validated_rows import Input
from pipelines.state import state_table
from pipelines.storage import Location, markers
from pipelines.workers import process

Runner = Literal["in-process", "prism", "flink"]


@dataclass(frozen=True, kw_only=True)
class OnEngine:
    """What a job runs on, a backfill as a stream.

    Attributes:
        runner: the engine.
        flink: which Flink, where that is the engine.
        beam_options: more options for Beam's runner; there is none in process.
        restarts: how often the job goes on by itself where its engine, or a worker of it, dies: a stream from
            its snapshots, a backfill from the start. A run of 10 minutes or more makes it be counted anew.
    """

    runner: Runner = "in-process"
    flink: FlinkSettings = field(default_factory=FlinkSettings)
    beam_options: tuple[str, ...] = ()
    restarts: int = 0


@dataclass(frozen=True)
class BackfillJob(OnEngine):
    """A backfill.

    Attributes:
        forecaster: weights and settings.
        paths: files to read.
        input: how to read them.
        output: output folder; forecasts and states of an earlier job in it are replaced.
        shards: groups of series stepped together.
        windows_per_step: most windows in one network call.
        state_table: state table to start from; None starts cold.
        format: of the forecast files.
        lanes: shards stepped side by side.
        memory_bytes: what may be held of the rows; more are sorted in pieces on disk.
        max_quarantined: a larger share of quarantined rows ends the backfill, and the output is as it was.
    """

    forecaster: Forecaster
    paths: tuple[str, ...]
    input: Input
    output: Location
    shards: int = 8
    windows_per_step: int = 32
    state_table: Location | None = None
    format: Format = "parquet"
    lanes: int = field(default_factory=process.cores)
    memory_bytes: int = 2 << 30
    max_quarantined: float = 0.1

    @property
    def states(self) -> Location:
        """The state table that the job leaves."""
        return self.output / state_table.FOLDER


@dataclass(frozen=True)
class StreamJob(OnEngine):
    """A stream.

    Attributes:
        forecaster: weights and settings.
        source: where rows come from.
        output: output folder; forecasts are added to those in it.
        shards: groups of series stepped together.
        windows_per_step: most windows in one network call, when there is a backlog.
        state_table: state table to start from; None starts cold.
        resume: go on from the output folder's own table, if there is one, in state and in input.
        fresh: begin anew where there is one, which is kept under another name. With neither of both a stream
            does not begin in the place of an earlier one.
        format: of the forecast files.
        lanes: shards stepped side by side.
        snapshot_every_s: seconds between two snapshots.
        topics: where forecasts are sent, instead of into files; None for files.
    """

    forecaster: Forecaster
    source: Source | Log
    output: Location
    shards: int = 8
    windows_per_step: int = 32
    state_table: Location | None = None
    resume: bool = False
    fresh: bool = False
    format: Format = "parquet"
    lanes: int = field(default_factory=process.cores)
    snapshot_every_s: float = 30.0
    runner: Runner = field(default="prism", kw_only=True)
    topics: Topics | None = None

    @property
    def states(self) -> Location:
        """The state table that the job leaves."""
        return self.output / state_table.FOLDER

    @property
    def stop_file(self) -> Location:
        """The file whose appearance ends the job cleanly."""
        return self.output / markers.STOP


@dataclass(frozen=True)
class Outcome:
    """A job that has ended.

    Attributes:
        counts: where the rows went, those of the runs that a stream was resumed from included.
        seconds: wall clock of this run.
        output: its output folder.
        stopped: it was asked to stop, and its source may have more.
        numbers: the last that its shards published.
        notices: lines about the rows of its files that people should see.
    """

    counts: Counts
    seconds: float
    output: Location
    stopped: bool
    numbers: JobNumbers
    notices: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        quantiles = {f"p{p}_ms": self.latency_ms(p / 100) for p in (50, 99)} if self.has_latency else {}
        return {
            "output": str(self.output),
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
            **asdict(self.counts),
            "missing": self.counts.missing,
            "quarantined_share": round(self.counts.quarantined_share, 4),
            **quantiles,
        }

    @property
    def has_latency(self) -> bool:
        """Whether latency was measured; an unpaced replay only works off a backlog."""
        return self.numbers.whole.count > 0

    def latency_ms(self, level: float) -> float:
        """What a share ``level`` of windows took, from the moment rows were due to all forecasts on disk."""
        return self.numbers.whole.quantile_ms(level)
