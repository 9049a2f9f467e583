"""Whole files as one observation frame, for what works on all rows at once: training, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from pipelines.cli.preflight import check_files, columns_of
from pipelines.config import DataConfig
from pipelines.sources.feeds import Input
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


def input_of(data: DataConfig) -> Input:
    """How the data section of a job says that files are read."""
    start, end = (None if t is None else round(t.timestamp() * 1_000_000) for t in (data.start, data.end))
    return Input(columns_of(data), start, end, data.batch_rows, data.skip_bad_files)


def load_observations(data: DataConfig, on_rows: Callable[[int], None] = lambda rows: None) -> Loaded:
    """Every row of a job's files, through the gate.

    Raises:
        DataError: a file cannot be read, unless ``data.skip_bad_files``; or no row is left.
    """
    files, notices = check_files(data)
    how = input_of(data)
    good, bad, outside, skipped = [], [], 0, [n for n in notices if n.startswith("skipped: ")]
    for file in files:
        try:
            for raw, left_out in how.read(file):
                rows, rejected = observations.validate(raw)
                good.append(rows)
                bad.append(rejected)
                outside += left_out
                on_rows(len(raw))
        except DataError as error:
            if not data.skip_bad_files:
                raise
            skipped.append(f"skipped: {error}")
    rows = pl.concat([observations.empty(), *good], how="diagonal", rechunk=True)
    rejected = pl.concat([quarantine.empty(), *bad])
    if not len(rows):
        raise DataError(_nothing_left(data.paths[0], rejected, outside))
    return Loaded(rows, rejected, outside, tuple(skipped), tuple(n for n in notices if n not in skipped))


def _nothing_left(path: str, rejected: pl.DataFrame, outside: int) -> str:
    if not outside and not len(rejected):
        return f"{path}: holds no rows: there is nothing to work with"
    first = f"; the first: {rejected['reason'][0]}" if len(rejected) else ""
    return (
        f"{path}: no row can be used: {outside:,} lie outside the asked time, "
        f"{len(rejected):,} are no observations{first}"
    )
