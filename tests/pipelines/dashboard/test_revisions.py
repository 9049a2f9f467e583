"""Tests that the dashboard shows the newest revision of a forecast and of its alarm."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from pipelines.dashboard.output_view import OutputView
from pipelines.sinks.files import read_forecasts, write_frame
from tests.fleets import START
from tests.pipelines.dashboard.conftest import SPIKE

ISSUED = pl.lit((START + SPIKE + 1) * 3_600_000_000).cast(pl.Datetime("us", "UTC"))


def revise(output: Path, revision: int, *, alarm: bool, series_id: str = "gate 2") -> Path:
    """Write a revision of the forecast of a series at the window of the spike, as a repair does."""
    row = read_forecasts(output).filter(pl.col("issued_at") == ISSUED, pl.col("series_id") == series_id)
    (file,) = [
        path
        for path in (output / "forecasts").glob("*-r0-*.parquet")
        if not pl.read_parquet(path)
        .filter(pl.col("issued_at") == ISSUED, pl.col("series_id") == series_id)
        .is_empty()
    ]
    block, _, shard = file.name.partition("-r0-")
    at = (START + SPIKE + 1) * 3600
    time = f"{pl.Series([at * 1_000_000]).cast(pl.Datetime('us')).dt.strftime('%Y%m%dT%H%M%SZ').item()}"
    path = file.with_name(f"{time}-{time}-{block.split('-', 2)[2]}-r{revision}-rows-{revision:015d}-{shard}")
    revised = row.with_columns(
        pl.lit(revision, pl.Int32).alias("revision"),
        pl.lit(alarm).alias("alarm"),
        pl.col("forecast").list.eval(
            pl.struct(
                pl.element().struct.field("horizon"),
                *(pl.element().struct.field(name) + 1000 * revision for name in ("q05", "q50", "q95")),
            )
        ),
    )
    write_frame(revised, path, "parquet")
    return path


def assert_shows_newest(output: Path) -> int:
    """Check the alarms that the dashboard shows against the newest revisions; return their number."""
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


def test_the_dashboard_shows_an_alarm_that_only_the_newest_revision_has(output: Path) -> None:
    before = assert_shows_newest(output)
    revise(output, 1, alarm=False)
    revise(output, 2, alarm=True)
    assert assert_shows_newest(output) == before
    revise(output, 1, alarm=True, series_id="gate/1 a")
    assert assert_shows_newest(output) == before + 1


def test_a_revision_replaces_an_alarm_while_the_page_is_open(output: Path) -> None:
    view = OutputView(output)
    before = view.fleet()["alarms"]["total"]
    revise(output, 1, alarm=False)
    assert view.fleet()["alarms"]["total"] == before - 1


@pytest.mark.parametrize("has_equal_times", [False, True], ids=["later", "same second"])
def test_a_chart_has_the_newest_revision_of_a_forecast(output: Path, has_equal_times: bool) -> None:
    """Object stores give whole seconds, so several revisions may have the same time."""
    for file in (output / "forecasts").iterdir():
        if file.name[17:] > f"{'20130113T130000Z'}-z":
            file.unlink()
    paths = [revise(output, revision, alarm=False) for revision in (1, 2)]
    for file in (output / "forecasts").iterdir():
        age = 0 if has_equal_times or file not in paths else 1 + paths.index(file)
        os.utime(file, (1_700_000_000 + age, 1_700_000_000 + age))
    (fan, *_) = OutputView(output).series("gate 2")["fans"]
    expected = read_forecasts(output).filter(pl.col("series_id") == "gate 2", pl.col("issued_at") == ISSUED)
    assert fan["quantiles"]["q50"] == [step["q50"] for step in expected["forecast"].item()]
    assert expected["revision"].item() == 2
