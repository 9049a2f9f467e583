"""Files into raw frames: CSV, Parquet and JSON lines, long or wide, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.settings.config import Columns
from pipelines.sources.files import formats
from pipelines.sources.files.columns import Beside, Layout, find_layout, is_long, listed
from pipelines.sources.files.decimals import Decimals
from pipelines.sources.files.find_files import input_files
from pipelines.sources.files.hive_partitions import folder_columns
from pipelines.sources.files.read_ahead import ahead
from pipelines.sources.files.time_hints import no_times
from schemas import cells
from schemas.errors import DataError
from schemas.observations import OBSERVED

__all__ = ["Columns", "FileCheck", "check", "input_files", "read_batches"]

_HEAD_ROWS = 1_000


@dataclass(frozen=True)
class FileCheck:
    """What a look at the first rows of a file tells.

    Attributes:
        path: the file.
        layout: which of its columns is what.
        lacks_zone: its times have no zone.
        unread: its columns that are not read.
        folders: values of the columns that its folders name and that are not read.
    """

    path: Path
    layout: Layout
    lacks_zone: bool
    unread: tuple[str, ...] = ()
    folders: tuple[tuple[str, str | None], ...] = ()

    @property
    def notices(self) -> list[str]:
        """What people should see, without the path."""
        lines = ["times have no zone, UTC assumed"] if self.lacks_zone else []
        unread = [*self.unread, *(f"{name} (of the folder)" for name, _ in self.folders)]
        return (
            [*lines, f"not read: {'columns' if len(unread) > 1 else 'column'} {listed(unread)}"]
            if (unread)
            else lines
        )


def check(path: Path, columns: Columns | None = None) -> FileCheck:
    """Look at the names and first rows of a file, before a job is launched on it.

    Raises:
        DataError: The file cannot be read or its columns do not fit; one line with the fix.
    """
    columns = columns or Columns()
    with formats.told(path):
        opened = _open(path, columns)
        times = _with_folders(opened.head, opened.folders)[opened.layout.timestamp]
        if cells.given(times).any() and cells.times(times, columns.time_format).is_null().all():
            raise DataError(f"{path}: {no_times(times, columns.time_format)}")
        read = set(opened.layout.names)
        return FileCheck(
            path,
            opened.layout,
            cells.lacks_zone(times, columns.time_format),
            tuple(name for name in opened.names if name not in read),
            tuple((name, value) for name, value in opened.folders.items() if name not in read),
        )


def layout_of(path: Path, columns: Columns) -> Layout:
    """Which column of a file is what.

    Raises:
        DataError: The file cannot be read or its columns do not fit; one line with the fix.
    """
    with formats.told(path):
        return _open(path, columns).layout


def read_batches(
    path: Path, columns: Columns | None = None, batch_rows: int = 200_000, skip_rows: int = 0
) -> Iterator[pl.DataFrame]:
    """Raw frames of a file in its order, at most about ``batch_rows`` rows at a time.

    A raw frame has ``series_id``, ``timestamp``, ``value`` (and ``event_id`` and ``observed.NAME`` where the
    job names them) as the file gave them: text for CSV and JSON lines, typed for Parquet; ``file`` (String)
    and ``row`` (Int64, counts the data rows of the file from 1, all cells of a wide row alike); and
    ``problem`` (String) in a batch with rows that cannot be taken apart. An empty cell of a wide file is a
    gap and makes no row. Rows up to ``skip_rows`` are read over.

    Raises:
        DataError: The file cannot be read or its columns do not fit; one line with the fix. A file that
            breaks off raises it after the batches before the break.
    """
    columns = columns or Columns()
    with formats.told(path):
        opened = _open(path, columns)
        layout, per_batch = opened.layout, max(1, batch_rows // len(opened.layout.values))
        decimals = Decimals(path, columns.decimal) if formats.is_csv(path) else None
        for batch in opened.batches(path, per_batch, columns.encoding):
            batch = decimals.rewrite(batch, layout.numbers(columns.time_format)) if decimals else batch
            batch = _without(batch, (*layout.values, *layout.observed), columns.missing)
            kept = batch.filter(pl.col(formats.ROW) > skip_rows) if skip_rows else batch
            if kept.height:
                raw = _melted(kept, layout) if layout.kind == "wide" else _named(kept, layout)
                yield raw.with_columns(pl.lit(str(path)).alias("file")) if raw.height else raw


def read_times(path: Path, columns: Columns, batch_rows: int = 200_000) -> Iterator[pl.Series]:
    """Give the times of a file's rows in its order, null where a cell is no time; values are not read.

    Raises:
        DataError: The file cannot be read or its columns do not fit; one line with the fix.
    """
    with formats.told(path):
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
    """A file's layout, its columns, the first rows of those that are read, and the columns of its folders."""

    layout: Layout
    names: list[str]
    head: pl.DataFrame
    folders: dict[str, str | None]

    def batches(self, path: Path, rows: int, encoding: str) -> Iterator[pl.DataFrame]:
        """Frames of the columns that are read, those of folders among them."""
        names = [name for name in self.layout.names if name not in self.folders]
        folders = {name: value for name, value in self.folders.items() if name in self.layout.names}
        for batch in ahead(formats.batches(path, names, rows, encoding)):
            yield _with_folders(batch, folders)


