"""Wide files that hold different values of one series at one time: they are of several sensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipelines.sources.files import tables
from pipelines.sources.files.columns import Layout
from schemas.errors import DataError

ReadRows = Callable[[Path], Iterator[pl.DataFrame]]
"""Gives the observations of a file, piece by piece."""

_CELL_BYTES = 64  # about what a value takes while it is compared
_MOST_FILES = 1_000


@dataclass(frozen=True)
class WideFile:
    """A wide file and the span of its times.

    Attributes:
        path: the file.
        series: its columns of values.
        first_us, last_us: its earliest and latest time, in microseconds.
        rows: number of its rows.
    """

    path: Path
    series: frozenset[str]
    first_us: int
    last_us: int
    rows: int

    def may_clash(self, other: WideFile) -> bool:
        """Return whether both files have a series in common, and times that may be the same."""
        meets = self.first_us <= other.last_us and other.first_us <= self.last_us
        return meets and self.path != other.path and not self.series.isdisjoint(other.series)


class _Clash(NamedTuple):
    """Two values of one series at one time, in two files."""

    series: str
    time: str
    value: float
    other_value: float
    other: Path


def wide_file(path: Path, layout: Layout, columns: tables.Columns) -> WideFile | None:
    """Return a file with the span of its times; None if it is long, has no time, or is all one sensor's.

    ``data.layout = wide`` states that all files are of one sensor.

    Raises:
        DataError: the file cannot be read.
    """
    if layout.kind != "wide" or columns.layout != "auto":
        return None
    low, high, rows = [], [], 0
    for times in tables.read_times(path, columns):
        known, rows = times.drop_nulls().to_physical(), rows + len(times)
        if len(known):
            low.append(int(known.min()))  # type: ignore[arg-type]
            high.append(int(known.max()))  # type: ignore[arg-type]
    return WideFile(path, frozenset(layout.values), min(low), max(high), rows) if low else None


def refuse_clashes(
    looked: Sequence[tables.FileCheck],
    columns: tables.Columns,
    read: ReadRows,
    memory_bytes: int,
    *,
    skip_bad_files: bool,
) -> None:
    """Refuse files of a job that hold different values of one series at one time; see `refuse_sensors`.

    Args:
        looked: the files; the times of those that have a series in common are read.
        columns: as the job names them.
        read: as in `refuse_sensors`.
        memory_bytes: as in `refuse_sensors`.
        skip_bad_files: leave out a file that cannot be read.

    Raises:
        DataError: there are such files, or a file cannot be read; one line with the fix.
    """
    often, wide = Counter(name for file in looked for name in file.layout.values), []
    for file in looked:
        if max(often[name] for name in file.layout.values) < 2:
            continue
        try:
            wide.append(wide_file(file.path, file.layout, columns))
        except DataError:  # the job that reads the file states why it cannot be read
            if not skip_bad_files:
                raise
    refuse_sensors([file for file in wide if file is not None], read, memory_bytes)


def refuse_sensors(files: Sequence[WideFile], read: ReadRows, memory_bytes: int) -> None:
    """Refuse wide files that hold different values of one series at one time.

    Files of one sensor may follow each other, overlap with the same values, and touch: the last row of the
    file that ends first may be unfinished, so a later file may complete it.

    Args:
        files: in the order in which they are read. Only those whose times overlap are read again.
        read: gives the observations of a file.
        memory_bytes: about what the compared values may take; more are compared in several passes.

    Raises:
        DataError: there are such files; one line with both files, the series, the time and the fix.
    """
    overlapping = _overlapping(files)
    cells = sum(
        file.rows * len(file.series) * _share(file, _spans(file, others)) for file, others in overlapping
    )
    passes = max(1, math.ceil(cells * _CELL_BYTES / memory_bytes))
    for number in range(passes):
        held = pl.DataFrame(schema=_HELD)
        for file, others in overlapping:
            rows = _rows_of(file, others, read, (number, passes))
            clash = _clash(rows, held)
            if clash is not None:
                raise DataError(_line(file.path, clash))
            new = rows.join(held, on=["series_id", "timestamp"], how="anti")
            held = pl.concat([held, new.select(list(_HELD))])


_HELD = {
    "series_id": pl.String(),
    "timestamp": pl.Datetime("us", "UTC"),
    "value": pl.Float64(),
    "path": pl.String(),
    "last_us": pl.Int64(),
}


def _overlapping(files: Sequence[WideFile]) -> list[tuple[WideFile, list[WideFile]]]:
    """The files that may clash with another, each with the others, in the order of ``files``."""
    others: dict[Path, list[WideFile]] = {}
    open_until: list[WideFile] = []
    for file in sorted(files, key=lambda file: file.first_us):
        open_until = [other for other in open_until if other.last_us >= file.first_us]
        for other in open_until:
            if file.may_clash(other):
                others.setdefault(file.path, []).append(other)
                others.setdefault(other.path, []).append(file)
        open_until.append(file)
    return [(file, others[file.path]) for file in files if file.path in others]


def _spans(file: WideFile, others: Sequence[WideFile]) -> list[tuple[int, int]]:
    """The times that a file has in common with others, as spans that do not overlap, in microseconds."""
    spans: list[tuple[int, int]] = []
    for low, high in sorted(
        (max(file.first_us, other.first_us), min(file.last_us, other.last_us)) for other in others
    ):
        if spans and low <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], high)
        else:
            spans.append((low, high))
    return spans


def _share(file: WideFile, spans: Sequence[tuple[int, int]]) -> float:
    """About which share of a file's rows lies in spans of its times."""
    whole = file.last_us - file.first_us
    return sum(high - low for low, high in spans) / whole if whole else 1.0


