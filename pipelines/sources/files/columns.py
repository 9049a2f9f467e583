"""Find the columns of a file that hold the series, the time and the values; the file is long or wide."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from pipelines.settings.data_config import Columns
from pipelines.sources.files.csv_header import UNNAMED
from pipelines.sources.files.time_detection import fits_a_format
from schemas import cells
from schemas.errors import DataError
from schemas.time_formats import UNITS

SERIES_NAMES = ("series_id", "unique_id", "item_id")
TIME_NAMES = ("timestamp", "ds", "time", "date", "datetime", "date_time", "time_hour")
VALUE_NAMES = ("value", "y", "target")

# pandas writes an unnamed index to CSV as a column without a name. `column_names` calls it "(unnamed 1)".
# If pandas reads a CSV file with a nameless column and writes it again, the column is "Unnamed: 0".
# In a Parquet file, pandas calls the column of an unnamed index "__index_level_0__".
_INDEX = re.compile(rf"{re.escape(UNNAMED)}\d+\)|Unnamed: \d+(?:\.\d+)?|__index_level_\d+__")

# The names of columns that pandas and R make from an index or from row names.
_RESET_INDEX = re.compile(r"index|level_\d+|X|rownames|\.\.\.\d+")

# A column of a wide file with at least this many cells, and no number among them, counts as text. With fewer
# cells, the column may hold numbers that are all faulty.
_ENOUGH_CELLS = 20


@dataclass(frozen=True)
class Beside:
    """Facts about columns that their names do not show: which come from folder names, which are an index.

    Attributes:
        folders: names of the columns that come from names of folders, such as ``series_id=007``.
        index: columns that pandas wrote as the index of a data frame.
    """

    folders: tuple[str, ...] = ()
    index: tuple[str, ...] = ()

    def is_index(self, name: str) -> bool:
        """Return whether a column is a data frame's index; an index may hold times, but never a series."""
        return name in self.index or bool(_INDEX.fullmatch(name))


NO_FILE_FACTS = Beside()


