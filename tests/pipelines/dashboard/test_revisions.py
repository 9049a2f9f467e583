"""Tests that the dashboard shows the newest revision of a forecast and of its alarm."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from pipelines.dashboard import alarms
from pipelines.dashboard.alarms import AlarmReader
from pipelines.dashboard.forecast_files import ForecastFiles
from pipelines.dashboard.output_view import OutputView
from pipelines.sinks.files import read_forecasts, write_frame
from tests.fleets import START, forecaster
from tests.pipelines.dashboard.conftest import RING, SPIKE, WINDOWS, start_texts, write_json_lines

LAST = WINDOWS - 1


def issued(window: int) -> pl.Expr:
    """Return the issue time at the end of a window."""
    return pl.lit((START + window + 1) * 3_600_000_000).cast(pl.Datetime("us", "UTC"))


def revise(
    output: Path, revision: int, *, alarm: bool, series_id: str = "gate 2", window: int = SPIKE
) -> Path:
    """Write a revision of the forecast of a series at the end of a window, as a repair does."""
    is_it = (pl.col("issued_at") == issued(window)) & (pl.col("series_id") == series_id)
    rows = {
        path: pl.read_parquet(path).filter(is_it) for path in (output / "forecasts").glob("*-r0-*.parquet")
    }
    ((first, row),) = ((path, row) for path, row in rows.items() if len(row))
    at = row["issued_at"].dt.strftime("%Y%m%dT%H%M%SZ").item()
    block, _, shard = first.name.partition("-r0-")
    name = f"{at}-{at}-{block.split('-', 2)[2]}-r{revision}-rows-{revision:015d}-{shard}"
    forecast = [{**step, "q50": 1000.0 * revision} for step in row["forecast"].item()]
    revised = row.with_columns(
        pl.lit(revision, pl.Int32).alias("revision"),
        pl.lit(alarm).alias("alarm"),
        pl.Series("forecast", [forecast], dtype=row.schema["forecast"]),
    )
    write_frame(revised, first.with_name(name), "parquet")
    return first.with_name(name)


def assert_shows_newest(output: Path) -> int:
    """Assert that the dashboard counts only the alarms of the newest revisions; return their number."""
    alarms = read_forecasts(output).filter("alarm")
    shown = OutputView(output).fleet()["alarms"]
    assert shown["total"] == len(alarms)
    assert {one["series_id"]: one["alarms"] for one in shown["series"]} == dict(
        alarms.group_by("series_id").len().iter_rows()
    )
    return len(alarms)


def test_the_dashboard_shows_no_alarm_that_a_revision_has_cleared(output: Path) -> None:
    before = assert_shows_newest(output)
    revise(output, 1, alarm=False)
    assert assert_shows_newest(output) == before - 1
    assert len(OutputView(output).series("gate 2")["alarms"]) == sum(
        read_forecasts(output).filter(pl.col("series_id") == "gate 2")["alarm"].fill_null(value=False)
    )


def test_json_lines_revision_without_alarm_clears_the_dashboard_alarm(output: Path) -> None:
    before = assert_shows_newest(output)
    revise(output, 1, alarm=False)
    write_json_lines(output)
    assert assert_shows_newest(output) == before - 1


def test_a_revision_of_another_model_version_clears_no_alarm(output: Path) -> None:
    before = assert_shows_newest(output)
    path = revise(output, 1, alarm=False)
    path.rename(path.with_name(path.name.replace(forecaster(ring=RING).version, "another-version")))
    assert OutputView(output).fleet()["alarms"]["total"] == before


def test_forecast_files_without_alarm_columns_show_no_alarms(output: Path) -> None:
    for file in (output / "forecasts").iterdir():
        pl.read_parquet(file).drop("p_value", "alarm").write_parquet(file)
    shown = OutputView(output).fleet()
    assert (shown["alarms"]["total"], shown["notes"]) == (0, [])


def test_the_dashboard_shows_alarms_that_the_newest_revision_has(output: Path) -> None:
    before = assert_shows_newest(output)
    revise(output, 1, alarm=False)
    revise(output, 2, alarm=True)
    assert assert_shows_newest(output) == before
    revise(output, 1, alarm=True, series_id="gate/1 a")
    assert assert_shows_newest(output) == before + 1


def test_an_open_page_follows_added_and_overwritten_revision_files(output: Path) -> None:
    view = OutputView(output)
    before = view.fleet()["alarms"]["total"]
    revise(output, 1, alarm=False)
    assert view.fleet()["alarms"]["total"] == before - 1
    path = revise(output, 1, alarm=True)  # overwrite the same file, as a resumed job does
    os.utime(path, (1, 1))
    assert view.fleet()["alarms"]["total"] == before


def test_partial_reads_never_return_alarms_cleared_by_a_revision(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the reader sorted files by last window, the newest first, it could return a cleared alarm at first.

    It would read the file with the alarm before the file of the revision, because the file with the alarm has
    several windows, and the revision has one of them, which is not the last.
    """
    revise(output, 1, alarm=False)
    # A file counts as at least 2**15 rows, so with this limit a call of `read` opens at most two new files.
    monkeypatch.setattr(alarms, "ROWS_AT_ONCE", 2 << 15)
    reader, unread = AlarmReader(ForecastFiles(output)), True
    is_cleared = (pl.col("series_id") == "gate 2") & (pl.col("issued_at") == issued(SPIKE))
    while unread:
        found = reader.read()
        assert not len(found.rows.filter(is_cleared))
        unread = found.unread > 0
    assert len(found.rows) == len(read_forecasts(output).filter("alarm"))


@pytest.mark.parametrize("has_equal_times", [False, True], ids=["later", "same second"])
def test_a_chart_has_the_newest_revision_of_a_forecast(output: Path, has_equal_times: bool) -> None:
    """Object stores give file times in whole seconds, so the files of two revisions may have equal times."""
    paths = [revise(output, revision, alarm=False, window=LAST) for revision in (1, 2)]
    for file in (output / "forecasts").iterdir():
        age = 0 if has_equal_times or file not in paths else 1 + paths.index(file)
        os.utime(file, (1_700_000_000 + age, 1_700_000_000 + age))
    (fan, *_) = OutputView(output).series("gate 2")["fans"]
    assert fan["time"][0] == start_texts(range(LAST + 1, LAST + 2))[0]
    assert set(fan["quantiles"]["q50"]) == {2000.0}
