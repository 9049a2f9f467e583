"""Tests of windows: their bounds, their values (`aggregate`), and the class `Windows` of many series."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.time.aggregation import aggregate
from forecaster.time.duplicates import Keep
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from schemas import observations
from tests.fleets import HOUR

FREQ_S = 900
BEGIN = datetime(1969, 12, 31, 22, 0, tzinfo=UTC)  # windows before 1970 have negative indices

Row = tuple[str, int, float, str]
"""Series, seconds after BEGIN, value, event."""

ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        # The times are rounded to 5 minutes, so that some rows of a series have the same time.
        st.integers(0, 12 * FREQ_S - 1).map(lambda s: s // 300 * 300),
        st.floats(-1e6, 1e6).map(lambda v: round(v, 1)),
        st.sampled_from(["x", "y"]),
    ),
    max_size=40,
)

AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean,
    "sum": sum,
    "count": len,
    "min": min,
    "max": max,
    "last": lambda values: values[-1],
}


def frame_of(rows: list[Row], events: bool) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "series_id": [row[0] for row in rows],
            "timestamp": [BEGIN + timedelta(seconds=row[1]) for row in rows],
            "value": [row[2] for row in rows],
            "event_id": [row[3] for row in rows],
        },
        schema=observations.SCHEMA | {"event_id": pl.String()},
    )
    return frame if events else frame.drop("event_id")


def looped_aggregates(
    rows: list[Row], how: str, events: bool, keep: Keep
) -> tuple[dict[tuple[str, int], float], int]:
    """Return the value of each series and window, and the number of duplicates, computed with plain loops."""
    kept: dict[tuple[str, object, int], tuple[str, int, str, float]] = {}
    for number, (series, second, value, event) in enumerate(rows):
        is_event = how in ("sum", "count") and not events
        key = series, event if events else second, number if is_event else 0
        if keep == "last" or key not in kept:
            kept[key] = series, second, event if events else "", value
    cells: dict[tuple[str, int], list[float]] = {}
    for series, second, _, value in sorted(kept.values()):
        at = BEGIN + timedelta(seconds=second)
        cells.setdefault((series, int(at.timestamp() // FREQ_S)), []).append(value)
    return {cell: AGGREGATES[how](values) for cell, values in cells.items()}, len(rows) - len(kept)


@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize("how", sorted(AGGREGATES))
@given(rows=ROWS, seed=st.integers(0, 1000), keep=st.sampled_from(["first", "last"]))
def test_aggregates_equal_the_results_of_plain_loops(
    how: str, events: bool, rows: list[Row], seed: int, keep: Keep
) -> None:
    config = WindowConfig.model_validate({"freq": "15m", "aggregate": how})
    expected, duplicates = looped_aggregates(rows, how, events, keep)
    frame = frame_of(rows, events)
    found = aggregate(frame, config, keep=keep)
    windows = found.windows

    assert found.duplicates == duplicates
    assert windows.series_ids == tuple(sorted({row[0] for row in rows}))
    cells = {
        (windows.series_ids[s], windows.start + int(t)): float(windows.values[t, s])
        for t, s in zip(*np.nonzero(~np.isnan(windows.values)), strict=True)
    }
    assert cells == pytest.approx(expected, abs=1e-6)
    if expected:
        assert windows.start == min(window for _, window in expected)
        assert windows.stop == max(window for _, window in expected) + 1

    placed = frame.with_row_index("offset").with_columns(pl.col("offset").cast(pl.Int64))
    shuffled = aggregate(placed.sample(fraction=1, shuffle=True, seed=seed), config, keep=keep)
    # The values must be equal bit by bit.
    np.testing.assert_array_equal(shuffled.windows.values, windows.values)
    assert shuffled.duplicates == duplicates


def test_aggregating_no_rows_gives_no_windows_and_no_series() -> None:
    found = aggregate(observations.empty(), WindowConfig())
    assert found.duplicates == 0
    assert found.windows.values.shape == (0, 0)


def test_a_window_includes_its_start_and_excludes_its_end() -> None:
    hour = datetime(2013, 1, 1, 5, tzinfo=UTC)
    times = [hour, hour + timedelta(hours=1, microseconds=-1), hour + timedelta(hours=1)]
    frame = pl.DataFrame({"t": times}, schema={"t": pl.Datetime("us", "UTC")})
    index = frame.select(HOUR.window(pl.col("t"))).to_series().to_list()
    assert index == [index[0], index[0], index[0] + 1]
    assert HOUR.end_us(index[0]) == times[2].timestamp() * 1_000_000


def test_between_returns_no_windows_before_or_after_the_data() -> None:
    windows = Windows(("a",), 10, np.arange(5.0)[:, None])
    for start, stop, values in ((11, 13, [1, 2]), (0, 12, [0, 1]), (13, 99, [3, 4]), (20, 30, [])):
        part = windows.between(start, stop)
        assert part.values[:, 0].tolist() == values
        assert part.start == max(start, 10)


def test_windows_with_fewer_value_columns_than_series_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a column for each of the 2 series"):
        Windows(("a", "b"), 0, np.zeros((3, 1)))


def rows_with_offsets(rows: list[tuple[int, float, int]], **more: list[object]) -> pl.DataFrame:
    """Return rows of the series "a" from tuples of seconds after BEGIN, value and offset."""
    made = {
        "series_id": ["a"] * len(rows),
        "timestamp": [BEGIN + timedelta(seconds=second) for second, *_ in rows],
        "value": [value for _, value, _ in rows],
        "offset": [offset for *_, offset in rows],
    }
    return pl.DataFrame(made | more, schema_overrides=observations.SCHEMA)


@pytest.mark.parametrize("how", ["mean", "min", "max", "last"])
def test_a_repeated_time_uses_the_row_with_the_largest_offset(how: str) -> None:
    config = WindowConfig.model_validate({"freq": "15m", "aggregate": how})
    rows = rows_with_offsets([(0, 1.0, 7), (0, 9.0, 5), (0, 1.0, 6), (300, 2.0, 0), (300, 2.0, 1)])
    found = aggregate(rows, config)
    expected = {"mean": 1.5, "min": 1.0, "max": 2.0, "last": 2.0}
    assert found.windows.values[0, 0] == expected[how]
    assert found.duplicates == 3
    assert found.replaced.select("value", "replaced_by").rows() == [(9.0, 1.0)]


def test_equal_rows_of_one_event_or_origin_count_once() -> None:
    """With ``sum``, equal rows are duplicates only if they have the same event id or the same origin.

    The origin of a row is a number that stands for its file and its place in this file.
    """
    config = WindowConfig.model_validate({"freq": "15m", "aggregate": "sum"})
    rows = [(0, 5.0, 0), (0, 5.0, 1), (0, 5.0, 2), (0, 6.0, 3)]
    assert aggregate(rows_with_offsets(rows), config).duplicates == 0
    assert aggregate(rows_with_offsets(rows), config).windows.values[0, 0] == 21.0
    again = aggregate(rows_with_offsets(rows, origin=[1, 2, 1, 1]), config)
    assert (again.windows.values[0, 0], again.duplicates, len(again.replaced)) == (16.0, 1, 0)
    unknown = aggregate(rows_with_offsets(rows, origin=[None, None, 1, 1]), config)
    assert (unknown.windows.values[0, 0], unknown.duplicates) == (21.0, 0)
    named = aggregate(rows_with_offsets(rows, event_id=["x", "y", "x", None]), config)
    assert (named.windows.values[0, 0], named.duplicates) == (16.0, 1)


def test_an_observed_covariate_is_averaged_over_the_rows_of_a_window() -> None:
    def rows(order: list[int]) -> pl.DataFrame:
        minutes, heat = [0, 10, 10, 20, 60, 130], [1.0, 3.0, 9.0, None, None, 5.0]
        at = [datetime(2013, 1, 1, tzinfo=UTC) + timedelta(minutes=m) for m in minutes]
        made = {"series_id": ["a"] * 6, "timestamp": at, "value": [1.0, 2.0, 2.0, 3.0, 4.0, 5.0]}
        return pl.DataFrame(made | {"observed.heat": heat, "offset": range(6)})[order]

    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 2, 3, 1, 0]):
        found = aggregate(rows(order), WindowConfig())
        assert found.duplicates == 1
        np.testing.assert_array_equal(found.windows.past["heat"], [[5.0], [np.nan], [5.0]])
        # The two rows at minute 10 differ only in heat: the later row replaces the earlier row.
        assert found.replaced.select("value", "replaced_by").rows() == [(2.0, 2.0)]
    lone = aggregate(rows([0, 4, 5]), WindowConfig()).windows  # each window has one row
    np.testing.assert_array_equal(lone.past["heat"], [[1.0], [np.nan], [5.0]])
    both = lone.stacked_covariates(("wind", "heat"))
    assert both is not None
    np.testing.assert_array_equal(both[:, 0], [[np.nan, 1.0], [np.nan, np.nan], [np.nan, 5.0]])


def test_slicing_windows_also_slices_their_observed_covariates() -> None:
    values = np.arange(6.0).reshape(3, 2)
    whole = Windows(("a", "b"), 7, values, {"heat": values + 10})
    np.testing.assert_array_equal(whole.between(8, 16).past["heat"], values[1:] + 10)
    np.testing.assert_array_equal(whole.of_series([1]).past["heat"], values[:, [1]] + 10)
    with pytest.raises(ValueError, match="covariate 'heat' has the shape"):
        Windows(("a", "b"), 7, values, {"heat": values[:2]})
