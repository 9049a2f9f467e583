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
    Rolled,
    Split,
    members_of,
    normalised,
    rolled,
    tally,
    training_scale,
)
from forecaster.forecasts import Forecasts
from forecaster.stepping import advance
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas.errors import ConfigError
from schemas.forecasts import quantile_column
from tests.fleets import HOUR, START, forecaster

MODEL = forecaster()  # three steps ahead
ALONE = replace(MODEL, online_config=OnlineConfig(experts=()))
SPLIT = Split(train_rows=30, first=40, stop=70, horizon=3)


def history(rows: int = 80) -> Windows:
    """A walk, one with gaps, and one that begins after the training rows."""
    chance = np.random.default_rng(0)
    values = 10 + chance.normal(size=(rows, 3)).cumsum(axis=0)
    values[chance.random(rows) < 0.2, 1] = np.nan
    values[:35, 2] = np.nan
    return Windows(("a", "b", "c"), START, values)


def whole(blocks: list[Rolled], name: str) -> Floats:
    return np.concatenate([block.members[name].values for block in blocks], axis=1)


def test_what_is_judged_is_what_the_stream_would_have_issued_at_each_row() -> None:
    windows = history()
    blocks = list(rolled(MODEL, windows, SPLIT))
    rows = np.concatenate([block.rows for block in blocks])
    assert rows.tolist() == list(range(39, 67))  # the targets of the first are 40 to 42, of the last 67 to 69
    state = MODEL.initial_state()
    for t in range(67):
        now = START + t
        state, issued = advance(MODEL, state, windows.between(now, now + 1))
        if t >= 39:
            found = whole(blocks, next(iter(blocks[0].members)))[:, t - 39]
            np.testing.assert_allclose(
                found[:, : len(issued.series_ids)], issued.values[:, 0], rtol=1e-5, atol=1e-5
            )


def test_what_came_is_the_value_so_many_rows_after_the_issue() -> None:
    windows = history()
    for block in rolled(MODEL, windows, SPLIT):
        for i, t in enumerate(block.rows):
            np.testing.assert_array_equal(block.truth[i], windows.values[t + 1 : t + 4].T)


def test_blocks_of_any_size_are_judged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured() -> dict[str, Tally]:
        tallies: dict[str, Tally] = {}
        for block in rolled(MODEL, history(), SPLIT):
            tally(tallies, block)
        return tallies

    at_once = measured()
    monkeypatch.setattr(rolling, "_BLOCK_CELLS", 9 * 4)  # four rows of three series, three steps ahead
    assert len(list(rolled(MODEL, history(), SPLIT))) == 7
    unit = training_scale(history(), 30, WindowConfig())
    for name, cut in measured().items():
        one, other = at_once[name].measures(3, unit), cut.measures(3, unit)
        assert one.count == other.count
        assert one.mse == pytest.approx(other.mse, rel=1e-5)
        assert one.wql == pytest.approx(other.wql, rel=1e-5)


def test_a_pair_counts_if_something_came_every_member_forecast_it_and_the_series_has_a_scale() -> None:
    blocks = list(rolled(MODEL, history(), SPLIT))
    judged = np.concatenate([block.judged for block in blocks])
    truth = np.concatenate([block.truth for block in blocks])
    assert judged[:, 0].all()
    np.testing.assert_array_equal(judged[:, 1], ~np.isnan(truth[:, 1]))
    assert not judged[:, 2].any()  # it begins after the training rows
    late = replace(SPLIT, train_rows=36)
    blocks = list(rolled(ALONE, history(), late))
    judged = np.concatenate([block.judged for block in blocks])
    naive = whole(blocks, "seasonal_naive")[1, :, 2]
    np.testing.assert_array_equal(judged[:, 2], ~np.isnan(naive))  # which waits for a whole day
    assert judged[:, 2].any()
    assert not judged[:, 2].all()


def test_baselines_repeat_the_last_value_and_that_of_the_same_hour() -> None:
    windows = history()
    blocks = list(rolled(ALONE, windows, SPLIT))
    last, naive = whole(blocks, "persistence"), whole(blocks, "seasonal_naive")
    for i, t in enumerate(range(39, 67)):
        assert last[1, i, 0].tolist() == [windows.values[t, 0]] * 3
        assert naive[1, i, 0].tolist() == windows.values[t - 23 : t - 20, 0].tolist()


def issued(network: Floats | None = None, members: Mapping[str, Floats] | None = None) -> Forecasts:
    values = np.zeros((3, 1, 1, 2))
    flags = np.ones((1, 1), bool)
    made = Forecasts("m", HOUR, (0.1, 0.5, 0.9), ("a",), START, values, flags)
    return replace(made, network=network, members=members or {})


def test_a_forecaster_that_combines_nothing_is_its_network() -> None:
    assert list(members_of(issued())) == ["network"]


def test_the_combination_comes_first_and_the_network_with_its_quantiles() -> None:
    points = {"persistence": np.ones((1, 1, 2)), "network": np.full((1, 1, 2), 2.0)}
    found = members_of(issued(np.full((3, 1, 1, 2), 3.0), points))
    assert list(found) == ["combined", "network", "persistence"]
    assert found["network"].levels == (0.1, 0.5, 0.9)
    assert found["network"].values.max() == 3.0
    assert found["persistence"].levels == (0.5,)
    assert found["persistence"].values.shape == (1, 1, 1, 2)


def test_training_rows_have_mean_0_and_deviation_1_and_nobody_else_has_a_say() -> None:
    windows = history()
    found = normalised(windows, 30, WindowConfig())
    for s in (0, 1):
        train = found.values[:30, s]
        assert np.nanmean(train) == pytest.approx(0, abs=1e-12)
        assert np.nanstd(train) == pytest.approx(1)
    np.testing.assert_array_equal(found.values[:, 2], windows.values[:, 2])  # it has no training row
    still = normalised(Windows(("a",), START, np.array([[5.0], [5.0], [7.0]])), 2, WindowConfig())
    assert still.values[:, 0].tolist() == [0.0, 0.0, 2.0]


def test_an_empty_window_that_is_a_zero_stays_one_when_series_are_scaled() -> None:
    counts = Windows(("a",), START, np.array([[4.0], [np.nan], [2.0], [np.nan]]))
    found = normalised(counts, 2, WindowConfig(empty="zero")).values[:, 0]
    assert found.tolist() == [1.0, -1.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("train_rows", "first", "stop", "told"),
    [(30, 20, 70, "among the 30 training rows"), (30, 40, 42, "2 test rows .* too few")],
)
def test_rows_that_cannot_be_split_so_are_refused(train_rows: int, first: int, stop: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Split(train_rows, first, stop, 3)


def test_a_single_origin_is_enough() -> None:
    (block,) = rolled(MODEL, history(), Split(30, 40, 43, 3))
    assert block.rows.tolist() == [39]


def test_fans_lie_end_to_end_among_the_judged_rows() -> None:
    windows = history()
    fans = FanSample(windows, SPLIT, HOUR)
    for block in rolled(MODEL, windows, SPLIT):
        fans.add(block)
    frame = fans.frames()["a"].sort("target_at")
    targets = (frame["target_at"].dt.epoch("s") // 3600 - START).to_list()
    assert targets == list(range(targets[0], targets[0] + len(targets)))
    assert 40 <= targets[0] < targets[-1] < 70
    assert frame["observed"].to_list() == windows.values[targets, 0].tolist()
    levels = MODEL.network_config.quantiles
    assert {quantile_column(level) for level in levels} < set(frame.columns)
