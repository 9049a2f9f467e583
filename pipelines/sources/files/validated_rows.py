"""Files as validated rows: what all jobs that read files share, time bounds and bad files included.

Imports neither torch nor Beam nor MLflow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.time.frequency import Frequency, duration_s
from pipelines.settings.config import ColumnsConfig, JobConfig
from pipelines.sources.files import tables
from pipelines.sources.files.find_files import find_files
from pipelines.sources.files.overlaps import refuse_clashes
from pipelines.sources.files.sensors import refuse_poured
from schemas import cells, observations, quarantine
from schemas.errors import DataError

_UNITS_S = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Input:
    """How files are read.

    Attributes:
        columns: which column is what.
        start_us, end_us: only rows in ``[start_us, end_us)`` are used; None for no bound.
        batch_rows: rows read at a time.
        skip_bad_files: quarantine a file that cannot be read and go on, instead of raising.
        max_future_s: a row later than the moment its file came by more than this is rejected; None for no
            such check.
    """

    columns: tables.Columns
    start_us: int | None = None
    end_us: int | None = None
    batch_rows: int = 200_000
    skip_bad_files: bool = False
    max_future_s: int | None = None

    def within(self, raw: pl.DataFrame) -> tuple[pl.DataFrame, int]:
        """The rows inside the bounds or with a time that cannot be read, and the number of the others."""
        if self.start_us is None and self.end_us is None:
            return raw, 0
        at = cells.times(raw["timestamp"], self.columns.time_format).dt.epoch("us")
        outside = pl.Series(np.zeros(len(raw), bool))
        if self.start_us is not None:
            outside |= (at < self.start_us).fill_null(False)
        if self.end_us is not None:
            outside |= (at >= self.end_us).fill_null(False)
        kept = raw.filter(~outside)
        return kept, len(raw) - len(kept)

    def read(self, path: Path) -> Iterable[tuple[pl.DataFrame, int]]:
        """Raw frames of a file within the bounds, each with the number of rows left out.

        Raises:
            DataError: the file cannot be read.
        """
        return map(self.within, tables.read_batches(path, self.columns, self.batch_rows))


@dataclass(frozen=True)
class Part:
    """A piece of a file, validated.

    Attributes:
        rows: observation frame with ``offset``: a row's place in its file from 0, which all cells of a wide
            row share.
        rejected: frame of quarantined rows, with ``offset`` too; one of row 0 for a file that cannot be read.
        outside: rows outside the time bounds.
        stop: one past the place of the last row.
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    outside: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """About what the frames take."""
        return int(self.rows.estimated_size() + self.rejected.estimated_size())


@dataclass(frozen=True)
class WholeFile:
    """A file that was read to its end.

    Attributes:
        parts: what it holds; None where that is more than there was room for: read it again.
        stop: its rows; at least 1.
        newest_us: latest time of a good row, in microseconds; None without one.
    """

    parts: tuple[Part, ...] | None
    stop: int
    newest_us: int | None


def read_file(path: Path, how: Input, now_s: float, skip_rows: int = 0) -> Iterator[Part]:
    """The parts of a file after its first ``skip_rows`` rows, cut at the same places whenever it is read.

    Args:
        path: the file.
        how: how to read it.
        now_s: wall clock (seconds since 1970) at which the file came, which tells what lies in the future.
        skip_rows: rows of the file that are known already.

    Raises:
        DataError: the file cannot be read, or breaks off after the parts before the break.
    """
    for raw in tables.read_batches(path, how.columns, how.batch_rows, skip_rows):
        inside, outside = how.within(raw)
        came_us, place = round(now_s * 1_000_000), inside["row"] - 1
        rows, rejected = validated(inside, place, came_us, how.max_future_s, how.columns.time_format)
        yield Part(rows, rejected, outside, _largest(raw["row"]) or 0)


def read_through(path: Path, how: Input, now_s: float, memory_bytes: int) -> WholeFile:
    """A file, once it is known that all of it can be read; ``memory_bytes`` of it are held at most.

    Raises:
        DataError: the file cannot be read, or breaks off.
    """
    held: list[Part] | None = []
    size_bytes, stop, newest = 0, 1, []
    for part in read_file(path, how, now_s):
        stop = max(stop, part.stop)
        newest.append(newest_us(part.rows))
        size_bytes += part.size_bytes
        if held is not None and size_bytes <= memory_bytes:
            held.append(part)
        else:
            held = None
    known = [us for us in newest if us is not None]
    return WholeFile(None if held is None else tuple(held), stop, max(known, default=None))


def read_files(paths: Iterable[Path], how: Input, now_s: float, memory_bytes: int) -> Iterator[Part]:
    """The parts of files, one after the other; of a file that is skipped nothing but a rejected row.

    Raises:
        DataError: a file cannot be read, unless ``how.skip_bad_files``.
    """
    for path in paths:
        if not how.skip_bad_files:
            yield from read_file(path, how, now_s)
            continue
        try:
            whole = read_through(path, how, now_s, memory_bytes)
        except DataError as error:
            yield bad_file(path, error)
            continue
        yield from read_file(path, how, now_s) if whole.parts is None else whole.parts


def bad_file(path: Path, error: DataError, place: int = 0) -> Part:
    """What stands for a file that cannot be read, or for its rest from ``place`` on."""
    reason = str(error).removeprefix(f"{path}: ")
    rejected = quarantine.whole_file(str(path), reason, place)
    return Part(observations.empty(offset=True), rejected, 0, place + 1)


