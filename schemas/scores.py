"""What a score is: how far off a model was at one horizon, or a member of a forecaster up to one."""

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

    ``count`` forecasts met an observation. ``mae`` is the mean absolute error, each series' divided by what
    seasonal naive errs by on its training rows (the unit of MASE), averaged over series; ``pinball``
    likewise, averaged over quantiles; ``coverage`` is the share of observations between the outermost
    quantiles. Null or NaN where a model has no such number.
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


MEMBER_MEASURES = ("mse", "mae", "mase", "smape", "wql", "msis", "coverage_90", "width_90")
"""What is measured of each member, in the order in which it is shown."""

MEMBER_SCHEMA: dict[str, pl.DataType] = {
    "member": pl.String(),
    "horizon": pl.Int32(),
    "count": pl.Int64(),
    **dict.fromkeys(MEMBER_MEASURES, pl.Float64()),
}
"""Columns and types of a frame of members' scores."""


class MemberScore(pa.DataFrameModel):
    """How one member of a forecaster did over the steps 1 to ``horizon`` of a rolling evaluation.

    ``count`` pairs were judged, the same for every member. The columns are those of
    `forecaster.evaluation.metrics.Measures`: ``mse``, ``mae`` and ``width_90`` in the unit of the values,
    ``mase`` and
    ``msis`` in that of seasonal naive's error on the training rows, ``smape`` in percent; ``coverage_90`` and
    ``width_90`` are those of step ``horizon`` itself. Null where a member has no such number.
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
        """Exactly these columns; a member comes once at a horizon."""

        strict = True
        unique = ["member", "horizon"]  # noqa: RUF012 - pandera's own form


_SCORES = Score.to_schema()
_MEMBER_SCORES = MemberScore.to_schema()


def check_scores(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, if it is a frame of scores.

    Raises:
        DataError: A column is absent or of another type, a number is out of its range, or a model comes
            twice at one horizon.
    """
    return checked(frame, _SCORES, "scores")


def check_member_scores(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, if it is a frame of members' scores.

    Raises:
        DataError: as `check_scores`.
    """
    return checked(frame, _MEMBER_SCORES, "member scores")
