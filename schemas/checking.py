"""Check a frame with a pandera schema.

`failing` returns which cells do not fit the schema. `checked` raises an error if any cell does not fit.
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaError, SchemaErrorReason, SchemaErrors

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
        raise DataError(f"{name}: {_fault(errors.schema_errors[0], schema)}") from errors


def _fault(error: SchemaError, schema: pa.DataFrameSchema) -> str:
    """Return one line that says which column or rows of a frame do not fit the schema, and why."""
    column, found = error.column_name, error.failure_cases
    match error.reason_code:
        case SchemaErrorReason.COLUMN_NOT_IN_DATAFRAME:
            return f"the column {found} is absent"
        case SchemaErrorReason.COLUMN_NOT_IN_SCHEMA:
            return f"has the unknown column {found}"
        case SchemaErrorReason.DUPLICATES if schema.unique:
            return f"two rows have the same values in the columns {', '.join(schema.unique)}"
        case SchemaErrorReason.WRONG_DATATYPE:
            return f"the column {column} must have the type {schema.columns[column].dtype}, not {found}"
        case SchemaErrorReason.SERIES_CONTAINS_NULLS:
            return f"the column {column} has a null"
        case SchemaErrorReason.DATAFRAME_CHECK if isinstance(found, pl.DataFrame) and column in found.columns:
            return f"the column {column} has {found[column][0]!r}, which fails the check {error.check.error}"
    return " ".join(str(error.args[0] if error.args else error.check).split())[:300]
