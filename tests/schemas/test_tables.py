from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from schemas import forecasts, scores, states
from schemas.errors import DataError
from schemas.forecasts import check_forecasts, quantile_column
from schemas.scores import check_member_scores, check_scores
from schemas.states import check_states

T = datetime(2013, 9, 1, tzinfo=UTC)
FORECAST: dict[str, Any] = {
    "series_id": "a", "issued_at": T, "model_version": "lstm-1", "revision": 0,
    "p_value": 0.3, "alarm": False,
    "forecast": [{"horizon": 1, "q10": 1.0, "q50": 2.0, "q90": 3.0}],
}  # fmt: skip
STATE: dict[str, Any] = {
    name: [] if isinstance(dtype, pl.List) else 0 for name, dtype in states.SCHEMA.items()
} | {
    "series_id": "a", "model_version": "lstm-1", "clock": T, "silent": 0, "moments.observed": 3,
    "moments.mean": 1.0, "moments.variance": 2.0, "moments.last": 1.5, "moments.age": 0,
    "ring.values": [float("nan"), 1.0], "network.hidden": [0.0], "network.cell": [0.0],
}  # fmt: skip
SCORE: dict[str, Any] = {"model": "m", "horizon": 1, "count": 9, "mae": 0.3, "pinball": 0.1, "coverage": None}


def forecast(**cells: Any) -> pl.DataFrame:
    return pl.DataFrame([FORECAST | cells], schema=forecasts.schema((0.1, 0.5, 0.9)))


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
def test_invalid_forecasts_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_forecasts(forecast(**wrong))


def test_duplicate_forecasts_are_refused() -> None:
    with pytest.raises(DataError, match="not unique"):
        check_forecasts(pl.concat([forecast(), forecast()]))


def test_a_forecast_frame_with_wrong_columns_is_refused() -> None:
    with pytest.raises(DataError, match="revision"):
        check_forecasts(forecast().drop("revision"))
    with pytest.raises(DataError, match="no list of horizon"):
        check_forecasts(forecast().with_columns(forecast=pl.lit([1.0])))


def test_a_state_table_with_arrays_is_converted_to_lists() -> None:
    table = pl.DataFrame([STATE, STATE | {"series_id": "b", "moments.mean": None}], schema=states.SCHEMA)
    arrays = table.with_columns(pl.col("ring.values").list.to_array(2))
    assert check_states(arrays).equals(table)


def test_a_state_table_may_lack_ring_and_cell() -> None:
    table = pl.DataFrame([STATE], schema=states.SCHEMA).drop("ring.values", "network.cell")
    assert check_states(table).equals(table)
    with pytest.raises(DataError, match=r"network\.hidden"):
        check_states(table.drop("network.hidden"))


def test_a_series_without_values_has_a_valid_state() -> None:
    without_value = {
        "moments.observed": 0,
        "moments.mean": None,
        "moments.variance": None,
        "moments.last": None,
    }
    assert check_states(pl.DataFrame([STATE | without_value], schema=states.SCHEMA)).height == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"silent": -1},
        {"moments.observed": -1},
        {"moments.age": None},
        {"moments.variance": -1.0},
        {"model_version": ""},
        {"network.hidden": None},
    ],
)
def test_the_error_names_the_invalid_state_column(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"state table: column {next(iter(wrong))}: "):
        check_states(pl.DataFrame([STATE | wrong], schema=states.SCHEMA))


def test_duplicate_states_are_refused() -> None:
    with pytest.raises(DataError, match="not unique"):
        check_states(pl.DataFrame([STATE, STATE], schema=states.SCHEMA))


def test_scores_out_of_range_are_refused() -> None:
    assert check_scores(pl.DataFrame([SCORE], schema=scores.SCHEMA)).height == 1
    for wrong in ({"coverage": 1.5}, {"mae": -1.0}, {"horizon": 0}):
        with pytest.raises(DataError, match=f"column {next(iter(wrong))}"):
            check_scores(pl.DataFrame([SCORE | wrong], schema=scores.SCHEMA))


def test_member_scores_out_of_range_are_refused() -> None:
    row = {"member": "network", "horizon": 1, "count": 9} | dict.fromkeys(scores.MEMBER_MEASURES, 0.5)
    point = row | {"member": "naive", "msis": None, "coverage_90": None, "width_90": None}
    assert check_member_scores(pl.DataFrame([row, point], schema=scores.MEMBER_SCHEMA)).height == 2
    for wrong in ({"coverage_90": 1.5}, {"mse": -1.0}, {"horizon": 0}):
        with pytest.raises(DataError, match=f"column {next(iter(wrong))}"):
            check_member_scores(pl.DataFrame([row | wrong], schema=scores.MEMBER_SCHEMA))
    with pytest.raises(DataError, match="not unique"):
        check_member_scores(pl.DataFrame([row, row], schema=scores.MEMBER_SCHEMA))
