"""Tests of `inject`, which puts labelled anomalies into series, to measure how well anomalies are found."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.arrays import Floats
from forecaster.evaluation.injection import KINDS, inject

HOUR_S = 3600


def daily_waves(count: int, series: int = 3, seed: int = 1) -> Floats:
    """Return hourly series with a daily wave, noise, and 2 % of values missing."""
    rng = np.random.default_rng(seed)
    hour = np.arange(24 * count)[:, None]
    values = 10 * np.sin(2 * np.pi * (hour + 3 * np.arange(series)) / 24) + rng.normal(
        0, 1, (24 * count, series)
    )
    return np.where(rng.random(values.shape) < 0.02, np.nan, values)


@pytest.mark.parametrize("kind", KINDS)
def test_inject_changes_only_labelled_values(kind: str) -> None:
    values = daily_waves(200)
    changed, labels = inject(values, HOUR_S, np.random.default_rng(2), [kind])
    assert set(np.unique(labels)) == {0, KINDS.index(kind) + 1}
    np.testing.assert_array_equal(changed[labels == 0], values[labels == 0])
    assert (np.abs(changed - values)[labels > 0] > 0).mean() > 0.8
    assert not labels[np.isnan(values)].any()
    np.testing.assert_array_equal(np.isnan(changed), np.isnan(values))


def test_the_seed_determines_the_injected_anomalies() -> None:
    values = daily_waves(100)
    one, two, other = (inject(values, HOUR_S, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert (one[1] != other[1]).any()


def test_appending_series_keeps_the_anomalies_injected_into_earlier_series() -> None:
    values = daily_waves(100, series=4)
    together, alone = (inject(v, HOUR_S, np.random.default_rng(7))[1] for v in (values, values[:, :2]))
    np.testing.assert_array_equal(together[:, :2], alone)


def test_inject_adds_anomalies_at_the_given_rate_after_the_first_rows() -> None:
    values = daily_waves(1000, series=4)
    _, labels = inject(values, HOUR_S, np.random.default_rng(3), ["spike"], 10 * 86_400, first=2400)
    assert not labels[:2400].any()
    begins = (np.diff((labels > 0).astype(int), axis=0, prepend=0) == 1).sum()
    assert 4 * 90 * 0.7 < begins < 4 * 90 * 1.4


def test_flat_lines_are_constant_and_seasonal_breaks_delay_values() -> None:
    values = daily_waves(60, series=1)
    flat, labels = inject(values, HOUR_S, np.random.default_rng(4), ["flat_line"], 10 * 86_400)
    labelled = np.flatnonzero(labels[:, 0])
    first = labelled[: np.argmax(np.diff(labelled, append=labelled[-1] + 99) > 3) + 1]
    assert len(np.unique(flat[first, 0])) == 1
    broken, labels = inject(values, HOUR_S, np.random.default_rng(4), ["seasonal_break"], 10 * 86_400)
    labelled = np.flatnonzero((labels[12:, 0] > 0) & ~np.isnan(values[:-12, 0])) + 12
    np.testing.assert_array_equal(broken[labelled, 0], values[labelled - 12, 0])


def test_inject_does_not_change_constant_or_missing_series() -> None:
    values = np.stack([np.full(5000, 3.0), np.full(5000, np.nan)], axis=1)
    changed, labels = inject(values, HOUR_S, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, values)
    assert not labels.any()


def test_unknown_kinds_and_seasonal_breaks_in_daily_windows_fail() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"kinds of anomalies \['bump'\]: give one or more of spike"):
        inject(daily_waves(3), HOUR_S, rng, ["bump"])
    with pytest.raises(ValueError, match="a day has 1 windows of 86400 s"):
        inject(daily_waves(3), 86_400, rng)
