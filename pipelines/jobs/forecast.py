"""Run the forecasting jobs: a backfill over whole files, and a stream.

Both apply the batches of a log to shards. They differ in the log, and in when output appears: a backfill
replaces earlier output at its end, and a stream adds each file at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from uuid import uuid4

from forecaster.shards.counts import Counts
from forecaster.threads import compute_threads
from pipelines.jobs.follow import Alias, ModelWatch
from pipelines.jobs.job import BackfillJob, EngineSettings, Outcome, StreamJob
from pipelines.jobs.stopping import stop_on_signal
from pipelines.runners.base import Run
from pipelines.runners.in_process import run_in_process
from pipelines.sinks import numbers
from pipelines.sinks.files import PARTS, read_quarantine
from pipelines.sinks.folder import locked, prepare_folder
from pipelines.sinks.numbers import JobNumbers, JobReader
from pipelines.sinks.replace_output import complete_replacement, replace_parts
from pipelines.sources import folder, kafka, replay
from pipelines.sources.base import Log, Position, Positions, as_log
from pipelines.sources.files.row_notices import Notes, read_notices
from pipelines.sources.model_changes import (
    ChangingLog,
    begin_changes,
    load_model,
    read_changes,
    remove_changes,
    store_model,
)
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.state.first_table import write_first_table
from pipelines.storage import Location, markers
from pipelines.workers import process
from pipelines.workers.ownership import read_owner, take_ownership
from pipelines.workers.step_settings import StepSettings, encode_covariates
from schemas import quarantine
from schemas.errors import ConfigError, DataError, EngineLost

Progress = Callable[[JobNumbers], None]
"""Called twice a second with the numbers that the shards have published."""

OnRestart = Callable[[str], None]
"""Called with a line for the user when a job whose engine has died is restarted."""


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


_RESTARTS_RESET_S = 600.0  # a run of this length makes all restarts available again


def run_backfill(
    job: BackfillJob,
    on_progress: Progress = lambda numbers: None,
    on_restart: OnRestart = lambda line: None,
) -> Outcome:
    """Run a backfill to its end.

    The backfill writes into a hidden folder and moves its parts into the output folder at the end. If it
    fails or is interrupted, the output folder stays unchanged. If the engine dies, the backfill starts again,
    at most ``restarts`` times.

    Args:
        job: the settings.
        on_progress: called with the job's numbers, twice a second.
        on_restart: called with a line that contains the reason for each restart.

    Raises:
        StatecastError: a file, the state table, the output folder or the engine is at fault; the message is
            one line.
    """
    began_s = time.monotonic()
    with locked(job.output) as held:
        hidden = job.output / markers.BACKFILL
        take = _with_lock_check(held.check, on_progress)
        try:
            counts, published, notices = _run_with_restarts(
                lambda is_again: _backfill_once(job, hidden, held.confirm, take),
                job.restarts,
                _RestartWords("starting again", f"{job.output} is unchanged; run the same command again"),
                on_restart,
            )
            if not counts.used + counts.pending:
                raise DataError(_nothing_used(counts, hidden))
            if quarantine.share_message(counts.quarantined, counts.rows_in, job.max_quarantined):
                rejected = read_quarantine(hidden)
                quarantine.check_share(counts.quarantined, counts.rows_in, job.max_quarantined, rejected)
            replace_parts(hidden, job.output, (*PARTS, state_table.FOLDER))
        finally:
            complete_replacement(hidden, job.output)
    return Outcome(counts, time.monotonic() - began_s, job.output, False, published, notices)


def run_stream(
    job: StreamJob,
    on_progress: Progress = lambda numbers: None,
    on_restart: OnRestart = lambda line: None,
) -> Outcome:
    """Run a stream until its source ends, SIGINT or SIGTERM arrives, or its stop file appears.

    In each of these cases all windows before the watermark are forecast, and the rows of open windows are
    stored in the state table. A second signal ends the process at once, like a kill: after a resume the
    stream repeats its work since the last snapshots. If the engine dies, the stream resumes from its
    snapshots by itself, at most ``restarts`` times.

    Args:
        job: the settings.
        on_progress: called with the job's numbers, twice a second.
        on_restart: called with a line that contains the reason for each restart.

    Raises:
        StatecastError: a file, the state table, the output folder or the engine is at fault; the message is
            one line.
    """
    began_s = time.monotonic()
    with locked(job.output) as held:
        complete_replacement(job.output / markers.BACKFILL, job.output)
        prepare_folder(job.output, *PARTS)
        job.stop_file.unlink(missing_ok=True)
        watch = None if job.alias is None else _watch(job, job.alias, on_restart)
        take = _with_lock_check(held.check, on_progress if watch is None else _with_model(watch, on_progress))
        with stop_on_signal(job.stop_file), nullcontext() if watch is None else watch.running():
            counts, published, notices = _run_with_restarts(
                lambda is_again: _stream_once(_resuming(job) if is_again else job, held.confirm, take),
                job.restarts,
                _RestartWords("resuming from the last snapshots", "run the same command with --resume"),
                on_restart,
            )
        stopped = job.stop_file.exists()
        job.stop_file.unlink(missing_ok=True)
    return Outcome(counts, time.monotonic() - began_s, job.output, stopped, published, notices)


def _watch(job: StreamJob, alias: Alias, notice: OnRestart) -> ModelWatch:
    return ModelWatch(alias, job.follows, job.forecaster, job.output, notice)


def _with_model(watch: ModelWatch, on_progress: Progress) -> Progress:
    """Return an ``on_progress`` that first adds what is known about the alias to the numbers."""
    return lambda numbers: on_progress(watch.take(numbers))


def _resuming(job: StreamJob) -> StreamJob:
    """Return the settings with which a stream resumes from the snapshots of its first run."""
    return replace(job, resume=True, fresh=False)


def _with_lock_check(check: Callable[[], None], on_progress: Progress) -> Progress:
    """Return an ``on_progress`` that first calls ``check``, so that a job that has lost its lock ends."""

    def take(numbers: JobNumbers) -> None:
        check()
        on_progress(numbers)

    return take


class _RestartWords(NamedTuple):
    """Parts of the messages after an engine has died.

    Attributes:
        action: what the job does by itself, for the log line.
        advice: what the user can do, for the error when no restart is left.
    """

    action: str
    advice: str


def _run_with_restarts(
    once: Callable[[bool], RunResult], restarts: int, words: _RestartWords, on_restart: OnRestart
) -> RunResult:
    """Call ``once``, and call it again when the engine dies, at most ``restarts`` times.

    The argument of ``once`` is False in the first call and True in later calls.

    Raises:
        EngineLost: the engine died, and no restart was left.
    """
    left, is_again = restarts, False
    while True:
        began_s = time.monotonic()
        try:
            return once(is_again)
        except EngineLost as error:
            if time.monotonic() - began_s >= _RESTARTS_RESET_S:
                left = restarts
            if not left:
                raise EngineLost(f"{error}: {words.advice}") from error
            left -= 1
            on_restart(f"{error}: {words.action} (restarts left: {left})")
        is_again = True


def _backfill_once(
    job: BackfillJob, hidden: Location, confirm: Callable[[], None], on_progress: Progress
) -> RunResult:
    settings, before = _settings_of(job, hidden, resumed=False), read_owner(hidden)
    complete_replacement(hidden, job.output)
    prepare_folder(hidden, *PARTS)
    # Take the folder over before the table is written: a worker of a lost run could still write to the table.
    take_ownership(settings, confirm)
    windows = job.forecaster.window_config
    notes = Notes(numbers.notices_of(hidden), windows)
    log = as_log(
        ReplaySource(job.paths, job.input, windows.frequency, memory_bytes=job.memory_bytes, notes=notes)
    )
    places, _ = _begin_table(job, log, settings.states, job.state_table, is_resume=False)
    run = Run(
        log, places, settings, hidden / markers.STOP, float("inf"), job.output, job.beam_options, before
    )
    return _run(run, _engine(job), on_progress)


def _stream_once(job: StreamJob, confirm: Callable[[], None], on_progress: Progress) -> RunResult:
    state_table.recover(job.states)
    start = starting_table(job.states, job.state_table, job.resume, job.fresh)
    if job.fresh:
        state_table.copy_aside(job.states)
    log = as_log(job.source)
    places, is_resume = _begin_table(
        job, log, job.states, start, is_resume=start == job.states and job.resume
    )
    job = _with_first_model(job, is_resume)
    settings, before = _settings_of(job, job.output, resumed=is_resume), read_owner(job.output)
    take_ownership(settings, confirm)
    run = Run(
        _with_changes(job, log, settings),
        places,
        settings,
        job.stop_file,
        job.snapshot_every_s,
        job.output,
        job.beam_options,
        before,
    )
    return _run(run, _engine(job), on_progress)


def _with_first_model(job: StreamJob, is_resume: bool) -> StreamJob:
    """Return the job with the model version that it began with, if it follows an alias and resumes."""
    changes = read_changes(job.states) if job.follows and is_resume else ()
    if not changes:
        return job
    return replace(job, forecaster=load_model(job.output, changes[0].version), model=changes[0].model)


def _with_changes(job: StreamJob, log: Log, settings: StepSettings) -> Log:
    """Return the log with the model changes of a stream that follows an alias.

    Call this when the run owns the output folder: it begins the journal of the changes, or removes it.
    """
    if not job.follows:
        remove_changes(job.states)
        return log
    if not read_changes(job.states):
        store_model(job.output, job.forecaster)
        begin_changes(job.states, job.forecaster.version, job.model)
    closed = [shard.closed_through for shard in state_table.read(job.states, series=False).shards]
    return ChangingLog(
        log,
        job.output,
        job.states,
        job.forecaster.window_config.frequency,
        settings.job,
        max((window for window in closed if window is not None), default=None),
    )


def starting_table(
    states: Location, start: Location | None, resume: bool, fresh: bool = False
) -> Location | None:
    """Return the state table that a stream starts from; None for a cold start.

    Args:
        states: path of the table in the stream's output folder.
        start: the table that a new stream starts from; None starts cold. ``start`` may be ``states`` if a
            backfill wrote that table: the stream then continues the backfill.
        resume: see `StreamJob`.
        fresh: see `StreamJob`.

    Raises:
        ConfigError: ``states`` exists, and the stream sets neither ``resume`` nor ``fresh``.
    """
    if fresh or not state_table.exists(states):
        return start
    if resume:
        return states
    if start == states and state_table.is_of_backfill(states):
        return start
    raise ConfigError(
        f"{states}: holds the state of an earlier job; add --resume to resume from it, or --fresh to start "
        "without it and keep it under another name"
    )


def _settings_of(job: BackfillJob | StreamJob, output: Location, resumed: bool) -> StepSettings:
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
        topics=job.topics if isinstance(job, StreamJob) else None,
        covariates=encode_covariates(job.forecaster),
        follows=isinstance(job, StreamJob) and job.follows,
    )


def _begin_table(
    job: BackfillJob | StreamJob, log: Log, states: Location, start: Location | None, is_resume: bool
) -> tuple[Positions, bool]:
    """Write the state table that the run begins with.

    Args:
        job: the settings.
        log: the log to read.
        states: path of the job's table.
        start: table to start from; None starts cold.
        is_resume: whether ``states`` is to be resumed.

    Returns:
        The place in each partition at which reading begins, and whether the run resumes an earlier run. The
        run does not resume if the table belongs to a job that read another log, such as a backfill.

    Raises:
        DataError: the log cannot be read.
    """
    reached = state_table.read(states, series=False).reached() if is_resume else {}
    places = log.begin({name: Position(*found) for name, found in reached.items()})
    is_resume &= not reached or not reached.keys().isdisjoint(places)
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


def _run(run: Run, engine: Callable[[Run, Callable[[], None]], None], on_progress: Progress) -> RunResult:
    """Run a job on an engine; the returned counts are the sums over the last snapshots."""
    output = run.settings.output
    numbers.clear(output)
    reader = JobReader(output, run.settings.shards)
    for source in (folder, replay, kafka):
        source.forget()
    # One compute thread: stepping several shards at once is faster than stepping one at a time on all cores.
    with compute_threads(1), process.without_collecting_loaded_objects():
        engine(run, lambda: on_progress(reader.read()))
    published = reader.read_uncached()
    on_progress(published)
    counts = state_table.read(run.settings.states, series=False).counts
    return RunResult(counts, published, read_notices(numbers.notices_of(output)))


def _engine(job: EngineSettings) -> Callable[[Run, Callable[[], None]], None]:
    if job.runner == "in-process":
        return run_in_process
    if job.runner == "prism":
        from pipelines.runners.on_prism import run_on_prism  # Beam takes seconds to load

        return run_on_prism
    from pipelines.runners.on_flink import run_on_flink

    return partial(run_on_flink, settings=job.flink)


def _nothing_used(counts: Counts, folder: Location) -> str:
    if not counts.rows_in + counts.outside:
        return "the files hold no rows, so there is nothing to forecast"
    quarantined = read_quarantine(folder)
    first = f"; the first: {quarantined['reason'][0]}" if len(quarantined) else ""
    return (
        f"no row can be used: of {counts.rows_in + counts.outside:,} rows {counts.outside:,} are outside the "
        f"time bounds, {counts.late:,} are too late for the state table, "
        f"{counts.rejected:,} were rejected{first}"
    )
