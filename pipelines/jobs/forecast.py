"""The forecasting jobs: a backfill of whole files, and a stream. Both fold one function over a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from uuid import uuid4

from forecaster.shards.counts import Counts
from forecaster.threads import compute_threads
from pipelines.jobs.job import BackfillJob, OnEngine, Outcome, StreamJob
from pipelines.jobs.stopping import ending_cleanly
from pipelines.runners.base import Run
from pipelines.runners.in_process import run_in_process
from pipelines.sinks import numbers
from pipelines.sinks.files import PARTS, read_quarantine
from pipelines.sinks.folder import locked, prepare_folder
from pipelines.sinks.numbers import JobNumbers, JobReader
from pipelines.sinks.replace_output import end_replacing, replace_parts
from pipelines.sources import folder, kafka, replay
from pipelines.sources.base import Log, Place, Places, log_of
from pipelines.sources.files.row_notices import Notes, read_notices
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.state.first_table import write_first_table
from pipelines.storage import Location, markers
from pipelines.workers import process
from pipelines.workers.ownership import run_of, take_over
from pipelines.workers.step_settings import StepSettings, tables_of
from schemas import quarantine
from schemas.errors import ConfigError, DataError, EngineLost

Progress = Callable[[JobNumbers], None]
"""Called twice a second with what the shards have published."""

OnRestart = Callable[[str], None]
"""Called with the line that says why a job whose engine has died goes on or begins again."""


class Ended(NamedTuple):
    """What a job that has ended has counted, published, and noticed about its rows."""

    counts: Counts
    published: JobNumbers
    notices: tuple[str, ...]


_LASTING_S = 600.0


def run_backfill(
    job: BackfillJob,
    on_progress: Progress = lambda numbers: None,
    on_restart: OnRestart = lambda line: None,
) -> Outcome:
    """Runs a backfill to its end.

    It works in a hidden folder beside the output and puts it in place at the end: where it fails or is
    interrupted, what an earlier job left is as it was. Where the engine dies and not this process, it begins
    again by itself, ``restarts`` times.

    Args:
        job: the backfill.
        on_progress: takes its numbers, twice a second.
        on_restart: takes the line that says why it begins again.

    Raises:
        StatecastError: a file, the state table, the output folder or the engine is at fault; one line.
    """
    began_s = time.monotonic()
    with locked(job.output) as held:
        hidden = job.output / markers.BACKFILL
        take = _checking(held.check, on_progress)
        try:
            counts, published, notices = _restarting(
                lambda is_again: _backfill_once(job, hidden, held.confirm, take),
                job.restarts,
                _Words("beginning again", f"{job.output} is as it was, run the same command again"),
                on_restart,
            )
            if not counts.used + counts.pending:
                raise DataError(_nothing_used(counts, hidden))
            if quarantine.share_told(counts.quarantined, counts.rows_in, job.max_quarantined):
                rejected = read_quarantine(hidden)
                quarantine.refuse_share(counts.quarantined, counts.rows_in, job.max_quarantined, rejected)
            replace_parts(hidden, job.output, (*PARTS, state_table.FOLDER))
        finally:
            end_replacing(hidden, job.output)
    return Outcome(counts, time.monotonic() - began_s, job.output, False, published, notices)


def run_stream(
    job: StreamJob,
    on_progress: Progress = lambda numbers: None,
    on_restart: OnRestart = lambda line: None,
) -> Outcome:
    """Runs a stream until its source ends, SIGINT or SIGTERM comes, or its stop file appears.

    However it ends of these, what the watermark had passed is forecast, and the rows of windows that are
    still open wait in the state table. A second signal ends it at once, as a kill does: what was done since
    the last snapshots is done again when it is resumed. That it does by itself, ``restarts`` times, where the
    engine dies and not this process.

    Args:
        job: the stream.
        on_progress: takes its numbers, twice a second.
        on_restart: takes the line that says why it goes on from its snapshots.

    Raises:
        StatecastError: a file, the state table, the output folder or the engine is at fault; one line.
    """
    began_s = time.monotonic()
    with locked(job.output) as held:
        end_replacing(job.output / markers.BACKFILL, job.output)
        prepare_folder(job.output, *PARTS)
        job.stop_file.unlink(missing_ok=True)
        take = _checking(held.check, on_progress)
        with ending_cleanly(job.stop_file):
            counts, published, notices = _restarting(
                lambda is_again: _stream_once(_again(job) if is_again else job, held.confirm, take),
                job.restarts,
                _Words("going on from the last snapshots", "run the same command with --resume"),
                on_restart,
            )
        stopped = job.stop_file.exists()
        job.stop_file.unlink(missing_ok=True)
    return Outcome(counts, time.monotonic() - began_s, job.output, stopped, published, notices)


def _again(job: StreamJob) -> StreamJob:
    """Return a stream that goes on from what its first run has left."""
    return replace(job, resume=True, fresh=False)


def _checking(check: Callable[[], None], on_progress: Progress) -> Progress:
    """Has a job whose lock is lost end at its next look."""

    def take(numbers: JobNumbers) -> None:
        check()
        on_progress(numbers)

    return take


class _Words(NamedTuple):
    """What is said where an engine has died: of going on, and of how a person does."""

    going_on: str
    advice: str


def _restarting(once: Callable[[bool], Ended], restarts: int, words: _Words, on_restart: OnRestart) -> Ended:
    """Runs a job ``once``, which is told whether it is again, and again where its engine dies."""
    left, is_again = restarts, False
    while True:
        began_s = time.monotonic()
        try:
            return once(is_again)
        except EngineLost as error:
            if time.monotonic() - began_s >= _LASTING_S:
                left = restarts
            if not left:
                raise EngineLost(f"{error}: {words.advice}") from error
            left -= 1
            on_restart(f"{error}: {words.going_on}, {left} more times at most")
        is_again = True


def _backfill_once(
    job: BackfillJob, hidden: Location, confirm: Callable[[], None], on_progress: Progress
) -> Ended:
    settings, before = _settings_of(job, hidden, resumed=False), run_of(hidden)
    end_replacing(hidden, job.output)
    prepare_folder(hidden, *PARTS)
    # Before there is a table, because a worker of a lost run may still write to one.
    take_over(settings, confirm)
    windows = job.forecaster.window_config
    notes = Notes(numbers.notices_of(hidden), windows)
    log = log_of(
        ReplaySource(job.paths, job.input, windows.frequency, memory_bytes=job.memory_bytes, notes=notes)
    )
    places, _ = _begin(job, log, settings.states, job.state_table, goes_on=False)
    run = Run(
        log, places, settings, hidden / markers.STOP, float("inf"), job.output, job.beam_options, before
    )
    return _run(run, _engine(job), on_progress)


def _stream_once(job: StreamJob, confirm: Callable[[], None], on_progress: Progress) -> Ended:
    state_table.recover(job.states)
    start = start_of(job.states, job.state_table, job.resume, job.fresh)
    if job.fresh:
        state_table.keep_aside(job.states)
    log = log_of(job.source)
    places, goes_on = _begin(job, log, job.states, start, goes_on=start == job.states and job.resume)
    settings, before = _settings_of(job, job.output, resumed=goes_on), run_of(job.output)
    take_over(settings, confirm)
    run = Run(
        log, places, settings, job.stop_file, job.snapshot_every_s, job.output, job.beam_options, before
    )
    return _run(run, _engine(job), on_progress)


def start_of(states: Location, start: Location | None, resume: bool, fresh: bool = False) -> Location | None:
    """Return the table that a stream begins from: with ``resume`` its own, if there is one by now.

    Args:
        states: the stream's own table, of an earlier run.
        start: the table that a new stream starts from; None starts cold. The own table may be named where a
            backfill left it: that is the handover.
        resume: see `StreamJob`.
        fresh: see `StreamJob`.

    Raises:
        ConfigError: there is a table, and neither of both says what is to become of it.
    """
    if fresh or not state_table.exists(states):
        return start
    if resume:
        return states
    if start == states and state_table.is_of_backfill(states):
        return start
    raise ConfigError(
        f"{states}: holds the state of an earlier job: go on from it with --resume, or begin anew with "
        "--fresh, which keeps it under another name"
    )


def _settings_of(job: BackfillJob | StreamJob, output: Location, resumed: bool) -> StepSettings:
    """What workers need for a run of a job that writes into ``output``."""
    return StepSettings(
        job=uuid4().hex,
        forecaster=job.forecaster.to_bytes(),
        shards=job.shards,
        windows_per_step=job.windows_per_step,
        output=output,
        format=job.format,
        lanes=max(min(job.lanes, job.shards), 1),
        resumed=resumed,
        topics=job.topics if isinstance(job, StreamJob) else None,
        covariates=tables_of(job.forecaster),
    )


def _begin(
    job: BackfillJob | StreamJob, log: Log, states: Location, start: Location | None, goes_on: bool
) -> tuple[Places, bool]:
    """Puts the job's table in place.

    Returns:
        Where the reading of each partition begins, and whether the run goes on with an earlier one: a table
        whose job read another log, such as a backfill's, is only started from.

    Raises:
        DataError: the log cannot be read.
    """
    reached = state_table.read(states, series=False).reached() if goes_on else {}
    places = log.begin({name: Place(*found) for name, found in reached.items()})
    goes_on &= not reached or not reached.keys().isdisjoint(places)
    write_first_table(
        states,
        job.shards,
        start,
        job.forecaster.initial_state(),
        resume=goes_on,
        partitions={name: place.offset for name, place in places.items()},
        owners={name: place.shard for name, place in places.items() if place.shard is not None},
    )
    return places, goes_on


def _run(run: Run, engine: Callable[[Run, Callable[[], None]], None], on_progress: Progress) -> Ended:
    """Runs a job; the counts are those of the snapshots that it ends with."""
    output = run.settings.output
    numbers.clear(output)
    reader = JobReader(output, run.settings.shards)
    for source in (folder, replay, kafka):
        source.forget()
    # Shards are stepped side by side, which is faster than each on all cores in turn.
    with compute_threads(1), process.loaded_left_alone():
        engine(run, lambda: on_progress(reader.read()))
    published = reader.read_now()
    on_progress(published)
    counts = state_table.read(run.settings.states, series=False).counts
    return Ended(counts, published, read_notices(numbers.notices_of(output)))


def _engine(job: OnEngine) -> Callable[[Run, Callable[[], None]], None]:
    if job.runner == "in-process":
        return run_in_process
    if job.runner == "prism":
        from pipelines.runners.on_prism import run_on_prism  # Beam takes seconds to load

        return run_on_prism
    from pipelines.runners.on_flink import run_on_flink

    return partial(run_on_flink, settings=job.flink)


def _nothing_used(counts: Counts, folder: Location) -> str:
    if not counts.rows_in + counts.outside:
        return "the files hold no rows: there is nothing to forecast from"
    quarantined = read_quarantine(folder)
    first = f"; the first: {quarantined['reason'][0]}" if len(quarantined) else ""
    return (
        f"no row can be used: of {counts.rows_in + counts.outside:,} rows {counts.outside:,} lie outside the "
        f"asked time, {counts.late:,} are too late for the state table, "
        f"{counts.rejected:,} are no observations{first}"
    )
