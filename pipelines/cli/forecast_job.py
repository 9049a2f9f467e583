"""Load the models of a job, and show its progress and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pipelines.cli.console import Out, show_outcome
from pipelines.storage import Location, location, store_of
from schemas.errors import ConfigError, StatecastError

if TYPE_CHECKING:
    from forecaster.model import Forecaster
    from forecaster.shards.counts import Counts
    from pipelines.jobs.job import Outcome
    from pipelines.jobs.registered_alias import RegisteredAlias
    from pipelines.settings.config import JobConfig
    from pipelines.sinks.numbers import JobNumbers

# with fewer rows than this, the share of quarantined rows is too noisy for a warning
_ENOUGH_ROWS = 1_000


def load_job_model(job: JobConfig, model: str | None, out: Out) -> Forecaster:
    """Check the output folder of a job, then load its model and its covariate tables.

    Raises:
        StatecastError: the folder cannot be written, the model cannot be loaded, or the job's settings of
            windows differ from the model's.
    """
    from pipelines.cli.models import load_model

    name = model or job.mlflow.model
    store_of(location(job.output.folder)).check_writable()
    forecaster = load_model(name, job, out)
    check_windows(job, forecaster, name)
    from pipelines.sources.files.covariates import missing_tables, with_tables

    for line in missing_tables(forecaster, job.covariates):
        out.notice(line)
    return with_tables(forecaster, job.covariates)


def check_windows(job: JobConfig, forecaster: Forecaster, name: str) -> None:
    """Raise ConfigError if the job sets a window setting to another value than its model was trained with.

    ``windows.allowed_lateness`` and ``windows.repair`` are not compared.

    Args:
        job: settings of the job.
        forecaster: the model.
        name: name of the model, for the error.
    """
    trained = forecaster.window_config
    for key in sorted(job.windows.model_fields_set - {"allowed_lateness", "repair"}):
        if (given := getattr(job.windows, key)) != (was := getattr(trained, key)):
            raise ConfigError(f"windows.{key} is {given}, but {name} was trained with {was}: leave it out")


def load_first_version(folder: Location, alias: RegisteredAlias) -> Forecaster | None:
    """Return the model version with which a stream began; None before the first run of the stream.

    The version is read from the output folder, so that the stream can resume even if the alias now names a
    broken version.

    Raises:
        StatecastError: a file in the folder cannot be read, or a table of covariates does not fit.
    """
    from pipelines.sources.model_changes import load_model, read_changes
    from pipelines.state import state_table

    store_of(folder).check_writable()
    changes = read_changes(folder / state_table.FOLDER)
    return alias.with_tables(load_model(folder, changes[0].version)) if changes else None


def load_shadow(job: JobConfig, model: str, forecaster: Forecaster, out: Out) -> Forecaster | None:
    """Return the shadow of a stream, or None; print a notice if the shadow cannot be used.

    Raises:
        ConfigError: the model of the stream is not a registered one.
    """
    from pipelines.jobs.registered_alias import shadow_of

    try:
        return shadow_of(job, model, forecaster)
    except ConfigError:
        raise
    except StatecastError as error:
        out.notice(f"the stream runs without a shadow: {error}")
        return None


def check_start_table(table: Location | None, forecaster: Forecaster, out: Out) -> None:
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
def show_and_serve(
    out: Out, what: str, metrics_port: str | None, max_quarantined: float = 1.0
) -> Iterator[Callable[[JobNumbers], None]]:
    """Show a job's progress in a ``with`` block; if a port is given, serve the job's numbers to Prometheus.

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


def print_end(outcome: Outcome, out: Out, sent_to: str | None = None, *, is_resume: bool = False) -> None:
    """Print the outcome of a job, the folder or topic of its forecasts, and the path of its state table.

    Raises:
        StatecastError: a row was read and has no outcome.
    """
    from pipelines.state import state_table

    show_outcome(outcome, out, is_resume=is_resume)
    forecasts = sent_to or outcome.output / "forecasts"
    out.say(f"forecasts: {forecasts}, state table: {outcome.output / state_table.FOLDER}")
    out.result(outcome.as_json())
    if outcome.counts.missing:
        raise StatecastError(
            f"{outcome.counts.missing} rows were read and not accounted for: please report this"
        )
