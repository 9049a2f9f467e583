"""Define the settings of a job that are sent to its workers in other processes and on other machines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from forecaster.time.duplicates import Keep
from pipelines.sinks.files import Format
from pipelines.sinks.flat_forecasts import FlatFormat
from pipelines.sinks.kafka import Topics
from pipelines.state import state_table
from pipelines.storage import Location


@dataclass(frozen=True)
class StepSettings:
    """The settings with which a worker steps the shards of a job.

    Attributes:
        job: unique id of the run.
        forecaster: the forecaster as `Forecaster.to_bytes` encodes it.
        shards: number of shards.
        windows_per_step: largest number of windows in one network call.
        output: output folder.
        format: format of the forecast files.
        threads: number of threads that step shards in parallel.
        resumed: whether the run resumes an earlier run. If so, the files that the earlier run wrote after its
            last snapshots are removed and written again.
        flat: format of the flat forecast files that are written in addition; None for none.
        topics: the topics that forecasts are sent to; None if they are written to files.
        follows: whether the model version can change during the run; see `pipelines.sources.model_changes`.
        shadow: version of the shadow; the output folder holds its weights; "" without a shadow.
        shadow_shards: number of shards that the shadow also steps; these are the first shards.
        repair: late rows that are at most this many windows old are repaired; 0 repairs none.
        duplicates: which row of an observation or event counts, the first or the last.
        covariates: the covariate tables as `encode_covariates` encodes them.
    """

    job: str
    forecaster: bytes
    shards: int
    windows_per_step: int
    output: Location
    format: Format
    threads: int
    resumed: bool
    flat: FlatFormat | None = None
    topics: Topics | None = None
    covariates: bytes = b""
    follows: bool = False
    shadow: str = ""
    shadow_shards: int = 0
    repair: int = 0
    duplicates: Keep = "last"

    @property
    def states(self) -> Location:
        """The folder of the state table, which holds the shards' snapshots."""
        return self.output / state_table.FOLDER


@lru_cache(maxsize=4)
def forecaster_of(data: bytes, covariates: bytes = b"") -> Forecaster:
    """Decode a forecaster and its covariate tables, and return it; the process caches the result.

    Args:
        data: the forecaster as `Forecaster.to_bytes` encodes it.
        covariates: its covariate tables as `encode_covariates` encodes them.
    """
    forecaster = Forecaster.from_bytes(data)
    return forecaster.with_covariates(Covariates.from_bytes(covariates)) if covariates else forecaster


def encode_covariates(forecaster: Forecaster) -> bytes:
    """Encode a forecaster's covariate tables for the workers; return empty bytes if it uses no covariates."""
    covariates = forecaster.covariates
    return b"" if covariates.features.is_empty else covariates.to_bytes()
