"""The command ``statecast quarantine replay``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.cli import options as o
from pipelines.cli.console import Out, kinds_text
from pipelines.cli.forecast_job import check_windows, load_job_model, show_and_serve
from pipelines.cli.settings import load_settings
from pipelines.storage import Location, location
from schemas.errors import StatecastError

if TYPE_CHECKING:
    from forecaster.model import Forecaster
    from pipelines.jobs.quarantine_job import QuarantineOutcome
    from pipelines.settings.config import JobConfig


def replay(
    output: o.OutputOfJob,
    model: o.Model = None,
    as_json: o.Json = False,
    config: o.Config = None,
    settings: o.Set = None,
    tracking_uri: o.Store = None,
) -> None:
    """Read the rejected rows of a job again with corrected settings, and use them as late rows.

    The job must have ended. Give its model and its job file, and correct the settings for which the rows were
    rejected, such as data.time_format, data.time_zone, data.decimal, data.null_values or data.max_future. The
    cells are those that `statecast quarantine show OUTPUT` prints; the files of the input are not read.

    The forecasts of the series with such rows are issued again as revisions, for rows that are at most
    windows.repair windows old; older rows are written to OUTPUT/late. A row that fails again stays in
    quarantine, with its new reason. So the rows that were read again are the used, duplicate, late and again
    quarantined rows. Rows of windows that are still open wait in the state table for the stream to go on.

    No row counts twice: a second replay finds no row that it could use. After Ctrl-C or a kill, the same
    command continues where the replay ended.

    Example: statecast quarantine replay out --config job.toml --set data.decimal=,

    Example: statecast quarantine replay out --model weather --set windows.repair=24 --set
    "data.time_format=%d.%m.%Y %H:%M"
    """
    from pipelines.dashboard.output_view import check_output

    job = load_settings(config, settings, output__folder=output, mlflow__tracking_uri=tracking_uri)
    out, folder = Out(as_json), location(output)
    check_output(folder)
    forecaster = _load_model(job, model, folder, out)
    from pipelines.cli.stream_ends import output_topics
    from pipelines.jobs.quarantine_job import QuarantineJob
    from pipelines.jobs.quarantine_replay import replay_quarantine
    from pipelines.sources.files.validated_rows import input_of

    spec = QuarantineJob(
        forecaster=forecaster,
        input=input_of(job, forecaster.window_config.frequency),
        output=folder,
        repair=job.windows.repair,
        windows_per_step=job.jobs.windows_per_step,
        format=job.output.format,
        topics=output_topics(job),
    )
    with show_and_serve(out, "replay", None) as on_progress:
        outcome = replay_quarantine(spec, on_progress)
    _print(outcome, folder, out)


def _load_model(job: JobConfig, model: str | None, folder: Location, out: Out) -> Forecaster:
    """Return the model of a job; if the job follows an alias, the model version that the job began with."""
    from pipelines.sources.model_changes import load_model, read_changes
    from pipelines.state import state_table

    changes = read_changes(folder / state_table.FOLDER)
    if not changes:
        return load_job_model(job, model, out)
    forecaster = load_model(folder, changes[0].version)
    check_windows(job, forecaster, changes[0].model)
    return forecaster


def _print(outcome: QuarantineOutcome, folder: Location, out: Out) -> None:
    """Print the counts of a replay.

    Raises:
        StatecastError: a row was read and has no outcome.
    """
    c = outcome.counts
    out.result(outcome.as_json())
    if outcome.nothing:
        out.say(f"{outcome.nothing}: there is nothing to replay")
        return
    read = f"{c.replayed:,} rows read again" + (f" + {c.rows_in:,} others" if c.rows_in else "")
    parts = [(c.used, "used"), (c.duplicates, "duplicate"), (c.late, "too late")]
    parts += [(c.rejected, "quarantined again"), *([(c.pending, "pending")] if c.pending else [])]
    out.say(f"{read} = " + " + ".join(f"{rows:,} {word}" for rows, word in parts))
    if c.repaired:
        out.say(f"{c.repaired:,} rows of closed windows were used; forecasts after them are new revisions")
    if c.rejected:
        out.say(f"quarantined again ({kinds_text(c.quarantined)}): {folder / 'quarantine'}", "yellow")
    if c.late:
        out.say(f"late rows, with their lateness: {folder / 'late'}", "yellow")
    if outcome.stopped:
        out.say("stopped; the same command continues from here", "yellow")
    if c.missing:
        raise StatecastError(f"{c.missing} rows were read and not accounted for: please report this")
