"""What a score is: how far off a model was at one horizon."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from schemas.checking import checked

SCHEMA: dict[str, pl.DataType] = {
    "model": pl.String(),
    "horizon": pl.Int32(),
    "count": pl.Int64(),
    "mae": pl.Float64(),
    "pinball": pl.Float64(),
    "coverage": pl.Float64(),
}
"""Columns and types of a frame of scores."""


class Score(pa.DataFrameModel):
    """The errors of one model at one horizon.

    ``count`` forecasts met an observation. ``mae`` is the mean absolute error, each series divided by its
    training standard deviation, averaged over series; ``pinball`` likewise, averaged over quantiles;
    ``coverage`` is the share of observations between the outermost quantiles. Null or NaN where a model
    has no such number.
    """

    model: pl.String = pa.Field(str_contains=r"\S")
    horizon: pl.Int32 = pa.Field(ge=1)
    count: pl.Int64 = pa.Field(ge=0)
    mae: pl.Float64 = pa.Field(nullable=True, ge=0)
    pinball: pl.Float64 = pa.Field(nullable=True, ge=0)
    coverage: pl.Float64 = pa.Field(nullable=True, ge=0, le=1)

    class Config:
        """Exactly these columns; an identity comes once."""

        strict = True
        unique = ["model", "horizon"]  # noqa: RUF012 - pandera's own form


_SCORES = Score.to_schema()


def check_scores(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, if it is a frame of scores.

    Raises:
        DataError: A column is absent or of another type, a number is out of its range, or a model comes
            twice at one horizon.
    """
    return checked(frame, _SCORES, "scores")