def _open(path: Path, columns: Columns) -> _Opened:
    names = formats.column_names(path, columns.encoding)
    folders = {name: value for name, value in folder_columns(path).items() if name not in names}
    beside = Beside(tuple(folders), formats.index_columns(path))
    if is_long(names, columns, beside):  # by name alone: columns that are not read may hold anything
        index = [name for name in names if beside.is_index(name)]
        known = _head(path, index, (), columns) if index else _empty(())
        others = _empty(name for name in names if name not in index).clear(len(known))
        layout = find_layout(path, known.with_columns(others.get_columns()).select(names), columns, beside)
        read = [name for name in layout.names if name not in folders]
        numbers = [name for name in layout.numbers(columns.time_format) if name not in folders]
        return _Opened(layout, names, _head(path, read, numbers, columns), folders)
    late = formats.late_names(path, names, columns.encoding)
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


def _without(batch: pl.DataFrame, names: Sequence[str], codes: Sequence[float]) -> pl.DataFrame:
    """The batch, with cells of the named columns that stand for a missing value as null."""
    if not codes:
        return batch
    return batch.with_columns(
        batch[name].set(cells.numbers(batch[name]).is_in(codes).fill_null(False), None) for name in names
    )


def _named(batch: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    chosen = {"series_id": layout.series_id, "timestamp": layout.timestamp, "value": layout.values[0]}
    if layout.event_id:
        chosen["event_id"] = layout.event_id
    chosen |= {OBSERVED + name: name for name in layout.observed}
    return batch.select(
        *(pl.col(source).alias(name) for name, source in chosen.items()),
        pl.col(formats.ROW).alias("row"),
        *_problem(batch),
    )


def _melted(batch: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    """A row per cell that is not empty, in the order of the file's rows and columns."""
    time, row, problem = layout.timestamp, formats.ROW, formats.PROBLEM
    broken = batch.filter(pl.col(problem).is_not_null()) if problem in batch.columns else batch.clear()
    whole = batch.filter(pl.col(problem).is_null()) if problem in batch.columns else batch
    kind = pl.Float64 if all(batch.schema[name].is_numeric() for name in layout.values) else pl.String
    values = [
        whole[name].cast(kind) if kind == pl.Float64 else cells.shown(whole[name]) for name in layout.values
    ]
    frame = pl.DataFrame([whole[time].alias("timestamp"), whole[row].alias("row")])
    # the names of series may be any, "timestamp" and "row" among them
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


def _problem(batch: pl.DataFrame) -> list[pl.Expr]:
    return [pl.col(formats.PROBLEM).alias("problem")] if formats.PROBLEM in batch.columns else []
