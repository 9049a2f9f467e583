"""Files into raw frames: CSV, Parquet and JSON lines, long or wide, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl

from pipelines.config import Columns
from pipelines.sources import formats
from pipelines.sources.ahead import ahead
from pipelines.sources.columns import Layout, find_layout, is_long
from pipelines.sources.decimals import Decimals
from pipelines.sources.time_hints import no_times
from schemas import cells
from schemas.errors import DataError
from schemas.observations import OBSERVED

__all__ = ["Columns", "FileCheck", "check", "input_files", "read_batches"]

_HEAD_ROWS = 1_000


@dataclass(frozen=True)
class FileCheck:
    """What a look at the first rows of a file tells."""

    path: Path
    layout: Layout
    lacks_zone: bool

    @property
    def notice(self) -> str | None:
        """One line for people if UTC has to be assumed."""
        return f"{self.path}: times have no zone, UTC assumed" if self.lacks_zone else None


def input_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files to read: each path that is a file, and the known files below each that is a folder, sorted.

    In folders, names that begin with ``.`` or ``_`` and files of other suffixes are left out; a file
    named twice is read once.

    Raises:
        DataError: No paths are given, one does not exist, or a folder holds nothing to read.
    """
    if not paths:
        raise DataError(f"no input: name files or folders of {formats.KNOWN}")
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = [p for p in sorted(path.rglob("*")) if p.is_file() and formats.is_known(p)]
            inner = [p for p in below if not any(part[0] in "._" for part in p.relative_to(path).parts)]
            if not inner:
                raise DataError(f"{path}: no {formats.KNOWN} in this folder")
            found += inner
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


def check(path: Path, columns: Columns | None = None) -> FileCheck:
    """Look at the names and first rows of a file, before a job is launched on it.

    Raises:
        DataError: The file cannot be read or its columns do not fit; one line with the fix.
    """
    columns = columns or Columns()
    with formats.told(path):
        layout, head = _look(path, columns)
        times = head[layout.timestamp]
        if cells.given(times).any() and cells.times(times, columns.time_format).is_null().all():
            raise DataError(f"{path}: {no_times(times, columns.time_format)}")
        return FileCheck(path, layout, cells.lacks_zone(times, columns.time_format))


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
        layout, _ = _look(path, columns)
        per_batch = max(1, batch_rows // len(layout.values))
        decimals = Decimals(path, columns.decimal) if formats.is_csv(path) else None
        for batch in ahead(formats.batches(path, layout.names, per_batch, columns.encoding)):
            batch = decimals.rewrite(batch, layout.numbers) if decimals else batch
            batch = _without(batch, (*layout.values, *layout.observed), columns.missing)
            kept = batch.filter(pl.col(formats.ROW) > skip_rows) if skip_rows else batch
            if kept.height:
                raw = _melted(kept, layout) if layout.kind == "wide" else _named(kept, layout)
                yield raw.with_columns(pl.lit(str(path)).alias("file")) if raw.height else raw


def _look(path: Path, columns: Columns) -> tuple[Layout, pl.DataFrame]:
    """The layout of a file, and the first rows of the columns that are read."""
    names = formats.column_names(path, columns.encoding)
    if is_long(names, columns):  # by name alone: columns that are not read may hold anything
        layout = find_layout(path, _empty(names), columns)
        return layout, _head(path, layout.names, layout.numbers, columns)
    head = _head(path, names, names, columns)
    return find_layout(path, head, columns), head


def _head(path: Path, names: Sequence[str], numbers: Sequence[str], columns: Columns) -> pl.DataFrame:
    first = next(chain(formats.batches(path, names, _HEAD_ROWS, columns.encoding), [None]))
    head = _empty(names) if first is None else first.select(names)
    return Decimals(path, columns.decimal).rewrite(head, numbers) if formats.is_csv(path) else head


def _empty(names: Sequence[str]) -> pl.DataFrame:
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
    numeric = all(batch.schema[name].is_numeric() for name in layout.values)
    values = [
        (whole[name].cast(pl.Float64) if numeric else cells.shown(whole[name])).alias(name)
        for name in layout.values
    ]
    frame = whole.select(time, row).with_columns(pl.lit(0).alias(formats.ORDER))
    melted = pl.concat(
        frame.with_columns(
            pl.lit(i).alias(formats.ORDER), pl.lit(v.name).alias("series_id"), v.alias("value")
        ).filter(cells.given(v))
        for i, v in enumerate(values)
    ).sort(row, formats.ORDER)
    out = melted.select("series_id", pl.col(time).alias("timestamp"), "value", pl.col(row).alias("row"))
    if broken.is_empty():
        return out
    rows = broken.select(pl.col(row).alias("row"), pl.col(problem).alias("problem"))
    return pl.concat([out, rows], how="diagonal").sort("row", maintain_order=True)


def _problem(batch: pl.DataFrame) -> list[pl.Expr]:
    return [pl.col(formats.PROBLEM).alias("problem")] if formats.PROBLEM in batch.columns else []
