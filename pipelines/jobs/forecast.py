"""Run the forecasting jobs: a backfill over whole files, and a stream.

Both jobs apply the batches of a log to shards. A backfill replaces earlier output at its end, while a stream
adds each output file at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from forecaster.shards.counts import Counts
from pipelines.jobs.follow import ModelWatch, with_changes, with_first_model
from pipelines.jobs.job import BackfillJob, Outcome, StreamJob
from pipelines.jobs.restarts import OnRestart, RestartWords, run_with_restarts
from pipelines.jobs.run_once import OnNumbers, RunResult, begin_table, run_once, settings_of
from pipelines.jobs.stopping import stop_on_signal
from pipelines.runners.base import Run
from pipelines.sinks import numbers
from pipelines.sinks.files import PARTS, SHADOW, read_quarantine
from pipelines.sinks.numbers import JobNumbers
from pipelines.sources.base import as_log
from pipelines.sources.files.row_notices import Notes
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import Location, complete_replacement, markers, replace_parts, store_of
from pipelines.workers.ownership import read_owner, take_ownership
from schemas import quarantine
from schemas.errors import ConfigError, DataError


def run_backfill(
    job: BackfillJob,
    on_progress: OnNumbers = lambda numbers: None,
    on_restart: OnRestart = lambda line: None,
) -> Outcome:
    """Run a backfill to its end.

    The backfill writes into a hidden folder, and at its end moves the parts into the output folder. If it
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
    with store_of(job.output).locked() as held:
        hidden = job.output / markers.BACKFILL
        take = _with_lock_check(held.check, on_progress)
        try:
            counts, published, notices = run_with_restarts(
                lambda is_again: _backfill_once(job, hidden, held.confirm, take),
                job.restarts,
                RestartWords("starting again", f"{job.output} is unchanged; run the same command again"),
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
    on_progress: OnNumbers = lambda numbers: None,
    on_restart: OnRestart = lambda line: None,
) -> Outcome:
    """Run a stream until its source ends, SIGINT or SIGTERM arrives, or its stop file appears.

    At each of these ends, all windows before the watermark are forecast, and the rows of open windows are
    stored in the state table. A second signal ends the process at once; a resumed stream then repeats its
    work since the last snapshots. If the engine dies, the stream resumes from its snapshots by itself, at
    most ``restarts`` times.

    Args:
        job: the settings.
        on_progress: called with the job's numbers, twice a second.
        on_restart: called with a line that contains the reason for each restart.

    Raises:
        StatecastError: a file, the state table, the output folder or the engine is at fault; the message is
            one line.
    """
    began_s = time.monotonic()
    with store_of(job.output).locked() as held:
        complete_replacement(job.output / markers.BACKFILL, job.output)
        store_of(job.output).prepare((*PARTS, *([SHADOW] if job.shadow else [])))
        job.stop_file.unlink(missing_ok=True)
        watch = None
        if job.alias is not None:
            watch = ModelWatch(job.alias, job.follows, job.forecaster, job.output, on_restart)
        take = _with_lock_check(held.check, on_progress if watch is None else watch.with_model(on_progress))
        with stop_on_signal(job.stop_file), nullcontext() if watch is None else watch.running():
            counts, published, notices = run_with_restarts(
                lambda is_again: _stream_once(_resuming(job) if is_again else job, held.confirm, take),
                job.restarts,
                RestartWords("resuming from the last snapshots", "run the same command with --resume"),
                on_restart,
            )
        stopped = job.stop_file.exists()
        job.stop_file.unlink(missing_ok=True)
    return Outcome(counts, time.monotonic() - began_s, job.output, stopped, published, notices)


def _resuming(job: StreamJob) -> StreamJob:
    """Return the settings with which a stream restarts from its snapshots after its engine died."""
    return replace(job, resume=True, fresh=False)


def _with_lock_check(check: Callable[[], None], on_progress: OnNumbers) -> OnNumbers:
    """Return a function that calls ``check``, then ``on_progress``; ``check`` raises if the lock is lost."""

    def take(numbers: JobNumbers) -> None:
        check()
        on_progress(numbers)

    return take


def _backfill_once(
    job: BackfillJob, hidden: Location, confirm: Callable[[], None], on_progress: OnNumbers
) -> RunResult:
    settings, before = settings_of(job, hidden, resumed=False), read_owner(hidden)
    complete_replacement(hidden, job.output)
    store_of(hidden).prepare(PARTS)
    # Take the folder over before writing the state table, so that no worker of an earlier run changes it.
    take_ownership(settings, confirm)
    windows = job.forecaster.window_config
    notes = Notes(numbers.notices_of(hidden), windows)
    log = as_log(
        ReplaySource(job.paths, job.input, windows.frequency, memory_bytes=job.memory_bytes, notes=notes)
    )
    places, _ = begin_table(job, log, settings.states, job.state_table, is_resume=False)
    run = Run(
        log, places, settings, hidden / markers.STOP, float("inf"), job.output, job.beam_options, before
    )
    return run_once(run, job, on_progress)


def _stream_once(job: StreamJob, confirm: Callable[[], None], on_progress: OnNumbers) -> RunResult:
    state_table.recover(job.states)
    start = starting_table(job.states, job.state_table, job.resume, job.fresh)
    if job.fresh:
        state_table.copy_aside(job.states)
    log = as_log(job.source)
    places, is_resume = begin_table(job, log, job.states, start, is_resume=start == job.states and job.resume)
    job = with_first_model(job, is_resume)
    settings, before = settings_of(job, job.output, resumed=is_resume), read_owner(job.output)
    take_ownership(settings, confirm)
    log = with_changes(job, log, settings)
    run = Run(
        log, places, settings, job.stop_file, job.snapshot_every_s, job.output, job.beam_options, before
    )
    return run_once(run, job, on_progress)


def starting_table(
    states: Location, start: Location | None, resume: bool, fresh: bool = False
) -> Location | None:
    """Return the state table that a stream starts from; None for a cold start.

    Args:
        states: path of the table in the stream's output folder.
        start: the table that a new stream starts from; None starts cold. ``start`` may be the same table as
            ``states`` if a backfill wrote it; the stream then continues the backfill.
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
