"""Read and validate the rows of files; skip rows outside the time bounds, and reject unreadable files.

Imports neither torch nor Beam nor MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from forecaster.time.frequency import Frequency, duration_s
from pipelines.settings.config import JobConfig
from pipelines.settings.data_config import ColumnsConfig
from pipelines.sources.files import tables
from pipelines.sources.files.opened_file import OpenedFile, open_file
from schemas import cells, observations, quarantine
from schemas.errors import DataError

_UNITS_S = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Input:
    """The settings by which files are read.

    Attributes:
        columns: the columns that the job names.
        start_us, end_us: only rows with times in ``[start_us, end_us)`` are used; None for no bound.
        batch_rows: maximum number of rows that are read at once.
        skip_bad_files: whether to quarantine a file that cannot be read, instead of raising an error.
        max_future_s: a row is rejected if its time is more than this many seconds after the arrival of its
            file; None to accept all times.
    """

    columns: tables.Columns
    start_us: int | None = None
    end_us: int | None = None
    batch_rows: int = 200_000
    skip_bad_files: bool = False
    max_future_s: int | None = None

    def within(self, raw: pl.DataFrame) -> tuple[pl.DataFrame, int]:
        """Return the rows of a raw frame inside the time bounds, and the number of rows outside.

        Rows whose times cannot be read count as inside, so that validation rejects them.
        """
        if self.start_us is None and self.end_us is None:
            return raw, 0
        at = cells.times(raw["timestamp"], self.columns.time_format, self.columns.time_zone).dt.epoch("us")
        outside = pl.Series(np.zeros(len(raw), bool))
        if self.start_us is not None:
            outside |= (at < self.start_us).fill_null(False)
        if self.end_us is not None:
            outside |= (at >= self.end_us).fill_null(False)
        kept = raw.filter(~outside)
        return kept, len(raw) - len(kept)

    def validated(
        self,
        raw: pl.DataFrame,
        place: pl.Series,
        arrived_us: int | Callable[[pl.Series, pl.Series], pl.Series],
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Validate a raw frame, and return its valid rows and its rejected rows.

        Valid rows more than ``max_future_s`` after the wall clock of their arrival are rejected, too.

        Args:
            raw: raw frame.
            place: Int64 ``[n]``, the ``offset`` of each row in the result.
            arrived_us: wall clock at which the rows arrived, in microseconds since 1970; or a function that
                returns the wall clock for each valid row, from the times (microseconds) of these rows and
                their indices in ``raw``.
        """
        numbered = raw.with_columns(pl.int_range(len(raw)).alias("offset"))
        columns, max_future_s = self.columns, self.max_future_s
        rows, rejected = observations.validate(numbered, columns.time_format, columns.time_zone)
        if max_future_s is not None:
            times_us = rows["timestamp"].cast(pl.Int64)
            clock_us = arrived_us if isinstance(arrived_us, int) else arrived_us(times_us, rows["offset"])
            is_ahead = times_us > clock_us + max_future_s * 1_000_000
            if is_ahead.any():
                ahead = rows.filter(is_ahead)["offset"]
                rows = rows.filter(~is_ahead)
                rejected = pl.concat([rejected, _from_the_future(raw[ahead], ahead, max_future_s)])
                rejected = rejected.sort("offset", maintain_order=True)
        return _with_offsets(rows, place), _with_offsets(rejected, place)


@dataclass(frozen=True)
class Part:
    """The valid rows and the rejected rows of a part of a file.

    Attributes:
        rows: observation frame with ``offset``, the position of a row in its file from 0; all cells of a row
            of a wide file have the same ``offset``.
        rejected: frame of quarantined rows with ``offset``; a file that cannot be read is one such row, with
            0 in the column ``row``.
        outside: number of rows outside the time bounds.
        stop: one past the position of the last row.
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    outside: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """The approximate size of this part's frames in memory, in bytes."""
        return int(self.rows.estimated_size() + self.rejected.estimated_size())


@dataclass(frozen=True)
class WholeFile:
    """The result of reading a whole file; a file that is left out or cannot be read is one rejected row.

    Attributes:
        parts: its rows; None if they need more memory than allowed, so that the file must be read again.
        stop: number of its rows; at least 1.
        newest_us: the latest time of a valid row, in microseconds; None if there is no valid row.
    """

    parts: tuple[Part, ...] | None
    stop: int
    newest_us: int | None


def read_file(path: Path, how: Input, now_s: float, skip_rows: int = 0) -> Iterator[Part]:
    """Yield the validated rows of a file in parts, which are the same on every read.

    Args:
        path: the file.
        how: the settings by which to read it.
        now_s: wall clock (seconds since 1970) at which the file arrived; rows more than ``max_future_s``
            after it are rejected.
        skip_rows: number of rows at the beginning of the file that are skipped.

    Raises:
        DataError: the file cannot be read; if it is incomplete, after the parts before the fault.
    """
    return read_opened(open_file(path, how.columns), how, now_s, skip_rows)


