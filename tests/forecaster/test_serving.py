from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from forecaster.covariates.encoding import Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.serving import ServedForecaster, latest
from schemas.errors import DataError
from schemas.observations import LARGEST
from tests.fleets import HOUR_US
from tests.folds import Arrival, run_shards
from tests.forecaster.registry.models import forecaster, history, knowing, request


def test_serving_answers_with_the_last_forecast_of_every_series() -> None:
    answer = ServedForecaster(forecaster()).predict(history())
    assert answer.columns == ["series_id", "issued_at", "model_version", "horizon", "q5", "q50", "q95"]
    assert answer["series_id"].to_list() == ["a"] * 3 + ["b"] * 3
    assert answer["horizon"].to_list() == [1, 2, 3] * 2
    assert set(answer["issued_at"]) == {datetime(2013, 1, 2, 16, tzinfo=UTC)}


def test_serving_answers_in_the_library_it_is_asked_in() -> None:
    served = ServedForecaster(forecaster())
    expected = served.predict(history()).to_pandas()
    assert served.predict(history().to_pandas()).equals(expected)
    abroad = history().with_columns(pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo"))
    assert served.predict(abroad.to_pandas()).equals(expected)
    assert served.predict(abroad).to_pandas().equals(expected)


def test_serving_names_a_column_that_is_missing_or_of_another_type() -> None:
    served = ServedForecaster(forecaster())
    with pytest.raises(DataError, match="no column 'value'"):
        served.predict(history().drop("value"))
    with pytest.raises(DataError, match="make it a datetime"):
        served.predict(history().with_columns(pl.col("timestamp").cast(pl.String)))
    with pytest.raises(DataError, match="cannot be read as numbers"):
        served.predict(history().with_columns(value=pl.lit("warm")))


def test_the_served_model_takes_its_covariates_with_the_history() -> None:
    model, asked = knowing(), request()
    served = ServedForecaster(model)
    answer = served.predict(asked)
    assert set(answer["issued_at"]) == {datetime(2013, 1, 2, 16, tzinfo=UTC)}

    static = pl.DataFrame({"series_id": ["a", "b"], "size": [3.0, None], "kind": ["hall", "shop"]})
    tables = Tables(Table(asked.select("series_id", "timestamp", "price")), Table(static))
    told = Covariates.of(model.covariates.features, model.window_config.frequency, tables)
    rows = asked.drop_nulls("value").rename({"heat": "observed.heat"})
    assert answer.equals(latest(model.knowing(told), rows))
    for name in ("heat", "price", "size", "kind"):
        empty = served.predict(asked.with_columns(pl.lit(None, asked.schema[name]).alias(name)))
        assert not np.allclose(answer["q50"], empty["q50"]), name
    ahead = asked.with_columns(price=pl.when(pl.col("value").is_null()).then(9.0).otherwise("price"))
    assert not np.allclose(answer["q50"], served.predict(ahead)["q50"])
    naive = asked.with_columns(pl.col("timestamp").dt.replace_time_zone(None)).to_pandas()
    assert served.predict(naive).equals(answer.to_pandas())


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            request().drop("price"),
            "the history has no column 'price', which lstm-.* was trained",
        ),
        (
            request().with_columns(price=pl.lit("dear")),
            "the history: row 1: column price: 'dear' is no",
        ),
        (request().with_columns(heat=pl.lit("warm")), "the history cannot be read as numbers"),
        (request().with_columns(size=pl.lit("big")), "the series of the history: row 1: column size: 'big'"),
    ],
)
def test_serving_says_in_a_line_which_covariate_cannot_be(changed: pl.DataFrame, line: str) -> None:
    with pytest.raises(DataError, match=line) as told:
        ServedForecaster(knowing()).predict(changed)
    assert "\n" not in str(told.value)


HOSTILE = [
    ({"value": float("inf")}, "row 3: value is infinite"),
    ({"value": float("-inf")}, "row 3: value is infinite"),
    ({"value": 1e200}, "row 3: value is beyond"),
    ({"series_id": None}, "row 3: series_id is missing"),
    ({"series_id": "  "}, "row 3: series_id is missing"),
    ({"timestamp": None}, "row 3: time is missing"),
    ({"timestamp": datetime(1600, 1, 1, tzinfo=UTC)}, "row 3: .* is outside the years"),
]


