"""Which column of a file is the series, the time and the value: long or wide, by name or by the looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from pipelines.config import Columns
from pipelines.sources.formats import UNNAMED
from schemas import cells
from schemas.errors import DataError

SERIES_NAMES = ("series_id", "unique_id", "item_id")
TIME_NAMES = ("timestamp", "ds", "time", "date", "datetime", "date_time", "time_hour")
VALUE_NAMES = ("value", "y", "target")

_SURE = 20  # so many cells of text and no number make a column one of text, not one with bad rows


@dataclass(frozen=True)
class Layout:
    """The columns to read of one file.

    ``values`` is the one value column of a long file, or the column of each series of a wide one;
    ``series_id`` is empty for wide, ``event_id`` where there is none; ``observed`` are covariates.
    """

    kind: Literal["long", "wide"]
    series_id: str
    timestamp: str
    values: tuple[str, ...]
    event_id: str
    observed: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The columns of the file that are read."""
        named = [self.series_id, self.timestamp, *self.values, self.event_id, *self.observed]
        return list(dict.fromkeys(name for name in named if name))

    @property
    def numbers(self) -> list[str]:
        """The columns that hold numbers, the times perhaps among them."""
        return [self.timestamp, *self.values, *self.observed]


def find_layout(path: Path, head: pl.DataFrame, columns: Columns) -> Layout:
    """The layout of a file from the names and first rows (``head``) of its columns.

    Raises:
        DataError: A named column is not there, or no layout fits.
    """
    there = head.columns
    for option in ("series_id", "timestamp", "value", "event_id"):
        name = getattr(columns, option)
        if name and name not in there:
            raise DataError(f"{path}: no column {name!r} (data.{option}); there is {_listed(there)}")
    for name in columns.observed:
        if name not in there:
            raise DataError(f"{path}: no column {name!r} (covariates.observed); there is {_listed(there)}")
    if is_long(there, columns):
        return _long(path, there, columns, columns.series_id or _alias(there, SERIES_NAMES))
    return _wide(path, head, columns)


def is_long(there: Sequence[str], columns: Columns) -> bool:
    """Whether a file with these columns is long, which their names and the settings alone decide."""
    named = columns.series_id or columns.value or _alias(there, SERIES_NAMES)
    return columns.layout == "long" or (columns.layout == "auto" and bool(named))


def _long(path: Path, there: Sequence[str], columns: Columns, series: str) -> Layout:
    time = columns.timestamp or _alias(there, TIME_NAMES)
    value = columns.value or _alias(there, VALUE_NAMES)
    for option, found, names in (
        ("series_id", series, SERIES_NAMES), ("timestamp", time, TIME_NAMES), ("value", value, VALUE_NAMES)
    ):  # fmt: skip
        if not found:
            raise DataError(
                f"{path}: no column {_either(names)}; there is {_listed(there)}: name one with data.{option}"
            )
    return Layout("long", series, time, (value,), columns.event_id, columns.observed)


def _wide(path: Path, head: pl.DataFrame, columns: Columns) -> Layout:
    there = head.columns
    time = columns.timestamp or _alias(there, TIME_NAMES) or _looks_like_time(head, columns.time_format)
    if not time:
        raise DataError(
            f"{path}: no column {_either(TIME_NAMES)}, nor one of times; there is {_listed(there)}: "
            "name it with data.timestamp"
        )
    if columns.event_id:
        raise DataError(f"{path}: data.event_id = {columns.event_id!r} needs a long file, this one is wide")
    if columns.observed:
        raise DataError(
            f"{path}: covariates.observed names {columns.observed[0]!r}, a column of each row, and this file "
            "is wide: write it long (series_id, timestamp, value and that column)"
        )
    # a column without a name is somebody's row numbers, unless it holds the times
    values = tuple(name for name in there if name != time and not name.startswith(UNNAMED))
    if not values:
        raise DataError(f"{path}: no column beside the time {time!r}: a wide file has one column a series")
    for name in values:
        given = cells.given(head[name])
        if given.sum() >= _SURE and cells.numbers(head[name]).is_null().all():
            shown = cells.shown(head[name]).filter(given)[0]
            raise DataError(
                f"{path}: column {name!r} holds text such as {shown!r}, and a wide file has one column of "
                "numbers a series; for a long file set data.series_id and data.value"
            )
    return Layout("wide", "", time, values, "")


def _alias(there: Sequence[str], names: Sequence[str]) -> str:
    by_name = {name.strip().lower(): name for name in reversed(there)}
    return next((by_name[name] for name in names if name in by_name), "")


def _looks_like_time(head: pl.DataFrame, time_format: str) -> str:
    """The first column that is all times, plain numbers aside."""
    for column in head:
        known = column.filter(cells.given(column))
        if column.dtype.is_numeric() or known.is_empty() or cells.numbers(known).is_not_null().any():
            continue
        if cells.times(known, time_format).is_not_null().all():
            return column.name
    return ""


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
