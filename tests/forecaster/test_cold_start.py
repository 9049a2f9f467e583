"""What covariates are worth, trajectories of series that have not begun, and any number of windows ahead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from forecaster.arrays import Bools, Floats
from forecaster.cold_start import trajectory, unrolled
from forecaster.config import NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.covariates.encoding import Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from forecaster.stepping import advance, advance_in_place
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from forecaster.training.train import train
from schemas.errors import ConfigError, DataError, ModelError
from tests.fleets import START, forecaster

STORES, NEW, DAYS, TEST, HORIZON = 20, 6, 160, 30, 7
FIRST = 19_000  # a day of 2022
NETWORK = NetworkConfig(
    hidden=24, layers=1, horizon=HORIZON, lags=(1, 7), ring=15, decoder=True, quantiles=(0.1, 0.5, 0.9)
)


@dataclass(frozen=True)
class Shops:
    """Sales of shops that a promotion doubles; the larger shop sells more, and a hall sells at weekends."""

    windows: Windows
    promotions: Bools
    static: pl.DataFrame

    def tables(self, *, promotions: bool) -> Tables:
        at, shop = np.indices(self.promotions.shape)
        days = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=FIRST + int(t)) for t in at.ravel()]
        ids = [self.windows.series_ids[s] for s in shop.ravel()]
        on = {"series_id": ids, "timestamp": days, "promotion": self.promotions.ravel()}
        return Tables(Table(pl.DataFrame(on)) if promotions else None, Table(self.static))


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
    alone = OnlineConfig(experts=(), intervals=False)
    return train(old, NETWORK, training, WindowConfig(freq="1d"), online=alone, tables=tables).forecaster


@pytest.fixture(scope="module")
def knowing() -> Forecaster:
    return trained(SHOPS.tables(promotions=True))


def error(model: Forecaster) -> float:
    """Mean absolute error of the days to come, in sizes of the shops, over all horizons."""
    windows = Windows(SHOPS.windows.series_ids[:STORES], FIRST, SHOPS.windows.values[:, :STORES])
    _, said = advance(model, model.initial_state(), windows)
    size = SHOPS.static["size"].to_numpy()[:STORES]
    off = []
    for h in range(1, HORIZON + 1):
        median = said.values[1, DAYS - TEST : DAYS - h, :, h - 1]
        off.append((np.abs(median - windows.values[DAYS - TEST + h :]) / size).mean())
    return float(np.mean(off))


def test_promotions_that_are_known_ahead_halve_the_error_of_the_same_network(knowing: Forecaster) -> None:
    assert error(knowing) < 0.5 * error(trained(SHOPS.tables(promotions=False)))


def test_a_series_that_has_not_begun_is_forecast_better_than_by_the_mean_of_the_fleet(
    knowing: Forecaster,
) -> None:
    first = DAYS - TEST
    said = trajectory(knowing, SHOPS.static[STORES:], FIRST + first, TEST)
    truth, fleet = SHOPS.windows.values[first:, STORES:], SHOPS.windows.values[:first, :STORES]
    by_weekday = np.stack([fleet[(first + h) % 7 :: 7].mean() for h in range(TEST)])[:, None]
    off = np.abs(said.values[1, 0].T - truth).mean()
    assert off < 0.45 * np.abs(by_weekday - truth).mean()
    assert off < 0.45 * np.abs(fleet.mean() - truth).mean()
    low, _, high = (said.values[q, 0].T for q in range(3))
    inside = (low < truth) & (truth < high)
    assert 0.5 < inside.mean() <= 1.0


def test_what_is_known_of_its_windows_moves_the_trajectory_of_a_new_series(knowing: Forecaster) -> None:
    said = trajectory(knowing, SHOPS.static[STORES:], FIRST + DAYS - TEST, TEST).values[1, 0].T
    on = SHOPS.promotions[DAYS - TEST : DAYS, STORES:]
    assert said[on].mean() > 1.6 * said[~on].mean()


def test_rows_of_forecasts_of_a_series_that_has_not_begun_are_issued_as_its_first_window_begins(
    knowing: Forecaster,
) -> None:
    rows = trajectory(knowing, SHOPS.static[STORES:], FIRST, 3).frame()
    assert rows["series_id"].to_list() == list(SHOPS.windows.series_ids[STORES:])
    assert set(rows["issued_at"]) == {datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=FIRST)}
    assert rows["forecast"].list.len().to_list() == [3] * NEW


def test_from_a_first_value_on_it_is_what_the_stream_says_however_long(knowing: Forecaster) -> None:
    static, first = SHOPS.static[STORES:], SHOPS.windows.values[0, STORES:]
    own = Covariates.of(knowing.covariates.features, Frequency(86_400), SHOPS.tables(promotions=True))
    model = knowing.knowing(own)
    ids = SHOPS.windows.series_ids[STORES:]
    _, stream = advance(model, model.initial_state(), Windows(ids, FIRST, first[None]))
    said = trajectory(model, static, FIRST, 40, first)
    assert said.start == FIRST
    np.testing.assert_allclose(said.values[:, 0, :, :HORIZON], stream.values[:, 0], rtol=1e-6)
    assert np.isfinite(said.values).all()
    assert (np.diff(said.values, axis=0) >= 0).all()


@pytest.mark.parametrize("decoder", [False, True])
def test_unrolled_from_a_carried_state_the_first_windows_are_those_of_the_network_in_the_stream(
    decoder: bool,
) -> None:
    model = replace(forecaster(decoder=decoder), online_config=OnlineConfig(experts=(), intervals=False))
    values = np.random.default_rng(0).normal(size=(30, 3)).cumsum(axis=0)
    values[-1, 1] = np.nan
    ids = ("s0", "s1", "new")
    state, _ = advance(model, model.initial_state(), Windows(ids, START, values[:-1]))
    before = state.to_bytes()
    said = unrolled(model, state, values[-1], 50)
    assert state.to_bytes() == before
    stream = advance_in_place(model, state, values[-1:], START + 29)
    np.testing.assert_allclose(said.values[..., :3], stream.values, rtol=1e-5)
    assert said.values.shape == (3, 1, 3, 50)
    assert np.isfinite(said.values).all()
    assert said.issued.all()


def test_series_whose_clocks_differ_are_not_unrolled_as_one() -> None:
    model = forecaster()
    state = model.unseen(("a", "b"), START)
    state.clock[0] += 1
    with pytest.raises(ValueError, match="clocks differ"):
        unrolled(model, state, np.array([1.0, 2.0]), 3)


def test_what_cannot_be_forecast_from_nothing_is_refused_in_one_line(knowing: Forecaster) -> None:
    static = SHOPS.static[STORES:]
    with pytest.raises(ModelError, match=r"train it with network.decoder = true and covariates.static"):
        trajectory(forecaster(), static, FIRST, 3)
    with pytest.raises(DataError, match="has no column kind"):
        trajectory(knowing, static.drop("kind"), FIRST, 3)
    with pytest.raises(DataError, match="'shop 21' has no first value"):
        trajectory(knowing, static, FIRST, 3, np.array([1.0, np.nan, 1, 1, 1, 1]))
    with pytest.raises(ConfigError, match=r"covariates.known needs network.decoder = true"):
        train(
            SHOPS.windows,
            NETWORK.model_copy(update={"decoder": False}),
            window_config=WindowConfig(freq="1d"),
            tables=SHOPS.tables(promotions=True),
        )


def test_a_forecaster_comes_back_from_bytes_with_its_features_and_without_its_tables(
    knowing: Forecaster,
) -> None:
    again = Forecaster.from_bytes(knowing.to_bytes())
    assert again.version == knowing.version
    assert again.covariates.features == knowing.covariates.features
    assert not again.covariates.places
    assert again.knowing(knowing.covariates).version == knowing.version
    with pytest.raises(ModelError, match="other covariates"):
        forecaster().knowing(knowing.covariates)


def test_a_constant_or_missing_series_spoils_no_regression_on_static_features() -> None:
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
