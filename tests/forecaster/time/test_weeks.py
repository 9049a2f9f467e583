"""Tests of weekly windows.

They begin on the weekday that the frequency names, such as Sunday for ``1w-sun``. Windows of the plain
frequency ``1w`` begin on Thursday.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from forecaster.components.season import likely_season
from forecaster.evaluation.scores import errors
from forecaster.state import State
from forecaster.stepping.advance import advance
from forecaster.time.aggregation import aggregate
from forecaster.time.frequency import Frequency
from forecaster.time.notices import weekday_notice
from forecaster.time.window_config import WindowConfig
from tests.fleets import forecaster

FIRST_DAYS = {
    "sun": datetime(2019, 1, 6, tzinfo=UTC),
    "mon": datetime(2018, 12, 31, tzinfo=UTC),
    "wed": datetime(2019, 1, 2, tzinfo=UTC),
    "thu": datetime(2019, 1, 3, tzinfo=UTC),
}


def weekly_rows(day: str, weeks: int = 20) -> pl.DataFrame:
    times = [FIRST_DAYS[day] + timedelta(weeks=k) for k in range(weeks)]
    return pl.DataFrame(
        {"series_id": "shop", "timestamp": times, "value": np.arange(float(weeks))},
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    )


@pytest.mark.parametrize("day", sorted(FIRST_DAYS))
@pytest.mark.parametrize("name", ["1w-{}", "W-{}"])
def test_weekly_forecasts_begin_on_the_weekday_in_the_frequency(day: str, name: str) -> None:
    model, rows = forecaster(freq=name.format(day)), weekly_rows(day)
    assert aggregate(rows, model.window_config).windows.values[:, 0].tolist() == list(range(20))
    state, forecasts = advance(model, model.initial_state(), rows.head(12))
    frame = forecasts.frame()
    # Horizon 1 is the week that begins at ``issued_at``, which is the date of the next row.
    assert frame["issued_at"].to_list() == rows["timestamp"][1:13].to_list()
    scored = errors(frame, aggregate(rows, model.window_config).windows, model.window_config)
    assert scored.filter(pl.col("horizon") == 1)["observed"].to_list() == list(range(1, 13))
    again = State.from_bytes(state.to_bytes())
    assert again.freq == state.freq == Frequency.parse(f"1w-{day}")
    np.testing.assert_array_equal(again.clock, state.clock)
    _, whole = advance(model, model.initial_state(), rows)
    _, rest = advance(model, again, rows.tail(8))
    np.testing.assert_allclose(rest.values, whole.values[:, 12:], rtol=1e-5, atol=1e-5)


def test_weekly_windows_of_older_states_begin_on_thursday() -> None:
    model = forecaster(freq="1w")
    state, _ = advance(model, model.initial_state(), weekly_rows("thu"))
    metadata = state.to_arrow().schema.metadata
    # Earlier versions did not write the weekday on which windows begin: remove it from the state.
    layout = metadata[b"statecast.state.layout"].replace(b'"freq_offset_s": 0, ', b"")
    older = state.to_arrow().replace_schema_metadata({**metadata, b"statecast.state.layout": layout})
    assert b"freq_offset_s" not in layout
    assert State.from_arrow(older).freq == Frequency(604_800)


def test_weekly_rows_on_another_weekday_give_a_notice() -> None:
    """A notice is returned if all rows are on one weekday and weekly windows begin on another.

    The notice names the frequency whose windows begin on the weekday of the rows.
    """
    plain = WindowConfig(freq="1w")
    notice = weekday_notice(weekly_rows("sun"), plain)
    assert notice is not None
    assert "--freq 1w-sun" in notice
    assert weekday_notice(weekly_rows("thu"), plain) is None
    assert weekday_notice(weekly_rows("sun"), WindowConfig(freq="1w-sun")) is None
    assert weekday_notice(pl.concat([weekly_rows("sun"), weekly_rows("mon")]), plain) is None
    assert weekday_notice(weekly_rows("sun"), WindowConfig(freq="1d")) is None
    assert weekday_notice(weekly_rows("sun").clear(), plain) is None


def test_weeks_that_begin_on_sunday_have_a_season_of_52() -> None:
    """The first weekday does not change the season: 52 weeks."""
    assert likely_season(Frequency.parse("1w-sun")) == likely_season(Frequency.parse("1w")) == 52
