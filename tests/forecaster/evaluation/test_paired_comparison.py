"""Tests of `compare`, which steps two models through the same rows and scores both.

It scores only the series, horizons and quantiles that both models forecast.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from forecaster.config import OnlineConfig
from forecaster.evaluation.baselines import seasonal_naive
from forecaster.evaluation.demand_classes import demand_classes
from forecaster.evaluation.paired_comparison import PairedComparison, compare
from forecaster.evaluation.scores import errors, keep_common, series_scale
from forecaster.model import Forecaster
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from schemas.errors import ConfigError, DataError
from tests.fleets import START, forecaster

FIRST = 60
CHAMPION = forecaster()
CHALLENGER = replace(CHAMPION, online_config=OnlineConfig(experts=()))


def history(rows: int = 120) -> Windows:
    """Return three series: one is complete, one has missing values, one is mostly 0."""
    rng = np.random.default_rng(0)
    values = 100 + rng.normal(size=(rows, 3)).cumsum(axis=0)
    values[rng.random(rows) < 0.2, 1] = np.nan
    values[:, 2] = np.where(rng.random(rows) < 0.3, 5.0, 0.0)
    return Windows(("full", "gaps", "zeros"), START, values)


@pytest.fixture(scope="module")
def compared() -> PairedComparison:
    return compare(CHAMPION, CHALLENGER, history(), FIRST)


def own_errors(model: Forecaster, windows: Windows) -> pl.DataFrame:
    """Return the errors of ``model`` at the issue times that a comparison beginning at row `FIRST` scores."""
    _, forecasts = advance(model, model.initial_state(), windows)
    last = windows.stop - model.network_config.horizon
    frame = forecasts.frame()
    window = model.window_config.frequency.window(pl.col("issued_at"))
    scored = frame.filter(window.is_between(windows.start + FIRST, last))
    return errors(scored, windows, model.window_config)


def test_comparing_two_models_gives_the_scores_of_separate_runs(compared: PairedComparison) -> None:
    windows, config = history(), CHAMPION.window_config
    scale = series_scale(windows.rows(0, FIRST), config)
    naive = errors(seasonal_naive(windows, config, 3), windows, config)
    champion, challenger = (own_errors(model, windows) for model in (CHAMPION, CHALLENGER))
    for name, found in (("champion", champion), ("challenger", challenger)):
        unit = pl.col("series_id").replace_strict(scale, return_dtype=pl.Float64)
        rows = keep_common(naive, found).with_columns(unit=unit)
        quantiles = {"q5": 0.05, "q50": 0.5, "q95": 0.95}
        miss = {level: pl.col("observed") - pl.col(q) for q, level in quantiles.items()}
        pinball = pl.mean_horizontal(
            pl.max_horizontal(level * m, (level - 1) * m) for level, m in miss.items()
        )
        inside = pl.col("observed").is_between("q5", "q95")
        expected = (
            rows.group_by("horizon")
            .agg(
                count=pl.len().cast(pl.Int64),
                mase=(miss[0.5].abs() / pl.col("unit")).mean(),
                wql=2 * pinball.sum() / pl.col("observed").abs().sum(),
                coverage=inside.mean(),
                width=((pl.col("q95") - pl.col("q5")) / pl.col("unit")).mean(),
            )
            .sort("horizon")
            .cast({"horizon": pl.Int32})
        )
        scores = compared.scores.filter(pl.col("model") == name).drop("model", "skill")
        assert_frame_equal(scores, expected)
    assert (compared.issues, compared.scores["count"].max()) == (58, 3 * 58 - missing_actuals(windows))


def missing_actuals(windows: Windows) -> int:
    """Count the forecasts without an actual at each of three horizons, and return the smallest count."""
    return min(int(np.isnan(windows.values[FIRST + h : FIRST + h + 58]).sum()) for h in range(3))


def test_identical_models_have_no_improvement_and_equal_scores() -> None:
    compared = compare(CHAMPION, CHAMPION, history(), FIRST)
    for found in (compared.overall, *compared.by_horizon.values(), *compared.by_class.values()):
        assert found == (0.0, 0.0, 0.0)
    champion, challenger = (
        compared.scores.filter(pl.col("model") == name).drop("model") for name in ("champion", "challenger")
    )
    assert champion.equals(challenger)


def test_swapping_champion_and_challenger_swaps_their_scores(compared: PairedComparison) -> None:
    exchanged = compare(CHALLENGER, CHAMPION, history(), FIRST)
    for one, other in (("champion", "challenger"), ("challenger", "champion"), ("persistence",) * 2):
        rows = compared.scores.filter(pl.col("model") == one).drop("model")
        assert rows.equals(exchanged.scores.filter(pl.col("model") == other).drop("model"))
    assert exchanged.overall.share == pytest.approx(1 - 1 / (1 - compared.overall.share))


def test_only_horizons_and_quantiles_that_both_models_have_are_compared() -> None:
    shorter = forecaster(horizon=2)
    config = shorter.network_config.model_copy(update={"quantiles": (0.1, 0.5, 0.95)})
    other = Forecaster.untrained(config, shorter.window_config)
    compared = compare(CHAMPION, other, history(), FIRST)
    assert sorted(compared.by_horizon) == [1, 2]
    assert compared.interval is None
    assert compared.coverage is None
    assert compared.notices == (
        "horizons differ (3 and 2): compared on horizons 1 to 2",
        "quantiles differ: compared on the quantiles that both forecast, 0.5, 0.95",
    )


def test_comparing_models_with_different_frequencies_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"windows.freq = 1h, and .* has 12h"):
        compare(CHAMPION, forecaster(freq="12h"), history(), FIRST)


def test_a_comparison_without_any_actual_is_refused() -> None:
    windows = history()
    windows.values[FIRST:] = np.nan
    with pytest.raises(DataError, match="no forecast of the windows to compare has an actual"):
        compare(CHAMPION, CHALLENGER, windows, FIRST)


def test_the_classes_argument_overrides_grouping_by_demand_class(compared: PairedComparison) -> None:
    assert compared.series_by_class == {"intermittent": 1, "smooth": 2}
    given = compare(CHAMPION, CHALLENGER, history(), FIRST, classes=["a", "b", "a"])
    assert given.series_by_class == {"a": 2, "b": 1}
    assert given.overall == compared.overall


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, 6, 5, 4, 5], "smooth"),
        ([1, 50, 1, 1, 1], "erratic"),
        ([0, 5, 0, 0, 5], "intermittent"),
        ([0, 1, 0, 0, 90], "lumpy"),
        ([0, 0, 0, 0, 0], "zero"),
        ([np.nan, 5, np.nan, 5, np.nan], "smooth"),
        ([np.nan] * 5, "zero"),
    ],
)
def test_the_demand_class_depends_on_zeros_and_on_variation(values: list[float], expected: str) -> None:
    assert demand_classes(np.array(values, float)[:, None]) == [expected]
