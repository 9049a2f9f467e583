"""The command ``statecast train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli import options as o
from pipelines.cli.console import Out, show_scores
from pipelines.cli.job_progress import job_progress, max_epochs
from pipelines.cli.settings import input_files, load_settings, paths
from pipelines.cli.stores import store_line, ui_line
from pipelines.storage import Location, location, store_of
from schemas.errors import DataError, OutputError

if TYPE_CHECKING:
    from pipelines.jobs.train import TrainOutcome
    from pipelines.settings.config import JobConfig


def train(
    data: o.Data = None,
    freq: o.Freq = None,
    start: o.Start = None,
    end: o.End = None,
    skip_bad_files: o.SkipBad = None,
    cell: o.Cell = None,
    hidden: o.Hidden = None,
    horizon: o.Horizon = None,
    epochs: o.Epochs = None,
    seed: o.Seed = None,
    name: Annotated[str | None, o.run_name("the cell")] = None,
    register: o.Register = None,
    sweep: Annotated[
        int | None,
        typer.Option(
            "--sweep",
            metavar="N",
            min=1,
            help="Try N sets of settings by rolling validation first, and train with the best.",
            show_default="none",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    save_state: Annotated[
        str | None,
        typer.Option(
            "--save-state",
            metavar="FOLDER",
            help="Write the state of every series after its last window as a state table, for stream "
            "--state, into a folder or s3://BUCKET/PREFIX.",
            rich_help_panel=o.OUTPUT,
        ),
    ] = None,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Train a network and register it as a model version in MLflow.

    Logs the settings, the losses by epoch, how far back gradients reach, the data set, plots, and a backtest
    on the last tenth of the windows beside persistence and seasonal naive. The network is then trained over
    all windows and registered. If the model has no champion yet, a version that is better than persistence in
    its backtest becomes the champion, and any other version the challenger; statecast promote makes a later
    version the champion.

    With --sweep, the first trial has the job's own settings; the others vary network.hidden, layers and
    halflife, and training.learning_rate, weight_decay, dropout and segment. Ctrl-C keeps the trials so far.

    Example: statecast train weather.parquet --end 2013-09-01 --register weather
    """
    job = load_settings(
        config, settings, data__paths=paths(data), data__start=start, data__end=end,
        data__skip_bad_files=skip_bad_files, network__cell=cell, network__hidden=hidden,
        network__horizon=horizon, training__epochs=epochs, training__seed=seed,
        windows__freq=freq, mlflow__model=register, mlflow__tracking_uri=tracking_uri,
    )  # fmt: skip
    out = Out(as_json)
    from forecaster.registry.references import check_model_name
    from forecaster.registry.store import Store
    from pipelines.cli.preflight import check_store

    check_model_name(job.mlflow.model)
    check_store(job.mlflow)
    table = None if save_state is None else _new_table(save_state)
    name = name or (job.network.cell if sweep is None else f"{job.network.cell}-sweep")
    try:
        input_files(job)
    except DataError as error:
        # Log the failure only if the store exists, because a refused command must not create a store.
        if Store.parse(job.mlflow.tracking_uri).exists():
            from pipelines.jobs.train import log_failed_run

            log_failed_run(job, name, error)
        raise
    with out.loading("torch and MLflow"):
        from pipelines.cli.sweep import run_sweep_command
        from pipelines.jobs.train import run_training

    if sweep is not None:
        swept = run_sweep_command(job, name, sweep, table, out)
        _print_outcome(out, job, swept.trained, table)
        out.result(swept.as_json())
        return
    with job_progress(out, "training", max_epochs(job)) as progress:
        trained = run_training(job, name, progress, table)
    _print_outcome(out, job, trained, table)
    out.result(trained.as_json())


def _print_outcome(out: Out, job: JobConfig, trained: TrainOutcome, table: Location | None) -> None:
    """Print the outcome of a training, and commands for the next steps with the trained model."""
    for line in trained.notices:
        out.notice(line)
    out.say(
        f"{trained.rows_in:,} rows in = {trained.used:,} used + {trained.quarantined:,} quarantined "
        f"+ {trained.duplicates:,} duplicate"
    )
    if trained.outside:
        out.say(f"{trained.outside:,} rows outside the requested time were left out")
    _print_epochs(out, trained)
    if len(trained.scores):
        shown = sorted({1, 2, 3, 6, 12, 18, 24, job.network.horizon})
        title = "backtest on the last windows, held out: mean absolute error by horizon, scaled as MASE:"
        show_scores(out, trained.scores, title, shown)
    version = trained.version
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    out.say(
        f"registered {version.name}/{version.number}{aliases} = {version.model_version}, run {trained.run_id}"
    )
    out.say(store_line(job.mlflow))
    out.say(f"look at the run: {ui_line(job.mlflow)}")
    if not version.aliases:
        out.say(f"make it the version that jobs load: statecast promote {version.name}/{version.number}")
    if table is not None:
        out.say(
            f"state after the last window of every series: statecast stream --state {table}, on new rows only"
        )


def _new_table(text: str) -> Location:
    """Return ``text`` as the location of a new state table; raise OutputError if this location has files.

    Raises:
        OutputError: files exist there, which might belong to a job, or the folder cannot be written.
    """
    table = location(text)
    disk = store_of(table).on_disk
    is_file = disk is not None and disk.exists() and not disk.is_dir()
    if is_file or any(table.glob("*")):
        raise OutputError(f"--save-state {table}: is not an empty folder: name a new folder")
    store_of(table).check_writable()
    return table


def _print_epochs(out: Out, trained: TrainOutcome) -> None:
    """Print the number of epochs of a training and of its refit over all windows, and the total time."""
    again = f", then {len(trained.refit_history)} over all of them" if trained.refit_history else ""
    out.say(
        f"{len(trained.history)} epochs on {trained.series:,} series of {trained.windows:,} windows{again}, "
        f"in {trained.seconds:.0f} s"
    )
