"""Tests of the schemas of forecasts and scores."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from schemas import scores
from schemas.checking import checked
from schemas.errors import DataError
from schemas.forecasts import check_forecasts, quantile_column
from schemas.scores import Score, check_member_scores

T = datetime(2013, 9, 1, tzinfo=UTC)
FORECAST: dict[str, Any] = {
    "series_id": "a", "issued_at": T, "model_version": "lstm-1", "revision": 0,
    "p_value": 0.3, "alarm": False,
    "forecast": [{"horizon": 1, "q10": 1.0, "q50": 2.0, "q90": 3.0}],
}  # fmt: skip
SCORE: dict[str, Any] = {"model": "m", "horizon": 1, "count": 9, "mae": 0.3, "pinball": 0.1, "coverage": None}


SCORES = Score.to_schema()
QUANTILES = ("q10", "q50", "q90")
NESTED = pl.List(pl.Struct({"horizon": pl.Int16, **dict.fromkeys(QUANTILES, pl.Float64)}))


def forecast(**cells: Any) -> pl.DataFrame:
    return pl.DataFrame([FORECAST | cells], schema_overrides={"forecast": NESTED, "revision": pl.Int32})


def test_quantile_columns_are_named_by_percent() -> None:
    names = [quantile_column(level) for level in (0.1, 0.5, 0.025, 0.29, 0.999)]
    assert names == ["q10", "q50", "q2.5", "q29", "q99.9"]


def test_a_valid_forecast_frame_is_not_changed() -> None:
    assert check_forecasts(forecast()).equals(forecast())
    assert check_forecasts(forecast().clear()).is_empty()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"series_id": ""}, "series_id"),
        ({"revision": -1}, "revision"),
        ({"forecast": []}, "horizon is below 1 or missing"),
        ({"forecast": None}, "forecast"),
        ({"forecast": [{"horizon": 0, "q10": 1.0, "q50": 2.0, "q90": 3.0}]}, "horizon is below 1"),
        ({"forecast": [{"horizon": 1, "q10": 1.0, "q50": None, "q90": 3.0}]}, "q50 is missing or not"),
    ],
)
def test_check_forecasts_refuses_invalid_forecasts(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_forecasts(forecast(**wrong))


def test_a_frame_with_duplicate_forecasts_is_refused() -> None:
    with pytest.raises(
        DataError, match="two rows have the same values in the columns series_id, issued_at, "
    ):
        check_forecasts(pl.concat([forecast(), forecast()]))


def test_a_forecast_frame_with_wrong_columns_is_refused() -> None:
    for wrong, message in (
        (forecast().drop("revision"), "the column revision is absent"),
        (forecast().with_columns(x=1), "has the unknown column x"),
        (forecast(revision=None), "the column revision has a null"),
        (
            forecast(revision=-1),
            "the column revision has -1, which fails the check greater_than_or_equal_to(0)",
        ),
        (
            forecast().with_columns(pl.col("revision").cast(pl.Float64)),
            "the column revision must have the type Int32, not Float64",
        ),
    ):
        with pytest.raises(DataError, match=f"^forecasts: {re.escape(message)}$"):
            check_forecasts(wrong)
    with pytest.raises(DataError, match="must hold lists of structs of horizon"):
        check_forecasts(forecast().with_columns(forecast=pl.lit([1.0])))


def test_scores_out_of_range_are_refused() -> None:
    assert checked(pl.DataFrame([SCORE], schema=scores.SCHEMA), SCORES, "scores").height == 1
    for wrong in ({"coverage": 1.5}, {"mae": -1.0}, {"horizon": 0}):
        with pytest.raises(DataError, match=f"column {next(iter(wrong))}"):
            checked(pl.DataFrame([SCORE | wrong], schema=scores.SCHEMA), SCORES, "scores")


def test_out_of_range_or_duplicate_member_scores_are_refused() -> None:
    row = {"member": "network", "horizon": 1, "count": 9} | dict.fromkeys(scores.MEMBER_MEASURES, 0.5)
    point = row | {"member": "naive", "msis": None, "coverage_90": None, "width_90": None}
    assert check_member_scores(pl.DataFrame([row, point], schema=scores.MEMBER_SCHEMA)).height == 2
    for wrong in ({"coverage_90": 1.5}, {"mse": -1.0}, {"horizon": 0}):
        with pytest.raises(DataError, match=f"column {next(iter(wrong))}"):
            check_member_scores(pl.DataFrame([row | wrong], schema=scores.MEMBER_SCHEMA))
    with pytest.raises(DataError, match="two rows have the same values in the columns member, horizon"):
        check_member_scores(pl.DataFrame([row, row], schema=scores.MEMBER_SCHEMA))
