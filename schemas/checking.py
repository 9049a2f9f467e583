"""Check a frame with a pandera schema.

`failing` returns which cells do not fit the schema. `checked` raises an error if any cell does not fit.
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors

from schemas.errors import DataError


def failing(frame: pl.DataFrame, schema: pa.DataFrameSchema) -> pl.DataFrame:
    """Return a Boolean column for each column with cells that fail the schema; True marks these cells.

    Returns:
        A frame with a Boolean column ``[rows]`` for each column that contains a failing cell; True marks the
        failing cells. If no cell fails, the frame has no columns.

    Raises:
        SchemaErrors: a column is absent or does not have the type in the schema.
    """
    try:
        # Set these options here, because environment variables could turn off the validation of pandera.
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        bad: dict[str, pl.Series] = {}
        for error in errors.schema_errors:
            passed, column = error.check_output, error.column_name
            if not isinstance(passed, pl.DataFrame) or passed.height != frame.height or column is None:
                raise
            fails = ~passed.to_series().fill_null(True)
            bad[column] = bad[column] | fails if column in bad else fails
        return pl.DataFrame(bad)
    return pl.DataFrame()


def checked(frame: pl.DataFrame, schema: pa.DataFrameSchema, name: str) -> pl.DataFrame:
    """Return ``frame`` if it fits the schema, else raise a `DataError`.

    If the schema coerces a column, the returned frame has the column in the type of the schema.

    Args:
        frame: the frame to check.
        schema: the schema.
        name: the name of the frame in the error message, such as "forecasts".

    Raises:
        DataError: the frame does not fit the schema. The message names the frame, the column and the first
            fault.
    """
    try:
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            return schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        first = errors.schema_errors[0]
        where = f"{name}: column {first.column_name}" if first.column_name else name
        fault = " ".join(str(first.args[0] if first.args else first.check).split())[:300]
        raise DataError(f"{where}: {fault}") from errors