def read_opened(opened: OpenedFile, how: Input, now_s: float, skip_rows: int = 0) -> Iterator[Part]:
    """Yield the validated rows of an opened file; see `read_file`."""
    how = replace(how, columns=opened.columns)
    for raw in opened.raw_frames(how.batch_rows, skip_rows):
        inside, outside = how.within(raw)
        arrived_us, place = round(now_s * 1_000_000), inside["row"] - 1
        rows, rejected = how.validated(inside, place, arrived_us)
        yield Part(rows, rejected, outside, _largest(raw["row"]) or 0)


def read_to_end(opened: OpenedFile, how: Input, now_s: float, memory_bytes: int) -> WholeFile:
    """Read an opened file to its end, so that a damaged file raises an error before any of its rows is used.

    The result has the file's rows if they need at most ``memory_bytes``; otherwise, it has no rows.

    Raises:
        DataError: the file cannot be read, or is incomplete.
    """
    held: list[Part] | None = []
    size_bytes, stop, newest = 0, 1, []
    for part in read_opened(opened, how, now_s):
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
    """Yield the validated rows of several files in parts.

    With ``how.skip_bad_files``, a file that cannot be read gives one rejected row.

    Raises:
        DataError: a file cannot be read, unless ``how.skip_bad_files``.
    """
    for path in paths:
        if not how.skip_bad_files:
            yield from read_file(path, how, now_s)
            continue
        try:
            whole = read_to_end(open_file(path, how.columns), how, now_s, memory_bytes)
        except DataError as error:
            yield bad_file(path, error)
            continue
        yield from read_file(path, how, now_s) if whole.parts is None else whole.parts


def bad_file(path: Path, error: DataError, place: int = 0) -> Part:
    """Return a part with one rejected row, for a file that cannot be read from position ``place`` on."""
    reason = str(error).removeprefix(f"{path}: ")
    rejected = quarantine.whole_file(str(path), reason, place)
    return Part(observations.empty(offset=True), rejected, 0, place + 1)


def newest_us(rows: pl.DataFrame) -> int | None:
    """Return the latest time in a frame of rows, in microseconds; None for an empty frame."""
    return _largest(rows["timestamp"].cast(pl.Int64))


def _largest(whole: pl.Series) -> int | None:
    found = whole.max()
    return None if found is None else int(found)  # type: ignore[arg-type]


def _with_offsets(frame: pl.DataFrame, place: pl.Series) -> pl.DataFrame:
    if frame.is_empty():
        return frame
    # If the frame has all rows, they are in the order of ``place``, so no offset needs to be looked up.
    offset = place if len(frame) == len(place) else place.gather(frame["offset"])
    return frame.with_columns(offset.cast(pl.Int64).alias("offset"))


def _from_the_future(raw: pl.DataFrame, offset: pl.Series, max_future_s: int) -> pl.DataFrame:
    reason = f" is more than {_duration_text(max_future_s)} in the future"
    problem = ("'" + cells.shown(raw["timestamp"]) + "'" + reason).alias("problem")
    kind = pl.lit("is in the future").alias("problem_kind")
    _, rejected = observations.validate(raw.with_columns(problem, kind, offset.alias("offset")))
    return rejected.with_columns(pl.lit("timestamp").alias("column"))


def _duration_text(seconds: int) -> str:
    """Return a duration as text, such as ``1h``, ``90m`` or ``0s``."""
    unit = next(u for u, length in _UNITS_S.items() if seconds % length == 0 and (seconds or u == "s"))
    return f"{seconds // _UNITS_S[unit]}{unit}"


def columns_of(job: JobConfig) -> tables.Columns:
    """Return a job's settings about columns: the fields of `ColumnsConfig`, and ``covariates.observed``."""
    named = {name: getattr(job.data, name) for name in ColumnsConfig.model_fields}
    return tables.Columns(**named, observed=job.covariates.observed)


def input_of(job: JobConfig, freq: Frequency | None = None, *, skip_bad_files: bool = False) -> Input:
    """Return the settings by which a job reads and validates the rows of its files or its topic.

    Args:
        job: the job; its data section and ``covariates.observed`` are used.
        freq: length of a window, which is the default of ``data.max_future``; None for no limit.
        skip_bad_files: the default of ``data.skip_bad_files``.
    """
    data = job.data
    start, end = (None if t is None else round(t.timestamp() * 1_000_000) for t in (data.start, data.end))
    skip = skip_bad_files if data.skip_bad_files is None else data.skip_bad_files
    default_s = None if freq is None else freq.nominal_s
    max_future_s = default_s if data.max_future is None else duration_s(data.max_future)
    return Input(columns_of(job), start, end, data.batch_rows, skip, max_future_s)


def rows_of(path: Path, how: Input, now_s: float) -> Iterator[pl.DataFrame]:
    """Yield the observations of a file in frames; where the file cannot be read, end without an error."""
    try:
        for part in read_file(path, how, now_s):
            yield part.rows
    except DataError:  # the job reads the file again later, and reports the error then
        return
