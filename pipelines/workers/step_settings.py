"""What a worker is told of a job, wherever it runs: the forecaster as bytes, the output, the sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from pipelines.sinks.files import Format
from pipelines.sinks.kafka import Topics
from pipelines.state import state_table
from pipelines.storage import Location


@dataclass(frozen=True)
class StepSettings:
    """What a worker needs to step the shards of a job.

    Attributes:
        job: tells this run of a job from any other.
        forecaster: `Forecaster.to_bytes`.
        shards: number of shards.
        windows_per_step: most windows in one network call.
        output: output folder.
        format: of the forecast files.
        lanes: threads that step shards side by side.
        resumed: what a run before this one wrote after its last snapshots is removed, to be written again.
        topics: where forecasts are sent, instead of into files; None for files.
        covariates: `encode_covariates` the forecaster.
    """

    job: str
    forecaster: bytes
    shards: int
    windows_per_step: int
    output: Location
    format: Format
    lanes: int
    resumed: bool
    topics: Topics | None = None
    covariates: bytes = b""

    @property
    def states(self) -> Location:
        """The folder of the state table, which a shard opens from."""
        return self.output / state_table.FOLDER


@lru_cache(maxsize=4)
def forecaster_of(data: bytes, covariates: bytes = b"") -> Forecaster:
    """The forecaster of a worker process with its tables, decoded once.

    Args:
        data: `Forecaster.to_bytes`.
        covariates: `encode_covariates` it.
    """
    forecaster = Forecaster.from_bytes(data)
    return forecaster.with_covariates(Covariates.from_bytes(covariates)) if covariates else forecaster


def encode_covariates(forecaster: Forecaster) -> bytes:
    """What a forecaster knows beside values, as it travels to workers; nothing where it reads nothing."""
    covariates = forecaster.covariates
    return b"" if covariates.features.is_empty else covariates.to_bytes()
