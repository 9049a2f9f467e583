"""The command ``statecast backfill``."""

from __future__ import annotations

from pipelines.cli import options as o
from pipelines.cli.console import Out, silence_workers
from pipelines.cli.forecast_job import check_start_table, load_job_model, print_end, show_and_serve
from pipelines.cli.settings import input_files, load_settings, paths
from pipelines.storage import location


def backfill(
    data: o.Data = None,
    model: o.Model = None,
    state: o.States = None,
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
    """Forecast after every window of existing files, and write a state table that a stream can start from.

    Writes OUTPUT/forecasts (nested by horizon), OUTPUT/state and OUTPUT/quarantine; with --flat csv, also
    OUTPUT/flat, with one row for each series, target window and horizon. A successful backfill
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
        output__folder=output, output__format=format_, output__flat=flat,
        jobs__runner=requested_runner(runner, flink_master), jobs__flink_master=flink_master,
    )  # fmt: skip
    job, out = with_absolute_paths(job), Out(as_json)
    folder, start_from = location(job.output.folder), None if state is None else location(state)
    engine, why = choose_engine(job.jobs, beam_options, is_bounded=True)
    files = input_files(job, out)
    forecaster = load_job_model(job, model, out)
    check_start_table(start_from, forecaster, out)
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
        flat=job.output.flat,
        memory_bytes=job.data.memory_mb << 20,
        max_quarantined=job.data.max_quarantined,
        repair=job.windows.repair,
        **vars(engine_fields(engine, job.jobs, beam_options)),
    )
    if engine != "in-process":
        out.say(f"writing to {folder} {why}; Ctrl-C leaves it unchanged")
        silence_workers()
    with show_and_serve(out, "backfill", metrics_port) as on_progress:
        outcome = run_backfill(spec, on_progress, out.notice)
    print_end(outcome, out)
