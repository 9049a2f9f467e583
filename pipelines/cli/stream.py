"""The command ``statecast stream``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out, silence_workers
from pipelines.cli.forecast_job import (
    check_start_table,
    load_first_version,
    load_job_model,
    load_shadow,
    print_end,
    show_and_serve,
)
from pipelines.cli.quality import check_quality, watch_quality
from pipelines.cli.settings import assignments, flag_of, input_files, load_settings, paths
from pipelines.cli.stream_ends import output_topics, source_of
from pipelines.cli.stream_options import check_options_have_effect, check_single_source, check_stream
from pipelines.storage import location

if TYPE_CHECKING:
    from pipelines.sinks.numbers import JobNumbers


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
    speed: o.Speed = None,
    source: o.Origin = None,
    bootstrap: o.Bootstrap = None,
    topic: o.FromTopic = None,
    to_topic: o.ToTopic = None,
    model: o.Model = None,
    follow: o.Follow = None,
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
    flat: o.Flat = None,
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
    long a window stays open for them, and with windows.repair they revise the forecasts. A file in a watched
    folder is read when it is complete; a file that is replaced by other content under the same name is read
    as a new file. A file that cannot be read is quarantined and the stream continues, unless
    --stop-on-bad-files is given.

    With --follow champion the stream changes to another version of the model when the alias moves to it: the
    version is warmed up in the background and takes over at the start of a window. Without --follow, the
    stream keeps the version that it loaded, and reports when the alias moves.

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
        "output__folder": output, "stream__speed": speed, "output__format": format_, "output__flat": flat,
        "stream__source": "watch" if watch else source, "kafka__bootstrap": bootstrap, "kafka__topic": topic,
        "kafka__to_topic": to_topic, "jobs__runner": requested_runner(runner, flink_master),
        "jobs__flink_master": flink_master, "stream__follow": follow,
    }  # fmt: skip
    job = load_settings(config, settings, **options)
    named = [name.replace("__", ".", 1) for name, value in options.items() if value is not None]
    typed = {key: f"--set {key}" for key in assignments(settings)} | {key: flag_of(key) for key in named}
    job, out = with_absolute_paths(job), Out(as_json)
    folder, start_from = location(job.output.folder), None if state is None else location(state)
    check_stream(job, data, resume, fresh)
    check_options_have_effect(job, typed)
    engine, why = choose_engine(job.jobs, beam_options)
    files = [] if job.stream.source != "replay" else input_files(job, out)
    from pipelines.jobs.forecast import run_stream, starting_table
    from pipelines.jobs.job import StreamJob
    from pipelines.jobs.registered_alias import alias_of
    from pipelines.state import state_table

    alias = alias_of(job, model or job.mlflow.model)
    table = starting_table(folder / state_table.FOLDER, start_from, resume, fresh)
    is_resume = resume and table == folder / state_table.FOLDER
    forecaster = None
    if alias is not None and job.stream.follow and is_resume:
        forecaster = load_first_version(folder, alias)
    if forecaster is None:
        forecaster = load_job_model(job, model, out)
        check_start_table(table, forecaster, out)

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
        flat=job.output.flat,
        snapshot_every_s=job.stream.snapshot_every_s,
        alias=alias,
        follows=bool(job.stream.follow),
        shadow=load_shadow(job, model or job.mlflow.model, forecaster, out),
        shadow_share=job.stream.shadow_share,
        repair=job.windows.repair,
        duplicates=job.data.duplicates,
        model=model or job.mlflow.model,
        **vars(engine_fields(engine, job.jobs, beam_options)),
    )
    check_quality(job, spec, out)
    out.say(f"streaming into {folder} {why}; Ctrl-C ends it and keeps the state")
    if engine != "in-process":
        silence_workers()
    most = job.data.max_quarantined
    name = model or job.mlflow.model
    with (
        show_and_serve(out, "stream", metrics_port, most) as show,
        watch_quality(job, name, spec, out, is_resume=is_resume) as watch_numbers,
    ):

        def on_progress(numbers: JobNumbers) -> None:
            show(numbers)
            watch_numbers(numbers)

        outcome = run_stream(spec, on_progress, out.notice)
    if outcome.stopped:
        again = "the same command" if resume else "the same command with --resume"
        out.say(f"stopped; {again} continues from here", "yellow")
    sent_to = f"topic {job.kafka.to_topic}" if job.kafka.to_topic else None
    print_end(outcome, out, sent_to, is_resume=is_resume)
