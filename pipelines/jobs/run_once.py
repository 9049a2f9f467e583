"""Write the state table with which a job begins, and run the job once, in process or on an engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

from forecaster.shards.counts import Counts
from forecaster.threads import compute_threads
from pipelines.jobs.job import BackfillJob, EngineSettings, StreamJob
from pipelines.runners.base import Run
from pipelines.runners.in_process import run_in_process
from pipelines.sinks import numbers
from pipelines.sinks.job_reader import JobReader
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import Log, Position, Positions, close_opened
from pipelines.sources.files.row_notices import read_notices
from pipelines.sources.quarantine_manifest import read_manifest
from pipelines.state import state_table
from pipelines.state.first_table import write_first_table
from pipelines.storage import Location
from pipelines.workers import process
from pipelines.workers.step_settings import StepSettings, encode_covariates
from schemas.errors import ConfigError

OnNumbers = Callable[[JobNumbers], None]
"""Called twice a second with the numbers that the shards have published."""


class RunResult(NamedTuple):
    """The result of one run of a job.

    Attributes:
        counts: counts of rows by outcome.
        published: the last numbers that the shards published.
        notices: lines about the rows that the user should see.
    """

    counts: Counts
    published: JobNumbers
    notices: tuple[str, ...]


def settings_of(job: BackfillJob | StreamJob, output: Location, resumed: bool) -> StepSettings:
    """Return the settings of the workers for a new run of a job that writes into ``output``."""
    return StepSettings(
        job=uuid4().hex,
        forecaster=job.forecaster.to_bytes(),
        shards=job.shards,
        windows_per_step=job.windows_per_step,
        output=output,
        format=job.format,
        threads=max(min(job.threads, job.shards), 1),
        resumed=resumed,
        flat=job.flat,
        topics=job.topics if isinstance(job, StreamJob) else None,
        covariates=encode_covariates(job.forecaster),
        repair=job.repair,
        duplicates=job.duplicates if isinstance(job, StreamJob) else job.input.columns.duplicates,
        **_stream_settings(job),
    )


def _stream_settings(job: BackfillJob | StreamJob) -> dict[str, Any]:
    """Return the fields of `StepSettings` about model changes and the shadow; empty for a backfill."""
    if not isinstance(job, StreamJob):
        return {}
    shadow = "" if job.shadow is None else job.shadow.version
    # The shadow model steps only the first shards. They hold a random sample of the series, because the
    # hash of a series id determines the shard of the series.
    shadow_shards = max(1, round(job.shadow_share * job.shards))
    return {
        "follows": job.follows,
        "shadow": shadow,
        "shadow_shards": shadow_shards,
    }


def begin_table(
    job: BackfillJob | StreamJob, log: Log, states: Location, start: Location | None, is_resume: bool
) -> tuple[Positions, bool]:
    """Write the state table with which a run begins; return the positions from which the run reads.

    Args:
        job: the settings.
        log: the log to read.
        states: path of the job's table.
        start: table to start from; None starts cold.
        is_resume: whether ``states`` is to be resumed.

    Returns:
        The position in each partition from which the run reads, and whether the run resumes an earlier run.
        It does not resume if the table belongs to a job with another log, such as a backfill.

    Raises:
        DataError: the log cannot be read.
        ConfigError: a replay of the quarantine was interrupted, and a new job would lose its place.
    """
    reached = state_table.read(states, series=False).progress_by_partition() if is_resume else {}
    places = log.begin({name: Position(*found) for name, found in reached.items()})
    is_resume &= not reached or not reached.keys().isdisjoint(places)
    if start == states and not is_resume and read_manifest(states) is not None:
        output = states.parent
        raise ConfigError(
            f"{output}: a replay of the quarantine was interrupted: end it first, with: statecast quarantine "
            f"replay {output}"
        )
    write_first_table(
        states,
        job.shards,
        start,
        job.forecaster.initial_state(),
        resume=is_resume,
        partitions={name: place.offset for name, place in places.items()},
        owners={name: place.shard for name, place in places.items() if place.shard is not None},
    )
    return places, is_resume


def run_once(run: Run, job: EngineSettings, on_progress: OnNumbers) -> RunResult:
    """Run a job on its runner until the job ends; return its row counts, last numbers and notices."""
    output = run.settings.output
    numbers.clear(output)
    reader = JobReader(output, run.settings.shards)
    close_opened()
    # Step each shard with one compute thread, because several shards in parallel use the cores better.
    with compute_threads(1), process.without_collecting_loaded_objects():
        _engine(job)(run, lambda: on_progress(reader.read()))
    published = reader.read_uncached()
    on_progress(published)
    counts = state_table.read(run.settings.states, series=False).counts
    return RunResult(counts, published, read_notices(numbers.notices_of(output)))


def _engine(job: EngineSettings) -> Callable[[Run, Callable[[], None]], None]:
    if job.runner == "in-process":
        return run_in_process
    if job.runner == "prism":
        from pipelines.runners.on_prism import run_on_prism  # importing Beam takes seconds

        return run_on_prism
    from pipelines.runners.on_flink import run_on_flink

    return partial(run_on_flink, settings=job.flink)
