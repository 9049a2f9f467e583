"""What the state table holds: per series, all that a forecaster needs to go on from its clock."""

from __future__ import annotations

from typing import Annotated

import pandera.polars as pa
import polars as pl

from schemas.checking import checked

SCHEMA: dict[str, pl.DataType] = {
    "series_id": pl.String(),
    "model_version": pl.String(),
    "clock": pl.Datetime("us", "UTC"),
    "observed": pl.Int64(),
    "mean": pl.Float64(),
    "variance": pl.Float64(),
    "last": pl.Float64(),
    "age": pl.Int64(),
    "hidden": pl.List(pl.Float32()),
    "cell": pl.List(pl.Float32()),
    "ring": pl.List(pl.Float64()),
}
"""Columns and types of a state table."""


class StateRow(pa.DataFrameModel):
    """The state of one series under one model version.

    ``clock`` is the end of the last closed window, ``observed`` the windows with a value so far, ``age``
    the windows since the last of them. ``mean``, ``variance`` and ``last`` are in the units of the
    series, null or NaN before the first value. ``hidden`` and ``cell`` are ``[layers * hidden]``
    (``cell`` is empty for cells that have none), ``ring`` is ``[ring]`` with NaN for a missing window.
    Fixed-size arrays are taken as lists.
    """

    series_id: pl.String = pa.Field(str_contains=r"\S")
    model_version: pl.String = pa.Field(str_contains=r"\S")
    clock: Annotated[pl.Datetime, "us", "UTC"]
    observed: pl.Int64 = pa.Field(ge=0)
    mean: pl.Float64 = pa.Field(nullable=True)
    variance: pl.Float64 = pa.Field(nullable=True, ge=0)
    last: pl.Float64 = pa.Field(nullable=True)
    age: pl.Int64 = pa.Field(ge=0)
    hidden: Annotated[pl.List, pl.Float32()]
    cell: Annotated[pl.List, pl.Float32()]
    ring: Annotated[pl.List, pl.Float64()]

    class Config:
        """Exactly these columns; an identity comes once."""

        strict = True
        unique = ["series_id", "model_version", "clock"]  # noqa: RUF012 - pandera's own form


_STATES = StateRow.to_schema()


def check_states(frame: pl.DataFrame) -> pl.DataFrame:
    """The state table with arrays turned into lists, if it is one.

    Raises:
        DataError: A column is absent or of another type, a count or variance is negative, or a series
            has two states of one version and clock.
    """
    arrays = [n for n, t in frame.schema.items() if isinstance(t, pl.Array) and n in SCHEMA]
    return checked(frame.with_columns(pl.col(n).arr.to_list() for n in arrays), _STATES, "state table")
