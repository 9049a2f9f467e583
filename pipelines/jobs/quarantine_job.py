"""The settings and the result of a replay of the quarantine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from forecaster.model import Forecaster
from forecaster.shards.counts import Counts
from forecaster.time.frequency import Frequency
from pipelines.sinks.files import Format
from pipelines.sinks.kafka import Topics
from pipelines.sources.files.validated_rows import Input
from pipelines.state import state_table
from pipelines.storage import Location
from pipelines.workers import process


@dataclass(frozen=True, kw_only=True)
class QuarantineJob:
    """The settings of a replay of the quarantine.

    Attributes:
        forecaster: the model version that made the state of the job.
        input: the corrected settings by which the rows are read.
        output: output folder of the job.
        repair: ``windows.repair`` of the job.
        windows_per_step: largest number of windows in one call of the network.
        format: format of the forecast files.
        topics: Kafka topics for the forecasts; None writes files.
        threads: number of worker threads, each of which steps one shard at a time.
    """

    forecaster: Forecaster
    input: Input
    output: Location
    repair: int
    windows_per_step: int = 32
    format: Format = "parquet"
    topics: Topics | None = None
    threads: int = field(default_factory=process.cores)

    @property
    def states(self) -> Location:
        """The path of the job's state table."""
        return self.output / state_table.FOLDER

    @property
    def freq(self) -> Frequency:
        """The length of a window."""
        return self.forecaster.window_config.frequency


@dataclass(frozen=True)
class QuarantineOutcome:
    """The result of a replay of the quarantine.

    Attributes:
        counts: what the replay added to the counts of the job, also if it was killed and resumed.
        left: number of rows that are in quarantine afterwards.
        seconds: duration of this run.
        stopped: whether the replay was stopped by a signal, so that rows are left to read again.
        nothing: the reason why no row was read again; "" if rows were.
    """

    counts: Counts = field(default_factory=Counts)
    left: int = 0
    seconds: float = 0.0
    stopped: bool = False
    nothing: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the result of the replay as the object that ``--json`` prints."""
        names = ("replayed", "used", "duplicates", "late", "pending", "repaired", "replaced")
        return {
            **{name: getattr(self.counts, name) for name in names},
            "quarantined": dict(self.counts.quarantined),
            "left": self.left,
            "missing": self.counts.missing,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
        }
