"""Load all rows of a job's files into memory, for training and evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from forecaster.shards.counts import by_kind
from forecaster.time.notices import weekday_notice
from pipelines.settings.config import JobConfig
from pipelines.sources.files.check_files import check_files
from pipelines.sources.files.missing_codes import missing_code_notices
from pipelines.sources.files.validated_rows import input_of, read_files
from schemas import observations, quarantine
from schemas.errors import DataError


@dataclass(frozen=True)
class LoadedRows:
    """All rows of a job's files, valid and rejected, and notices about them.

    Attributes:
        rows: observation frame of the valid rows, with duplicates.
        quarantined: frame of the rejected rows.
        outside: number of rows outside ``data.start`` and ``data.end``.
        skipped: lines about files that could not be read, with the reasons.
        notices: lines about the data for the user.
    """

    rows: pl.DataFrame
    quarantined: pl.DataFrame
    outside: int
    skipped: tuple[str, ...]
    notices: tuple[str, ...]


def load_observations(job: JobConfig, on_rows: Callable[[int], None] = lambda rows: None) -> LoadedRows:
    """Read and validate all rows of a job's files.

    Args:
        job: the job; its data section names the files. Unless ``data.max_future`` is set, a row may be at
            most one window in the future.
        on_rows: called after each piece of the files, with the number of its rows.

    Raises:
        DataError: a file cannot be read and ``data.skip_bad_files`` is not set, no valid row is left, or the
            share of quarantined rows is greater than ``data.max_quarantined``.
    """
    files, notices = check_files(job)
    skipped: list[str] = []
    good, bad, outside = [observations.empty()], [quarantine.empty()], 0
    how = input_of(job, job.windows.frequency)
    for part in read_files(files, how, time.time(), job.data.memory_mb << 20):
        files_lost = part.rejected.filter(pl.col("row") == 0)
        skipped += [
            f"skipped: {file}: {reason}" for file, reason in files_lost.select("file", "reason").rows()
        ]
        good.append(part.rows.drop("offset"))
        bad.append(part.rejected.filter(pl.col("row") > 0).drop("offset"))
        outside += part.outside
        on_rows(len(good[-1]) + len(bad[-1]))
    rows, rejected = pl.concat(good, how="diagonal", rechunk=True), pl.concat(bad)
    if not len(rows):
        raise DataError(_nothing_left(job.data.paths[0], rejected, outside))
    most, count = job.data.max_quarantined, len(rows) + len(rejected)
    quarantine.check_share(by_kind(rejected), count, most, rejected)
    notices += missing_code_notices(rows)
    if notice := weekday_notice(rows, job.windows):
        notices.append(notice)
    return LoadedRows(rows, rejected, outside, tuple(skipped), tuple(notices))


def _nothing_left(path: str, rejected: pl.DataFrame, outside: int) -> str:
    """Return the error message for a job that can use no row of its files."""
    if not outside and not len(rejected):
        return f"{path}: holds no rows"
    first = f"; the first: {rejected['reason'][0]}" if len(rejected) else ""
    return (
        f"{path}: no row can be used: {outside:,} are outside the time bounds, "
        f"{len(rejected):,} were rejected{first}"
    )
