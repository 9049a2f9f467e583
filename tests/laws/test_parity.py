"""Law: backfill of a file = stream of the same file on Prism: same identities, values within 1e-5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.windows import aggregate
from pipelines import state_table
from pipelines.jobs.backfill import BackfillJob, run_backfill
from pipelines.jobs.outcome import Counts
from pipelines.jobs.stream import StreamJob, run_stream
from pipelines.sinks.files import read_forecasts, read_quarantine
from pipelines.sources.feeds import Input, ReplayFeed
from pipelines.sources.tables import Columns
from schemas import observations
from schemas.forecasts import check_forecasts
from tests.fleets import HOUR_US, START, assert_same_frames, assert_same_state, forecaster, scales

pytestmark = pytest.mark.prism


class Both(NamedTuple):
    """What a backfill (first) and a stream (second) made of one file."""

    model: Forecaster
    raw: pl.DataFrame
    forecasts: tuple[pl.DataFrame, pl.DataFrame]
    quarantine: tuple[pl.DataFrame, pl.DataFrame]
    states: tuple[State, State]
    counts: tuple[Counts, Counts]

    def scale(self) -> dict[str, float]:
        """Of each series, from the rows themselves."""
        good, _ = observations.validate(self.raw)
        config = self.model.window_config
        return scales(aggregate(good, config).windows, config.empty)


def run_both(model: Forecaster, raw: pl.DataFrame, columns: Columns, folder: Path) -> Both:
    path = folder / "rows.csv"
    raw.write_csv(path)
    outputs = folder / "backfill", folder / "stream"
    rows = Input(columns, batch_rows=1000)
    feed = ReplayFeed(
        (str(path),), rows, model.window_config.freq_s, model.window_config.lateness_s, windows_per_step=7
    )
    backfill = run_backfill(BackfillJob(model, (str(path),), rows, outputs[0], shards=2))
    stream = run_stream(StreamJob(model, feed, outputs[1], shards=3))
    assert not stream.stopped
    states = []
    for output in outputs:
        table = state_table.read(output / "state")
        assert table.state is not None
        assert not len(table.pending)
        states.append(table.state)
    return Both(
        model,
        raw,
        (read_forecasts(outputs[0]), read_forecasts(outputs[1])),
        (read_quarantine(outputs[0]), read_quarantine(outputs[1])),
        (states[0], states[1]),
        (backfill.counts, stream.counts),
    )


def readings() -> pl.DataFrame:
    """7,000 readings of 40 series with gaps, second copies, rows that are none, and no order."""
    chance = np.random.default_rng(0)
    series, windows = 40, 190
    values = chance.normal(size=(windows, series)).cumsum(axis=0) + np.logspace(0, 9, series)
    at = (np.arange(windows)[:, None] + START) * 3600 + chance.integers(0, 3600, (windows, series))
    rows = pl.DataFrame(
        {
            "series_id": [f"s{i}" for i in range(series)] * windows,
            "timestamp": pl.from_epoch(pl.Series(at.reshape(-1)), "s").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": [repr(v) for v in values.reshape(-1).tolist()],
        }
    )
    late_beginner = (pl.col("series_id") == "s7") & (pl.int_range(pl.len()) < 100 * series)
    quiet = (pl.int_range(pl.len()) // series).is_between(80, 90)  # no row of anybody
    rows = rows.filter(~late_beginner & ~quiet & pl.Series(chance.random(series * windows) > 0.05))
    bad = rows.head(30).with_columns(
        series_id=pl.Series(["", None, "s1"] * 10),
        timestamp=pl.when(pl.int_range(30) % 3 == 2).then(pl.lit("never")).otherwise("timestamp"),
    )
    worse = rows.head(20).with_columns(value=pl.Series(["NaN", "inf", "much", None] * 5))
    return pl.concat([rows, bad, worse, rows.head(45), rows.head(5)]).sample(fraction=1, shuffle=True, seed=1)


def events() -> pl.DataFrame:
    """2,000 events of 9 series, several in some hours and none in others, some of them told twice."""
    chance = np.random.default_rng(1)
    count = 2000
    at = START * 3600 + chance.integers(0, 150 * 60, count) * 60  # many at the same minute
    rows = pl.DataFrame(
        {
            "series_id": [f"gate {i}" for i in chance.integers(0, 9, count)],
            "timestamp": pl.from_epoch(pl.Series(at), "s").dt.strftime("%Y-%m-%d %H:%M"),
            "value": chance.exponential(10, count).round(3).astype(str),
            "event_id": [f"e{i}" for i in range(count)],
        }
    )
    rows = rows.filter(~((pl.col("series_id") == "gate 3") & (pl.col("timestamp") < "2013-01-04")))
    nameless = rows.head(10).with_columns(event_id=pl.lit(None, pl.String))
    return pl.concat([rows, nameless, rows.head(60)]).sample(fraction=1, shuffle=True, seed=2)


@pytest.fixture(scope="module")
def of_readings(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return run_both(forecaster(), readings(), Columns(), tmp_path_factory.mktemp("readings"))


@pytest.fixture(scope="module")
def of_events(tmp_path_factory: pytest.TempPathFactory) -> Both:
    model = forecaster("gru", aggregate="sum", empty="zero", allowed_lateness="3h")
    return run_both(model, events(), Columns(event_id="event_id"), tmp_path_factory.mktemp("events"))


@pytest.fixture(params=["of_readings", "of_events"])
def both(request: pytest.FixtureRequest) -> Both:
    found: Both = request.getfixturevalue(request.param)
    return found


def test_a_stream_of_a_file_gives_the_forecasts_of_its_backfill(both: Both) -> None:
    assert len(both.forecasts[0]) > 1000
    assert_same_frames(*both.forecasts, both.scale())


def test_a_stream_of_a_file_leaves_the_state_of_its_backfill(both: Both) -> None:
    assert_same_state(*both.states)


def test_a_stream_of_a_file_counts_its_rows_as_its_backfill_does(both: Both) -> None:
    backfill, stream = both.counts
    assert backfill == replace(stream, series_steps=backfill.series_steps)
    assert backfill.missing == 0
    assert backfill.rows_in == len(both.raw)
    good, bad = observations.validate(both.raw)
    identity = [name for name in good.columns if name != "value"]
    assert backfill.quarantined == len(bad) >= 10
    assert backfill.duplicates == len(good) - len(good.unique(identity)) >= 50
    assert backfill.series_steps == stream.series_steps == len(both.forecasts[0])


def test_a_stream_of_a_file_quarantines_the_rows_that_its_backfill_does(both: Both) -> None:
    backfill, stream = both.quarantine
    assert len(backfill) == both.counts[0].quarantined
    assert backfill.sort("row").equals(stream.sort("row"))


def test_what_is_forecast_is_what_the_schema_says(both: Both) -> None:
    for frame in both.forecasts:
        check_forecasts(frame)


def test_every_series_is_forecast_from_its_first_window_to_the_last_of_all(both: Both) -> None:
    good, _ = observations.validate(both.raw)
    hour = pl.col("timestamp").dt.epoch("us") // HOUR_US
    last = good.select(hour.max()).item()
    expected = {
        (name, window)
        for name, first in good.group_by("series_id").agg(hour.min()).iter_rows()
        for window in range(first, last + 1)
    }
    issued = both.forecasts[0].select("series_id", pl.col("issued_at").dt.epoch("us") // HOUR_US - 1)
    assert set(issued.iter_rows()) == expected
