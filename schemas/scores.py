"""Schemas of tables with the scores of forecasts.

`Score` holds the errors of a model at one horizon. `MemberScore` holds the errors of a member over all
horizons from 1 to one horizon.
"""

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

    ``count`` is the number of forecasts with an actual. ``mae`` is the mean absolute error, divided for each
    series by the error of seasonal naive on its training rows (as in MASE), averaged over series. ``pinball``
    is the pinball loss with the same division, averaged over quantiles and series. ``coverage`` is the share
    of actuals between the outermost quantiles. A number that a model does not have is null or NaN.
    """

    model: pl.String = pa.Field(str_contains=r"\S")
    horizon: pl.Int32 = pa.Field(ge=1)
    count: pl.Int64 = pa.Field(ge=0)
    mae: pl.Float64 = pa.Field(nullable=True, ge=0)
    pinball: pl.Float64 = pa.Field(nullable=True, ge=0)
    coverage: pl.Float64 = pa.Field(nullable=True, ge=0, le=1)

    class Config:
        """Exactly these columns; pairs of model and horizon are unique."""

        strict = True
        unique = ["model", "horizon"]  # noqa: RUF012 - pandera's own form


MEMBER_MEASURES = ("mse", "mae", "mase", "smape", "wql", "msis", "coverage_90", "width_90")
"""The measures of each member, in the order of reports."""

MEMBER_SCHEMA: dict[str, pl.DataType] = {
    "member": pl.String(),
    "horizon": pl.Int32(),
    "count": pl.Int64(),
    **dict.fromkeys(MEMBER_MEASURES, pl.Float64()),
}
"""Columns and types of a frame of members' scores."""


class MemberScore(pa.DataFrameModel):
    """The errors of one member of a forecaster over horizons 1 to ``horizon`` of a rolling evaluation.

    ``count`` is the number of pairs of forecast and actual, the same for every member. The measures are
    defined in `forecaster.evaluation.metrics.Measures`: ``mse`` in the square of the values' unit,
    ``mae`` and ``width_90`` in the values' unit, ``mase`` and ``msis`` in units of the error of seasonal
    naive on the training rows, ``smape`` in percent. ``coverage_90`` and ``width_90`` are computed for
    ``horizon`` only. A number that a member does not have is null.
    """

    member: pl.String = pa.Field(str_contains=r"\S")
    horizon: pl.Int32 = pa.Field(ge=1)
    count: pl.Int64 = pa.Field(ge=0)
    mse: pl.Float64 = pa.Field(nullable=True, ge=0)
    mae: pl.Float64 = pa.Field(nullable=True, ge=0)
    mase: pl.Float64 = pa.Field(nullable=True, ge=0)
    smape: pl.Float64 = pa.Field(nullable=True, ge=0)
    wql: pl.Float64 = pa.Field(nullable=True, ge=0)
    msis: pl.Float64 = pa.Field(nullable=True, ge=0)
    coverage_90: pl.Float64 = pa.Field(nullable=True, ge=0, le=1)
    width_90: pl.Float64 = pa.Field(nullable=True, ge=0)

    class Config:
        """Exactly these columns; pairs of member and horizon are unique."""

        strict = True
        unique = ["member", "horizon"]  # noqa: RUF012 - pandera's own form


_MEMBER_SCORES = MemberScore.to_schema()


def check_member_scores(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame if it is a valid frame of members' scores.

    Raises:
        DataError: a column is absent or of another type, a number is out of its range, or a member occurs
            twice at one horizon.
    """
    return checked(frame, _MEMBER_SCORES, "member scores")
