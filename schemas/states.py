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
    "silent": pl.Int64(),
    "moments.observed": pl.Int64(),
    "moments.mean": pl.Float64(),
    "moments.variance": pl.Float64(),
    "moments.last": pl.Float64(),
    "moments.age": pl.Int64(),
    "ring.values": pl.List(pl.Float64()),
    "network.hidden": pl.List(pl.Float32()),
    "network.cell": pl.List(pl.Float32()),
}
"""Columns and types of a state table; those of a component that is turned off, or has no cell, are absent."""


class StateRow(pa.DataFrameModel):
    """The state of one series under one model version.

    ``clock`` is the end of the last closed window and ``silent`` the windows closed since the last row. The
    other columns are the model's components, one column an array:

    - ``moments``: ``observed``, the windows with a value so far, is 0 for a series that has a slot but has
      not begun (or was silent for so long that it begins anew), whatever its other columns hold. ``age`` is
      the windows since the last value; ``mean``, ``variance`` and ``last`` are in the unit of the series.
    - ``ring``: the values of the last R windows, NaN where missing. Window ``w``, the one that ends
      ``(w + 1) * freq`` after 1970, is the item at ``w % R``, from 0: so the last closed one is at
      ``(clock / freq - 1) % R``, and the oldest right after it, or at 0.
    - ``network``: ``hidden`` and ``cell`` are ``[layers * hidden]``.

    Fixed-size arrays are taken as lists.
    """

    series_id: pl.String = pa.Field(str_contains=r"\S")
    model_version: pl.String = pa.Field(str_contains=r"\S")
    clock: Annotated[pl.Datetime, "us", "UTC"]
    silent: pl.Int64 = pa.Field(ge=0)
    observed: pl.Int64 = pa.Field(ge=0, alias="moments.observed")
    mean: pl.Float64 = pa.Field(nullable=True, alias="moments.mean")
    variance: pl.Float64 = pa.Field(nullable=True, ge=0, alias="moments.variance")
    last: pl.Float64 = pa.Field(nullable=True, alias="moments.last")
    age: pl.Int64 = pa.Field(ge=0, alias="moments.age")
    ring: Annotated[pl.List, pl.Float64()] | None = pa.Field(alias="ring.values")
    hidden: Annotated[pl.List, pl.Float32()] = pa.Field(alias="network.hidden")
    cell: Annotated[pl.List, pl.Float32()] | None = pa.Field(alias="network.cell")

    class Config:
        """These columns and no others; an identity comes once."""

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
