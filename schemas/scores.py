"""Schemas of tables with the scores of forecasts.

A row of `Score` holds the errors of one model at one horizon. A row of `MemberScore` holds the errors of one
member of a forecaster at all horizons from 1 to a given horizon together.
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

    - ``count``: the number of forecasts whose actual is known.
    - ``mae``: the mean absolute error of each series, divided by the error of seasonal naive on the training
      rows of the series (as in MASE); then the mean over the series.
    - ``pinball``: the pinball loss, divided in the same way; then the mean over the quantiles and series.
    - ``coverage``: the share of actuals between the lowest and the highest quantile.

    A number that cannot be computed for a model is null or NaN.
    """

    model: pl.String = pa.Field(str_contains=r"\S")
    horizon: pl.Int32 = pa.Field(ge=1)
    count: pl.Int64 = pa.Field(ge=0)
    mae: pl.Float64 = pa.Field(nullable=True, ge=0)
    pinball: pl.Float64 = pa.Field(nullable=True, ge=0)
    coverage: pl.Float64 = pa.Field(nullable=True, ge=0, le=1)

    class Config:
        """A frame of scores has exactly these columns, and at most one row per model and horizon."""

        strict = True
        unique = ["model", "horizon"]  # noqa: RUF012 - pandera's own form


MEMBER_MEASURES = ("mse", "mae", "mase", "smape", "wql", "msis", "coverage_90", "width_90")
"""The measures of the errors of a member, in the order in which reports show them."""

MEMBER_SCHEMA: dict[str, pl.DataType] = {
    "member": pl.String(),
    "horizon": pl.Int32(),
    "count": pl.Int64(),
    **dict.fromkeys(MEMBER_MEASURES, pl.Float64()),
}
"""Columns and types of a frame of members' scores."""


class MemberScore(pa.DataFrameModel):
    """The errors of one member in a rolling evaluation, at all horizons from 1 to ``horizon`` together.

    The combined forecast and the baselines are called members here, too.

    ``count`` is the number of pairs of a forecast and its actual; every member has the same number. The other
    columns are the measures of `forecaster.evaluation.metrics.Measures`:

    - ``mae`` and ``width_90`` have the unit of the values, and ``mse`` its square;
    - ``mase`` and ``msis`` are multiples of the error of seasonal naive on the training rows;
    - ``smape`` is in percent;
    - ``coverage_90`` and ``width_90`` are those at ``horizon`` alone, not over all horizons up to it.

    A measure that cannot be computed for a member is null.
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
        """A frame of members' scores has exactly these columns, and at most one row per member and horizon.

        A member is the network, an expert, the combined forecast or a baseline.
        """

        strict = True
        unique = ["member", "horizon"]  # noqa: RUF012 - pandera's own form


_MEMBER_SCORES = MemberScore.to_schema()


def check_member_scores(frame: pl.DataFrame) -> pl.DataFrame:
    """Return ``frame`` unchanged if it is a valid frame of members' scores, else raise a `DataError`.

    Raises:
        DataError: a column is absent or of another type, a number is out of its range, or a member occurs
            twice at one horizon.
    """
    return checked(frame, _MEMBER_SCORES, "member scores")
