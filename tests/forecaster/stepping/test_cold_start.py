"""Tests of forecasts from covariates: their accuracy, and forecasts of series that have no value so far.

A trajectory is the forecast of a new series for any number of windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from forecaster.arrays import Bools, Floats
from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.covariates.encoding import Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance, advance_in_place
from forecaster.stepping.cold_start import trajectory, unroll_network
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import train
from schemas.errors import ConfigError, DataError, ModelError
from tests.fleets import START, forecaster

STORES, NEW, DAYS, TEST, HORIZON = 20, 6, 160, 30, 7
FIRST = 19_000  # the sales begin on day 19,000 since 1970, which is in 2022
NETWORK = NetworkConfig(
    hidden=24, layers=1, horizon=HORIZON, lags=(1, 7), ring=15, decoder=True, quantiles=(0.1, 0.5, 0.9)
)


@dataclass(frozen=True)
class Shops:
    """Daily sales of shops, which depend on promotions, the size of the shop, its kind and the weekday.

    Attributes:
        windows: sales ``[DAYS, STORES + NEW]``.
        promotions: ``[DAYS + HORIZON, STORES + NEW]``, whether a shop has a promotion on a day.
        static: size and kind of each shop.
    """

    windows: Windows
    promotions: Bools
    static: pl.DataFrame

    def tables(self, *, promotions: bool) -> Tables:
        day, shop = np.indices(self.promotions.shape)
        days = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=FIRST + int(t)) for t in day.ravel()]
        ids = [self.windows.series_ids[s] for s in shop.ravel()]
        on_promotion = {"series_id": ids, "timestamp": days, "promotion": self.promotions.ravel()}
        return Tables(Table(pl.DataFrame(on_promotion)) if promotions else None, Table(self.static))


def shops() -> Shops:
    chance = np.random.default_rng(0)
    count = STORES + NEW
    size, is_hall = chance.uniform(20, 100, count), np.arange(count) % 2 == 0
    ids = tuple(f"shop {i:02}" for i in range(count))
    week = np.sin(2 * np.pi * np.arange(DAYS) / 7)[:, None] * np.where(is_hall, 0.4, -0.4)
    promotions = chance.random((DAYS + HORIZON, count)) < 0.2
    noise = 1 + 0.05 * chance.normal(size=(DAYS, count))
    values = size * (1 + week) * np.where(promotions[:DAYS], 2.0, 1.0) * noise
    static = pl.DataFrame({"series_id": ids, "size": size, "kind": np.where(is_hall, "hall", "shop")})
    return Shops(Windows(ids, FIRST, values), promotions, static)


SHOPS = shops()


def trained(tables: Tables) -> Forecaster:
    windows = SHOPS.windows.between(FIRST, FIRST + DAYS - TEST)
    old = Windows(windows.series_ids[:STORES], FIRST, windows.values[:, :STORES])
    training = TrainingConfig(
        epochs=16, segment=32, validation=0, backtest=0, dropout=0, learning_rate=1e-2, batch_series=4
    )
    network_only = OnlineConfig(experts=(), intervals=False)
    return train(
        old, NETWORK, training, WindowConfig(freq="1d"), online=network_only, tables=tables
    ).forecaster


@pytest.fixture(scope="module")
def trained_model() -> Forecaster:
    return trained(SHOPS.tables(promotions=True))


def relative_error(model: Forecaster) -> float:
    """Return the mean absolute error of the last `TEST` days over all horizons, divided by the shop sizes."""
    windows = Windows(SHOPS.windows.series_ids[:STORES], FIRST, SHOPS.windows.values[:, :STORES])
    _, forecasts = advance(model, model.initial_state(), windows)
    size = SHOPS.static["size"].to_numpy()[:STORES]
    off = []
    for h in range(1, HORIZON + 1):
        median = forecasts.values[1, DAYS - TEST : DAYS - h, :, h - 1]
        off.append((np.abs(median - windows.values[DAYS - TEST + h :]) / size).mean())
    return float(np.mean(off))


def test_known_promotions_more_than_halve_errors_of_training_series(trained_model: Forecaster) -> None:
    assert relative_error(trained_model) < 0.5 * relative_error(trained(SHOPS.tables(promotions=False)))


def test_forecasts_of_series_without_values_beat_the_fleet_mean(
    trained_model: Forecaster,
) -> None:
    first = DAYS - TEST
    forecasts = trajectory(trained_model, SHOPS.static[STORES:], FIRST + first, TEST)
    actual, fleet = SHOPS.windows.values[first:, STORES:], SHOPS.windows.values[:first, :STORES]
    by_weekday = np.stack([fleet[(first + h) % 7 :: 7].mean() for h in range(TEST)])[:, None]
    off = np.abs(forecasts.values[1, 0].T - actual).mean()
    assert off < 0.45 * np.abs(by_weekday - actual).mean()
    assert off < 0.45 * np.abs(fleet.mean() - actual).mean()
    low, _, high = (forecasts.values[q, 0].T for q in range(3))
    inside = (low < actual) & (actual < high)
    assert 0.5 < inside.mean() <= 1.0


def test_known_promotions_raise_the_forecasts_of_new_series(trained_model: Forecaster) -> None:
    forecasts = trajectory(trained_model, SHOPS.static[STORES:], FIRST + DAYS - TEST, TEST).values[1, 0].T
    on_promotion = SHOPS.promotions[DAYS - TEST : DAYS, STORES:]
    assert forecasts[on_promotion].mean() > 1.6 * forecasts[~on_promotion].mean()


def test_cold_starts_are_issued_when_their_first_window_begins(
    trained_model: Forecaster,
) -> None:
    rows = trajectory(trained_model, SHOPS.static[STORES:], FIRST, 3).frame()
    assert rows["series_id"].to_list() == list(SHOPS.windows.series_ids[STORES:])
    assert set(rows["issued_at"]) == {datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=FIRST)}
    assert rows["forecast"].list.len().to_list() == [3] * NEW


def test_cold_start_forecasts_from_one_value_equal_advance_forecasts(trained_model: Forecaster) -> None:
    static, first = SHOPS.static[STORES:], SHOPS.windows.values[0, STORES:]
    own = Covariates.of(trained_model.covariates.features, Frequency(86_400), SHOPS.tables(promotions=True))
    model = trained_model.with_covariates(own)
    ids = SHOPS.windows.series_ids[STORES:]
    _, stream = advance(model, model.initial_state(), Windows(ids, FIRST, first[None]))
    forecasts = trajectory(model, static, FIRST, 40, first)
    assert forecasts.start == FIRST
    np.testing.assert_allclose(forecasts.values[:, 0, :, :HORIZON], stream.values[:, 0], rtol=1e-6)
    assert np.isfinite(forecasts.values).all()
    assert (np.diff(forecasts.values, axis=0) >= 0).all()


@pytest.mark.parametrize("decoder", [False, True])
def test_unroll_network_gives_stream_forecasts_within_the_model_horizon(
    decoder: bool,
) -> None:
    """`unroll_network` forecasts 50 horizons; the model forecasts only the first three of them itself."""
    model = replace(forecaster(decoder=decoder), online_config=OnlineConfig(experts=(), intervals=False))
    values = np.random.default_rng(0).normal(size=(30, 3)).cumsum(axis=0)
    values[-1, 1] = np.nan
    ids = ("s0", "s1", "new")
    state, _ = advance(model, model.initial_state(), Windows(ids, START, values[:-1]))
    before = state.to_bytes()
    forecasts = unroll_network(model, state, values[-1], 50)
    assert state.to_bytes() == before
    stream = advance_in_place(model, state, values[-1:], START + 29)
    np.testing.assert_allclose(forecasts.values[..., :3], stream.values, rtol=1e-5)
    assert forecasts.values.shape == (3, 1, 3, 50)
    assert np.isfinite(forecasts.values).all()
    assert forecasts.issued.all()


def test_unroll_network_refuses_series_at_different_windows() -> None:
    model = forecaster()
    state = model.new_series_state(("a", "b"), START)
    state.clock[0] += 1
    with pytest.raises(ValueError, match="clocks differ"):
        unroll_network(model, state, np.array([1.0, 2.0]), 3)


def test_incomplete_inputs_and_networks_without_a_decoder_are_refused(trained_model: Forecaster) -> None:
    static = SHOPS.static[STORES:]
    with pytest.raises(ModelError, match=r"train it with network.decoder = true and covariates.static"):
        trajectory(forecaster(), static, FIRST, 3)
    with pytest.raises(DataError, match="has no column kind"):
        trajectory(trained_model, static.drop("kind"), FIRST, 3)
    with pytest.raises(DataError, match="'shop 21' has no first value"):
        trajectory(trained_model, static, FIRST, 3, np.array([1.0, np.nan, 1, 1, 1, 1]))
    with pytest.raises(ConfigError, match=r"covariates.known needs network.decoder = true"):
        train(
            SHOPS.windows,
            NETWORK.model_copy(update={"decoder": False}),
            window_config=WindowConfig(freq="1d"),
            tables=SHOPS.tables(promotions=True),
        )


def test_to_bytes_keeps_covariate_features_but_not_covariate_values(
    trained_model: Forecaster,
) -> None:
    again = Forecaster.from_bytes(trained_model.to_bytes())
    assert again.version == trained_model.version
    assert again.covariates.features == trained_model.covariates.features
    assert not again.covariates.places
    assert again.with_covariates(trained_model.covariates).version == trained_model.version
    with pytest.raises(ModelError, match="the covariates are not encoded as in the training of"):
        forecaster().with_covariates(trained_model.covariates)


def test_constant_or_empty_training_series_give_finite_static_weights() -> None:
    chance = np.random.default_rng(0)
    values: Floats = chance.normal(size=(40, 4)).cumsum(axis=0)
    values[:, 0], values[:, 1] = 5.0, np.nan
    windows = Windows(("a", "b", "c", "d"), START, values)
    static = pl.DataFrame({"series_id": ["a", "b", "c"], "size": [1.0, 2.0, 3.0]})
    small = NetworkConfig(hidden=4, layers=2, horizon=2, lags=(1,), ring=2, decoder=True)
    made = train(windows, small, TrainingConfig(epochs=1), tables=Tables(None, Table(static))).forecaster
    new = pl.DataFrame({"series_id": ["e"], "size": [None]}, schema_overrides={"size": pl.Float64})
    assert np.isfinite(trajectory(made, new, START, 9).values).all()
    assert torch.isfinite(made.network.of_static).all()
