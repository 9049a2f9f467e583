"""Small fleets of series, and forecasters whose forecasts visibly depend on every input."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import torch
from hypothesis import strategies as st

from forecaster.config import EXPERTS, NetworkConfig, OnlineConfig
from forecaster.covariates.encoding import Features, Table, Tables
from forecaster.covariates.lookup import Covariates
from forecaster.model import Forecaster
from forecaster.time.frequency import Frequency
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import MICROSECONDS, Windows
from schemas.observations import OBSERVED

HOUR = Frequency(3600)
HOUR_US = 3600 * MICROSECONDS
START = 376_944  # index of the one-hour window that begins at 2013-01-01

HALF_A_DAY = Frequency(12 * 3600)
HALF_A_DAY_US = 12 * HOUR_US

SHORT_WEEK: dict[str, Any] = {"freq": "12h", "ring": 16}
"""Arguments of `forecaster` for windows of half a day: the longest look-back of an expert is then 13 windows,
so every expert forecasts in a short test."""


@lru_cache(maxsize=64)
def forecaster(
    cell: str = "lstm",
    seed: int = 0,
    *,
    layers: int = 2,
    horizon: int = 3,
    ring: int = 8,
    freq: str = "1h",
    aggregate: str = "mean",
    empty: str = "missing",
    allowed_lateness: str = "0s",
    max_gap: int = 672,
    decoder: bool = False,
    observed: tuple[str, ...] = (),
) -> Forecaster:
    """Return a forecaster with weights so large that each input and each state value changes forecasts.

    With ``decoder`` it has `covariates`; ``observed`` are the names of observed covariates.
    """
    network: dict[str, Any] = {"cell": cell, "hidden": 8, "layers": layers, "horizon": horizon}
    windows = {
        "freq": freq,
        "aggregate": aggregate,
        "empty": empty,
        "allowed_lateness": allowed_lateness,
        "max_gap": max_gap,
    }
    made = Forecaster.untrained(
        NetworkConfig.model_validate(
            network | {"lags": (1, 2, 5), "ring": ring, "halflife": 20, "decoder": decoder}
        ),
        WindowConfig.model_validate(windows),
        covariates=covariates(decoder, observed),
    )
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.normal_(0.0, 0.3, generator=rng)
        for weight in made.network.decoder.parameters() if decoder else ():
            # Decoder weights must be small: large weights magnify rounding errors from step to step.
            # The rounding errors of a series depend on which other series are computed in the same call.
            # Tests compare the forecasts of a series between calls that compute different sets of series, so
            # these errors must stay below the tests' tolerances.
            weight.mul_(0.3)
        made.network.ridge.normal_(0.0, 0.1, generator=rng)
    return replace(made, online_config=OnlineConfig(experts=EXPERTS))


@lru_cache
def covariates(decoder: bool, observed: tuple[str, ...] = ()) -> Covariates:
    """Return the observed covariates ``observed``; with ``decoder``, add known and static covariates."""
    if not decoder:
        return Covariates(Features(observed=observed))
    rng, ids = np.random.default_rng(3), ["s0", "s1", "s2", "series 0", "series 1", "series 5"]
    at, series = np.nonzero(rng.random((400, 6)) < 0.7)
    hours = pl.Series((START - 50 + at) * HOUR_US).cast(pl.Datetime("us", "UTC"))
    price = rng.normal(size=len(at))
    known = pl.DataFrame({"series_id": [ids[s] for s in series], "timestamp": hours, "price": price})
    static = pl.DataFrame({"series_id": ids, "size": [1, 2, None] * 2, "kind": ["x", "y", "x"] * 2})
    tables = Tables(Table(known), Table(static))
    nothing = np.zeros((48, 6))
    features = Features.fit(
        tables, Windows(tuple(ids), START, nothing, dict.fromkeys(observed, nothing)), HOUR
    )
    return Covariates.of(features, HOUR, tables)


@st.composite
def fleets(draw: st.DrawFn, series: int = 5, windows: int = 30) -> Windows:
    """Generate windows of series at levels up to 1e9 with gaps; a series may begin late or have no value."""
    count = draw(st.integers(1, series))
    length = draw(st.integers(1, windows))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = []
    for _ in range(count):
        level = draw(st.sampled_from([0.0, 1.0, -300.0, 1e6, 1e9]))
        spread = draw(st.sampled_from([0.0, 0.01, 1.0, 50.0]))
        gaps = draw(st.sampled_from([0.0, 0.2, 0.9]))
        begin = draw(st.integers(0, length))
        values = level + spread * rng.normal(size=length).cumsum()
        values[rng.random(length) < gaps] = np.nan
        values[:begin] = np.nan
        columns.append(values)
    start = START + draw(st.integers(0, 200))
    return Windows(tuple(f"s{i}" for i in range(count)), start, np.stack(columns, axis=1))


def with_heat(fleet: Windows, seed: int = 0) -> Windows:
    """Return the windows with an observed covariate ``heat`` that is missing in some windows."""
    rng = np.random.default_rng(seed)
    heat = 20.0 + rng.normal(size=fleet.values.shape).cumsum(axis=0)
    heat[rng.random(heat.shape) < 0.2] = np.nan
    return replace(fleet, past={"heat": heat})


def rows_of(windows: Windows, freq_us: int = HOUR_US) -> pl.DataFrame:
    """Return one observation, with covariates, for each window with a value, at a time inside the window."""
    at, series = np.nonzero(~np.isnan(windows.values))
    within_us = (at * 40_503 + series * 65_537) * 1_000_003 % freq_us
    return pl.DataFrame(
        {
            "series_id": [windows.series_ids[s] for s in series],
            "timestamp": pl.Series((windows.start + at) * freq_us + within_us, dtype=pl.Int64),
            "value": windows.values[at, series],
            **{
                OBSERVED + name: pl.Series(array[at, series]).fill_nan(None)
                for name, array in windows.past.items()
            },
        },
        schema_overrides={"series_id": pl.String, "value": pl.Float64},
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))


def scales(windows: Windows, empty: str = "missing") -> dict[str, float]:
    """Return for each series id the scale by which comparisons divide differences of forecasts.

    The scale is the standard deviation of the series plus 1e-10 of its largest absolute value. A largest
    absolute value below 1 counts as 1. With ``empty="missing"``, windows without a value are left out, and
    the scale of a series without values is 1. Otherwise, windows without a value count as 0.

    Because of the second term, a tolerance of 1e-5 scales is larger than the float64 rounding of the level.
    """
    found = {}
    for name, values in zip(windows.series_ids, windows.values.T, strict=True):
        known = values[~np.isnan(values)] if empty == "missing" else np.nan_to_num(values)
        found[name] = float(known.std() + 1e-10 * max(np.abs(known).max(), 1.0)) if len(known) else 1.0
    return found
