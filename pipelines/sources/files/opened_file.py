"""Open a file and read its rows into raw frames, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.settings.data_config import Columns
from pipelines.sources.files import formats
from pipelines.sources.files.columns import Beside, Layout, find_layout, is_long
from pipelines.sources.files.decimals import Decimals
from pipelines.sources.files.file_identity import Identity, identity_of
from pipelines.sources.files.file_kinds import has_numbers_as_text
from pipelines.sources.files.hive_partitions import folder_columns
from pipelines.sources.files.read_ahead import ahead
from pipelines.sources.files.time_detection import detect_format, needs_format
from schemas import cells
from schemas.observations import OBSERVED
from schemas.time_formats import UNITS

_HEAD_ROWS = 1_000
_ROWS = 200_000


@dataclass(frozen=True)
class OpenedFile:
    """A file, its first rows, and the layout and the format of times that were found for it.

    Attributes:
        path: the file.
        columns: the columns that the job names, with the format of the file's times.
        layout: the columns that are read.
        names: the names of all columns.
        head: the first rows, without columns from folder names. For a wide file it has all columns, for a
            long file only the columns that are read.
        folders: the columns from the names of the file's folders, with their values.
    """

    path: Path
    columns: Columns
    layout: Layout
    names: list[str]
    head: pl.DataFrame
    folders: dict[str, str | None]

    @property
    def first_times(self) -> pl.Series:
        """The cells of the time column in the first rows of the file."""
        return _with_folders(self.head, self.folders)[self.layout.timestamp]

    def raw_frames(self, batch_rows: int = 200_000, skip_rows: int = 0) -> Iterator[pl.DataFrame]:
        """Yield the rows of the file as raw frames of at most about ``batch_rows`` rows.

        The columns of a raw frame:

        - ``series_id``, ``timestamp``, ``value``, and ``event_id`` and ``observed.NAME`` if the job names
          them: text for CSV and JSON lines, the file's types for Parquet;
        - ``file`` (String) and ``row`` (Int64): ``row`` counts the data rows of the file from 1; all cells of
          a row of a wide file have its number;
        - ``problem`` (String) in a frame with rows that cannot be split into cells: the reason.

        An empty cell of a wide file makes no row. The first ``skip_rows`` rows of the file are not returned.

        Raises:
            DataError: the file cannot be read; for an incomplete file after the frames of the rows before the
                fault.
        """
        layout, codes = self.layout, self.columns.missing
        numbers = layout.numbers(self.columns.time_format)
        for batch in self._batches(layout.names, numbers, max(1, batch_rows // len(layout.values))):
            batch = without_codes(batch, (*layout.values, *layout.observed), codes)
            kept = batch.filter(pl.col(formats.ROW) > skip_rows) if skip_rows else batch
            if kept.height:
                raw = _raw_of_wide(kept, layout) if layout.kind == "wide" else _raw_of_long(kept, layout)
                yield raw.with_columns(pl.lit(str(self.path)).alias("file")) if raw.height else raw

    def times(self, batch_rows: int = 200_000) -> Iterator[pl.Series]:
        """Yield the times of the file's rows in batches; a cell that is not a time becomes null.

        Raises:
            DataError: the file cannot be read.
        """
        name, columns = self.layout.timestamp, self.columns
        numbers = [name] if columns.time_format in UNITS else []
        for batch in self._batches([name], numbers, batch_rows):
            yield cells.times(batch[name], columns.time_format, columns.time_zone)

    def _batches(self, named: Sequence[str], numbers: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
        """Yield frames of the named columns, including columns from names of folders.

        The text in the columns ``numbers`` of a CSV file is rewritten to numbers with decimal points.
        """
        names = [name for name in named if name not in self.folders]
        folders = {name: value for name, value in self.folders.items() if name in named}
        decimals = Decimals(self.path, self.columns.decimal) if has_numbers_as_text(self.path) else None
        cleared = [*numbers, self.layout.timestamp]
        with formats.convert_read_errors(self.path):
            for batch in ahead(formats.batches(self.path, names, rows, self.columns.encoding)):
                batch = without_null_values(_with_folders(batch, folders), cleared, self.columns.null_values)
                yield decimals.rewrite(batch, numbers) if decimals else batch


def open_file(path: Path, columns: Columns) -> OpenedFile:
    """Find the layout of an input file and the format of its times, and return both with the file.

    Raises:
        DataError: the file cannot be read, no layout fits its columns, or its times can be read in several
            ways; the message names the fix.
    """
    with formats.convert_read_errors(path):
        return _with_time_format(_open(path, columns))


def _with_time_format(opened: OpenedFile) -> OpenedFile:
    name, columns = opened.layout.timestamp, opened.columns
    if columns.time_format != cells.AUTO or name in opened.folders or not needs_format(opened.head[name]):
        return opened
    found = _time_format(opened.path, identity_of(opened.path), name, columns.encoding)
    return replace(opened, columns=columns.model_copy(update={"time_format": found}))


@lru_cache(maxsize=10_000)  # a job opens a file to check it, to compare it with others, and to read it
def _time_format(path: Path, identity: Identity | None, name: str, encoding: str) -> str:
    """Return the format of a file's times; cached by ``identity``, which changes with the file."""
    return detect_format(path, (batch[name] for batch in formats.batches(path, [name], _ROWS, encoding)))


