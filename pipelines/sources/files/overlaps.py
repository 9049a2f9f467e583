"""Raise an error if two wide files have different values for the same series and time.

Such files come from different sensors, and a job would read the values of the sensors as one series.
"""

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
from pipelines.sources.files.opened_file import open_file
from schemas.errors import DataError

ReadRows = Callable[[Path], Iterator[pl.DataFrame]]
"""A function that yields the observations of a file in pieces."""

_CELL_BYTES = 64  # estimated memory for one compared value, in bytes
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
        """Return whether two files have a common series and overlapping times."""
        meets = self.first_us <= other.last_us and other.first_us <= self.last_us
        return meets and self.path != other.path and not self.series.isdisjoint(other.series)


class _Clash(NamedTuple):
    """Two different values of one series at one time, in two files."""

    series: str
    time: str
    value: float
    other_value: float
    other: Path


def wide_file(path: Path, layout: Layout, columns: tables.Columns) -> WideFile | None:
    """Return a wide file with its first and last time; None if it need not be compared with other files.

    A file need not be compared if it is long, if it has no time, or if ``data.layout = wide`` is set, which
    states that all files are of one sensor.

    Raises:
        DataError: the file cannot be read.
    """
    if layout.kind != "wide" or columns.layout != "auto":
        return None
    low, high, rows = [], [], 0
    for times in open_file(path, columns).times():
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
    """Raise DataError if wide files of a job have different values of one series at one time.

    Values may differ if ``data.layout = wide`` is set, and in the cases that `refuse_sensors` describes.

    Args:
        looked: the checked files; the times of files with a common series are read.
        columns: the columns that the job names.
        read: see `refuse_sensors`.
        memory_bytes: see `refuse_sensors`.
        skip_bad_files: whether to leave out a file that cannot be read, instead of raising.

    Raises:
        DataError: two files have different values, or a file cannot be read; the message names the fix.
    """
    often, wide = Counter(name for file in looked for name in file.layout.values), []
    for file in looked:
        if max(often[name] for name in file.layout.values) < 2:
            continue
        try:
            wide.append(wide_file(file.path, file.layout, columns))
        except DataError:  # if bad files are skipped, the job reports this error later
            if not skip_bad_files:
                raise
    refuse_sensors([file for file in wide if file is not None], read, memory_bytes)


def refuse_sensors(files: Sequence[WideFile], read: ReadRows, memory_bytes: int) -> None:
    """Raise DataError if wide files have different values of one series at one time.

    Files of one sensor may follow each other, and may overlap if their values are equal. The last row of the
    file that ends first may differ, because it may be unfinished and a later file may complete it.

    Args:
        files: the files in the order in which they are read; files with overlapping times are read again.
        read: yields the observations of a file.
        memory_bytes: approximate limit for the compared values; more values are compared in several passes.

    Raises:
        DataError: two files have different values; the message names both files, the series, the time and the
            fix.
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
                raise DataError(_clash_message(file.path, clash))
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
    """Return each file that may clash with other files (see `may_clash`), and the list of the other files."""
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
    """Return the spans of time (µs) that a file shares with other files; overlapping spans are merged."""
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
    """Return the approximate share of a file's rows in the given spans of time, from 0 to 1."""
    whole = file.last_us - file.first_us
    return sum(high - low for low, high in spans) / whole if whole else 1.0


def _rows_of(
    file: WideFile, others: Sequence[WideFile], read: ReadRows, turn: tuple[int, int]
) -> pl.DataFrame:
    """Return the values of a file that one pass compares with other files: one for each series and time.

    If a series has several values at one time, the last one is returned. ``turn`` is the number of the pass
    and the number of all passes; each pass compares different times.
    """
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
    """Return as a `_Clash` the first row with a different value than an earlier file; None if no row differs.

    If one file ends before the other, its last time is not compared, because its value may be unfinished.
    """
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


def _clash_message(path: Path, clash: _Clash) -> str:
    """Return the error message for two files that have different values of one series at one time."""
    return (
        f"{path}: series {clash.series!r} is {clash.value:g} at {clash.time}, and {clash.other_value:g} in "
        f"{clash.other}: values of two sensors would be read as one series: give the columns of each "
        f"file different names, such as '{path.stem} {clash.series}', or set data.layout = wide if the "
        "files are of one sensor and the later value counts"
    )


class WideFiles:
    """The last 1,000 wide files that were read from a watched folder; each new file is compared with them.

    A new file is compared with the earlier files that have a common series and overlapping times.
    """

    def __init__(self, columns: tables.Columns, read: ReadRows, memory_bytes: int) -> None:
        """Begin with no earlier files; for the arguments, see `wide_file` and `refuse_sensors`."""
        self._columns = columns
        self._read = read
        self._memory_bytes = memory_bytes
        self._files: dict[Path, WideFile] = {}

    def remember(self, paths: Iterable[Path]) -> None:
        """Add the wide files that an earlier run has read; skip a file that cannot be read any more.

        Only the last 1,000 paths are opened.
        """
        for path in list(paths)[-_MOST_FILES:]:
            try:
                self._keep(wide_file(path, open_file(path, self._columns).layout, self._columns))
            except DataError:
                continue

    def take(self, path: Path, layout: Layout) -> None:
        """Remember a new file; first check that no earlier file has another value of a series at one time.

        Raises:
            DataError: the file cannot be read, or has values of another sensor than an earlier file.
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
