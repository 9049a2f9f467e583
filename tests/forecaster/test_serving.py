from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from forecaster.covariates import Covariates
from forecaster.features import Table, Tables
from forecaster.serving import ServedForecaster, latest
from schemas.errors import DataError
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
