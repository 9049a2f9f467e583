"""Tests of long gaps in the rows: windows in which no series is live are left out.

The time and memory for a gap must not grow with its length.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.config import NetworkConfig, TrainingConfig
from forecaster.evaluation.baselines import seasonal_naive
from forecaster.evaluation.metrics import seasonal_scale
from forecaster.evaluation.rolling import Split, rolling_forecasts
from forecaster.stepping.advance import advance
from forecaster.stepping.lifecycle import plan_block
from forecaster.time.aggregation import aggregate
from forecaster.time.notices import window_notices
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows, observed
from forecaster.training.batches import fleet_of
from forecaster.training.train import train
from tests.comparisons import assert_same, assert_same_live_series, by_key, scales_of_rows
from tests.fleets import HOUR, HOUR_US, START, forecaster, rows_of
from tests.folds import Arrival, run_shards

IN_1900 = datetime(1900, 1, 1, tzinfo=UTC)
YEARS = 23 * 365 * 24

SPARSE = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.floats(-9, 9)), min_size=1, max_size=25
)


def sparse_rows(cells: list[tuple[str, int, float]], spacing: int) -> pl.DataFrame:
    """Return one row for each series and position in ``cells``; a cell is ``(series, position, value)``.

    If several cells have the same series and position, the row has the value of the last one.
    Four consecutive positions are four consecutive windows; the next four begin ``spacing`` windows later.
    """
    found = {(name, at): value for name, at, value in cells}
    return pl.DataFrame(
        {
            "series_id": [name for name, _ in found],
            "timestamp": pl.Series([(START + at // 4 * spacing + at % 4) * HOUR_US for _, at in found]),
            "value": list(found.values()),
        }
    ).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))


def hourly(windows: int = 300, series: tuple[str, ...] = ("a", "b")) -> Windows:
    t = np.arange(windows)[:, None]
    values = 9 * np.sin(2 * np.pi * t / 24) + np.random.default_rng(0).normal(size=(windows, len(series)))
    return Windows(series, START, values)


def with_one_row_in_1900(windows: Windows) -> pl.DataFrame:
    rows = rows_of(windows)
    return pl.concat([rows, rows.head(1).with_columns(timestamp=pl.lit(IN_1900, rows["timestamp"].dtype))])


def test_aggregate_leaves_out_windows_without_live_series() -> None:
    windows = aggregate(with_one_row_in_1900(hourly()), WindowConfig(max_gap=10)).windows
    first = HOUR.window_of(int(IN_1900.timestamp()) * 1_000_000)
    assert windows.index.tolist() == [*range(first, first + 12), *range(START, START + 300)]
    assert (windows.start, windows.stop) == (first, START + 300)
    assert [len(run.values) for run in windows.runs()] == [12, 300]
    (told,) = window_notices(windows.filled, WindowConfig(max_gap=10))
    assert f"{START - first - 12:,} windows" in told
    assert "between 1900-01-01 and" in told
    assert window_notices(hourly().filled, WindowConfig()) == []
    assert windows.between(first + 11, START + 2).index.tolist() == [first + 11, START, START + 1]
    assert windows.row_of(np.array([first - 1, first, START - 1, START])).tolist() == [-1, 0, 11, 12]


@pytest.mark.parametrize("max_gap", [1, 3, 12])
@given(cells=SPARSE, spacing=st.integers(4, 5000), cut=st.integers(0, 64))
def test_advance_and_stream_issue_equal_forecasts_over_long_gaps(
    max_gap: int, cells: list[tuple[str, int, float]], spacing: int, cut: int
) -> None:
    model = forecaster(max_gap=max_gap)
    rows = sparse_rows(cells, spacing)
    ends = int(HOUR.end_us(rows.select(HOUR.window(pl.col("timestamp")).max()).item()))
    stream = run_shards(model, [Arrival(rows, ends)], to_the_end=False)
    windows = aggregate(rows, model.window_config).windows
    state, made = model.initial_state(), []
    for part in (windows.rows(0, cut), windows.rows(cut, len(windows.values))):
        state, forecasts = advance(model, state, part)
        made.append(forecasts)
    scale = scales_of_rows(rows)
    assert_same(by_key(made), by_key(stream.forecasts), scale)
    assert_same_live_series([state], stream.states)
    _, whole = advance(model, model.initial_state(), rows)
    assert_same(by_key([whole]), by_key(stream.forecasts), scale)
    assert whole.cold_starts == stream.counts.cold_starts
    assert whole.frame()["issued_at"].to_list() == [
        datetime.fromtimestamp(HOUR.end_us(window) / 1e6, UTC)
        for window in whole.index[whole.issued.nonzero()[0]]
    ]


def test_advance_skips_most_windows_of_a_long_gap() -> None:
    model = forecaster(max_gap=3)
    state, _ = advance(model, model.initial_state(), hourly(5))
    later = replace(hourly(2), start=START + YEARS, index=np.arange(2) + START + YEARS)
    _, forecasts = advance(model, state, later)
    assert forecasts.index.tolist() == [START + 5 + k for k in range(4)] + [START + YEARS, START + YEARS + 1]
    # After so long a gap, both series are forgotten: they count as new series, not as cold starts.
    assert forecasts.cold_starts == 0


@given(cells=SPARSE, max_gap=st.integers(1, 20))
def test_training_fills_empty_windows_with_zeros_as_serving_does(
    cells: list[tuple[str, int, float]], max_gap: int
) -> None:
    model = forecaster(empty="zero", max_gap=max_gap)
    windows = aggregate(sparse_rows(cells, 4), model.window_config).windows
    state = model.new_series_state(windows.series_ids, windows.start)
    issued = plan_block(state, windows.values, windows.start, max_gap).issued
    served = np.where(np.isnan(windows.values) & issued, 0.0, windows.values)
    np.testing.assert_array_equal(observed(windows, model.window_config).values, served)


@given(cells=SPARSE, max_gap=st.integers(1, 20))
def test_training_splits_series_at_long_gaps_as_serving_does(
    cells: list[tuple[str, int, float]], max_gap: int
) -> None:
    model = forecaster(max_gap=max_gap)
    windows = aggregate(sparse_rows(cells, 7), model.window_config).windows
    plan = plan_block(
        model.new_series_state(windows.series_ids, windows.start), windows.values, windows.start, max_gap
    )
    rows, series = np.nonzero(plan.begins)
    if len(windows.values) < 2 or (rows == len(windows.values) - 1).all():
        return  # in this case, no series has a target to train on
    fleet = fleet_of(windows, model.network_config, HOUR, 8, max_gap=max_gap)
    parts = zip(fleet.series.tolist(), fleet.begins.tolist(), fleet.ends.tolist(), strict=True)
    expected = set()
    for row, s in zip(rows.tolist(), series.tolist(), strict=True):
        silent = np.flatnonzero(~plan.live[row:, s])
        expected.add((s, row, row + int(silent[0]) if len(silent) else len(windows.values)))
    assert set(parts) == expected


def test_training_splits_series_at_gaps_longer_than_max_gap() -> None:
    values = hourly(40, ("a",)).values
    values[10:20] = np.nan
    network = NetworkConfig(hidden=4, horizon=3, lags=(1,), ring=4)
    both = fleet_of(Windows(("a",), START, values), network, HOUR, 8, max_gap=4)
    batch = both.batch(0)
    assert batch.series_ids == ("a", "a")
    for column, (first, stop) in enumerate([(20, 40), (0, 14)]):
        alone = fleet_of(Windows(("a",), START + first, values[first:stop]), network, HOUR, 8).batch(0)
        np.testing.assert_array_equal(batch.x[: stop - first, column], alone.x[:, 0])
        np.testing.assert_array_equal(batch.ahead[: stop - first, column], alone.ahead[:, 0])


def test_a_row_dated_1900_does_not_make_training_slow() -> None:
    network = NetworkConfig(hidden=4, layers=1, horizon=3, lags=(1, 2), ring=48)
    training = TrainingConfig(epochs=1, segment=48)
    rows, began_s = with_one_row_in_1900(hourly()), time.process_time()
    trained = train(rows, network, training, WindowConfig(max_gap=50))
    # if the windows of the gap were kept, training would take minutes
    assert time.process_time() - began_s < 20
    assert np.isfinite(trained.history[0]["validation_loss"])


def test_values_after_a_long_gap_are_no_actuals_of_earlier_forecasts() -> None:
    early = hourly(60)
    late = replace(early, start=START + YEARS, index=early.index + YEARS)
    rows = pl.concat(
        [rows_of(early), rows_of(early).with_columns(pl.col("timestamp") + pl.duration(hours=YEARS))]
    )
    model = forecaster(max_gap=2, horizon=3)
    windows = aggregate(rows, model.window_config).windows
    assert len(windows.values) == 60 + 3 + 60
    blocks = list(rolling_forecasts(model, windows, Split(20, 20, len(windows.values), 3)))
    truth = {int(row): block.actuals[t] for block in blocks for t, row in enumerate(block.rows)}
    np.testing.assert_array_equal(truth[40], windows.values[41:44].T)
    assert np.isnan(truth[61]).all()
    assert np.isnan(truth[62]).all()
    np.testing.assert_array_equal(truth[63], windows.values[64:67].T)
    assert late.index[0] == windows.index[63]


def test_skipped_windows_count_as_missing_in_baselines_and_scales() -> None:
    rows = rows_of(hourly(30, ("a",)))
    gap = 24 * 50 + 7
    later = rows.with_columns(pl.col("timestamp") + pl.duration(hours=30 + gap))
    config = WindowConfig(max_gap=2)
    windows = aggregate(pl.concat([rows, later]), config).windows
    naive = seasonal_naive(windows, config, 1)
    dense = np.full((60 + gap, 1), np.nan)
    dense[:30] = dense[30 + gap :] = hourly(30, ("a",)).values
    expected = seasonal_naive(Windows(("a",), START, dense), config, 1)
    assert naive.equals(expected.filter(pl.col("issued_at").is_in(naive["issued_at"].implode())))
    scale_with_gap = seasonal_scale(windows.values, 24, windows.index)
    np.testing.assert_array_equal(scale_with_gap, seasonal_scale(dense, 24))
