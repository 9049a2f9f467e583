"""Tests of calendar features, of features from tables of covariates, and of errors for invalid tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.covariates.encoding import Column, Features, Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.state import Floats
from forecaster.time.calendar import calendar, useful_periods
from forecaster.time.frequency import Frequency
from forecaster.time.windows import Windows
from forecaster.training.train import Trained, train
from schemas.errors import DataError

HOUR, DAY = Frequency(3600), Frequency(86_400)
NO_NUMBER = "is not a finite number, but the column is numeric: write a number, or leave the cell empty"
TOO_MANY = (
    "holds 99 different texts, and 64 are the most: leave the column out, or replace the texts by groups"
)
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
FIRST = int(BEGIN.timestamp()) // 3600


def windows(length: int = 48, series: tuple[str, ...] = ("a", "b")) -> Windows:
    return Windows(series, FIRST, np.zeros((length, len(series))))


def promotions() -> Table:
    hours = [BEGIN + timedelta(hours=h) for h in (0, 1, 50, 1)]
    frame = {"series_id": ["a", "a", "a", "b"], "timestamp": hours, "price": [1.0, 3.0, 9.0, None]}
    return Table(pl.DataFrame(frame), "promotions.csv")


def stores() -> Table:
    frame = {"series_id": ["a", "b", "c"], "size": [10.0, 20.0, None], "kind": ["shop", "hall", "barn"]}
    return Table(pl.DataFrame(frame), "stores.csv")


def test_useful_periods_span_two_or_more_windows_of_history() -> None:
    assert useful_periods(HOUR, 24) == ("day",)
    assert useful_periods(HOUR, 24 * 400) == ("day", "week", "month", "year")
    assert useful_periods(DAY, 100) == ("week", "month")
    assert useful_periods(Frequency(7 * 86_400), 200) == ("month", "year")
    assert useful_periods(Frequency(40 * 86_400), 200) == ("year",)
    assert useful_periods(Frequency(0, 1), 11) == ()
    assert useful_periods(Frequency(0, 1), 12) == useful_periods(Frequency(0, 3), 4) == ("year",)
    assert useful_periods(Frequency(0, 12), 200) == ()


def test_month_and_year_phases_follow_the_calendar() -> None:
    def first_of(month: int, year: int = 2024) -> int:
        return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) // 86_400

    firsts = calendar(np.array([first_of(m) for m in (1, 2, 3, 12)]), DAY, ("month",))
    np.testing.assert_allclose(firsts, [[0.0, 1.0]] * 4, atol=1e-6)
    january = calendar(np.array([first_of(1), first_of(1, 2025), first_of(7)]), DAY, ("year",))
    np.testing.assert_allclose(january[:2], [[0.0, 1.0]] * 2, atol=1e-6)
    assert january[2, 1] < -0.99
    monthly = calendar(12 * 54 + np.arange(12), Frequency(0, 1), ("year",))
    np.testing.assert_array_equal(monthly, calendar(
        np.array([first_of(m) for m in range(1, 13)]), DAY, ("year",)
    ))  # fmt: skip
    np.testing.assert_array_equal(calendar(np.array([7, 31]), HOUR, ("day",))[0], calendar(
        np.array([31]), HOUR, ("day",)
    )[0])  # fmt: skip


def test_known_features_are_looked_up_by_series_and_window() -> None:
    features = Features.fit(Tables(promotions()), windows(), HOUR)
    assert features.known == (Column(name="price", mean=2.0, scale=1.0),)
    covariates = Covariates.of(features, HOUR, Tables(promotions()))
    found = covariates.known(("b", "a", "new"), np.array([FIRST]), 51)
    assert found.shape == (51, 3, features.known_count)
    assert found.dtype == np.float32
    price, is_known = found[..., -2], found[..., -1]
    np.testing.assert_array_equal(price[[0, 1, 50], 1], [-1.0, 1.0, 7.0])
    np.testing.assert_array_equal(np.flatnonzero(is_known[:, 1]), [0, 1, 50])
    assert not price[:, [0, 2]].any()
    assert not is_known[:, [0, 2]].any()


def test_features_are_unknown_in_windows_outside_the_covariate_table() -> None:
    covariates = Covariates.of(
        Features.fit(Tables(promotions()), windows(), HOUR), HOUR, Tables(promotions())
    )
    whole = covariates.known(("a", "b"), np.array([FIRST - 5]), 100)
    assert not whole[:5, :, -2:].any()
    assert not whole[56:, :, -2:].any()
    own = covariates.known(("a", "b"), FIRST + np.array([1, -3]), 10)
    np.testing.assert_array_equal(own[:, 0], whole[6:16, 0])
    np.testing.assert_array_equal(own[:, 1], whole[2:12, 1])


def test_a_covariate_table_without_series_ids_applies_to_all_series() -> None:
    frame = promotions().frame.filter(pl.col("series_id") == "a").drop("series_id")
    features = Features.fit(Tables(Table(frame)), windows(), HOUR)
    covariates = Covariates.of(features, HOUR, Tables(Table(frame)))
    found = covariates.known(("a", "new"), np.array([FIRST]), 3)
    assert found.shape == (3, 1, features.known_count)
    np.testing.assert_array_equal(found[:, 0, -2:], [[-1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    own = covariates.known(("a", "new"), FIRST + np.array([0, 1]), 1)
    np.testing.assert_array_equal(own[0, :, -2], [-1.0, 1.0])


def test_numeric_covariates_are_averaged_and_text_covariates_encoded() -> None:
    at = [BEGIN, BEGIN + timedelta(minutes=30), BEGIN + timedelta(hours=1)]
    table = Table(pl.DataFrame({"timestamp": at, "on": [True, False, True], "day": ["feast", "feast", None]}))
    features = Features.fit(Tables(table), windows(), HOUR)
    found = Covariates.of(features, HOUR, Tables(table)).known(("a",), np.array([FIRST]), 2)[:, 0, -4:]
    on = features.known[0]
    np.testing.assert_allclose(found[:, 0], (np.array([0.5, 1.0]) - on.mean) / on.scale, rtol=1e-6)
    np.testing.assert_array_equal(found[:, 1:], [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def test_static_features_are_standardised_over_the_training_series() -> None:
    features = Features.fit(Tables(None, stores()), windows(), HOUR)
    assert features.static == (
        Column(name="size", mean=15.0, scale=5.0),
        Column(name="kind", words=("hall", "shop")),
    )
    found = Covariates.of(features, HOUR, Tables(None, stores())).static(("b", "a", "c", "new"))
    expected = [[1, 1, 1, 0, 1], [-1, 1, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32), strict=True)


def test_covariates_are_restored_from_bytes() -> None:
    features = Features.fit(Tables(promotions(), stores()), windows(), HOUR)
    covariates = Covariates.of(features, HOUR, Tables(promotions(), stores()))
    again = Covariates.from_bytes(covariates.to_bytes())
    assert again.features == features
    ids, start = ("b", "new", "a"), np.array([FIRST])
    np.testing.assert_array_equal(again.known(ids, start, 60), covariates.known(ids, start, 60))
    np.testing.assert_array_equal(again.static(ids), covariates.static(ids))


def test_features_of_missing_covariate_tables_are_0() -> None:
    assert Covariates().known(("a", "b"), np.array([FIRST]), 4).shape == (4, 1, 0)
    assert Covariates().static(("a", "b")).shape == (2, 0)
    features = Features.fit(Tables(promotions(), stores()), windows(), HOUR)
    bare = Covariates(features, HOUR, by_series=np.zeros((1, features.static_count), np.float32))
    found = bare.known(("a", "b"), np.array([FIRST]), 4)
    assert found.shape[2] == features.known_count
    assert not found[..., -2:].any()
    assert not Covariates.of(features, HOUR).static(("a",)).any()


@pytest.mark.parametrize(
    ("known", "static", "message"),
    [
        ({"timestamp": ["2024-01-01", "soon"], "price": [1, 2]}, None,
         "k.csv: row 2: column timestamp: 'soon' is not a time: write it as 2013-01-31T05:00:00Z"),
        ({"timestamp": ["2024-01-01"] * 3, "price": ["1", "2", "two"]}, None,
         f"k.csv: row 3: column price: 'two' {NO_NUMBER}"),
        ({"timestamp": ["2024-01-01"] * 2, "price": [1.0, float("inf")]}, None,
         f"k.csv: row 2: column price: inf {NO_NUMBER}"),
        ({"price": [1]}, None, "k.csv: has no column timestamp (it has price): add it"),
        ({"timestamp": ["2024-01-01"]}, None,
         "k.csv: has no column beside series_id and timestamp: add one, or leave the table out"),
        (None, {"series_id": ["a", "b", "a"], "size": [1, 2, 3]},
         "s.csv: row 3: column series_id: 'a' is in row 1, too: keep one"),
        (None, {"series_id": [str(i) for i in range(99)], "name": [f"shop {i}" for i in range(99)]},
         f"s.csv: column name: {TOO_MANY}"),
    ],
)  # fmt: skip
def test_the_error_for_an_invalid_covariate_table_names_the_file(
    known: dict[str, list[object]] | None, static: dict[str, list[object]] | None, message: str
) -> None:
    one = None if known is None else Table(pl.DataFrame(known), "k.csv")
    other = None if static is None else Table(pl.DataFrame(static), "s.csv")
    with pytest.raises(DataError) as error:
        Covariates.of(Features.fit(Tables(one, other), windows(series=()), HOUR), HOUR, Tables(one, other))
    assert str(error.value) == message


def test_a_covariate_table_without_a_column_of_the_model_is_refused() -> None:
    features = Features.fit(Tables(promotions()), windows(), HOUR)
    with pytest.raises(DataError, match=r"promotions.csv: has no column price"):
        Covariates.of(features, HOUR, Tables(Table(promotions().frame.drop("price"), "promotions.csv")))


def test_covariate_scaling_is_fitted_on_the_training_windows_only() -> None:
    price = np.arange(100.0)
    hours = pl.Series((FIRST + np.arange(100)) * 3_600_000_000).cast(pl.Datetime("us", "UTC"))
    static = pl.DataFrame({"series_id": ["a", "late"], "size": [1.0, 9.0], "kind": ["old", "new"]})
    values = np.random.default_rng(0).normal(size=(100, 2))
    values[:85, 1] = np.nan
    network = NetworkConfig(hidden=2, layers=1, horizon=2, lags=(1,), ring=4, decoder=True)
    training = TrainingConfig(epochs=1, segment=16, validation=0.1, backtest=0.1)

    def trained(prices: Floats) -> Trained:
        known = pl.DataFrame({"timestamp": hours, "price": prices})
        tables = Tables(Table(known), Table(static))
        return train(Windows(("a", "late"), FIRST, values), network, training, tables=tables)

    one = trained(price)
    chosen, refit = (made.covariates.features for made in (one.chosen, one.forecaster))
    assert chosen.known[0].mean == price[:80].mean()
    assert [column.words for column in chosen.static] == [(), ("old",)]
    assert chosen.static[0].mean == 1.0
    assert refit.known[0].mean == price.mean()
    assert [column.words for column in refit.static] == [(), ("new", "old")]
    # the price differs in the backtest windows only
    other = trained(np.where(np.arange(100) < 90, price, 1e6))
    assert other.chosen.covariates.features == chosen
    assert other.chosen.version == one.chosen.version


def test_memory_of_known_covariates_does_not_grow_with_their_time_span() -> None:
    ids = [f"s{i}" for i in range(200)]
    hours = [datetime(1900, 1, 1, tzinfo=UTC), BEGIN]
    times = [hour for hour in hours for _ in ids]
    covariates = Table(pl.DataFrame({"series_id": ids * 2, "timestamp": times, "price": range(400)}))
    features = Features.fit(Tables(covariates), windows(series=tuple(ids)), HOUR)
    found = Covariates.of(features, HOUR, Tables(covariates))
    assert found.by_window.nbytes < 10_000
    price = found.known(("s7", "other"), np.array([FIRST - 1]), 3)[:, :, -2:]
    np.testing.assert_array_equal(price[:, 0, 1], [0, 1, 0])
    np.testing.assert_array_equal(price[:, 1], 0)
    again = Covariates.from_bytes(found.to_bytes())
    np.testing.assert_array_equal(
        again.known(("s7",), np.array([FIRST]), 1), found.known(("s7",), np.array([FIRST]), 1)
    )
