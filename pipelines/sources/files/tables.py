"""Read files into raw frames: CSV, Parquet and JSON lines, long or wide, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.settings.data_config import Columns
from pipelines.sources.files import formats
from pipelines.sources.files.columns import Beside, Layout, find_layout, is_long, listed
from pipelines.sources.files.decimals import Decimals
from pipelines.sources.files.find_files import input_files
from pipelines.sources.files.hive_partitions import folder_columns
from pipelines.sources.files.read_ahead import ahead
from pipelines.sources.files.time_hints import unreadable_times_message
from schemas import cells
from schemas.errors import DataError
from schemas.observations import OBSERVED

__all__ = ["Columns", "FileCheck", "check", "input_files", "read_batches"]

_HEAD_ROWS = 1_000


@dataclass(frozen=True)
class FileCheck:
    """The result of a check of a file's column names and first rows.

    Attributes:
        path: the file.
        layout: the columns that are read.
        lacks_zone: whether its times have no zone.
        unread: its columns that are not read.
        folders: the columns from names of folders that are not read, with their values.
    """

    path: Path
    layout: Layout
    lacks_zone: bool
    unread: tuple[str, ...] = ()
    folders: tuple[tuple[str, str | None], ...] = ()

    @property
    def notices(self) -> list[str]:
        """Notices about the file for the user; they do not contain the path."""
        lines = ["times have no zone, UTC assumed"] if self.lacks_zone else []
        unread = [*self.unread, *(f"{name} (of the folder)" for name, _ in self.folders)]
        return (
            [*lines, f"not read: {'columns' if len(unread) > 1 else 'column'} {listed(unread)}"]
            if (unread)
            else lines
        )


def check(path: Path, columns: Columns | None = None) -> FileCheck:
    """Check the column names and first rows of a file, before a job reads it.

    Raises:
        DataError: the file cannot be read, or no layout fits its columns; the message names the fix.
    """
    columns = columns or Columns()
    with formats.convert_read_errors(path):
        opened = _open(path, columns)
        times = _with_folders(opened.head, opened.folders)[opened.layout.timestamp]
        if cells.given(times).any() and cells.times(times, columns.time_format).is_null().all():
            raise DataError(f"{path}: {unreadable_times_message(times, columns.time_format)}")
        read = set(opened.layout.names)
        return FileCheck(
            path,
            opened.layout,
            cells.lacks_zone(times, columns.time_format),
            tuple(name for name in opened.names if name not in read),
            tuple((name, value) for name, value in opened.folders.items() if name not in read),
        )


def layout_of(path: Path, columns: Columns) -> Layout:
    """Return the layout of a file: which columns hold the series, the times and the values.

    Raises:
        DataError: the file cannot be read, or no layout fits its columns; the message names the fix.
    """
    with formats.convert_read_errors(path):
        return _open(path, columns).layout


def read_batches(
    path: Path, columns: Columns | None = None, batch_rows: int = 200_000, skip_rows: int = 0
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file as raw frames of at most about ``batch_rows`` rows.

    The columns of a raw frame:

    - ``series_id``, ``timestamp``, ``value``, and ``event_id`` and ``observed.NAME`` if the job names them:
      text for CSV and JSON lines, the file's types for Parquet;
    - ``file`` (String) and ``row`` (Int64): ``row`` counts the data rows of the file from 1; all cells of a
      row of a wide file have its number;
    - ``problem`` (String) in a frame with rows that cannot be split into cells: the reason.

    An empty cell of a wide file makes no row. The first ``skip_rows`` rows of the file are not returned.

    Raises:
        DataError: the file cannot be read, or no layout fits its columns; the message names the fix. For an
            incomplete file it is raised after the frames of the rows before the fault.
    """
    columns = columns or Columns()
    with formats.convert_read_errors(path):
        opened = _open(path, columns)
        layout, per_batch = opened.layout, max(1, batch_rows // len(opened.layout.values))
        decimals = Decimals(path, columns.decimal) if formats.is_csv(path) else None
        for batch in opened.batches(path, per_batch, columns.encoding):
            batch = decimals.rewrite(batch, layout.numbers(columns.time_format)) if decimals else batch
            batch = _without_codes(batch, (*layout.values, *layout.observed), columns.missing)
            kept = batch.filter(pl.col(formats.ROW) > skip_rows) if skip_rows else batch
            if kept.height:
                raw = _raw_of_wide(kept, layout) if layout.kind == "wide" else _raw_of_long(kept, layout)
                yield raw.with_columns(pl.lit(str(path)).alias("file")) if raw.height else raw


def read_times(path: Path, columns: Columns, batch_rows: int = 200_000) -> Iterator[pl.Series]:
    """Yield only the times of a file's rows, in batches; a cell that is not a time becomes null.

    Raises:
        DataError: the file cannot be read, or no layout fits its columns; the message names the fix.
    """
    with formats.convert_read_errors(path):
        opened = _open(path, columns)
        times = replace(
            opened, layout=replace(opened.layout, series_id="", values=(), event_id="", observed=())
        )
        decimals = Decimals(path, columns.decimal) if formats.is_csv(path) else None
        for batch in times.batches(path, batch_rows, columns.encoding):
            batch = decimals.rewrite(batch, times.layout.numbers(columns.time_format)) if decimals else batch
            yield cells.times(batch[times.layout.timestamp], columns.time_format)


@dataclass(frozen=True)
class _Opened:
    """A file of which the layout, the column names, the first rows and the folder columns are known.

    ``head`` has all columns of a wide file, but only the columns of a long file that are read.
    """

    layout: Layout
    names: list[str]
    head: pl.DataFrame
    folders: dict[str, str | None]

    def batches(self, path: Path, rows: int, encoding: str) -> Iterator[pl.DataFrame]:
        """Yield the rows of the file as frames, with the columns of the layout only."""
        names = [name for name in self.layout.names if name not in self.folders]
        folders = {name: value for name, value in self.folders.items() if name in self.layout.names}
        for batch in ahead(formats.batches(path, names, rows, encoding)):
            yield _with_folders(batch, folders)


def _open(path: Path, columns: Columns) -> _Opened:
    names = formats.column_names(path, columns.encoding)
    folders = {name: value for name, value in folder_columns(path).items() if name not in names}
    beside = Beside(tuple(folders), formats.index_columns(path))
    if is_long(names, columns, beside):
        # In a long file, the column names and the cells of index columns decide the layout.
        # So do not read the cells of other columns to find the layout.
        index = [name for name in names if beside.is_index(name)]
        known = _head(path, index, (), columns) if index else _empty(())
        others = _empty(name for name in names if name not in index).clear(len(known))
        layout = find_layout(path, known.with_columns(others.get_columns()).select(names), columns, beside)
        read = [name for name in layout.names if name not in folders]
        numbers = [name for name in layout.numbers(columns.time_format) if name not in folders]
        return _Opened(layout, names, _head(path, read, numbers, columns), folders)
    late = formats.late_keys(path, names, columns.encoding)
    head = _head(path, [*names, *late], [*names, *late], columns)
    return _Opened(find_layout(path, head, columns, beside), [*names, *late], head, folders)


def _with_folders(frame: pl.DataFrame, folders: Mapping[str, str | None]) -> pl.DataFrame:
    return frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in folders.items())


