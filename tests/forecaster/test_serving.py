"""Tests of a served forecaster, which reads rows and returns the last forecast of each series."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from forecaster.config import NetworkConfig
from forecaster.covariates.encoding import Features, Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.covariates.request import read_history
from forecaster.model import Forecaster
from forecaster.serving import ServedForecaster, last_forecasts
from schemas.errors import DataError
from schemas.observations import LARGEST
from tests.fleets import HOUR_US
from tests.folds import Arrival, run_shards
from tests.forecaster.registry.models import (
    WINDOWS,
    covariate_forecaster,
    covariate_history,
    forecaster,
    history,
)


def test_serving_forecasts_every_series_at_the_end_of_history() -> None:
    answer = ServedForecaster(forecaster()).predict(history())
    columns = ["series_id", "issued_at", "model_version", "horizon", "q5", "q50", "q95", "note"]
    assert answer.columns == columns
    assert answer["series_id"].to_list() == ["a"] * 3 + ["b"] * 3
    assert answer["horizon"].to_list() == [1, 2, 3] * 2
    assert set(answer["issued_at"]) == {datetime(2013, 1, 2, 16, tzinfo=UTC)}


def test_serving_accepts_pandas_frames_and_times_of_any_zone() -> None:
    served = ServedForecaster(forecaster())
    expected = served.predict(history()).to_pandas()
    assert served.predict(history().to_pandas()).equals(expected)
    abroad = history().with_columns(pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo"))
    assert served.predict(abroad.to_pandas()).equals(expected)
    assert served.predict(abroad).to_pandas().equals(expected)


def test_serving_refuses_a_missing_or_mistyped_column() -> None:
    served = ServedForecaster(forecaster())
    with pytest.raises(DataError, match="no column 'value'"):
        served.predict(history().drop("value"))
    with pytest.raises(DataError, match="row 1: 'late' is not a time"):
        served.predict(history().with_columns(timestamp=pl.lit("late")))
    with pytest.raises(DataError, match="row 1: 'warm' is not a number"):
        served.predict(history().with_columns(value=pl.lit("warm")))
    with pytest.raises(DataError, match="column series_id holds List"):
        served.predict(history().with_columns(series_id=pl.concat_list("series_id")))
    with pytest.raises(DataError, match="column value holds Boolean: give one number"):
        served.predict(history().with_columns(value=pl.lit(True)))
    columns = ["series_id", "timestamp", "value", "value"]
    twice = history().with_columns(more="value").to_pandas().set_axis(columns, axis=1)
    with pytest.raises(DataError, match="more than one column 'value'"):
        served.predict(twice)


def test_serving_reads_covariates_from_the_history() -> None:
    model, rows_sent = covariate_forecaster(), covariate_history()
    served = ServedForecaster(model)
    answer = served.predict(rows_sent)
    assert set(answer["issued_at"]) == {datetime(2013, 1, 2, 16, tzinfo=UTC)}

    static = pl.DataFrame({"series_id": ["a", "b"], "size": [3.0, None], "kind": ["hall", "shop"]})
    tables = Tables(Table(rows_sent.select("series_id", "timestamp", "price")), Table(static))
    covariates = Covariates.of(model.covariates.features, model.window_config.frequency, tables)
    rows = rows_sent.drop_nulls("value").rename({"heat": "observed.heat"})
    assert answer.equals(last_forecasts(model.with_covariates(covariates), rows)[0])
    for name in ("heat", "price", "size", "kind"):
        empty = served.predict(rows_sent.with_columns(pl.lit(None, rows_sent.schema[name]).alias(name)))
        assert not np.allclose(answer["q50"], empty["q50"]), name
    ahead = rows_sent.with_columns(price=pl.when(pl.col("value").is_null()).then(9.0).otherwise("price"))
    assert not np.allclose(answer["q50"], served.predict(ahead)["q50"])
    naive = rows_sent.with_columns(pl.col("timestamp").dt.replace_time_zone(None)).to_pandas()
    assert served.predict(naive).equals(answer.to_pandas())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            covariate_history().drop("price"),
            "the history has no column 'price': give one column each for series_id",
        ),
        (
            covariate_history().with_columns(price=pl.lit("dear")),
            "the history: row 1: column price: 'dear' is not a finite number",
        ),
        (
            covariate_history().with_columns(heat=pl.lit("warm")),
            "the history: row 1: heat 'warm' is not a number",
        ),
        (
            covariate_history().with_columns(size=pl.lit("big")),
            "the series of the history: row 1: column size: 'big'",
        ),
    ],
)
def test_serving_names_an_invalid_covariate_in_a_one_line_error(changed: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        ServedForecaster(covariate_forecaster()).predict(changed)
    assert "\n" not in str(error.value)


BAD_CELLS = [
    ({"value": float("inf")}, "row 3: value is infinite"),
    ({"value": float("-inf")}, "row 3: value is infinite"),
    ({"value": 1e200}, "row 3: value is beyond"),
    ({"series_id": None}, "row 3: series_id is missing"),
    ({"series_id": "  "}, "row 3: series_id is missing"),
    ({"timestamp": None}, "row 3: time is missing"),
    ({"timestamp": datetime(1600, 1, 1, tzinfo=UTC)}, "row 3: .* is outside the years"),
]


def with_bad_cells(frame: pl.DataFrame, cells: dict[str, object]) -> pl.DataFrame:
    """Return the frame with its third row changed: ``cells`` maps column names to new values."""
    rows = frame.to_dicts()
    rows[2] |= cells
    return pl.DataFrame(rows, schema=frame.schema)


@pytest.mark.parametrize(("cells", "message"), BAD_CELLS)
def test_serving_names_the_row_number_and_reason_of_an_invalid_row(
    cells: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=f"the history: {message}") as error:
        ServedForecaster(forecaster()).predict(with_bad_cells(history(), cells))
    assert "\n" not in str(error.value)


def test_serving_refuses_an_infinite_observed_covariate() -> None:
    with pytest.raises(DataError, match="row 3: heat is infinite"):
        ServedForecaster(covariate_forecaster()).predict(
            with_bad_cells(covariate_history(), {"heat": float("inf")})
        )


def test_served_forecasts_of_the_largest_values_are_finite() -> None:
    values = [LARGEST, -LARGEST, 0.0, 1e-300, LARGEST] * 16
    answer = ServedForecaster(forecaster()).predict(history().with_columns(value=pl.Series(values)))
    assert np.isfinite(answer["q5", "q50", "q95"].to_numpy()).all()


def test_serving_across_long_gaps_is_fast_and_equals_streaming() -> None:
    model, rows = forecaster(), history().sort("timestamp")
    old = rows.head(2).with_columns(timestamp=pl.lit(datetime(1990, 1, 1, tzinfo=UTC)))
    began_s = time.process_time()
    answer = ServedForecaster(model).predict(pl.concat([old, rows]))
    assert time.process_time() - began_s < 5
    assert answer.equals(last_forecasts(model, rows)[0])
    ends = int(rows["timestamp"].to_physical()[-1]) + HOUR_US
    ran = run_shards(model, [Arrival(pl.concat([old, rows]), ends)], to_the_end=False)
    streamed = [part.frame() for part in ran.forecasts if part is not None]
    last = pl.concat(streamed).sort("issued_at").group_by("series_id").last().sort("series_id")
    assert last["issued_at"].to_list() == answer["issued_at"].unique(maintain_order=True).to_list() * 2
    points = last.explode("forecast").unnest("forecast")["q50"]
    np.testing.assert_allclose(points.to_numpy(), answer["q50"].to_numpy(), rtol=1e-5, atol=1e-5)


def test_a_row_without_a_value_moves_the_issue_time() -> None:
    model, rows = forecaster(), history().filter(pl.col("series_id") == "a")
    later = rows.tail(1).with_columns(
        pl.col("timestamp") + pl.duration(hours=5), value=pl.lit(None, pl.Float64)
    )
    beside = rows.tail(1).with_columns(value=pl.lit(float("nan")))
    answer = ServedForecaster(model).predict(pl.concat([rows, later, beside]))
    assert set(answer["issued_at"]) == {datetime(2013, 1, 2, 21, tzinfo=UTC)}
    assert np.isfinite(answer["q50"].to_numpy()).all()


def test_serving_refuses_a_history_without_rows_or_values() -> None:
    served = ServedForecaster(forecaster())
    with pytest.raises(DataError, match="the history has no value"):
        served.predict(history().with_columns(value=pl.lit(None, pl.Float64)))
    with pytest.raises(DataError, match="the history has 0 rows: send 1 to 1,000,000"):
        served.predict(history().clear())


def test_serving_refuses_a_history_with_too_many_rows() -> None:
    with pytest.raises(DataError, match="the history has 80 rows: send 1 to 79"):
        read_history(history(), Features(), most_rows=79)


def test_serving_refuses_a_history_with_too_many_series() -> None:
    with pytest.raises(DataError, match="the history has 2 series: send at most 1 series in one request"):
        read_history(history(), Features(), most_series=1)
    assert len(read_history(history(), Features(), most_series=2).rows) == 80


def text_history() -> pl.DataFrame:
    return history().with_columns(pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))


def test_utc_and_tokyo_text_timestamps_give_equal_served_forecasts() -> None:
    served = ServedForecaster(forecaster())
    expected = served.predict(history())
    assert served.predict(text_history()).equals(expected)
    tokyo = history().with_columns(
        pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo").dt.strftime("%Y-%m-%dT%H:%M:%S%:z")
    )
    assert served.predict(tokyo).equals(expected)
    assert served.predict(tokyo.to_pandas()).equals(expected.to_pandas())


def test_serving_reads_cells_of_mixed_types_from_pandas() -> None:
    rows = history().to_pandas().astype(object)
    rows.loc[3, "value"], rows.loc[5, "timestamp"] = "3.0", "2013-01-01T05:00:00Z"
    expected = ServedForecaster(forecaster()).predict(history())
    assert ServedForecaster(forecaster()).predict(rows).equals(expected.to_pandas())


def test_serving_expands_one_row_of_lists_into_several_rows() -> None:
    texts = history().with_columns(pl.col("timestamp").dt.to_string(), pl.col("value").cast(pl.String))
    by_column = texts.select(pl.all().implode()).to_pandas()
    expected = ServedForecaster(forecaster()).predict(history())
    assert ServedForecaster(forecaster()).predict(by_column).equals(expected.to_pandas())
    with pytest.raises(DataError, match="columns have different lengths"):
        ServedForecaster(forecaster()).predict(by_column.assign(value=[["1"]]))


def test_served_forecasts_from_too_few_values_have_a_note() -> None:
    model = Forecaster.untrained(NetworkConfig(hidden=4, horizon=3, ring=24, lags=(1,)), WINDOWS)
    enough = history(24).tail(24).with_columns(series_id=pl.lit("c"))
    young = pl.concat([history(30).head(30), history(23).tail(23), enough])
    answer = ServedForecaster(model).predict(young).filter(horizon=1)
    assert answer["note"].to_list() == ["", "only 23 of the 24 values that full accuracy needs", ""]


def test_serving_a_history_before_1970_gives_the_right_issue_time() -> None:
    rows = history().with_columns(pl.col("timestamp") - pl.duration(days=36_525))
    answer = ServedForecaster(forecaster()).predict(rows)
    assert set(answer["issued_at"]) == {datetime(2013, 1, 2, 16, tzinfo=UTC) - timedelta(days=36_525)}


def test_served_whole_number_series_ids_have_no_decimal_point() -> None:
    rows = history().with_columns(series_id=pl.when(pl.col("series_id") == "a").then(7.0).otherwise(12.0))
    assert set(ServedForecaster(forecaster()).predict(rows)["series_id"]) == {"7", "12"}
