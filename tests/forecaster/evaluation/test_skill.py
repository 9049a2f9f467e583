"""Tests of the skill, which ranks models with different horizons, and of other scores of an evaluation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.evaluation.metrics import Tally
from forecaster.evaluation.skill import BaselineComparison, distribution_measures, series_table, skill

LEVELS = (0.05, 0.5, 0.95)


def scores_of(errors: dict[str, list[float]]) -> pl.DataFrame:
    """Return a frame of scores; ``errors`` lists the errors of each model at horizons 1, 2, and so on."""
    rows = [
        {"model": model, "horizon": horizon, "mae": error, "coverage": None}
        for model, by_horizon in errors.items()
        for horizon, error in enumerate(by_horizon, 1)
    ]
    return pl.DataFrame(rows, schema_overrides={"coverage": pl.Float64})


@given(
    st.lists(st.floats(0.1, 0.99), min_size=24, max_size=24),
    st.floats(1.0, 1.01),
    st.integers(1, 24),
)
def test_a_model_worse_at_every_horizon_never_ranks_higher(
    ratios: list[float], factor: float, horizons: int
) -> None:
    """The worse model may lack horizons; a mean over only its own horizons could give it the higher skill."""
    persistence = [1.0 + horizon for horizon in range(24)]
    good = [ratio * error for ratio, error in zip(ratios, persistence, strict=True)]
    worse = [error * factor for error in good[:horizons]]
    scores = scores_of({"good": good, "worse": worse, "persistence": persistence})
    good_skill, worse_skill = (skill(scores, name, "persistence") for name in ("good", "worse"))
    assert good_skill is not None
    assert worse_skill is not None
    assert good_skill >= worse_skill
    assert good_skill == pytest.approx(1 - np.mean([ratios[h - 1] for h in (1, 3, 6, 12, 24)]))


def test_the_skill_against_a_baseline_without_scores_is_none() -> None:
    assert skill(scores_of({"lstm": [1.0]}), "lstm", "seasonal naive") is None


def test_skill_is_0_if_the_baseline_has_no_error() -> None:
    assert skill(scores_of({"lstm": [1.0], "persistence": [0.0]}), "lstm", "persistence") == 0.0


def errors_of(actuals: np.ndarray, quantiles: np.ndarray) -> pl.DataFrame:
    """Return a frame that pairs ``[T, S]`` actuals with ``[Q, T, S]`` forecast quantiles at horizon 1."""
    start = datetime(2013, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        [
            {
                "series_id": f"s{s}",
                "issued_at": start + timedelta(hours=t),
                "horizon": 1,
                "observed": actuals[t, s],
                **{f"q{level * 100:g}": quantiles[k, t, s] for k, level in enumerate(LEVELS)},
            }
            for t in range(actuals.shape[0])
            for s in range(actuals.shape[1])
        ]
    )


def test_distribution_measures_and_tally_give_equal_wql_and_coverage() -> None:
    chance = np.random.default_rng(0)
    actuals = chance.normal(5, 3, size=(40, 2))
    middle = actuals + chance.normal(size=actuals.shape)
    quantiles = np.stack([middle - 1, middle, middle + 1.5])
    tally = Tally(LEVELS, 2, 1)
    tally.add(actuals[..., None], quantiles[..., None], np.ones((40, 2, 1), bool))
    expected = tally.measures(1, np.ones(2))
    found = distribution_measures(errors_of(actuals, quantiles), {})
    assert found["wql"] == pytest.approx(expected.wql)
    assert found["coverage_90"] == pytest.approx(expected.coverage_90)
    assert found["width_90"] == pytest.approx(2.5)
    scaled = distribution_measures(errors_of(actuals, quantiles), {"s0": 2.0, "s1": 2.0})
    assert scaled["width_90"] == pytest.approx(1.25)


def test_measures_of_point_forecasts_omit_coverage_and_width() -> None:
    frame = errors_of(np.ones((3, 1)), np.ones((3, 3, 1))).drop("q5", "q95")
    assert set(distribution_measures(frame, {})) == {"wql"}


def test_the_table_per_series_divides_errors_by_scale() -> None:
    actuals = np.zeros((4, 2))
    own = errors_of(actuals, np.stack([np.full((4, 2), -1.0), np.full((4, 2), 1.0), np.full((4, 2), 2.0)]))
    naive = own.select("series_id", "issued_at", "horizon", "observed", q50=pl.lit(2.0))
    table = series_table(own, naive, {"s0": 1.0, "s1": 4.0}, {"s0": 9, "s1": 8})
    assert table["series_id"].to_list() == ["s0", "s1"]
    assert table["mase"].to_list() == [1.0, 0.25]
    assert table["mase_h1"].to_list() == [1.0, 0.25]
    assert table["rows"].to_list() == [9, 8]
    assert table["coverage_90"].to_list() == [1.0, 1.0]
    assert table["skill_vs_seasonal_naive"].to_list() == [0.5, 0.5]


def test_logged_curves_contain_scores_of_model_and_baselines() -> None:
    scores = scores_of({"lstm": [1.0, 2.0], "persistence": [2.0, 3.0]})
    curves = BaselineComparison("lstm", {}, {}, scores).curves()
    assert curves[2] == {"mase_by_horizon": 2.0, "mase_by_horizon_persistence": 3.0}
