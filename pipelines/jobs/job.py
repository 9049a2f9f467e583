"""Define the settings of a backfill and of a stream, and their result."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from forecaster.model import Forecaster
from forecaster.shards.counts import Counts
from forecaster.time.duplicates import Keep
from pipelines.runners.base import FlinkSettings
from pipelines.sinks.files import Format
from pipelines.sinks.flat_forecasts import FlatFormat
from pipelines.sinks.kafka import Topics
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Log, Source
from pipelines.sources.files.validated_rows import Input
from pipelines.state import state_table
from pipelines.storage import Location, markers
from pipelines.workers import process

if TYPE_CHECKING:
    from pipelines.jobs.registered_alias import RegisteredAlias

Runner = Literal["in-process", "prism", "flink"]


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The settings of the runner of a backfill or a stream.

    Attributes:
        runner: where the job runs.
        flink: the addresses of Flink; used with the runner ``flink`` only.
        beam_options: additional options for Beam's runner; not allowed in process.
        restarts: how many times a job is restarted automatically after its engine or worker died: a stream
            from its snapshots, a backfill from the start. After a run of at least 10 minutes, the count
            starts again at 0.
        threads: number of worker threads, each of which steps one shard at a time.
        lanes: the former name of ``threads``.
    """

    runner: Runner = "in-process"
    flink: FlinkSettings = field(default_factory=FlinkSettings)
    beam_options: tuple[str, ...] = ()
    restarts: int = 0
    threads: int = field(default_factory=process.cores)
    lanes: InitVar[int | None] = None

    def __post_init__(self, lanes: int | None) -> None:
        if lanes is not None:
            object.__setattr__(self, "threads", lanes)


@dataclass(frozen=True)
class BackfillJob(EngineSettings):
    """The settings of a backfill.

    Attributes:
        forecaster: weights and settings of the model.
        paths: files to read.
        input: the settings by which to read the files.
        output: output folder; forecasts and states of an earlier job in it are replaced.
        shards: number of shards.
        windows_per_step: largest number of windows in one call of the network.
        state_table: state table to start from; None starts cold.
        format: format of the forecast files.
        flat: format of the flat forecast files, which are also written, into the folder ``flat``; None writes
            none.
        memory_bytes: memory for rows; rows that need more are sorted in pieces on disk.
        max_quarantined: if a larger share of the rows is quarantined, the backfill fails and the output
            folder stays unchanged.
        repair: the state table keeps what is needed to repair this many of the last windows with rows that
            are read again from the quarantine; 0 keeps nothing.
    """

    forecaster: Forecaster
    paths: tuple[str, ...]
    input: Input
    output: Location
    shards: int = 8
    windows_per_step: int = 32
    state_table: Location | None = None
    format: Format = "parquet"
    flat: FlatFormat | None = None
    memory_bytes: int = 2 << 30
    max_quarantined: float = 0.1
    repair: int = 0

    @property
    def states(self) -> Location:
        """The path of the state table that the job writes."""
        return self.output / state_table.FOLDER


@dataclass(frozen=True)
class StreamJob(EngineSettings):
    """The settings of a stream.

    Attributes:
        forecaster: weights and settings of the model.
        source: the source of the rows.
        output: output folder; forecasts are added to the files in it.
        shards: number of shards.
        windows_per_step: largest number of windows in one call of the network, used when there is a backlog.
        state_table: state table to start from; None starts cold.
        resume: whether to resume from the state table in the output folder, at its offsets, if there is a
            table.
        fresh: whether to start without the state table in the output folder, which is then kept under another
            name. If there is such a table, the stream needs either ``resume`` or ``fresh``.
        format: format of the forecast files.
        flat: format of flat forecast files, which are written beside them into the folder ``flat``; None
            writes none.
        snapshot_every_s: seconds between two snapshots.
        topics: Kafka topics for the forecasts; None writes files.
        alias: the alias of the model registry that is watched; None watches none.
        follows: whether the stream changes its model version when ``alias`` moves. If not, it only reports
            the move.
        model: name of the first model version in the registry, such as ``weather/3``.
        shadow: a version that also forecasts every window, into the folder ``forecasts-shadow``; None without
            one.
        shadow_share: share of the series that the shadow forecasts, above 0 and at most 1.
        repair: late rows that are at most this many windows old are repaired; 0 repairs none.
        duplicates: which row of an observation or event counts, the first or the last.
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
    flat: FlatFormat | None = None
    snapshot_every_s: float = 30.0
    runner: Runner = field(default="prism", kw_only=True)
    topics: Topics | None = None
    alias: RegisteredAlias | None = None
    follows: bool = False
    model: str = ""
    shadow: Forecaster | None = None
    shadow_share: float = 1.0
    repair: int = 0
    duplicates: Keep = "last"

    @property
    def states(self) -> Location:
        """The path of the state table that the job writes."""
        return self.output / state_table.FOLDER

    @property
    def stop_file(self) -> Location:
        """The path of the stop file: when this file exists, the stream ends cleanly."""
        return self.output / markers.STOP


@dataclass(frozen=True)
class Outcome:
    """The result of a backfill or a stream.

    Attributes:
        counts: counts of rows by outcome; those of a resumed stream include its earlier runs.
        seconds: duration of this run.
        output: output folder.
        stopped: whether the job was stopped before its source ended, so that the source may have more rows.
        numbers: the last counts, times and latencies that the shards published.
        notices: lines about the rows of the files that the user should see.
    """

    counts: Counts
    seconds: float
    output: Location
    stopped: bool
    numbers: JobNumbers
    notices: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        quantiles = {f"p{p}_ms": self.latency_ms(p / 100) for p in (50, 99)} if self.has_latency else {}
        return {
            "output": str(self.output),
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
            **self.counts.as_json(),
            "missing": self.counts.missing,
            "quarantined_share": round(self.counts.quarantined_share, 4),
            **quantiles,
        }

    @property
    def has_latency(self) -> bool:
        """Whether the job measured latency, which a replay of files at full speed does not."""
        return self.numbers.window_latency.count > 0

    def latency_ms(self, level: float) -> float:
        """Return a quantile of the latencies of windows, in milliseconds.

        The latency of a window is the time from the arrival of its rows until the forecasts of all shards are
        written.
        """
        return self.numbers.window_latency.quantile_ms(level)
