"""Small untrained forecasters, and histories for requests to served forecasters."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import torch

from forecaster.config import NetworkConfig
from forecaster.covariates.encoding import Column, Features
from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from forecaster.time.window_config import WindowConfig

WINDOWS = WindowConfig()


def forecaster(seed: int = 0) -> Forecaster:
    """Return an untrained forecaster of hourly windows with a horizon of 3 and no covariates."""
    return Forecaster.untrained(NetworkConfig(hidden=4, layers=1, horizon=3), WINDOWS, seed)


def history(hours: int = 40) -> pl.DataFrame:
    """Return hourly observations of the series a and b from 2013-01-01 on."""
    start = datetime(2013, 1, 1, tzinfo=UTC)
    times = [start + timedelta(hours=hour) for hour in range(hours)]
    return pl.DataFrame(
        {
            "series_id": ["a"] * hours + ["b"] * hours,
            "timestamp": pl.Series(times * 2, dtype=pl.Datetime("us", "UTC")),
            "value": [float(hour % 24) for hour in range(2 * hours)],
        }
    )


def covariate_forecaster() -> Forecaster:
    """Return an untrained forecaster with covariates: known price, static kind and size, observed heat."""
    price, size = Column(name="price", mean=5.0, scale=2.0), Column(name="size", mean=5.0, scale=2.0)
    features = Features(
        known=(price,), static=(size, Column(name="kind", words=("hall", "shop"))), observed=("heat",)
    )
    network = NetworkConfig(hidden=4, layers=1, horizon=3, decoder=True)
    made = Forecaster.untrained(network, WINDOWS, covariates=Covariates(features))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.normal_(0.0, 0.3, generator=rng)
    return replace(made)


def covariate_history() -> pl.DataFrame:
    """Return 40 hours of two series with covariates, and 3 more hours without values, in random order."""
    rows = history(43).with_columns(
        value=pl.when(pl.int_range(43).over("series_id") < 40).then("value"),
        heat=(pl.int_range(86) % 7).cast(pl.Float64),
        price=(pl.int_range(86) % 3).cast(pl.Float64),
        size=pl.when(pl.col("series_id") == "a").then(3.0),
        kind=pl.when(pl.col("series_id") == "a").then(pl.lit("hall")).otherwise(pl.lit("shop")),
    )
    return rows.sample(fraction=1, shuffle=True, seed=2)
