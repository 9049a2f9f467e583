"""A frame held against its pandera schema: which cells fail, or one line that says so."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors

from schemas.errors import DataError


def failing(frame: pl.DataFrame, schema: pa.DataFrameSchema) -> pl.DataFrame:
    """Which cells fail the schema: one Boolean column per column with a failing cell, ``[rows]`` each.

    An empty frame (no columns) means that all is well.

    Raises:
        SchemaErrors: The frame fails as a whole: a column is absent or of another type.
    """
    try:
        # both switches can be turned off from the environment, which must not let bad rows in
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


def checked(frame: pl.DataFrame, schema: pa.DataFrameSchema, what: str) -> pl.DataFrame:
    """The frame, coerced where the schema says so, if it fits.

    Raises:
        DataError: It does not; the line names ``what``, the column and the first thing wrong.
    """
    try:
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            return schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        first = errors.schema_errors[0]
        where = f"column {first.column_name}: " if first.column_name else ""
        told = " ".join(str(first.args[0] if first.args else first.check).split())
        raise DataError(f"{what}: {where}{told[:300]}") from errors
