"""Tests of requests that send the state of an earlier answer back to a served model."""

from __future__ import annotations

import base64

import numpy as np
import polars as pl
import pytest
import torch

from forecaster.model import Forecaster
from forecaster.registry.loader import Served
from forecaster.registry.scoring_requests import RequestRefused
from forecaster.serving import ServedForecaster
from forecaster.state import State
from schemas.errors import DataError, ModelError
from tests.forecaster.registry.models import forecaster, history


def split_history(hours: int = 30) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the first ``hours`` hours of the history, and the rest."""
    is_first = pl.int_range(40).over("series_id") < hours
    return history().filter(is_first), history().filter(~is_first)


def state_after(model: Forecaster, rows: pl.DataFrame) -> str:
    state: str = ServedForecaster(model).predict(rows, {"return_state": True})["state"]
    return state


def test_repeating_a_request_with_a_state_gives_equal_forecasts() -> None:
    served, (first, rest) = ServedForecaster(forecaster()), split_history()
    state = state_after(forecaster(), first)
    answer = served.predict(rest, {"state": state})
    assert answer.equals(served.predict(rest, {"state": state}))
    assert answer["note"][0] == "only 40 of the 336 values that full accuracy needs"
    np.testing.assert_allclose(answer["q50"], served.predict(history())["q50"], rtol=1e-5)


def test_a_request_with_a_state_forecasts_old_and_new_series() -> None:
    first, rest = split_history()
    newer = rest.filter(series_id="a").with_columns(series_id=pl.lit("c"))
    answer = ServedForecaster(forecaster()).predict(newer, {"state": state_after(forecaster(), first)})
    assert answer["series_id"].unique().sort().to_list() == ["a", "b", "c"]
    assert answer["issued_at"].n_unique() == 1


def test_serving_refuses_rows_of_windows_the_state_has_closed() -> None:
    first, rest = split_history()
    rows = pl.concat([rest.head(2), first.tail(3)])
    with pytest.raises(
        DataError, match=r"row 3 \(and 2 more rows\) is in a window that the state has closed"
    ):
        ServedForecaster(forecaster()).predict(rows, {"state": state_after(forecaster(), first)})


def test_serving_rewarms_a_state_that_another_model_wrote() -> None:
    first, rest = split_history()
    answer = ServedForecaster(forecaster(1)).predict(rest, {"state": state_after(forecaster(0), first)})
    np.testing.assert_allclose(
        answer["q50"], ServedForecaster(forecaster(1)).predict(history())["q50"], rtol=1e-4
    )


def test_serving_refuses_a_state_that_the_model_cannot_use() -> None:
    first, rest = split_history()
    state = State.from_bytes(base64.b64decode(state_after(forecaster(), first)))
    served = ServedForecaster(forecaster())
    far, broken, wide = state.copy(), state.copy(), state.copy()
    far.clock[0] -= 10**9
    broken.parts["moments"]["mean"][:] = np.nan
    broken.parts["network"]["hidden"][:] = np.nan
    wide.parts["season"] = {}
    for other, message in (
        (far, "the state's series were stepped to windows that are more than windows.max_gap windows apart"),
        (broken, "gives a forecast that is not finite"),
        (wide, "the arrays of the state do not fit this model"),
    ):
        text = base64.b64encode(other.to_bytes()).decode()
        with pytest.raises(ModelError, match=message) as error:
            served.predict(rest, {"state": text})
        assert "\n" not in str(error.value)


def test_predicting_with_nan_weights_raises_a_model_error() -> None:
    broken = forecaster()
    with torch.no_grad():
        for weight in broken.network.parameters():
            weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="the model gives a forecast that is not finite: serve another"):
        ServedForecaster(broken).predict(history())


def test_an_unexpected_serving_error_has_a_one_line_message(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ServedForecaster):
        def predict(self, frame: object, params: object = None) -> object:
            raise KeyError("series\na")

    with pytest.raises(RequestRefused) as error:
        Served(Broken(forecaster())).predict(history())
    assert error.value.message == "the request cannot be answered: KeyError"
    assert "a request failed" in caplog.text
