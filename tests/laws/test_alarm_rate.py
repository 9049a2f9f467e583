"""Law: a series of each of `kinds` raises at most 1.5 times the configured number of alarms.

A series of each kind in `MOVING` also raises at least two thirds of this number.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.arrays import Floats
from forecaster.components.anomaly import Anomaly
from forecaster.config import NetworkConfig, OnlineConfig
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance_in_place
from forecaster.time.window_config import WindowConfig
from tests.forecaster.components.blocks import block_of
from tests.kinds import MOVING, kinds

WINDOWS, WEEK = 3000, 168
ALARMS_PER_WEEK = 7.0
EXPECTED_ALARMS = WINDOWS * ALARMS_PER_WEEK / WEEK


@pytest.fixture(scope="module")
def detected() -> dict[str, tuple[Floats, Floats]]:
    """Return, for each kind of series, the p-values and the alarms of a forecaster, each ``[WINDOWS]``."""
    series = kinds(WINDOWS)
    model = Forecaster.untrained(
        NetworkConfig(hidden=8, horizon=1),
        WindowConfig(),
        online=OnlineConfig(alarms_per_week=ALARMS_PER_WEEK),
    )
    state, parts = model.new_series_state(tuple(series), 0), []
    values = np.stack(list(series.values()), axis=1)
    for start in range(0, WINDOWS, 200):
        block = advance_in_place(model, state, values[start : start + 200], start)
        assert block.anomaly is not None
        parts.append(block.anomaly)
    p_value, alarm = np.concatenate(parts, axis=1)
    return {name: (p_value[:, s], alarm[:, s]) for s, name in enumerate(series)}


@pytest.mark.parametrize("kind", kinds(1))
def test_no_series_kind_raises_many_more_alarms_than_configured(
    detected: dict[str, tuple[Floats, Floats]], kind: str
) -> None:
    assert np.nansum(detected[kind][1]) <= 1.5 * EXPECTED_ALARMS


@pytest.mark.parametrize("kind", MOVING)
def test_moving_kinds_reach_two_thirds_of_the_configured_alarms(
    detected: dict[str, tuple[Floats, Floats]], kind: str
) -> None:
    assert np.nansum(detected[kind][1]) >= EXPECTED_ALARMS / 1.5


@pytest.mark.parametrize("kind", kinds(1))
def test_p_values_are_at_least_1_divided_by_values_seen(
    detected: dict[str, tuple[Floats, Floats]], kind: str
) -> None:
    p_value = detected[kind][0]
    known = ~np.isnan(p_value)
    assert (p_value[known] >= 1.0 / (known.cumsum()[known] + 1.0)).all()


@pytest.mark.parametrize("kind", ["constant", "zero"])
def test_constant_series_raise_no_alarm(detected: dict[str, tuple[Floats, Floats]], kind: str) -> None:
    p_value, alarm = detected[kind]
    assert np.nansum(alarm) == 0
    assert np.nanmin(p_value) > 0.5


def test_a_spike_of_a_constant_series_raises_one_alarm(detected: dict[str, tuple[Floats, Floats]]) -> None:
    assert np.flatnonzero(detected["one_spike"][1] == 1).tolist() == [WINDOWS // 3]


def test_a_series_that_becomes_constant_raises_one_alarm(
    detected: dict[str, tuple[Floats, Floats]],
) -> None:
    alarm = detected["stuck_for_ever"][1]
    assert np.nansum(alarm[WINDOWS // 2 : WINDOWS // 2 + 24]) == 1
    assert np.nansum(alarm[WINDOWS // 2 + 24 :]) == 0


@given(
    rate=st.sampled_from([1e-6, 1 / 168, 1 / 7, 0.5]),
    jump=st.sampled_from([0.0, 1e-9, 1.0, 1e300]),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    tail=st.sampled_from([0.2, 1.0, 5.0]),
    band=st.sampled_from([0.0, 1e-300, 1.645, 1e9]),
    seed=st.integers(0, 2**32 - 1),
)
def test_alarms_per_series_exceed_configured_number_by_at_most_seven(
    rate: float, jump: float, share: float, tail: float, band: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = np.sign(rng.normal(size=(600, 3))) * rng.exponential(size=(600, 3)) ** tail
    values += np.where(rng.random(values.shape) < share, jump, 0.0)
    block = block_of(np.zeros_like(values))
    block.values[:], block.scale[:] = values, np.maximum(rng.random(values.shape), 1e-12)
    block.out.forecast[:] = np.array([-band, 0.0, band])[:, None, None, None]
    anomaly = Anomaly(0.05, 0.95, rate, middle=1)
    own, block = anomaly.step(anomaly.init(3), block)
    raised = np.nansum(block.out.anomaly[1], axis=(0, 2))
    assert (raised <= rate * np.arange(600).max() + 7).all()
    assert all(np.isfinite(array).all() for array in own.values())