@dataclass(frozen=True)
class Layout:
    """The columns that are read from one file, and the role of each, such as series, time or value.

    Attributes:
        kind: ``long``, with a row for each value, or ``wide``, with a column for each series.
        series: the columns whose joined names are the series ids; none for a wide file.
        timestamp: the column of times.
        values: the value column of a long file, or the columns of the series of a wide file.
        event_id: the column of event ids; "" if there is none.
        observed: the columns of observed covariates.
    """

    kind: Literal["long", "wide"]
    series: tuple[str, ...]
    timestamp: str
    values: tuple[str, ...]
    event_id: str
    observed: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of all columns that are read, including columns from folder names."""
        named = [*self.series, self.timestamp, *self.values, self.event_id, *self.observed]
        return list(dict.fromkeys(name for name in named if name))

    @property
    def lacks_series_name(self) -> bool:
        """Whether no column names the series: a wide file has one value column with a name like "value"."""
        is_alone = self.kind == "wide" and len(self.values) == 1
        return is_alone and self.values[0].strip().lower() in VALUE_NAMES

    def numbers(self, time_format: str) -> list[str]:
        """Return the columns that are read as numbers: values, observed covariates, and numeric times."""
        named = (*self.values, *self.observed, *([self.timestamp] if time_format in UNITS else []))
        return list(dict.fromkeys(named))


def find_layout(path: Path, head: pl.DataFrame, columns: Columns, beside: Beside = NO_FILE_FACTS) -> Layout:
    """Return the layout of a file, found from its column names, its first rows and the job's settings.

    Args:
        path: the file.
        head: its first rows, without columns from folder names. For a long file only the names and the cells
            of the index columns are used.
        columns: the columns that the job's settings name.
        beside: facts about the file that its columns do not show.

    Raises:
        DataError: a named column does not exist, or no layout fits.
    """
    existing = [*head.columns, *beside.folders]
    named = [("series_id", name) for name in columns.series_columns]
    named += [(option, getattr(columns, option)) for option in ("timestamp", "value", "event_id")]
    for option, name in named:
        if name and name not in existing:
            raise DataError(f"{path}: no column {name!r} (data.{option}); there is {listed(existing)}")
    for name in columns.observed:
        if name not in existing:
            raise DataError(f"{path}: no column {name!r} (covariates.observed); there is {listed(existing)}")
    if is_long(head.columns, columns, beside):
        alias = _alias(head.columns, SERIES_NAMES) or _alias(beside.folders, SERIES_NAMES)
        series = columns.series_columns or tuple(filter(None, (alias,)))
        return _long(path, head, columns, series, beside)
    return _wide(path, head, columns, beside)


def is_long(there: Sequence[str], columns: Columns, beside: Beside = NO_FILE_FACTS) -> bool:
    """Return whether a file is long, judged by its column names ``there``, its folders and the settings."""
    named = columns.series_columns or columns.value or _alias([*there, *beside.folders], SERIES_NAMES)
    return columns.layout == "long" or (columns.layout == "auto" and bool(named))


def _long(
    path: Path, head: pl.DataFrame, columns: Columns, series: tuple[str, ...], beside: Beside
) -> Layout:
    there = head.columns
    time = columns.timestamp or _alias(there, TIME_NAMES) or _time_of_index(head, columns, beside)
    value = columns.value or _alias(there, VALUE_NAMES)
    for option, found, names in (
        ("series_id", series, SERIES_NAMES), ("timestamp", time, TIME_NAMES), ("value", value, VALUE_NAMES)
    ):  # fmt: skip
        if not found:
            raise DataError(
                f"{path}: no column {_either(names)}; there is {listed([*there, *beside.folders])}: "
                f"name one with data.{option}"
            )
    if columns.event_id in (*series, time, value):
        raise DataError(
            f"{path}: data.event_id = {columns.event_id!r} is the column of the series, the times or the "
            "values: name a column that identifies an event of a series"
        )
    return Layout("long", series, time, (value,), columns.event_id, columns.observed)


def _wide(path: Path, head: pl.DataFrame, columns: Columns, beside: Beside) -> Layout:
    there = head.columns
    time = (
        columns.timestamp
        or _alias(there, TIME_NAMES)
        or _time_of_index(head, columns, beside)
        or _first_time_column(head, there, columns.time_format)
    )
    if not time:
        raise DataError(
            f"{path}: no column {_either(TIME_NAMES)}, and none that holds times; there is {listed(there)}: "
            "name the column of the times with data.timestamp"
        )
    if columns.event_id:
        raise DataError(f"{path}: data.event_id = {columns.event_id!r} needs a long file; this one is wide")
    if columns.observed:
        raise DataError(
            f"{path}: covariates.observed names {columns.observed[0]!r}, a column of each row, and this file "
            "is wide: write a long file (series_id, timestamp, value and that column)"
        )
    values = tuple(
        name for name in there if name != time and not (beside.is_index(name) or _numbers_rows(head[name]))
    )
    if not values:
        raise DataError(
            f"{path}: no column beside the time {time!r}: a wide file has one column for each series"
        )
    for name in values:
        given = cells.given(head[name])
        if given.sum() >= _ENOUGH_CELLS and cells.numbers(head[name]).is_null().all():
            shown = cells.shown(head[name]).filter(given)[0]
            raise DataError(
                f"{path}: column {name!r} holds text such as {shown!r}, but a wide file has a column of "
                "numbers for each series; for a long file set data.series_id and data.value"
            )
    if columns.layout == "auto" and len(values) > 1:
        _refuse_several_series(path, head, time, values)
    return Layout("wide", (), time, values, "")


def _refuse_several_series(path: Path, head: pl.DataFrame, time: str, values: tuple[str, ...]) -> None:
    """Raise DataError if a file looks long, with a series column of an unknown name such as ``sensor_no``.

    Raises:
        DataError: most times occur more than once, and one column has the name of a value column.
    """
    value = _alias(values, VALUE_NAMES)
    others = [name for name in values if name != value]
    times = head[time].drop_nulls()
    if value and len(times) >= _ENOUGH_CELLS and times.n_unique() * 2 <= len(times):
        raise DataError(
            f"{path}: most times occur more than once, as in a long file, but no column is called "
            f"{_either(SERIES_NAMES)}: name the column of the series with data.series_id, such as "
            f"{others[0]!r}, or set data.layout = wide if each column is a series"
        )


def _alias(there: Sequence[str], names: Sequence[str]) -> str:
    by_name = {name.strip().lower(): name for name in reversed(there)}
    return next((by_name[name] for name in names if name in by_name), "")


def _first_time_column(head: pl.DataFrame, names: Sequence[str], time_format: str) -> str:
    """Return the first of the columns ``names`` with only times and no plain numbers; "" if there is none."""
    for column in head.select(names):
        known = column.filter(cells.given(column))
        if column.dtype.is_numeric() or known.is_empty() or cells.numbers(known).is_not_null().any():
            continue
        if cells.times(known, time_format).is_not_null().all():
            return column.name
        if time_format == cells.AUTO and fits_a_format(known):
            return column.name
    return ""


def _numbers_rows(column: pl.Series) -> bool:
    """Return whether a column only numbers the rows: its name is that of an index, and it counts up by 1."""
    if not _RESET_INDEX.fullmatch(column.name):
        return False
    steps = cells.numbers(column).diff().drop_nulls()
    return bool(len(column) > 1 and len(steps) == len(column) - 1 and (steps == 1).all())


def _time_of_index(head: pl.DataFrame, columns: Columns, beside: Beside) -> str:
    """Return the name of the column of a pandas index that holds times; "" if there is none."""
    index = [name for name in head.columns if beside.is_index(name)]
    return _first_time_column(head, index, columns.time_format)


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def listed(names: Sequence[str]) -> str:
    """Join names to a text for messages: the first eight names, and the number of the others."""
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
