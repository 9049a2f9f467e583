"""Tests of the rolling evaluation, which steps through a history and scores the forecasts of test windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from forecaster.arrays import Floats
from forecaster.config import OnlineConfig
from forecaster.evaluation import rolling
from forecaster.evaluation.metrics import Tally
from forecaster.evaluation.rolling import (
    FanSample,
    ScoredBlock,
    Split,
    forecasts_by_member,
    normalised,
    rolling_forecasts,
    tally,
    training_scale,
)
from forecaster.forecasts import Forecasts
from forecaster.stepping.advance import advance
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas.errors import ConfigError
from schemas.forecasts import quantile_column
from tests.fleets import HOUR, START, forecaster

MODEL = forecaster()  # this forecaster has a horizon of 3
MODEL_WITHOUT_EXPERTS = replace(MODEL, online_config=OnlineConfig(experts=()))
SPLIT = Split(train_rows=30, first=40, stop=70, horizon=3)


def history(rows: int = 80) -> Windows:
    """Return three random walks: one is complete, one has gaps, one begins after the training rows."""
    rng = np.random.default_rng(0)
    values = 10 + rng.normal(size=(rows, 3)).cumsum(axis=0)
    values[rng.random(rows) < 0.2, 1] = np.nan
    values[:35, 2] = np.nan
    return Windows(("a", "b", "c"), START, values)


def forecasts_of(blocks: list[ScoredBlock], name: str) -> Floats:
    return np.concatenate([block.members[name].values for block in blocks], axis=1)


def test_forecasts_of_a_rolling_evaluation_equal_stream_forecasts() -> None:
    windows = history()
    blocks = list(rolling_forecasts(MODEL, windows, SPLIT))
    rows = np.concatenate([block.rows for block in blocks])
    # Forecasts are issued from row 39 (for rows 40 to 42) to row 66 (for rows 67 to 69).
    assert rows.tolist() == list(range(39, 67))
    state = MODEL.initial_state()
    for t in range(67):
        now = START + t
        state, streamed = advance(MODEL, state, windows.between(now, now + 1))
        if t >= 39:
            found = forecasts_of(blocks, next(iter(blocks[0].members)))[:, t - 39]
            np.testing.assert_allclose(
                found[:, : len(streamed.series_ids)],
                streamed.values[:, 0],
                rtol=1e-5,
                atol=1e-5,
            )


def test_actuals_are_the_values_after_the_forecasts_issue_time() -> None:
    windows = history()
    for block in rolling_forecasts(MODEL, windows, SPLIT):
        for i, t in enumerate(block.rows):
            np.testing.assert_array_equal(block.actuals[i], windows.values[t + 1 : t + 4].T)


def test_rolling_measures_do_not_depend_on_block_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def tallies_of_blocks() -> dict[str, Tally]:
        tallies: dict[str, Tally] = {}
        for block in rolling_forecasts(MODEL, history(), SPLIT):
            tally(tallies, block)
        return tallies

    at_once = tallies_of_blocks()
    monkeypatch.setattr(rolling, "_BLOCK_CELLS", 9 * 4)  # a block has 4 windows of 3 series and 3 horizons
    assert len(list(rolling_forecasts(MODEL, history(), SPLIT))) == 7
    unit = training_scale(history(), 30, WindowConfig())
    for name, cut in tallies_of_blocks().items():
        one, other = at_once[name].measures(3, unit), cut.measures(3, unit)
        assert one.count == other.count
        assert one.mse == pytest.approx(other.mse, rel=1e-5)
        assert one.wql == pytest.approx(other.wql, rel=1e-5)


def test_scores_need_a_forecast_an_actual_and_a_scale() -> None:
    blocks = list(rolling_forecasts(MODEL, history(), SPLIT))
    scored = np.concatenate([block.is_scored for block in blocks])
    actuals = np.concatenate([block.actuals for block in blocks])
    assert scored[:, 0].all()
    np.testing.assert_array_equal(scored[:, 1], ~np.isnan(actuals[:, 1]))
    assert not scored[:, 2].any()  # series c has no training rows, so no scale
    late = replace(SPLIT, train_rows=36)
    blocks = list(rolling_forecasts(MODEL_WITHOUT_EXPERTS, history(), late))
    scored = np.concatenate([block.is_scored for block in blocks])
    naive = forecasts_of(blocks, "seasonal_naive")[1, :, 2]
    # Seasonal naive forecasts a window only if series c has a value at least 24 hours before that window.
    np.testing.assert_array_equal(scored[:, 2], ~np.isnan(naive))
    assert scored[:, 2].any()
    assert not scored[:, 2].all()


def test_persistence_and_seasonal_naive_repeat_earlier_values() -> None:
    windows = history()
    blocks = list(rolling_forecasts(MODEL_WITHOUT_EXPERTS, windows, SPLIT))
    last, naive = forecasts_of(blocks, "persistence"), forecasts_of(blocks, "seasonal_naive")
    for i, t in enumerate(range(39, 67)):
        assert last[1, i, 0].tolist() == [windows.values[t, 0]] * 3
        assert naive[1, i, 0].tolist() == windows.values[t - 23 : t - 20, 0].tolist()


def single_forecast(network: Floats | None = None, members: Mapping[str, Floats] | None = None) -> Forecasts:
    values = np.zeros((3, 1, 1, 2))
    flags = np.ones((1, 1), bool)
    forecasts = Forecasts("m", HOUR, (0.1, 0.5, 0.9), ("a",), START, values, flags)
    return replace(forecasts, network=network, members=members or {})


def test_without_experts_the_network_is_the_only_member() -> None:
    assert list(forecasts_by_member(single_forecast())) == ["network"]


def test_forecasts_by_member_include_the_combination_and_each_member() -> None:
    member_forecasts = {"persistence": np.ones((1, 1, 2)), "network": np.full((1, 1, 2), 2.0)}
    found = forecasts_by_member(single_forecast(np.full((3, 1, 1, 2), 3.0), member_forecasts))
    assert list(found) == ["combined", "network", "persistence"]
    assert found["network"].levels == (0.1, 0.5, 0.9)
    assert found["network"].values.max() == 3.0
    assert found["persistence"].levels == (0.5,)
    assert found["persistence"].values.shape == (1, 1, 1, 2)


def test_normalising_uses_mean_and_deviation_of_training_rows() -> None:
    windows = history()
    found = normalised(windows, 30, WindowConfig())
    for s in (0, 1):
        train = found.values[:30, s]
        assert np.nanmean(train) == pytest.approx(0, abs=1e-12)
        assert np.nanstd(train) == pytest.approx(1)
    # Series c has no training rows, so it is not normalised.
    np.testing.assert_array_equal(found.values[:, 2], windows.values[:, 2])
    constant = normalised(Windows(("a",), START, np.array([[5.0], [5.0], [7.0]])), 2, WindowConfig())
    assert constant.values[:, 0].tolist() == [0.0, 0.0, 2.0]


def test_empty_windows_are_normalised_as_zeros_if_so_configured() -> None:
    counts = Windows(("a",), START, np.array([[4.0], [np.nan], [2.0], [np.nan]]))
    found = normalised(counts, 2, WindowConfig(empty="zero")).values[:, 0]
    assert found.tolist() == [1.0, -1.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("train_rows", "first", "stop", "message"),
    [(30, 20, 70, "among the 30 training rows"), (30, 40, 42, "2 test rows .* too few")],
)
def test_split_refuses_training_overlap_and_too_few_test_rows(
    train_rows: int, first: int, stop: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Split(train_rows, first, stop, 3)


def test_a_split_with_one_issue_time_gives_one_block() -> None:
    (block,) = rolling_forecasts(MODEL, history(), Split(30, 40, 43, 3))
    assert block.rows.tolist() == [39]


def test_fan_charts_show_consecutive_test_windows() -> None:
    windows = history()
    fans = FanSample(windows, SPLIT, HOUR)
    for block in rolling_forecasts(MODEL, windows, SPLIT):
        fans.add(block)
    frame = fans.frames()["a"].sort("target_at")
    targets = (frame["target_at"].dt.epoch("s") // 3600 - START).to_list()
    assert targets == list(range(targets[0], targets[0] + len(targets)))
    assert 40 <= targets[0] < targets[-1] < 70
    assert frame["observed"].to_list() == windows.values[targets, 0].tolist()
    levels = MODEL.network_config.quantiles
    assert {quantile_column(level) for level in levels} < set(frame.columns)
