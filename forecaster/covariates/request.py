"""Read the table of a request to a served model: a history whose cells are numbers, texts or times."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl

from forecaster.covariates.encoding import SERIES, TIME, Column, Features, Table, Tables
from schemas import cells, observations
from schemas.errors import DataError
from schemas.observations import OBSERVED

HISTORY = ("series_id", "timestamp", "value")
"""The columns of every history."""

MOST_ROWS = 1_000_000
"""A history may have at most this many rows, so that one request cannot fill the server's memory."""

MOST_SERIES = 20_000
"""A history may have at most this many series: the state of a series takes about 12 kB."""


class History(NamedTuple):
    """The rows of a request, and their covariates.

    Attributes:
        rows: observation frame with observed covariates, in the order of the request; ``value`` is NaN in a
            row without a value.
        tables: the known and the static covariates.
    """

    rows: pl.DataFrame
    tables: Tables


def columns_of(features: Features) -> dict[str, Column | None]:
    """Return, by name, the covariate columns that a history needs in addition to those in `HISTORY`.

    The value of a known or static column is its encoding; the value of an observed column is None.
    """
    found: dict[str, Column | None] = dict.fromkeys(features.observed)
    return found | {column.name: column for column in (*features.known, *features.static)}


def read_history(
    table: Any, features: Features, most_rows: int = MOST_ROWS, most_series: int = MOST_SERIES
) -> History:
    """Validate the table of a request, and return its rows and covariates as a `History`.

    Args:
        table: Polars or pandas frame with the columns `HISTORY` and `columns_of`; others are ignored. Times
            are datetimes or text in ISO 8601, with any zone, and UTC without one. An empty cell is missing.
        features: the covariates of the model.
        most_rows: a table with more rows is refused.
        most_series: a table with more series is refused.

    Raises:
        DataError: the table has no row, too many rows or series, lacks a column, or a row would not be an
            observation.
    """
    frame = _polars_frame(table, [*HISTORY, *columns_of(features)])
    if not 0 < len(frame) <= most_rows:
        raise DataError(
            f"the history has {len(frame):,} rows: send 1 to {most_rows:,} rows, the newest of each series"
        )
    if (count := frame[SERIES].n_unique()) > most_series:
        raise DataError(
            f"the history has {count:,} series: send at most {most_series:,} series in one request"
        )
    value = frame["value"]
    number = cells.numbers(value)
    is_missing = ~cells.given(value) | number.is_nan().fill_null(False)
    # Rows without a value must pass the validation: write 0 as their value, and replace it by NaN afterwards.
    readable = (number if value.dtype.is_numeric() else cells.text(value)).alias("value")
    zero = pl.Series("value", [0.0]).cast(readable.dtype)
    observed = [frame[name].alias(OBSERVED + name) for name in features.observed]
    rows, rejected = observations.validate(
        pl.DataFrame([frame[SERIES], frame[TIME], zero.zip_with(is_missing, readable), *observed])
    )
    if len(rejected):
        first = rejected.row(0, named=True)
        others = f" (and {len(rejected) - 1:,} more rows)" if len(rejected) > 1 else ""
        raise DataError(
            f"the history: row {first['row']}: {first['reason']}{others}: correct it, or leave it out"
        )
    rows = rows.with_columns(value=pl.when(is_missing).then(float("nan")).otherwise("value"))
    return History(rows, _tables(frame.with_columns(rows[SERIES], rows[TIME]), features))


def _polars_frame(table: Any, names: list[str]) -> pl.DataFrame:
    """Return the columns ``names`` of a Polars or pandas frame as a Polars frame.

    Raises:
        DataError: a column is absent or occurs twice, or a cell holds a list, an object, true or false.
    """
    if not isinstance(table, pl.DataFrame):
        table = _one_row_of_lists_as_rows(table)
    columns = [str(name) for name in table.columns]
    for name in names:
        if columns.count(name) != 1:
            problem = "has no column" if name not in columns else "has more than one column"
            raise DataError(f"the history {problem} {name!r}: give one column each for {', '.join(names)}")
    if not isinstance(table, pl.DataFrame):
        return pl.DataFrame([_polars_column(table[name]) for name in names])
    for name in names:
        if table.schema[name].is_nested() or table.schema[name] in (pl.Object(), pl.Boolean()):
            raise DataError(f"the history: column {name} holds {table.schema[name]}: {_ONE_VALUE}")
    return table.select(names)


_ONE_VALUE = "give one number, text or time in each row"


def _one_row_of_lists_as_rows(table: Any) -> Any:
    """Expand a pandas frame whose only row holds one list per column into a frame with one row per item.

    Any other frame is returned unchanged. MLflow makes such a frame from a request by columns (``inputs``) in
    which every cell is text.
    """
    if len(table) != 1 or not all(isinstance(cell, (list, np.ndarray)) for cell in table.iloc[0]):
        return table
    if len({len(cell) for cell in table.iloc[0]}) > 1:
        raise DataError("the history: its columns have different lengths: give each row all columns")
    return table.iloc[0].to_frame().T.explode(list(table.columns), ignore_index=True)


def _polars_column(column: Any) -> pl.Series:
    """Convert a pandas column to a Polars column; a column of pandas' type ``object`` becomes text.

    Raises:
        DataError: a cell holds a list, an object, true or false.
    """
    name = str(column.name)
    if getattr(column.dtype, "tz", None) is not None:
        # Convert to UTC and drop the zone: some releases of pandas cannot pass zoned columns to Polars.
        column = column.dt.tz_convert(None)
    if column.dtype not in (object, bool):
        return cast("pl.Series", pl.from_pandas(column)).alias(name)
    is_null = column.isna().to_numpy()
    texts: list[str | None] = []
    for row, cell in enumerate(column):
        if isinstance(cell, (bool, list, tuple, dict, set, np.bool_, np.ndarray)):
            raise DataError(f"the history: row {row + 1}: {name} holds a {type(cell).__name__}: {_ONE_VALUE}")
        is_time = hasattr(cell, "isoformat")
        texts.append(None if is_null[row] else cell.isoformat() if is_time else str(cell))
    return pl.Series(name, texts, pl.String)


def _tables(frame: pl.DataFrame, features: Features) -> Tables:
    """Return the known and static covariates of a history as tables."""
    known = frame.select(SERIES, TIME, *(column.name for column in features.known))
    # Use the first non-empty cell of each series: a request repeats static covariates in every row.
    names = [column.name for column in features.static]
    or_null = [frame[name].set(~cells.given(frame[name]), None) for name in names]
    static = pl.DataFrame([frame[SERIES], *or_null]).group_by(SERIES, maintain_order=True)
    static_frame = static.agg(pl.col(names).drop_nulls().first())
    return Tables(
        Table(known, "the history") if features.known else None,
        Table(static_frame, "the series of the history") if names else None,
    )
