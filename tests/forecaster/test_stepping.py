from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from forecaster.config import NetworkConfig, WindowConfig
from forecaster.model import Forecaster
from forecaster.stepping import advance
from forecaster.windows import Windows
from schemas.errors import DataError
from schemas.forecasts import check_forecasts, schema
from tests.fleets import (
    HOUR_US,
    START,
    assert_same,
    assert_same_state,
    by_key,
    forecaster,
    nested,
    rows_of,
    scales,
)

NAN = np.nan


def windows(*columns: list[float], start: int = START) -> Windows:
    return Windows(tuple("abcdef"[: len(columns)]), start, np.array(columns).T.reshape(-1, len(columns)))


def test_a_frame_of_rows_is_stepped_as_its_windows_are() -> None:
    model = forecaster()
    fleet = windows([1, 2, NAN, 4], [NAN, 5, 6, 7])
    rows = rows_of(fleet).sample(fraction=1, shuffle=True, seed=0)
    by_rows, one = advance(model, model.initial_state(), rows)
    by_windows, other = advance(model, model.initial_state(), fleet)
    assert_same(by_key([one]), by_key([other]), scales(fleet))
    assert_same_state(by_rows, by_windows)


def test_a_series_is_forecast_from_its_first_value_on_and_never_before() -> None:
    model = forecaster()
    state, forecasts = advance(model, model.initial_state(), windows([1, 2, 3], [NAN, 5, NAN], [NAN] * 3))
    assert state.series_ids == ("a", "b")
    assert sorted(by_key([forecasts])) == [
        *(("a", START + t) for t in range(3)),
        *(("b", START + t) for t in (1, 2)),
    ]
    assert len(forecasts) == len(forecasts.frame()) == 5


def test_a_known_series_without_a_value_is_stepped_with_a_missing_one() -> None:
    model = forecaster()
    state, _ = advance(model, model.initial_state(), windows([1, 2], [3, 4]))
    after, forecasts = advance(model, state, Windows(("a",), START + 2, np.array([[9.0]])))
    assert sorted(by_key([forecasts])) == [("a", START + 2), ("b", START + 2)]
    assert after.clock.tolist() == [START + 2] * 2
    assert after.age.tolist() == [0, 1]
    assert np.isnan(after.ring[-1, 1])


def test_known_series_keep_their_place_and_new_ones_follow() -> None:
    model = forecaster()
    state, _ = advance(model, model.initial_state(), Windows(("z", "m"), START, np.ones((1, 2))))
    state, _ = advance(model, state, Windows(("a", "m", "z"), START + 1, np.ones((1, 3))))
    assert state.series_ids == ("z", "m", "a")


def test_a_window_without_rows_is_zero_where_the_job_says_so() -> None:
    model = forecaster(empty="zero")
    state, forecasts = advance(model, model.initial_state(), windows([NAN, 3, NAN, NAN]))
    assert state.observed.tolist() == [3]
    assert state.ring[-4:, 0].tolist() == pytest.approx([NAN, 3, 0, 0], nan_ok=True)
    assert sorted(by_key([forecasts])) == [("a", START + t) for t in (1, 2, 3)]


def test_a_value_of_a_closed_window_is_refused_by_name() -> None:
    model = forecaster()
    state, _ = advance(model, model.initial_state(), windows([1, 2], [1, 2]))
    with pytest.raises(DataError, match=r"1 values .* already closed .* 'b'"):
        advance(model, state, windows([NAN, NAN, 3], [NAN, 7, 3]))
    # Windows that are closed and hold nothing are of no matter.
    after, forecasts = advance(model, state, windows([NAN, NAN, 3], [NAN, NAN, 3]))
    assert len(forecasts) == 2
    assert after.clock.tolist() == [START + 2] * 2


def test_neither_the_state_nor_the_windows_that_are_given_change() -> None:
    model = forecaster()
    fleet = windows([1, NAN, 3, 4], [NAN, NAN, 5, 6])
    state, _ = advance(model, model.initial_state(), fleet.between(START, START + 2))
    kept = {name: array.copy() for name, array in vars(state).items() if isinstance(array, np.ndarray)}
    values = fleet.values.copy()
    weights = model.to_bytes()
    advance(model, state, fleet.between(START + 2, START + 4))
    for name, array in kept.items():
        np.testing.assert_array_equal(getattr(state, name), array, err_msg=name)
    np.testing.assert_array_equal(fleet.values, values)
    assert model.to_bytes() == weights


def test_forecasts_lie_as_the_schema_says() -> None:
    network = NetworkConfig(hidden=4, horizon=3, quantiles=(0.025, 0.5, 0.9), lags=(1,), ring=2)
    model = Forecaster.untrained(network, WindowConfig())
    _, forecasts = advance(model, model.initial_state(), windows([1, 2, 4], [1e9, 1e9 + 1, NAN]))
    frame = check_forecasts(forecasts.frame())
    assert dict(frame.schema) == schema(network.quantiles)
    assert frame["issued_at"].dt.epoch("us").unique().sort().to_list() == [
        (START + t + 1) * HOUR_US for t in range(3)
    ]
    row = nested(frame.filter(pl.col("series_id") == "b").tail(1))
    assert row["horizon"].to_list() == [1, 2, 3]
    assert row.select((pl.col("q2.5") <= pl.col("q50")).all() & (pl.col("q50") <= pl.col("q90")).all()).item()
    np.testing.assert_array_equal(row["q50"].to_numpy(), forecasts.values[1, 2, 1])
    assert abs(row["q50"][0] - 1e9) < 10


def test_no_series_and_no_windows_are_forecast_as_nothing() -> None:
    model = forecaster()
    state, forecasts = advance(model, model.initial_state(), Windows((), START, np.empty((5, 0))))
    assert len(state) == len(forecasts) == 0
    assert forecasts.frame().is_empty()
    assert check_forecasts(forecasts.frame()).is_empty()
