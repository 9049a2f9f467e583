"""Law: every input that validation accepts gives finite states and finite issued forecasts.

In some arrays of the state, NaN means that there is no value yet.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.covariates.encoding import Features, Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from schemas.errors import DataError
from schemas.observations import LARGEST
from tests.fleets import HOUR, HOUR_US, SHORT_WEEK, START, forecaster

SIZES = (0.0, 5e-324, 1e-310, 1e-200, 1e-151, 1e-30, 1e-15, 1.0, 3e9, 1e38, 1e39, 1e77, LARGEST)
NAN_IS_MISSING = {
    "ring.values",
    "past.heat.ring",
    "network.expected",
    "stacking.waiting",
    "stacking.issued",
    "intervals.issued",
    "anomaly.expected",
    "anomaly.last",
}
"""Arrays of the state in which NaN means that there is no value yet."""


def value_arrays(windows: int, series: int) -> st.SearchStrategy[Floats]:
    """Generate arrays ``[windows, series]`` with `random_values`."""
    # Draw a seed and not an array: Hypothesis would take minutes to simplify an array for which a test fails.
    return st.integers(0, 2**32 - 1).map(lambda seed: random_values(seed, windows, series))


def random_values(seed: int, windows: int, series: int) -> Floats:
    """Return random values ``[windows, series]``.

    Each series has a shape, such as noise or a constant, and up to four magnitudes, one after the other.
    Its values are missing with a probability of 0, 0.3 or 0.9.
    """
    rng = np.random.default_rng(seed)
    values = np.empty((windows, series))
    for s in range(series):
        sizes = rng.choice(SIZES, size=rng.integers(1, 5))
        noise = rng.normal(size=windows).clip(-4, 4) / 4
        shapes = (
            noise,
            np.abs(noise),
            np.ones(windows),
            np.where(noise > 0, 1.0, -1.0),
            1.0 * (np.arange(windows) == windows // 2),
        )
        size = np.repeat(sizes, -(-windows // len(sizes)))[:windows]
        values[:, s] = size * shapes[rng.integers(len(shapes))]
        values[rng.random(windows) < rng.choice([0.0, 0.3, 0.9]), s] = np.nan
    return values


def assert_finite(state: State, forecasts: Forecasts) -> None:
    for component, own in state.parts.items():
        for name, array in own.items():
            missing = np.isnan(array) if f"{component}.{name}" in NAN_IS_MISSING else False
            assert (np.isfinite(array) | missing).all(), f"{component}.{name}"
    assert np.isfinite(forecasts.values[:, forecasts.issued]).all()
    if forecasts.network is not None:
        assert np.isfinite(forecasts.network[:, forecasts.issued]).all()


def tables(known: Floats, static: Floats) -> Tables:
    """Return a table with the known covariate ``price`` and one with the static covariate ``size``.

    Args:
        known: the values of a known covariate, ``[windows]``, from window `START` on.
        static: the values of a static covariate, one for each series.
    """
    hours = pl.Series((START + np.arange(len(known))) * HOUR_US).cast(pl.Datetime("us", "UTC"))
    ids = [f"s{i}" for i in range(len(static))]
    return Tables(
        Table(
            pl.DataFrame({"timestamp": hours, "price": known}).with_columns(pl.col("price").fill_nan(None))
        ),
        Table(pl.DataFrame({"series_id": ids, "size": static}).with_columns(pl.col("size").fill_nan(None))),
    )


@lru_cache
def ordinary_features() -> Features:
    """Return covariate features that are fitted to tables without extreme numbers."""
    ordinary = tables(np.random.default_rng(0).normal(size=60), np.arange(4.0))
    past = {"heat": np.zeros((60, 4))}
    windows = Windows(tuple(f"s{i}" for i in range(4)), START, np.zeros((60, 4)), past)
    return Features.fit(ordinary, windows, HOUR)


@lru_cache
def forecaster_with_covariates(cell: str, features: Features) -> Forecaster:
    model = forecaster(cell, decoder=True, observed=("heat",))
    own = Covariates.of(features, HOUR)
    return Forecaster.untrained(
        model.network_config, model.window_config, online=model.online_config, covariates=own
    )


def assert_finite_in_blocks(model: Forecaster, fleet: Windows, cut: int) -> None:
    state = model.initial_state()
    for first in range(fleet.start, fleet.stop, cut):
        state, forecasts = advance(model, state, fleet.between(first, first + cut))
        assert_finite(state, forecasts)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@settings(max_examples=4)
@given(values=value_arrays(40, 90), cut=st.sampled_from([1, 7, 40]))
def test_any_accepted_values_give_finite_states_and_forecasts(cell: str, values: Floats, cut: int) -> None:
    model = forecaster(cell, **SHORT_WEEK)
    assert_finite_in_blocks(model, Windows(tuple(f"s{i}" for i in range(90)), START, values), cut)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@given(
    values=value_arrays(30, 4),
    heat=value_arrays(30, 4),
    known=value_arrays(60, 1),
    static=value_arrays(4, 1),
    refit=st.booleans(),
)
def test_any_accepted_covariates_give_finite_states_and_forecasts(
    cell: str, values: Floats, heat: Floats, known: Floats, static: Floats, refit: bool
) -> None:
    given_tables = tables(known[:, 0], static[:, 0])
    ids = tuple(f"s{i}" for i in range(4))
    fleet = Windows(ids, START, values, {"heat": heat})
    features = Features.fit(given_tables, fleet, HOUR) if refit else ordinary_features()
    model = forecaster_with_covariates(cell, features).with_covariates(
        Covariates.of(features, HOUR, given_tables)
    )
    assert_finite_in_blocks(model, fleet, 10)


@pytest.mark.parametrize("value", [1.1 * LARGEST, 1e300, float("inf"), -float("inf")])
@pytest.mark.parametrize("column", ["price", "size"])
def test_known_and_static_covariates_beyond_1e100_are_refused(value: float, column: str) -> None:
    known, static = np.zeros(60), np.arange(4.0)
    (known if column == "price" else static)[2] = value
    with pytest.raises(DataError, match=f"row 3: column {column}"):
        Covariates.of(ordinary_features(), HOUR, tables(known, static))


@pytest.mark.parametrize("value", [1e151, float("inf"), -float("inf")])
def test_advance_refuses_too_large_and_infinite_values(value: float) -> None:
    model = forecaster()
    fleet = Windows(("a", "b"), START, np.array([[1.0, 2.0], [1.0, value]]))
    with pytest.raises(DataError, match="'b'"):
        advance(model, model.initial_state(), fleet)


@pytest.mark.parametrize("value", [1e151, float("inf"), -float("inf")])
def test_advance_refuses_too_large_and_infinite_observed_covariates(value: float) -> None:
    model = forecaster(observed=("heat",))
    heat = np.array([[1.0, 2.0], [1.0, value]])
    with pytest.raises(DataError, match="'b', covariate 'heat'"):
        advance(model, model.initial_state(), Windows(("a", "b"), START, np.ones((2, 2)), {"heat": heat}))
