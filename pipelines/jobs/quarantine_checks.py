"""Check that the quarantine of a job can be replayed with the given settings."""

from __future__ import annotations

from forecaster.shards.shard import Shard
from pipelines.jobs.follow import utc_time
from pipelines.jobs.quarantine_job import QuarantineJob
from pipelines.sinks.files import FLAT
from pipelines.sources.model_changes import read_changes
from pipelines.sources.quarantine_log import RowsAgain
from pipelines.state import state_table
from pipelines.state.state_table import StateTable
from schemas.errors import ConfigError, DataError


def read_table(job: QuarantineJob) -> StateTable:
    """Check that a replay can continue the state table of the job; return the table, read without series.

    Raises:
        StatecastError: there is no such table, or another model or other settings made it.
    """
    output = job.output
    if not state_table.exists(job.states):
        raise DataError(
            f"{output}: holds no state table, so its quarantine cannot be replayed: name the output folder "
            "of a backfill or a stream"
        )
    table = state_table.read(job.states, series=False)
    versions = {change.version for change in read_changes(job.states)} or {job.forecaster.version}
    made = {shard.state.model_version for shard in table.shards}
    if made - versions:
        raise ConfigError(
            f"{job.states}: was written by {min(made - versions)}, but {job.forecaster.version} was loaded: "
            "with --model, name the version that wrote the table"
        )
    if table.shards[0].keyed:
        raise DataError(
            f"{job.states}: belongs to a topic that is keyed by series, whose quarantine cannot be replayed: "
            "send the corrected rows to the topic"
        )
    if not job.repair and any(shard.history is not None for shard in table.shards):
        raise ConfigError(
            f"{output}: its job ran with windows.repair, which is not set here: give its job file, or "
            "--set windows.repair=N"
        )
    if any((output / FLAT).glob("[!.]*")):
        raise ConfigError(
            f"{output / FLAT}: flat files have no column for the revision of a forecast: remove them, "
            "and write them again from the forecasts"
        )
    return table


def none_valid_line(job: QuarantineJob, again: RowsAgain) -> str:
    """Return the error line for quarantined rows that are all still invalid with the job's settings."""
    kinds = again.rejected.group_by("kind").len().sort(["len", "kind"], descending=[True, False])
    shown = ", ".join(f"{rows:,} {kind}" for kind, rows in kinds.head(3).iter_rows())
    which = "the row" if again.count == 1 else f"none of the {again.count:,} rows"
    verb = "is still not valid" if again.count == 1 else "is valid"
    return f"{job.output}: {which} in quarantine {verb} with these settings ({shown})"


def check_can_use(job: QuarantineJob, table: StateTable, again: RowsAgain) -> None:
    """Raise DataError if every valid row is too late for all shards: a replay would move all to ``late/``.

    Raises:
        DataError: no row can be used.
    """
    window = job.freq.window_of(int(again.rows["timestamp"].to_physical().max()))  # type: ignore[arg-type]
    first = min(_first_window(shard, job.repair) for shard in table.shards)
    if window < first:
        raise DataError(
            f"{job.output}: none of the {len(again.rows):,} valid rows can be used, because windows before "
            f"{utc_time(job.freq.start_us(first))} can no longer be repaired "
            f"(windows.repair = {job.repair}): run the job again with the corrected settings"
        )


def _first_window(shard: Shard, repair: int) -> int:
    """Return the first window whose rows a shard can still use."""
    closed, history = shard.closed_through, shard.history
    if closed is None:
        return -(1 << 62)
    copied = history.copies[0].through if history is not None and history.copies else closed
    return max(closed - repair, copied) + 1