def newest_us(rows: pl.DataFrame) -> int | None:
    """Latest time in microseconds; None without rows."""
    return _largest(rows["timestamp"].to_physical())


def _largest(whole: pl.Series) -> int | None:
    found = whole.max()
    return None if found is None else int(found)  # type: ignore[arg-type]


def validated(
    raw: pl.DataFrame,
    place: pl.Series,
    came_us: int | Callable[[pl.Series, pl.Series], pl.Series],
    max_future_s: int | None,
    time_format: str = cells.AUTO,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Good rows and rejected ones, those from the future among these.

    Args:
        raw: raw frame.
        place: Int64 ``[n]``, the ``offset`` of each row.
        came_us: wall clock at which rows came, in microseconds since 1970; or what gives it for the good rows
            from their times (microseconds) and their places in the raw frame.
        max_future_s: as in `Input`.
        time_format: what text and numbers mean as times; see `schemas.cells.times`.
    """
    numbered = raw.with_columns(pl.int_range(len(raw)).alias("offset"))
    rows, rejected = observations.validate(numbered, time_format)
    if max_future_s is not None:
        times_us = rows["timestamp"].to_physical()
        clock_us = came_us if isinstance(came_us, int) else came_us(times_us, rows["offset"])
        is_ahead = times_us > clock_us + max_future_s * 1_000_000
        if is_ahead.any():
            ahead = rows.filter(is_ahead)["offset"]
            rows = rows.filter(~is_ahead)
            rejected = pl.concat([rejected, _from_the_future(raw[ahead], ahead, max_future_s)])
            rejected = rejected.sort("offset", maintain_order=True)
    return _placed(rows, place), _placed(rejected, place)


def _placed(frame: pl.DataFrame, place: pl.Series) -> pl.DataFrame:
    return frame.with_columns(place.gather(frame["offset"]).cast(pl.Int64).alias("offset"))


def _from_the_future(raw: pl.DataFrame, offset: pl.Series, max_future_s: int) -> pl.DataFrame:
    told = f" is more than {_words(max_future_s)} in the future"
    problem = ("'" + cells.shown(raw["timestamp"]) + "'" + told).alias("problem")
    kind = pl.lit("is in the future").alias("problem_kind")
    _, rejected = observations.validate(raw.with_columns(problem, kind, offset.alias("offset")))
    return rejected.with_columns(pl.lit("timestamp").alias("column"))


def _words(seconds: int) -> str:
    """A duration as people write it: ``1h``, ``90m``, ``0s``."""
    unit = next(u for u, length in _UNITS_S.items() if seconds % length == 0 and (seconds or u == "s"))
    return f"{seconds // _UNITS_S[unit]}{unit}"


def columns_of(job: JobConfig) -> tables.Columns:
    """Which column is what, as the data section of a job says, and ``covariates.observed``."""
    named = {name: getattr(job.data, name) for name in ColumnsConfig.model_fields}
    return tables.Columns(**named, observed=job.covariates.observed)


def input_of(job: JobConfig, freq: Frequency | None = None, *, skip_bad_files: bool = False) -> Input:
    """How a job says that its files are read.

    Args:
        job: its data section says so, and which covariates are observed beside the values.
        freq: length of a window: how far rows may lie in the future unless the section says.
        skip_bad_files: what the job does with a file that cannot be read unless the section says.
    """
    data = job.data
    start, end = (None if t is None else round(t.timestamp() * 1_000_000) for t in (data.start, data.end))
    skip = skip_bad_files if data.skip_bad_files is None else data.skip_bad_files
    default_s = None if freq is None else freq.nominal_s
    max_future_s = default_s if data.max_future is None else duration_s(data.max_future)
    return Input(columns_of(job), start, end, data.batch_rows, skip, max_future_s)


def check_files(job: JobConfig) -> tuple[list[Path], list[str]]:
    """The files of a job after a look at each one's first rows, and lines that people should see.

    Raises:
        DataError: a file cannot be read as series, unless ``data.skip_bad_files``.
    """
    found, columns = find_files(job.data.paths), columns_of(job)
    looked, bad = [], 0
    for file in found.files:
        try:
            looked.append(tables.check(file, columns))
        except DataError:  # who reads it says why it cannot be read
            if not job.data.skip_bad_files:
                raise
            bad += 1
    if bad == len(found.files):
        raise DataError("no file is left to read: none of them can be")
    refuse_poured(looked, columns)
    how = input_of(job)
    read = partial(rows_of, how=how, now_s=time.time())
    refuse_clashes(looked, columns, read, job.data.memory_mb << 20, skip_bad_files=how.skip_bad_files)
    return found.files, [*found.notices, *_notices(looked)]


def rows_of(path: Path, how: Input, now_s: float) -> Iterator[pl.DataFrame]:
    """The observations of a file, piece by piece, up to where it breaks off."""
    try:
        for part in read_file(path, how, now_s):
            yield part.rows
    except DataError:  # who reads it says why it cannot be read
        return


def _notices(files: list[tables.FileCheck]) -> list[str]:
    """What people should see of files, once each with the first file and the number of the others."""
    of: dict[str, list[Path]] = {}
    for file in files:
        for line in file.notices:
            of.setdefault(line, []).append(file.path)
    lines = []
    for line, paths in of.items():
        more = len(paths) - 1
        others = f" (and those of {more:,} more {'file' if more == 1 else 'files'})" if more else ""
        lines.append(f"{paths[0]}: {line}{others}")
    return lines