def _rows_of(
    file: WideFile, others: Sequence[WideFile], read: ReadRows, turn: tuple[int, int]
) -> pl.DataFrame:
    """The values of a file that another may have too, the last of each series and time."""
    series = file.series & frozenset[str]().union(*(other.series for other in others))
    at, (number, passes) = pl.col("timestamp").to_physical(), turn
    is_shared = pl.any_horizontal(at.is_between(low, high) for low, high in _spans(file, others))
    is_needed = is_shared & pl.col("series_id").is_in(list(series))
    if passes > 1:
        is_needed &= at.hash(0) % passes == number
    parts = [part.filter(is_needed).select("series_id", "timestamp", "value") for part in read(file.path)]
    rows = pl.concat(parts) if parts else pl.DataFrame(schema=_HELD).select(list(_HELD)[:3])
    rows = rows.unique(["series_id", "timestamp"], keep="last", maintain_order=True)
    return rows.with_columns(path=pl.lit(str(file.path)), last_us=pl.lit(file.last_us, pl.Int64))


def _clash(rows: pl.DataFrame, held: pl.DataFrame) -> _Clash | None:
    """The first value of a file that differs from one that is held; None if there is none."""
    pairs = rows.join(held, on=["series_id", "timestamp"], suffix="_other")
    ends, ends_other = pl.col("last_us"), pl.col("last_us_other")
    is_unfinished = (ends != ends_other) & (
        pl.col("timestamp").to_physical() == pl.min_horizontal(ends, ends_other)
    )
    found = pairs.filter((pl.col("value") != pl.col("value_other")) & ~is_unfinished)
    if found.is_empty():
        return None
    first = found.sort("timestamp", "series_id").row(0, named=True)
    time = first["timestamp"].isoformat().replace("+00:00", "Z")
    return _Clash(first["series_id"], time, first["value"], first["value_other"], Path(first["path_other"]))


def _line(path: Path, clash: _Clash) -> str:
    return (
        f"{path}: series {clash.series!r} is {clash.value:g} at {clash.time}, and {clash.other_value:g} in "
        f"{clash.other}: values of two sensors would be read as one series: give the columns of each file "
        f"names of their own, such as '{path.stem} {clash.series}', or write data.layout = wide where the "
        "files are of one sensor and the later value counts"
    )


class WideFiles:
    """The wide files of a watched folder that were read, to find a file of another sensor among new ones.

    A new file is compared with the last 1,000.
    """

    def __init__(self, columns: tables.Columns, read: ReadRows, memory_bytes: int) -> None:
        """``columns``, ``read`` and ``memory_bytes`` are those of `wide_file` and `refuse_sensors`."""
        self._columns = columns
        self._read = read
        self._memory_bytes = memory_bytes
        self._files: dict[Path, WideFile] = {}

    def remember(self, paths: Iterable[Path]) -> None:
        """Add files that were read before; a file that cannot be read any more is left out."""
        for path in list(paths)[-_MOST_FILES:]:
            try:
                self._keep(wide_file(path, tables.layout_of(path, self._columns), self._columns))
            except DataError:
                continue

    def take(self, path: Path, layout: Layout) -> None:
        """Add a new file.

        Raises:
            DataError: the file cannot be read, or it holds values of another sensor than an earlier file.
        """
        new = wide_file(path, layout, self._columns)
        if new is None:
            return
        earlier = [file for file in self._files.values() if file.may_clash(new) and file.path.is_file()]
        if earlier:
            refuse_sensors([*earlier, new], self._read, self._memory_bytes)
        self._keep(new)

    def _keep(self, file: WideFile | None) -> None:
        if file is None:
            return
        self._files.pop(file.path, None)
        self._files[file.path] = file
        if len(self._files) > _MOST_FILES:
            del self._files[next(iter(self._files))]
