"""The commands ``statecast backfill`` and ``statecast stream``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out, show_outcome, silence_workers
from pipelines.cli.settings import assignments, input_files, load_settings, paths
from pipelines.cli.stream_ends import output_topics, source_of
from pipelines.cli.unused_options import check_options_have_effect, check_single_source
from pipelines.storage import Location, check_folder, location
from schemas.errors import ConfigError, StatecastError

if TYPE_CHECKING:
    from forecaster.model import Forecaster
    from forecaster.shards.counts import Counts
    from pipelines.jobs.job import Outcome
    from pipelines.settings.config import JobConfig
    from pipelines.sinks.numbers import JobNumbers

_ENOUGH_ROWS = 1_000  # with fewer rows, the share of quarantined rows is too noisy to warn about


def backfill(
    data: o.Data = None,
    model: o.Model = None,
    state: o.States = None,
    start: o.Start = None,
    end: o.End = None,
    skip_bad_files: o.SkipBad = None,
    output: o.Output = None,
    format_: o.Format = None,
    as_json: o.Json = False,
    config: o.Config = None,
    settings: o.Set = None,
    shards: o.Shards = None,
    runner: o.Runner = None,
    flink_master: o.FlinkMaster = None,
    tracking_uri: o.Store = None,
    metrics_port: o.MetricsPort = None,
) -> None:
    """Forecast after every window of existing files, and write a state table that a stream can start from.

    Writes OUTPUT/forecasts (nested by horizon), OUTPUT/state and OUTPUT/quarantine. A successful backfill
    replaces the results of an earlier job there; one that fails or is interrupted leaves them unchanged.

    Runs in process unless --runner or --flink-master names another engine; options after -- are passed to
    Beam's runner. If the engine dies, the backfill starts again by itself, at most jobs.restarts times.

    Example: statecast backfill weather.parquet --model weather --start 2013-09-01 --end 2013-11-01

    Example: statecast backfill weather.parquet --flink-master 127.0.0.1:8081 -- --parallelism=4
    """
    from pipelines.cli.engine import (
        choose_engine,
        engine_fields,
        requested_runner,
        split_beam_options,
        with_absolute_paths,
    )

    data, beam_options = split_beam_options(data)
    job = load_settings(
        config, settings, data__paths=paths(data), data__start=start, data__end=end,
        data__skip_bad_files=skip_bad_files, jobs__shards=shards, mlflow__tracking_uri=tracking_uri,
        output__folder=output, output__format=format_, jobs__runner=requested_runner(runner, flink_master),
        jobs__flink_master=flink_master,
    )  # fmt: skip
    job, out = with_absolute_paths(job), Out(as_json)
    folder, start_from = location(job.output.folder), None if state is None else location(state)
    engine, why = choose_engine(job.jobs, beam_options, is_bounded=True)
    files = input_files(job, out)
    forecaster = _load(job, model, out)
    _check_start_table(start_from, forecaster, out)
    from pipelines.jobs.forecast import run_backfill
    from pipelines.jobs.job import BackfillJob
    from pipelines.sources.files.validated_rows import input_of

    spec = BackfillJob(
        forecaster=forecaster,
        paths=tuple(map(str, files)),
        input=input_of(job, forecaster.window_config.frequency),
        output=folder,
        shards=job.jobs.shards,
        windows_per_step=job.jobs.windows_per_step,
        state_table=start_from,
        format=job.output.format,
        memory_bytes=job.data.memory_mb << 20,
        max_quarantined=job.data.max_quarantined,
        **vars(engine_fields(engine, job.jobs, beam_options)),
    )
    if engine != "in-process":
        out.say(f"writing to {folder} {why}; Ctrl-C leaves it unchanged")
        silence_workers()
    with _shown_and_served(out, "backfill", metrics_port) as on_progress:
        outcome = run_backfill(spec, on_progress, out.notice)
    _finish(outcome, out)


def stream(
    data: o.Data = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Watch DATA, which is one folder, for new files, instead of replaying files.",
            rich_help_panel=o.INPUT,
        ),
    ] = False,
    speed: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="FACTOR",
            help="Replay so many seconds of event time per second, such as 3600 for an hour a second; 0 is "
            "as fast as possible.",
            show_default="0",
            rich_help_panel=o.INPUT,
        ),
    ] = None,
    source: o.Origin = None,
    bootstrap: o.Bootstrap = None,
    topic: o.FromTopic = None,
    to_topic: o.ToTopic = None,
    model: o.Model = None,
    state: o.States = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume the stream in OUTPUT, its state and its place in the input, after it was stopped or "
            "killed; if there is none, start one. So a supervisor can always use the same command.",
            rich_help_panel=o.INPUT,
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Start without the state of an earlier job in OUTPUT, which is kept as "
            "OUTPUT/state-before-TIME.",
            rich_help_panel=o.INPUT,
        ),
    ] = False,
    start: o.Start = None,
    end: o.End = None,
    skip_bad_files: o.SkipBad = None,
    output: o.Output = None,
    format_: o.Format = None,
    as_json: o.Json = False,
    config: o.Config = None,
    settings: o.Set = None,
    shards: o.Shards = None,
    runner: o.Runner = None,
    flink_master: o.FlinkMaster = None,
    tracking_uri: o.Store = None,
    metrics_port: o.MetricsPort = None,
) -> None:
    """Forecast each window when it closes, from replayed files, a watched folder or a Kafka topic.

    Runs on Prism, Beam's embedded streaming engine, if it is installed, else in process; --runner and
    --flink-master name another engine, and options after -- are passed to Beam's runner. Forecasts are added
    to OUTPUT/forecasts. Ctrl-C ends the stream cleanly: closed windows are forecast, and the rows of open
    windows are kept in the state table OUTPUT/state. A second Ctrl-C ends it at once.

    After any end, a kill included, the same command with --resume continues as if the stream had never
    stopped: no row is lost, and none counts twice. It loads the last snapshots of the state table, which are
    written every stream.snapshot_every_s seconds, and repeats the work since then. If OUTPUT holds the state
    of an earlier job, a stream starts only with --resume, with --fresh, or with --state and the table that a
    backfill wrote there.

    Rejected rows are written to OUTPUT/quarantine, with file, row, column and reason; rows that arrive after
    their window has closed are written to OUTPUT/late, with their lateness. windows.allowed_lateness sets how
    long a window stays open for them. A file in a watched folder is read when it is complete; a file that is
    replaced by other content under the same name is read as a new file. A file that cannot be read is
    quarantined and the stream continues, unless --stop-on-bad-files is given.

    Example: statecast stream weather.parquet --model weather --state out/state --start 2013-11-01

    Example: statecast stream incoming/ --watch --model weather

    Example: statecast stream weather.parquet --flink-master 127.0.0.1:8081 -- --parallelism=4

    Example: statecast stream --source kafka --topic readings --to-topic forecasts --model weather
    """
    from pipelines.cli.engine import (
        choose_engine,
        engine_fields,
        requested_runner,
        split_beam_options,
        with_absolute_paths,
    )

    data, beam_options = split_beam_options(data)
    check_single_source(watch, source)
    options = {
        "data__paths": paths(data), "data__start": start, "data__end": end,
        "data__skip_bad_files": skip_bad_files, "jobs__shards": shards, "mlflow__tracking_uri": tracking_uri,
        "output__folder": output, "stream__speed": speed, "output__format": format_,
        "stream__source": "watch" if watch else source, "kafka__bootstrap": bootstrap, "kafka__topic": topic,
        "kafka__to_topic": to_topic, "jobs__runner": requested_runner(runner, flink_master),
        "jobs__flink_master": flink_master,
    }  # fmt: skip
    job = load_settings(config, settings, **options)
    named = [name.replace("__", ".", 1) for name, value in options.items() if value is not None]
    job, out = with_absolute_paths(job), Out(as_json)
    folder, start_from = location(job.output.folder), None if state is None else location(state)
    watched = job.stream.source == "watch"
    if job.stream.source == "kafka" and not job.kafka.topic:
        raise ConfigError("--source kafka needs a topic: name it with --topic")
    if job.stream.source == "kafka" and data:
        raise ConfigError(f"a stream of a topic reads no files: leave {data[0]} out")
    check_options_have_effect(job, [*named, *assignments(settings)])
    if watched and (len(job.data.paths) != 1 or not Path(job.data.paths[0]).is_dir()):
        raise ConfigError("--watch takes one folder that exists: statecast stream FOLDER --watch")
    if resume and fresh:
        raise ConfigError(
            "--resume keeps the state of an earlier stream and --fresh starts without it: give one of them"
        )
    engine, why = choose_engine(job.jobs, beam_options)
    files = [] if job.stream.source != "replay" else input_files(job, out)
    forecaster = _load(job, model, out)
    from pipelines.jobs.forecast import run_stream, starting_table
    from pipelines.jobs.job import StreamJob
    from pipelines.state import state_table

    table = starting_table(folder / state_table.FOLDER, start_from, resume, fresh)
    is_resume = resume and table == folder / state_table.FOLDER
    _check_start_table(table, forecaster, out)

    spec = StreamJob(
        forecaster=forecaster,
        source=source_of(job, forecaster, files),
        topics=output_topics(job),
        output=folder,
        shards=job.jobs.shards,
        windows_per_step=job.jobs.windows_per_step,
        state_table=start_from,
        resume=resume,
        fresh=fresh,
        format=job.output.format,
        snapshot_every_s=job.stream.snapshot_every_s,
        **vars(engine_fields(engine, job.jobs, beam_options)),
    )
    out.say(f"streaming into {folder} {why}; Ctrl-C ends it and keeps the state")
    if engine != "in-process":
        silence_workers()
    most = job.data.max_quarantined
    with _shown_and_served(out, "stream", metrics_port, most) as on_progress:
        outcome = run_stream(spec, on_progress, out.notice)
    if outcome.stopped:
        again = "the same command" if resume else "the same command with --resume"
        out.say(f"stopped; {again} continues from here", "yellow")
    sent_to = f"topic {job.kafka.to_topic}" if job.kafka.to_topic else None
    _finish(outcome, out, sent_to, is_resume=is_resume)


def _load(job: JobConfig, model: str | None, out: Out) -> Forecaster:
    """Load the job's model with its covariate tables, after a check of the output folder.

    Raises:
        StatecastError: the folder cannot be written, the model cannot be loaded, or the job's settings of
            windows differ from the model's.
    """
    from pipelines.cli.models import load_model

    name = model or job.mlflow.model
    check_folder(location(job.output.folder))
    forecaster = load_model(name, job, out)
    trained = forecaster.window_config
    for key in sorted(job.windows.model_fields_set - {"allowed_lateness"}):
        if (given := getattr(job.windows, key)) != (was := getattr(trained, key)):
            raise ConfigError(f"windows.{key} is {given}, but {name} was trained with {was}: leave it out")
    from pipelines.sources.files.covariates import missing_tables, with_tables

    for line in missing_tables(forecaster, job.covariates):
        out.notice(line)
    return with_tables(forecaster, job.covariates)


def _check_start_table(table: Location | None, forecaster: Forecaster, out: Out) -> None:
    """Check that a state table can be read, and print a notice if another model version wrote it.

    Raises:
        DataError: the table cannot be read.
    """
    if table is None:
        return
    from pipelines.state import state_table

    states = [shard.state for shard in state_table.read(table).shards]
    series, version = sum(map(len, states)), states[0].model_version
    if series and version != forecaster.version:
        out.notice(
            f"{table} was written by {version}: its {series:,} series are re-warmed for {forecaster.version} "
            "from the last values of each"
        )


@contextmanager
def _shown_and_served(
    out: Out, what: str, metrics_port: str | None, max_quarantined: float = 1.0
) -> Iterator[Callable[[JobNumbers], None]]:
    """Show a job while the block runs, and serve its numbers to Prometheus if a port is given.

    Args:
        out: output that the job is shown on.
        what: name of the job.
        metrics_port: ``PORT`` or ``HOST:PORT`` to serve on; None serves nothing.
        max_quarantined: share of quarantined rows above which one notice is printed.

    Yields:
        Function that takes the job's numbers, twice a second.
    """
    from pipelines.cli.live_view import show_live
    from pipelines.sinks.numbers import JobNumbers

    latest, is_warned = JobNumbers(), False

    def take(numbers: JobNumbers) -> None:
        nonlocal latest
        latest = numbers
        show(numbers)
        if numbers.counts.rows_in >= _ENOUGH_ROWS:
            warn(numbers.counts)

    def warn(counts: Counts) -> None:
        from schemas import quarantine

        nonlocal is_warned
        warning = quarantine.share_message(counts.quarantined, counts.rows_in, max_quarantined)
        if warning and not is_warned:
            is_warned = True
            out.notice(warning)

    with ExitStack() as stack:
        if metrics_port is not None:
            from pipelines.sinks.prometheus import address_of, serve

            host, requested_port = address_of(metrics_port)
            port = stack.enter_context(serve(requested_port, lambda: latest, host))
            out.say(f"numbers for Prometheus: http://{host}:{port}/metrics")
        show = stack.enter_context(show_live(out, what))
        yield take
    warn(latest.counts)


def _finish(outcome: Outcome, out: Out, sent_to: str | None = None, *, is_resume: bool = False) -> None:
    from pipelines.state import state_table

    show_outcome(outcome, out, is_resume=is_resume)
    forecasts = sent_to or outcome.output / "forecasts"
    out.say(f"forecasts: {forecasts}, state table: {outcome.output / state_table.FOLDER}")
    out.result(outcome.as_json())
    if outcome.counts.missing:
        raise StatecastError(
            f"{outcome.counts.missing} rows were read and not accounted for: please report this"
        )
