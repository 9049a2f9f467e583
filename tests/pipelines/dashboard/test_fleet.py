"""Tests of the dashboard's view of a fleet: silent series, alarms, versions, quarantine and lateness."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
import pytest

from forecaster.shards.counts import Counts
from pipelines.dashboard import fleet, output_view
from pipelines.dashboard.forecast_files import ForecastFile
from pipelines.dashboard.output_view import OutputView
from pipelines.dashboard.snapshots import ShardSeries, Snapshots
from pipelines.sinks import numbers
from pipelines.sinks.files import read_forecasts
from pipelines.sinks.numbers import JobNumbers, ShardNumbers
from pipelines.storage import markers
from tests.fleets import START
from tests.pipelines.dashboard.conftest import start_texts

HOUR_US = 3_600_000_000


@pytest.fixture
def shards(finished: Path) -> list[ShardSeries]:
    """Return the series of both shards of the finished backfill, read from their snapshots."""
    return Snapshots(finished).read()


def test_live_series_are_silent_after_three_windows_without_rows(shards: list[ShardSeries]) -> None:
    one = replace(
        shards[0],
        ids=pl.Series(["a", "b", "c", "d", "e"]),
        clock=np.full(5, START + 50),
        silent=np.array([2, 3, 30, 40, 3]),
        live=np.array([True, True, True, False, True]),
    )
    found = fleet.silent_series([one])
    assert [(row["series_id"], row["windows"]) for row in found["series"]] == [("c", 30), ("b", 3), ("e", 3)]
    assert (found["count"], found["retired"]) == (3, 1)
    assert found["series"][0]["since"] == start_texts(range(21, 22))[0]


def test_the_dashboard_shows_closed_until_of_the_slowest_shard(shards: list[ShardSeries]) -> None:
    slow = replace(shards[0].shard, closed_through=START + 9, watermarks={"rows": (START + 10) * HOUR_US})
    fast = replace(shards[1].shard, closed_through=START + 19, watermarks={"rows": (START + 20) * HOUR_US})
    pair = [replace(one, shard=shard) for one, shard in zip(shards, (slow, fast), strict=True)]
    for both in (pair, pair[::-1]):
        shown = fleet.as_json(fleet.numbers_of([], both), 0.0)
        assert [shown["closed_until"], shown["watermark"]] == start_texts(range(10, 11)) * 2
        assert shown["latency_ms"] == {}


@pytest.mark.parametrize("known", [None, (0, 2), (1, 2), (3, 4), (2, 4)], ids=str)
def test_may_hold_uses_known_shard_if_shard_counts_match(known: tuple[int, int] | None) -> None:
    """`may_hold` is True only for forecast files of the shard of a series.

    The shard is ``known`` from a snapshot with the shard count of the file, or else computed from the hash of
    the series id.
    """
    files = [ForecastFile("", "", "v", shard, 4, Path()) for shard in range(4)]
    expected = known[0] if known is not None and known[1] == 4 else crc32(b"yard") % 4
    assert [file.shard for file in files if file.may_hold("yard", known)] == [expected]


def test_silent_series_lists_the_20_longest_silent_series(shards: list[ShardSeries]) -> None:
    count = 1000
    ids = pl.Series([f"s{n:03d}" for n in range(count)])
    silent = np.full(count, 50)
    silent[700] = 60
    one = replace(
        shards[0], ids=ids, clock=np.full(count, START + 50), silent=silent, live=np.full(count, True)
    )
    found = fleet.silent_series([one])
    assert (found["count"], len(found["series"])) == (count, fleet.LISTED)
    assert [row["series_id"] for row in found["series"]][:3] == ["s700", "s000", "s001"]


def test_an_alarm_in_two_files_counts_once(output: Path) -> None:
    before = OutputView(output).fleet()["alarms"]
    for file in list((output / "forecasts").glob("*-r0-*.parquet")):
        shutil.copy(file, file.with_name(file.name.replace("-r0-", "-r1-")))
    assert OutputView(output).fleet()["alarms"] == before
    assert before["total"] == len(read_forecasts(output).filter("alarm").unique(["series_id", "issued_at"]))


def test_the_series_search_takes_its_text_literally(finished: Path) -> None:
    view = OutputView(finished)
    assert (view.search("gate.1")["matching"], view.search("gate/1")["matching"]) == (0, 1)
    assert view.search("(")["matching"] == 0


def test_versions_gives_the_roles_in_use_shadow_and_earlier(shards: list[ShardSeries]) -> None:
    counts = shards[0].shard.counts
    (sums,) = counts.scores.values()
    counts = replace(counts, scores=dict.fromkeys(("a", "b", "c"), sums))
    roles = {one["version"]: one["role"] for one in fleet.versions(counts, ["c"], {"a"})}
    assert [*roles.items()] == [("c", "in use"), ("a", "shadow"), ("b", "earlier")]


def test_most_alarms_sorts_series_by_count_then_newest_alarm() -> None:
    days = [datetime(2013, 1, 1 + number, tzinfo=UTC) for number in range(25)]
    rows = [(f"s{number}", day) for number, day in enumerate(days)] + [("twice", days[0]), ("twice", days[1])]
    found = fleet.most_alarms(pl.DataFrame(rows, schema=["series_id", "issued_at"], orient="row"))
    assert found[0] == {"series_id": "twice", "alarms": 2, "last": "2013-01-02 00:00:00"}
    assert [one["series_id"] for one in found[1:]] == [f"s{number}" for number in range(24, 5, -1)]


def test_reasons_of_quarantined_rows_are_listed_the_most_frequent_first() -> None:
    a, b, c = "value is missing", "is not a number", "time is missing"
    counts = Counts(quarantined={a: 1, b: 3, c: 2})
    shown = fleet.as_json(JobNumbers(counts=counts), 0.0)["quarantine"]
    assert [(one["reason"], one["rows"]) for one in shown] == [(b, 3), (c, 2), (a, 1)]


def test_fleet_lateness_uses_only_late_files_with_largest_offsets(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_view, "_LATE_FILES", 2)
    for name, offset, late_s in (("a", 3, 10.0), ("b", 1, 200.0), ("c", 2, 30.0)):
        path = output / "late" / f"{name}-{offset:015d}-shard-0000-of-0002.parquet"
        pl.DataFrame({"late_s": [late_s]}).write_parquet(path)
    assert OutputView(output).fleet()["lateness_s"] == {"rows": 2, "p50": 30.0, "p99": 30.0}


def test_the_numbers_of_a_first_backfill_are_shown_while_it_runs(tmp_path: Path) -> None:
    running = ShardNumbers(0, Counts(windows=7, used=5), None, None, {}, series=3, live=2, state_bytes=0)
    (tmp_path / markers.BACKFILL).mkdir()
    numbers.publish(tmp_path / markers.BACKFILL, running)
    shown = OutputView(tmp_path).fleet()
    assert (shown["rows"]["used"], shown["rows"]["windows"], shown["series"], shown["live"]) == (5, 7, 3, 2)
