"""Tests of `ForecastFleet` in a Beam pipeline of a user, compared with a backfill of the same rows."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import polars as pl
import pytest

from forecaster.config import NetworkConfig
from forecaster.model import Forecaster
from forecaster.time.window_config import WindowConfig
from forecaster.time.windows import Windows
from pipelines import ReadLog, ReplaySource
from pipelines.beam.forecast_fleet import ForecastFleet
from pipelines.beam.gather_rows import Row
from schemas import late, quarantine
from schemas.errors import ConfigError
from schemas.forecasts import check_forecasts
from tests.comparisons import assert_same_frames
from tests.fleets import HOUR, HOUR_US, START, forecaster, rows_of, scales
from tests.pipelines.beam.fleet_pipelines import (
    IN_PROCESS,
    Bundle,
    EmitBundles,
    backfill,
    between,
    end_us,
    in_halves,
    read_output,
    run,
    run_on_prism,
    run_unbounded,
    time_of,
)
from tests.pipelines.jobs.replays import DEFAULT_INPUT


def test_forecast_fleet_on_bounded_input_has_the_forecasts_of_a_backfill(
    observed: Windows, backfilled: pl.DataFrame, tmp_path: Path
) -> None:
    rows = rows_of(observed).sample(fraction=1, shuffle=True, seed=0)
    bad = {"series_id": "s1", "timestamp": "never", "value": 1.0}
    elements = [rows[:50], *rows[50:].to_dicts(), bad]
    run(IN_PROCESS, beam.Create(elements), ForecastFleet(forecaster(), shards=3), tmp_path)
    found = read_output(tmp_path, "forecasts")
    assert_same_frames(check_forecasts(found), backfilled, scales(observed))
    assert read_output(tmp_path, "quarantined")["reason"].to_list() == ["'never' is not a time"]
    assert not len(read_output(tmp_path, "late"))


def test_an_invalid_row_does_not_affect_other_rows(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"series_id": "a", "timestamp": time_of(0), "value": 1},
        {"series_id": "a", "timestamp": "2013-01-01T01:30:00Z", "value": 2.5},
        {"series_id": 7, "timestamp": time_of(1).replace(tzinfo=None), "value": "3"},
        {"series_id": "a", "timestamp": time_of(2), "value": [1.0]},
        {"series_id": "a", "timestamp": object(), "value": 1.0},
        {"series_id": "a", "value": 1.0},
    ]
    run(IN_PROCESS, beam.Create(rows), ForecastFleet(forecaster()), tmp_path)
    issued = (
        read_output(tmp_path, "forecasts").select("series_id", "issued_at").sort("series_id", "issued_at")
    )
    assert issued.rows() == [("7", time_of(2)), ("a", time_of(1)), ("a", time_of(2))]
    wrong = read_output(tmp_path, "quarantined").sort("column", "reason").select("column", "reason").rows()
    assert [column for column, _ in wrong] == ["timestamp", "timestamp", "value"]
    assert wrong[1][1] == "time is missing"
    assert wrong[2][1] == "'[1.0]' is not a number"


def test_rows_are_rejected_if_their_bundle_lacks_required_fields(tmp_path: Path) -> None:
    """No row of the bundle has the fields timestamp and value."""
    found = run(IN_PROCESS, beam.Create([{"series_id": "a"}]), ForecastFleet(forecaster()), tmp_path)
    (rejected,) = read_output(tmp_path, "quarantined").to_dicts()
    assert (rejected["column"], rejected["reason"]) == ("timestamp", "time is missing; value is missing")
    assert found == {"rows_in": 1, "rows_quarantined": 1}


def test_a_bounded_input_without_rows_gives_no_forecasts(tmp_path: Path) -> None:
    run(IN_PROCESS, beam.Create([]), ForecastFleet(forecaster()), tmp_path)
    assert not len(read_output(tmp_path, "forecasts"))


def test_forecast_fleet_resumes_from_a_different_number_of_shards(
    observed: Windows, backfilled: pl.DataFrame, tmp_path: Path
) -> None:
    rows = rows_of(observed)
    first = backfill(between(rows, 0, 15), tmp_path)
    rest = between(rows, 15, 40)
    fleet = ForecastFleet(forecaster(), shards=5, state_table=tmp_path / "out" / "state")
    run(IN_PROCESS, beam.Create(rest.to_dicts()), fleet, tmp_path)
    both = pl.concat([first, read_output(tmp_path, "forecasts")])
    assert_same_frames(both, backfilled, scales(observed))


@pytest.mark.prism
def test_forecast_fleet_issues_forecasts_when_the_watermark_advances(
    observed: Windows, backfilled: pl.DataFrame, tmp_path: Path
) -> None:
    rows = rows_of(observed)
    issued = (backfilled["issued_at"].dt.epoch("us") // HOUR_US - START).to_numpy()

    def closed(window: int) -> int:
        """Return the number of forecasts that the backfill issued up to the end of ``window``."""
        return int((issued <= window + 1).sum())

    late_row = [{"series_id": "s0", "timestamp": time_of(3), "value": 1e9}]
    bad = [{"series_id": "s1", "timestamp": "never", "value": 1.0}]
    bundles = [
        # The elements of this bundle belong to twelve windows; the watermark after it closes only eight.
        Bundle(between(rows, 0, 12).to_dicts(), end_us(7)),
        # Before this bundle, the source waits for the forecasts of window 7.
        # So the test fails if the fleet first reads all input.
        Bundle([*late_row, *bad, *between(rows, 12, 16).to_dicts()], end_us(13), after=closed(7)),
        Bundle([], end_us(15) - 1),
        Bundle([between(rows, 16, 20)], end_us(18), after=closed(13)),
        # Each window has two bundles; the watermark after the second bundle closes the window.
        # The rows of the second bundle must not count as late.
        *(bundle for w in range(20, 34) for bundle in in_halves(between(rows, w, w + 1).to_dicts(), w)),
        Bundle([], end_us(33), after=closed(19)),
        Bundle(between(rows, 34, 40).to_dicts(), end_us(36)),
    ]
    run_unbounded(bundles, ForecastFleet(forecaster(), shards=3), tmp_path / "fleet")
    assert_same_frames(read_output(tmp_path / "fleet", "forecasts"), backfilled, scales(observed))
    (row,) = late.LateRow.validate(read_output(tmp_path / "fleet", "late")).to_dicts()
    assert (row["series_id"], row["timestamp"], row["value"]) == ("s0", time_of(3), 1e9)
    assert row["late_s"] >= 4 * 3600
    rejected = quarantine.QuarantinedRow.validate(read_output(tmp_path / "fleet", "quarantined"))
    assert rejected["reason"].to_list() == ["'never' is not a time"]


@pytest.mark.prism
def test_forecast_fleet_on_unbounded_input_resumes_from_a_state_table(
    observed: Windows, backfilled: pl.DataFrame, tmp_path: Path
) -> None:
    rows = rows_of(observed)
    first = backfill(between(rows, 0, 15), tmp_path)
    fleet = ForecastFleet(forecaster(), shards=3, state_table=tmp_path / "out" / "state")
    bundles = [Bundle(between(rows, w, w + 5).to_dicts(), end_us(w + 2)) for w in range(15, 40, 5)]
    run_unbounded(bundles, fleet, tmp_path / "fleet")
    both = pl.concat([first, read_output(tmp_path / "fleet", "forecasts")])
    assert_same_frames(both, backfilled, scales(observed))


@pytest.mark.prism
def test_a_row_within_the_allowed_lateness_is_used(observed: Windows, tmp_path: Path) -> None:
    model = forecaster(allowed_lateness="2h")
    rows = rows_of(observed)
    window = pl.col("timestamp").dt.epoch("us") // HOUR_US - START
    is_of_s0 = pl.col("series_id") == "s0"
    delayed = rows.filter((window == 9) & is_of_s0)
    too_late = rows.filter((window == 3) & is_of_s0)
    on_time = rows.filter(~((window == 9) & is_of_s0), ~((window == 3) & is_of_s0))
    assert (len(delayed), len(too_late)) == (1, 1)
    expected = backfill(pl.concat([on_time, delayed]), tmp_path, model).sort("issued_at", "series_id")

    closed = int((expected["issued_at"].dt.epoch("us") <= end_us(8)).sum())
    bundles = [
        # With a lateness of 2 h, a watermark at the end of window 10 closes window 8, but not window 9.
        Bundle(between(on_time, 0, 11).to_dicts(), end_us(10)),
        Bundle([*delayed.to_dicts(), *too_late.to_dicts()], end_us(10), after=closed),
        Bundle(between(on_time, 11, 40).to_dicts(), end_us(39)),
    ]
    found = run_unbounded(bundles, ForecastFleet(model, shards=3), tmp_path / "fleet")
    assert_same_frames(read_output(tmp_path / "fleet", "forecasts"), expected, scales(observed))
    assert read_output(tmp_path / "fleet", "late")["timestamp"].to_list() == too_late["timestamp"].to_list()
    assert (found["rows_used"], found["rows_late"]) == (len(rows) - 1, 1)


@pytest.mark.prism
def test_forecast_fleet_forecasts_rows_of_a_replay_source(
    observed: Windows, backfilled: pl.DataFrame, tmp_path: Path
) -> None:
    rows_of(observed).write_parquet(tmp_path / "rows.parquet")
    with (tmp_path / "bad.csv").open("w") as file:
        file.write("series_id,timestamp,value\ns1,never,1.0\n")
    files = str(tmp_path / "rows.parquet"), str(tmp_path / "bad.csv")
    source = ReplaySource(files, DEFAULT_INPUT, HOUR, windows_per_step=4)
    found = run_on_prism(ReadLog(source), ForecastFleet(forecaster(), shards=3), tmp_path / "fleet")
    assert_same_frames(read_output(tmp_path / "fleet", "forecasts"), backfilled, scales(observed))
    assert read_output(tmp_path / "fleet", "quarantined")["file"].to_list() == [files[1]]
    assert not len(read_output(tmp_path / "fleet", "late"))
    assert found["rows_quarantined"] == 1


def test_forecast_fleet_refuses_a_model_that_repairs_late_rows() -> None:
    model = Forecaster.untrained(NetworkConfig(hidden=8, horizon=2), WindowConfig(repair=24))
    with pytest.raises(ConfigError, match=r"windows.repair = 24 has no effect in ForecastFleet"):
        beam.Pipeline() | beam.Create([]) | ForecastFleet(model)


def test_unbounded_input_on_an_in_process_runner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FnApiRunner fires event-time timers at once"):
        run(IN_PROCESS, EmitBundles([Bundle([], 0)], tmp_path), ForecastFleet(forecaster()), tmp_path)
