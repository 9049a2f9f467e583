"""All rows of a job's files at once, validated: what training and evaluation work on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from forecaster.shards.counts import by_kind
from forecaster.time.notices import weekday_notice
from pipelines.settings.config import JobConfig
from pipelines.sources.files.missing_codes import code_notices
from pipelines.sources.files.validated_rows import check_files, input_of, read_files
from schemas import observations, quarantine
from schemas.errors import DataError


@dataclass(frozen=True)
class Loaded:
    """What files held.

    Attributes:
        rows: observation frame of the valid rows, duplicates and all.
        quarantined: frame of the others.
        outside: rows outside the asked time.
        skipped: files that could not be read, with the reason.
        notices: lines that people should see.
    """

    rows: pl.DataFrame
    quarantined: pl.DataFrame
    outside: int
    skipped: tuple[str, ...]
    notices: tuple[str, ...]


def load_observations(job: JobConfig, on_rows: Callable[[int], None] = lambda rows: None) -> Loaded:
    """Every row of a job's files, validated: for training and evaluation, which work on all rows at once.

    Args:
        job: its data section names the files; a row may lie a window of it in the future, unless that says.
        on_rows: told how many rows each piece had.

    Raises:
        DataError: a file cannot be read, unless ``data.skip_bad_files``; no row is left; or a larger share of
            them than ``data.max_quarantined`` is quarantined.
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
    quarantine.refuse_share(by_kind(rejected), count, most, rejected)
    notices += code_notices(rows)
    if notice := weekday_notice(rows, job.windows):
        notices.append(notice)
    return Loaded(rows, rejected, outside, tuple(skipped), tuple(notices))


def _nothing_left(path: str, rejected: pl.DataFrame, outside: int) -> str:
    if not outside and not len(rejected):
        return f"{path}: holds no rows: there is nothing to work with"
    first = f"; the first: {rejected['reason'][0]}" if len(rejected) else ""
    return (
        f"{path}: no row can be used: {outside:,} lie outside the asked time, "
        f"{len(rejected):,} are no observations{first}"
    )