def spoilt(frame: pl.DataFrame, cells: dict[str, object]) -> pl.DataFrame:
    """The frame with other cells in row 3."""
    rows = frame.to_dicts()
    rows[2] |= cells
    return pl.DataFrame(rows, schema=frame.schema)


@pytest.mark.parametrize(("cells", "line"), HOSTILE)
def test_a_row_that_is_no_observation_is_refused(cells: dict[str, object], line: str) -> None:
    with pytest.raises(DataError, match=f"the history: {line}") as told:
        ServedForecaster(forecaster()).predict(spoilt(history(), cells))
    assert "\n" not in str(told.value)


def test_an_observed_covariate_beyond_bounds_is_refused() -> None:
    with pytest.raises(DataError, match="row 3: heat is infinite"):
        ServedForecaster(knowing()).predict(spoilt(request(), {"heat": float("inf")}))


def test_no_request_makes_a_forecast_that_is_no_number() -> None:
    values = [LARGEST, -LARGEST, 0.0, 1e-300, LARGEST] * 16
    answer = ServedForecaster(forecaster()).predict(history().with_columns(value=pl.Series(values)))
    assert np.isfinite(answer["q5", "q50", "q95"].to_numpy()).all()


def test_rows_years_apart_are_answered_as_in_a_stream() -> None:
    model, rows = forecaster(), history().sort("timestamp")
    old = rows.head(2).with_columns(timestamp=pl.lit(datetime(1990, 1, 1, tzinfo=UTC)))
    began_s = time.process_time()
    answer = ServedForecaster(model).predict(pl.concat([old, rows]))
    assert time.process_time() - began_s < 5
    assert answer.equals(latest(model, rows))
    ends = int(rows["timestamp"].to_physical()[-1]) + HOUR_US
    ran = run_shards(model, [Arrival(pl.concat([old, rows]), ends)], to_the_end=False)
    streamed = [part.frame() for part in ran.forecasts if part is not None]
    last = pl.concat(streamed).sort("issued_at").group_by("series_id").last().sort("series_id")
    assert last["issued_at"].to_list() == answer["issued_at"].unique(maintain_order=True).to_list() * 2
    points = last.explode("forecast").unnest("forecast")["q50"]
    np.testing.assert_allclose(points.to_numpy(), answer["q50"].to_numpy(), rtol=1e-5, atol=1e-5)


def test_a_row_without_a_value_moves_the_time_on_and_nothing_else() -> None:
    model, rows = forecaster(), history().filter(pl.col("series_id") == "a")
    later = rows.tail(1).with_columns(
        pl.col("timestamp") + pl.duration(hours=5), value=pl.lit(None, pl.Float64)
    )
    beside = rows.tail(1).with_columns(value=pl.lit(float("nan")))
    answer = ServedForecaster(model).predict(pl.concat([rows, later, beside]))
    assert set(answer["issued_at"]) == {datetime(2013, 1, 2, 21, tzinfo=UTC)}
    assert np.isfinite(answer["q50"].to_numpy()).all()


def test_a_history_without_a_value_has_no_forecast() -> None:
    answer = ServedForecaster(forecaster()).predict(history().with_columns(value=pl.lit(None, pl.Float64)))
    assert (len(answer), answer.columns[-1]) == (0, "q95")
    assert len(ServedForecaster(forecaster()).predict(history().clear())) == 0


def test_a_history_before_1970_ends_where_it_ends() -> None:
    rows = history().with_columns(pl.col("timestamp") - pl.duration(days=36_525))
    answer = ServedForecaster(forecaster()).predict(rows)
    assert set(answer["issued_at"]) == {datetime(2013, 1, 2, 16, tzinfo=UTC) - timedelta(days=36_525)}


def test_ids_that_are_whole_numbers_are_those_of_every_job() -> None:
    rows = history().with_columns(series_id=pl.when(pl.col("series_id") == "a").then(7.0).otherwise(12.0))
    assert set(ServedForecaster(forecaster()).predict(rows)["series_id"]) == {"7", "12"}