def _open(path: Path, columns: Columns) -> OpenedFile:
    names = formats.column_names(path, columns.encoding)
    folders = {name: value for name, value in folder_columns(path).items() if name not in names}
    beside = Beside(tuple(folders), formats.index_columns(path))
    if is_long(names, columns, beside):
        # `find_layout` needs only the column names of a long file, and the cells of index columns that pandas
        # wrote. So only these cells are read before the layout is known.
        index = [name for name in names if beside.is_index(name)]
        known = _empty(names)
        if index:
            cells_of_index = _head(path, index, (), columns)
            known = known.clear(len(cells_of_index)).with_columns(cells_of_index.get_columns())
        layout = find_layout(path, known, columns, beside)
        read = [name for name in layout.names if name not in folders]
        numbers = [name for name in layout.numbers(columns.time_format) if name not in folders]
        return OpenedFile(path, columns, layout, names, _head(path, read, numbers, columns), folders)
    late = formats.late_keys(path, names, columns.encoding)
    head = _head(path, [*names, *late], [*names, *late], columns)
    layout = find_layout(path, head, columns, beside)
    return OpenedFile(path, columns, layout, [*names, *late], head, folders)


def _with_folders(frame: pl.DataFrame, folders: Mapping[str, str | None]) -> pl.DataFrame:
    if not folders:
        return frame
    return frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in folders.items())


def _head(path: Path, names: Sequence[str], numbers: Sequence[str], columns: Columns) -> pl.DataFrame:
    head = formats.first_rows(path, names, _HEAD_ROWS, columns.encoding)[list(names)]
    head = without_null_values(head, names, columns.null_values)
    return Decimals(path, columns.decimal).rewrite(head, numbers) if has_numbers_as_text(path) else head


def _empty(names: Iterable[str]) -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(names, pl.String))


def without_null_values(frame: pl.DataFrame, names: Iterable[str], texts: Sequence[str]) -> pl.DataFrame:
    """Return the frame with null in place of cells that mean a missing value, in the named text columns."""
    if not texts:
        return frame
    found = [name for name in dict.fromkeys(names) if frame.schema.get(name) == pl.String]
    return frame.with_columns(
        frame[name].set(frame[name].str.strip_chars().is_in(texts).fill_null(False), None) for name in found
    )


def without_codes(batch: pl.DataFrame, names: Sequence[str], codes: Sequence[float]) -> pl.DataFrame:
    """Return the batch with null in place of the numbers ``codes``, in the named columns."""
    if not codes:
        return batch
    return batch.with_columns(
        batch[name].set(cells.numbers(batch[name]).is_in(codes).fill_null(False), None) for name in names
    )


def _raw_of_long(batch: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    chosen = {"timestamp": layout.timestamp, "value": layout.values[0]}
    if layout.event_id:
        chosen["event_id"] = layout.event_id
    chosen |= {OBSERVED + name: name for name in layout.observed}
    series = batch[layout.series[0]]
    if len(layout.series) > 1:
        series = cells.joined_names([batch[name] for name in layout.series])
    return batch.select(
        series.alias("series_id"),
        *(pl.col(source).alias(name) for name, source in chosen.items()),
        pl.col(formats.ROW).alias("row"),
        *_problem_column(batch),
    )


def _raw_of_wide(batch: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    """Return a raw frame with one row for each value in a batch of a wide file; skip empty cells.

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
    # use numbers as column names, because a series may have any name, even "timestamp" or "row"
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
