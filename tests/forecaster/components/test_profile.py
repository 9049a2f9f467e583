"""Tests of the profile of the training values, and of the drift that is measured against it.

Drift is an index: the larger it is, the more the recent values differ from the profile.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forecaster.components import profile as profiles
from forecaster.components.drift import Drift
from forecaster.components.profile import Profile
from forecaster.evaluation.drift import InputDrift, drift_of, population_stability_index
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from tests.fleets import START, forecaster

RNG = np.random.default_rng(0)


def windows_of(values: np.ndarray, start: int = START, **past: np.ndarray) -> Windows:
    return Windows(tuple(f"s{i}" for i in range(values.shape[1])), start, values, past)


def training_windows(windows: int = 1000) -> Windows:
    values = np.random.default_rng(1).normal(size=(windows, 3)) * [1.0, 1e-6, 1e9] + [0.0, 5.0, 0.0]
    # In the third series, six of ten values are 0, and the others are negative.
    values[:, 2] = np.where(np.arange(windows) % 10 < 6, 0.0, -np.abs(values[:, 2]))
    values[40:, 1] = np.nan
    return windows_of(values, heat=values**2)


def profiled(windows: Windows) -> Forecaster:
    return replace(forecaster(), profile=Profile.of(windows))


def test_profile_buckets_hold_equal_shares_unless_a_value_is_frequent() -> None:
    """The deciles of the values separate the buckets; a bucket with a frequent value holds more values."""
    made = Profile.of(training_windows())
    np.testing.assert_allclose(made.shares[0, 0], 0.1, atol=0.002)
    assert made.shares[2, 0].max() == pytest.approx(0.6, abs=0.002)
    assert made.shares[2, 0].sum() == pytest.approx(1.0)


def test_an_input_with_fewer_than_50_values_has_no_profile() -> None:
    made = Profile.of(training_windows(), ("heat",))
    assert np.isnan(made.edges[1]).all()
    assert not np.isnan(made.edges[[0, 2]]).any()


def test_a_profile_has_a_limited_number_of_series_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_MOST_SERIES", 2)
    monkeypatch.setattr(profiles, "_MOST_WINDOWS", 500)
    monkeypatch.setattr(profiles, "_SERIES_AT_ONCE", 1)
    made = Profile.of(training_windows())
    assert made.series_ids == ("s0", "s2")
    np.testing.assert_allclose(made.shares[0, 0], 0.1, atol=0.003)
    assert made.edges_of(["s2", "s1"])[0].tolist() == made.edges[1].tolist()
    assert np.isnan(made.edges_of(["s2", "s1"])[1]).all()


def test_a_model_keeps_its_profile_and_version_in_its_file(tmp_path: Path) -> None:
    model = profiled(training_windows())
    model.save(tmp_path)
    loaded = Forecaster.load(tmp_path)
    assert loaded.version == model.version == forecaster().version
    assert loaded.profile.series_ids == ("s0", "s1", "s2")
    np.testing.assert_array_equal(loaded.profile.edges, model.profile.edges)
    np.testing.assert_allclose(loaded.profile.shares, model.profile.shares, atol=0.003)


def test_a_model_saved_without_a_profile_has_no_drift() -> None:
    loaded = Forecaster.from_bytes(forecaster().to_bytes())
    assert not loaded.profile
    state, _ = advance(loaded, loaded.initial_state(), training_windows(20))
    assert drift_of(loaded.profile, state) == {}


def test_a_shifted_series_increases_drift_and_is_worst_series() -> None:
    model = profiled(training_windows())
    again = np.random.default_rng(2).normal(size=(300, 3)) * [1.0, 1.0, 1e9]
    again[:, 2] = np.where(np.arange(300) % 10 < 6, 0.0, -np.abs(again[:, 2]))
    same, _ = advance(model, model.initial_state(), windows_of(again))
    found = drift_of(model.profile, same)["value"]
    assert found.index is not None
    assert found.index < 0.1
    again[:, 0] += 3.0
    shifted, _ = advance(model, model.initial_state(), windows_of(again))
    drifted = drift_of(model.profile, shifted)["value"]
    assert drifted.worst_series == "s0"
    assert drifted.worst_index > 1.0
    assert drifted.index is not None
    assert drifted.index > 0.25


def test_population_stability_index_of_many_values_approximates_its_definition() -> None:
    counts, shares = np.array([500.0, 300.0, 200.0]), np.array([0.4, 0.4, 0.2])
    exact = (0.5 - 0.4) * np.log(0.5 / 0.4) + (0.3 - 0.4) * np.log(0.3 / 0.4)
    assert population_stability_index(counts, shares) == pytest.approx(exact, rel=0.01)
    assert np.isnan(population_stability_index(counts / 20, shares))
    assert np.isfinite(population_stability_index(np.array([0.0, 0.0, 200.0]), np.array([1.0, 0.0, 0.0])))


def test_sum_of_two_drifts_names_only_the_worse_series() -> None:
    one = InputDrift([60] * 10, [60.0] * 10, "a", 0.2)
    two = InputDrift([0] * 9 + [600], [60.0] * 10, "b", 2.0)
    assert one.index == pytest.approx(0.0)
    assert (one + two).worst_series == (two + one + InputDrift()).worst_series == "b"
    assert (one + two).index == pytest.approx((two + one).index)
    assert InputDrift().index is None


def test_a_state_without_drift_counts_begins_to_count_drift() -> None:
    model = profiled(training_windows())
    state, _ = advance(model, model.initial_state(), training_windows(200))
    del state.parts["drift"], state.parts["scores"]
    later = windows_of(np.ones((5, 3)), state.clock[0] + 1)
    after, _ = advance(model, state, later)
    assert after.parts["drift"]["counts"].sum(axis=2)[:, 0].tolist() == [5, 0, 5]
    assert Drift(("value",)).spec().keys() == after.parts["drift"].keys()