def _head(path: Path, names: Sequence[str], numbers: Sequence[str], columns: Columns) -> pl.DataFrame:
    first = next(chain(formats.batches(path, names, _HEAD_ROWS, columns.encoding), [None]))
    head = _empty(names) if first is None else first.select(names)
    return Decimals(path, columns.decimal).rewrite(head, numbers) if formats.is_csv(path) else head


def _empty(names: Iterable[str]) -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(names, pl.String))


def _without_codes(batch: pl.DataFrame, names: Sequence[str], codes: Sequence[float]) -> pl.DataFrame:
    """Return a batch of rows in which each cell that holds a code for a missing value is null."""
    if not codes:
        return batch
    return batch.with_columns(
        batch[name].set(cells.numbers(batch[name]).is_in(codes).fill_null(False), None) for name in names
    )


def _raw_of_long(batch: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    chosen = {"series_id": layout.series_id, "timestamp": layout.timestamp, "value": layout.values[0]}
    if layout.event_id:
        chosen["event_id"] = layout.event_id
    chosen |= {OBSERVED + name: name for name in layout.observed}
    return batch.select(
        *(pl.col(source).alias(name) for name, source in chosen.items()),
        pl.col(formats.ROW).alias("row"),
        *_problem_column(batch),
    )


def _raw_of_wide(batch: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    """Return a raw frame with one row for each filled cell of a wide file.

    The rows are sorted by the rows of the file, then by its columns. Broken rows stay one row each.
    """
    time, row, problem = layout.timestamp, formats.ROW, formats.PROBLEM
    broken = batch.filter(pl.col(problem).is_not_null()) if problem in batch.columns else batch.clear()
    whole = batch.filter(pl.col(problem).is_null()) if problem in batch.columns else batch
    kind = pl.Float64 if all(batch.schema[name].is_numeric() for name in layout.values) else pl.String
    values = [
        whole[name].cast(kind) if kind == pl.Float64 else cells.shown(whole[name]) for name in layout.values
    ]
    frame = pl.DataFrame([whole[time].alias("timestamp"), whole[row].alias("row")])
    # Give the columns numbers, because a series may have any name, even "timestamp" or "row".
    numbered = pl.DataFrame([v.alias(f"\0{i}") for i, v in enumerate(values)])
    melted = frame.hstack(numbered).unpivot(
        on=numbered.columns, index=frame.columns, variable_name="series_id", value_name="value"
    )
    names = pl.Series("series_id", layout.values, dtype=pl.String)
    melted = melted.with_columns(names.gather(np.repeat(np.arange(len(values)), len(frame))))
    out = melted.filter(cells.given(melted["value"])).sort("row", maintain_order=True)
    out = out.select("series_id", "timestamp", "value", "row")
    if broken.is_empty():
        return out
    rows = broken.select(pl.col(row).alias("row"), pl.col(problem).alias("problem"))
    return pl.concat([out, rows], how="diagonal").sort("row", maintain_order=True)


def _problem_column(batch: pl.DataFrame) -> list[pl.Expr]:
    return [pl.col(formats.PROBLEM).alias("problem")] if formats.PROBLEM in batch.columns else []
