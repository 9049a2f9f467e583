"""Tests of requests to a served model with series that have gaps, or that end at different windows."""

from __future__ import annotations

import base64

import numpy as np
import polars as pl
import pytest

from forecaster.serving import ServedForecaster, last_forecasts
from forecaster.state import State
from schemas.errors import ModelError
from tests.fleets import HOUR_US, forecaster
from tests.folds import Arrival, run_shards
from tests.forecaster.registry.models import history

MODEL = forecaster(max_gap=3)
HOUR = pl.int_range(40).over("series_id")


def points(answer: pl.DataFrame) -> pl.Series:
    return (
        answer.explode("forecast").unnest("forecast")["q50"]
        if "forecast" in answer.columns
        else answer["q50"]
    )


@pytest.mark.parametrize("missing", [3, 4])
def test_serving_and_jobs_restart_series_after_equal_gaps(missing: int) -> None:
    """With max_gap = 3, a job continues a series after 3 missing windows, and begins it anew after 4."""
    rows = history().filter(pl.col("series_id") == "a").filter(~pl.int_range(40).is_between(20, 19 + missing))
    ends_us = int(rows["timestamp"].to_physical()[-1]) + HOUR_US
    ran = run_shards(MODEL, [Arrival(rows, ends_us)], to_the_end=False)
    expected = (
        pl.concat([part.frame() for part in ran.forecasts if part is not None]).sort("issued_at").tail(1)
    )
    answer = ServedForecaster(MODEL).predict(rows)
    np.testing.assert_allclose(points(answer), points(expected), rtol=1e-5, atol=1e-5)
    anew = last_forecasts(MODEL, rows.tail(20 - missing))[0]
    assert np.allclose(points(answer), points(anew)) == (missing == 4)


@pytest.mark.parametrize("silent", [3, 4])
def test_a_series_silent_longer_than_max_gap_retires(silent: int) -> None:
    rows = history().filter((pl.col("series_id") == "a") | (40 - silent > HOUR))
    answer = ServedForecaster(MODEL).predict(rows).filter(horizon=1)
    assert answer["series_id"].to_list() == ["a", "b"]
    retired = "the series has retired: this is its last forecast"
    assert answer["note"].to_list() == ["", retired if silent == 4 else ""]


def joined_state(behind: int) -> str:
    """Return a state in which series a has closed 30 windows, and series b ``behind`` windows fewer."""
    parts = []
    for name, hours in (("a", 30), ("b", 30 - behind)):
        rows = history().filter((pl.col("series_id") == name) & (hours > HOUR))
        parts.append(last_forecasts(MODEL, rows)[1])
    return base64.b64encode(State.join(parts).to_bytes()).decode()


def test_serving_refuses_series_states_more_than_max_gap_apart() -> None:
    rest = history().filter(HOUR >= 30)
    answer = ServedForecaster(MODEL).predict(rest, {"state": joined_state(3)})
    whole = history().filter((pl.col("series_id") == "a") | ~HOUR.is_between(27, 29))
    expected = ServedForecaster(MODEL).predict(whole)
    np.testing.assert_allclose(answer["q50"], expected["q50"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match=r"are more than windows\.max_gap windows apart"):
        ServedForecaster(MODEL).predict(rest, {"state": joined_state(4)})
