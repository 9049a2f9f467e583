"""Read labelled rows from files in long layout: values, labels and, optionally, parts (train, test).

The module imports neither torch nor Beam nor MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipelines.sources.files import formats
from pipelines.sources.files.columns import SERIES_NAMES, TIME_NAMES
from pipelines.sources.files.find_files import find_files
from pipelines.sources.files.hive_partitions import folder_columns
from schemas import cells, labels, quarantine
from schemas.errors import DataError

_HEAD_ROWS = 1_000
_BATCH_ROWS = 200_000


@dataclass(frozen=True)
class LabelColumns:
    """The names of the columns of a labelled file.

    `find_columns` fills ``series_id``, ``timestamp`` and ``values`` from the file if they are empty.

    Attributes:
        label: column of labels; empty if the files have no labels.
        values: columns of values, the channels; empty takes every other column that holds numbers.
        series_id: column of series ids; a file without one is one series, named after the file.
        timestamp: column of times.
        split: column of parts (train, validation, test); empty if there is none.
    """

    label: str = "label"
    values: tuple[str, ...] = ()
    series_id: str = ""
    timestamp: str = ""
    split: str = ""


@dataclass(frozen=True)
class LabelledRows:
    """The rows of labelled files.

    Attributes:
        rows: valid rows, with the columns of ``schemas.labels.KEY`` and the channels.
        quarantined: rejected rows.
        channels: names of the columns of values.
        notices: lines to show to the user.
    """

    rows: pl.DataFrame
    quarantined: pl.DataFrame
    channels: tuple[str, ...]
    notices: tuple[str, ...]


def find_columns(path: Path, columns: LabelColumns) -> LabelColumns:
    """Return the names of a labelled file's columns; find ids, times or values that ``columns`` lacks.

    The columns of ids and times are found by their usual names, the columns of values by their contents.

    Raises:
        DataError: a named column does not exist, or no column of times or of values is found; the message
            names the fix.
    """
    with formats.convert_read_errors(path):
        names = formats.column_names(path)
        head = formats.first_rows(path, names, _HEAD_ROWS)
    named = {
        "--label": columns.label, "--series-id": columns.series_id, "--timestamp": columns.timestamp,
        "--split": columns.split,
    }  # fmt: skip
    for option, name in [*named.items(), *(("--value", value) for value in columns.values)]:
        if name and name not in names:
            raise DataError(f"{path}: no column {name!r} ({option}); the columns are {', '.join(names[:12])}")
    by_name = {name.strip().lower(): name for name in reversed(names)}
    time = columns.timestamp or next((by_name[n] for n in TIME_NAMES if n in by_name), "")
    if not time:
        raise DataError(
            f"{path}: no column of times among {', '.join(names[:12])}: name one with --timestamp"
        )
    series = columns.series_id or next((by_name[n] for n in SERIES_NAMES if n in by_name), "")
    taken = {series, time, columns.label, columns.split}
    values = columns.values or tuple(n for n in names if n not in taken and _holds_numbers(head[n]))
    if not values:
        beside = ", ".join(sorted(taken - {""}))
        raise DataError(f"{path}: no column of numbers beside {beside}: name one with --value")
    wrong = [value for value in values if value in labels.RESERVED or value in taken]
    if wrong:
        raise DataError(
            f"{path}: column {wrong[0]!r} cannot be a value, because its name is reserved or it has another "
            "role: rename it, or name others with --value"
        )
    return LabelColumns(columns.label, values, series, time, columns.split)


def read_labelled(
    paths: Sequence[str | Path], columns: LabelColumns, on_rows: Callable[[int], None] = lambda rows: None
) -> LabelledRows:
    """Read and validate all rows of labelled files.

    Args:
        paths: files or folders.
        columns: names of the columns of the files.
        on_rows: called with the number of rows of each batch that was read.

    Raises:
        DataError: a file cannot be read, the files have different channels, or no row is valid.
    """
    good, bad, zoneless = [], [quarantine.empty()], []
    channels: tuple[str, ...] = ()
    found_files = find_files(paths)
    without_series: dict[str, Path] = {}
    for path in found_files.files:
        found = find_columns(path, columns)
        if (
            not found.series_id
            and _series_of(path) == path.stem
            and without_series.setdefault(path.stem, path) != path
        ):
            raise DataError(
                f"{path}: has no series column, and {without_series[path.stem]} has the same name: rename "
                "one file, or name the series column with --series-id"
            )
        if channels and set(found.values) != set(channels):
            raise DataError(
                f"{path}: its value columns are {', '.join(found.values)}, and other files have "
                f"{', '.join(channels)}: name the common ones with --value"
            )
        channels = channels or found.values
        for raw in _raw(path, found):
            if cells.lacks_zone(raw["timestamp"]) and str(path) not in zoneless:
                zoneless.append(str(path))
            rows, rejected = labels.validate(raw, channels)
            good.append(rows)
            bad.append(rejected)
            on_rows(len(raw))
    rejected = pl.concat(bad)
    if not good or not sum(map(len, good)):
        raise DataError(f"{paths[0]}{_and_others(len(paths) - 1)}: no row can be used: {_why(rejected)}")
    notices = [f"{zoneless[0]}: times have no zone, UTC assumed"] if zoneless else []
    return LabelledRows(pl.concat(good, rechunk=True), rejected, channels, (*found_files.notices, *notices))


def _and_others(others: int) -> str:
    """Return the text that follows the first of several inputs, such as " and 3 more"; "" for one input."""
    return f" and {others:,} more" if others else ""


def _why(quarantined: pl.DataFrame) -> str:
    """Return the reason why no row of the labelled files can be used."""
    if not len(quarantined):
        return "there are no rows"
    first = quarantined.row(0, named=True)
    return (
        f"{len(quarantined):,} were quarantined, the first: {first['file']}, row {first['row']}: "
        f"{first['reason']}"
    )


def _raw(path: Path, found: LabelColumns) -> list[pl.DataFrame]:
    """Return the unvalidated rows of a labelled file, with columns named as in ``schemas.labels``."""
    chosen = {
        "series_id": found.series_id,
        "timestamp": found.timestamp,
        "label": found.label,
        "split": found.split,
    }
    chosen = {name: column for name, column in chosen.items() if column}
    names = list(dict.fromkeys([*chosen.values(), *found.values]))
    with formats.convert_read_errors(path):
        return [
            batch.select(
                *(pl.lit(_series_of(path)).alias("series_id") for _ in range(not found.series_id)),
                *(pl.col(column).alias(name) for name, column in chosen.items()),
                *found.values,
                pl.col(formats.ROW).alias("row"),
                pl.lit(str(path)).alias("file"),
                *([pl.col(formats.PROBLEM).alias("problem")] if formats.PROBLEM in batch.columns else []),
            )
            for batch in formats.batches(path, names, _BATCH_ROWS)
        ]


def _series_of(path: Path) -> str:
    """Return the series id of a file without a series column: from a folder name, or else the file name."""
    folders = folder_columns(path)
    return next((value for name in SERIES_NAMES if (value := folders.get(name))), path.stem)


def _holds_numbers(column: pl.Series) -> bool:
    """Return whether at least half of a column's filled cells are numbers."""
    given = cells.given(column)
    return bool(given.any()) and int(cells.numbers(column).is_not_null().sum()) * 2 >= int(given.sum())
