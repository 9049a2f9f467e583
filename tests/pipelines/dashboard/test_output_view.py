"""Tests that the dashboard shows what is in the files of an output folder, even if some are damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest

from forecaster import Forecaster, NetworkConfig, WindowConfig
from pipelines.dashboard import output_view
from pipelines.dashboard.output_view import OutputView, check_output
from pipelines.sinks.files import read_forecasts, read_quarantine
from pipelines.state import state_table
from pipelines.storage import Remote, markers, store_of
from schemas.errors import DataError
from tests.fleets import START, forecaster
from tests.outputs import contents
from tests.pipelines.dashboard.conftest import (
    IDS,
    RING,
    SILENT,
    SPIKE,
    WINDOWS,
    backfill,
    fleet,
    start_texts,
    write_json_lines,
    write_rows,
)

HOUR_US = 3_600_000_000


def forecast_values(output: Path, series_id: str, window: int) -> Any:
    """Return the q50 values of the forecast that was issued for a series at the end of a window."""
    issued = pl.lit((START + window + 1) * HOUR_US).cast(pl.Datetime("us", "UTC"))
    rows = read_forecasts(output).filter(pl.col("series_id") == series_id, pl.col("issued_at") == issued)
    return [step["q50"] for step in rows["forecast"].item()]


@pytest.mark.parametrize("series_id", IDS[:3])
def test_the_chart_of_a_series_has_the_values_in_its_ring(finished: Path, series_id: str) -> None:
    found = OutputView(finished).series(series_id)
    assert found["time"] == start_texts(range(WINDOWS - RING, WINDOWS))
    expected = fleet().values[-RING:, IDS.index(series_id)]
    np.testing.assert_allclose(found["value"], expected)
    assert found["notes"] == []


def test_the_chart_of_a_series_omits_missing_values(finished: Path) -> None:
    found = OutputView(finished).series("yard")
    assert found["time"] == start_texts(range(WINDOWS - RING, WINDOWS - SILENT))


def test_the_forecasts_in_a_chart_are_issued_one_horizon_apart(finished: Path) -> None:
    fans = OutputView(finished).series("Gate 10")["fans"]
    horizon = 3
    assert len(fans) == output_view.FANS
    for k, fan in enumerate(fans):
        last = WINDOWS - 1 - k * horizon
        assert fan["time"] == start_texts(range(last + 1, last + 1 + horizon))
        assert fan["issued_at"] == fan["time"][0]
        assert fan["quantiles"]["q50"] == forecast_values(finished, "Gate 10", last)


def test_the_dashboard_shows_the_alarms_in_forecast_files(finished: Path) -> None:
    view = OutputView(finished)
    alarms = read_forecasts(finished).filter("alarm")
    raised = view.fleet()["alarms"]
    assert len(alarms) == raised["total"] > 0
    counted = {one["series_id"]: one["alarms"] for one in raised["series"]}
    assert counted == dict(alarms.group_by("series_id").len().iter_rows())
    assert raised["since"] == "2013-01-01 01:00:00"
    times = [alarm["time"] for alarm in view.series("gate 2")["alarms"]]
    assert start_texts(range(SPIKE, SPIKE + 1))[0] in times
    assert len(times) == counted["gate 2"]


def test_the_dashboard_shows_the_row_counts_of_the_job(finished: Path) -> None:
    shown = OutputView(finished).fleet()
    counts = state_table.read(finished / "state", series=False).counts
    assert shown["rows"]["used"] == counts.used == int((~np.isnan(fleet().values)).sum())
    by_kind = read_quarantine(finished).group_by("kind").len()
    assert {one["reason"]: one["rows"] for one in shown["quarantine"]} == dict(by_kind.iter_rows())
    assert shown["rows"]["quarantined"] == 3
    assert (shown["series"], shown["live"], shown["shards"]) == (4, 4, 2)
    assert shown["models"] == [forecaster(ring=RING).version]
    assert shown["closed_until"] == start_texts(range(WINDOWS, WINDOWS + 1))[0]


def test_the_dashboard_computes_scores_from_the_counts_of_the_job(finished: Path) -> None:
    shown = OutputView(finished).fleet()["versions"]
    assert {one["role"] for one in shown} == {"in use"}
    scores = state_table.read(finished / "state", series=False).counts.scores
    expected = [
        (version, horizon, sums.scored, sums.mase, sums.coverage)
        for version, by_horizon in scores.items()
        for horizon, sums in sorted(by_horizon.items())
    ]
    fields = ("version", "horizon", "scored", "mase", "coverage")
    assert [tuple(one[name] for name in fields) for one in shown] == expected != []


def test_the_dashboard_shows_how_long_a_series_has_had_no_values(finished: Path) -> None:
    silent = OutputView(finished).fleet()["silent"]
    since = start_texts(range(WINDOWS - SILENT, WINDOWS - SILENT + 1))[0]
    assert silent["series"] == [{"series_id": "yard", "windows": SILENT, "since": since}]
    assert (silent["count"], silent["retired"]) == (1, 0)


def test_the_series_search_ignores_case_and_lists_matching_ids(finished: Path) -> None:
    view = OutputView(finished)
    assert view.search("GATE 1")["ids"] == ["Gate 10"]
    assert view.search("a")["ids"] == ["Gate 10", "gate 2", "gate/1 a", "yard"]
    assert view.search("ya")["ids"] == ["yard"]
    assert view.search("/1 a")["matching"] == 1
    assert (view.search("")["matching"], view.search("")["of"]) == (4, 4)


def test_the_dashboard_notes_an_unknown_series_id(finished: Path) -> None:
    found = OutputView(finished).series("gate 3")
    assert (found["time"], found["notes"]) == ([], ["no series has the id gate 3"])


def test_the_dashboard_explains_why_no_values_are_shown(rows: Path, tmp_path: Path) -> None:
    network = NetworkConfig(hidden=4, layers=1, horizon=3, lags=(), ring=0)
    backfill(rows, tmp_path / "out", model=Forecaster.untrained(network, WindowConfig()))
    found = OutputView(tmp_path / "out").series("yard")
    assert found["value"] == []
    assert "network.ring = 0" in found["notes"][0]
    assert found["fans"]


def test_the_dashboard_reads_forecasts_in_json_lines(output: Path) -> None:
    expected = OutputView(output).series("gate 2")
    write_json_lines(output)
    assert OutputView(output).series("gate 2") == expected


def test_the_dashboard_reads_a_locked_output_without_changing_it(output: Path) -> None:
    before = contents(output)
    (output / markers.LOCK).write_text(json.dumps({"pid": os.getpid()}))
    view = OutputView(output)
    view.fleet(), view.series("yard"), view.search("")
    (output / markers.LOCK).unlink()
    assert contents(output) == before


def test_the_dashboard_shows_a_store_output_like_a_disk_output(
    rows: Path, s3: Remote, finished: Path
) -> None:
    backfill(rows, s3)
    on_disk, in_store = OutputView(finished), OutputView(s3)
    assert in_store.series("gate 2") == on_disk.series("gate 2")
    own = ("output", "read_at", "status_text", "watermark_lag_s")
    fleets = [{k: v for k, v in view.fleet().items() if k not in own} for view in (in_store, on_disk)]
    assert fleets[0] == fleets[1]


# --- folders that are written, damaged, replaced or deleted


def test_the_dashboard_shows_the_new_output_after_a_replacement(output: Path, tmp_path: Path) -> None:
    view = OutputView(output)
    assert view.fleet()["closed_until"] == start_texts(range(WINDOWS, WINDOWS + 1))[0]
    assert view.series("Gate 10")["time"] == start_texts(range(WINDOWS - RING, WINDOWS))
    backfill(write_rows(tmp_path / "few.csv", fleet(200)), output)
    assert view.fleet()["closed_until"] == start_texts(range(200, 201))[0]
    found = view.series("Gate 10")
    assert found["time"] == start_texts(range(200 - RING, 200))
    assert found["fans"][0]["quantiles"]["q50"] == forecast_values(output, "Gate 10", 199)


def test_the_dashboard_hides_only_the_shard_of_a_damaged_snapshot(output: Path) -> None:
    damaged, whole = sorted((output / "state").glob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    view = OutputView(output)
    shown = view.fleet()
    assert len(shown["notes"]) == 1
    assert str(damaged) in shown["notes"][0]
    known = set(pl.read_parquet(whole)["series_id"])
    assert set(view.search("")["ids"]) == known
    assert view.series(known.pop())["value"]


def test_a_damaged_forecast_file_gives_a_note_in_the_dashboard(output: Path) -> None:
    *_, newest = sorted((output / "forecasts").glob("*.parquet"))
    newest.write_bytes(b"PAR1")
    view = OutputView(output)
    note = f"{newest}: not a readable file of forecasts"
    assert [text.partition(" (")[0] for text in view.fleet()["notes"]] == [note]
    ids = view.search("")["ids"]
    assert any(note in " ".join(view.series(one)["notes"]) for one in ids)
    assert all(view.series(one)["value"] for one in ids)


def test_the_dashboard_ignores_incomplete_temporary_files(output: Path) -> None:
    expected = OutputView(output).series("yard")
    for part in ("forecasts", "state"):
        for file in list((output / part).glob("*.parquet")):
            (file.parent / f".{file.name}.123.tmp").write_bytes(file.read_bytes()[:50])
    view = OutputView(output)
    assert view.series("yard") == expected
    assert view.fleet()["notes"] == []


def test_the_dashboard_ignores_a_half_written_counts_file(output: Path) -> None:
    (output / markers.NUMBERS).mkdir()
    (output / markers.NUMBERS / markers.numbers_of_shard(0)).write_text('{"shard": 0, "cou')
    shown = OutputView(output).fleet()
    assert (shown["series"], shown["notes"]) == (4, [])


def test_dashboard_shows_deletion_and_restoration_of_an_output_folder(output: Path, finished: Path) -> None:
    view = OutputView(output)
    before = view.series("yard")
    shutil.rmtree(output)
    shown = view.fleet()
    assert shown["status"] == "absent"
    assert "does not exist" in shown["status_text"]
    assert (shown["series"], shown["alarms"]["total"], shown["notes"]) == (0, 0, [])
    assert (view.series("yard")["value"], view.search("y")["ids"]) == ([], [])
    shutil.copytree(finished, output)
    assert view.series("yard") == before


def test_an_empty_output_folder_has_the_status_absent(tmp_path: Path) -> None:
    shown = OutputView(tmp_path).fleet()
    assert (shown["status"], shown["notes"], shown["series"]) == ("absent", [], 0)


def test_the_job_status_depends_on_the_process_in_the_lock_file(output: Path) -> None:
    view, lock = OutputView(output), output / markers.LOCK
    assert view.fleet()["status"] == "not running"
    with store_of(output).locked():
        record = json.loads(lock.read_text())
        assert view.fleet()["status"] == "running"
        (output / markers.BACKFILL).mkdir()
        assert "a backfill is writing" in view.fleet()["status_text"]
        # The process that now has the job's process id began 60 s after the job, so it is another process.
        later = record["started_after_boot_s"] - 60
        lock.write_text(json.dumps(record | {"started_after_boot_s": later}))
        assert view.fleet()["status"] == "not running"
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    lock.write_text(json.dumps(record | {"pid": ended.pid}))
    shown = view.fleet()
    assert shown["status"] == "not running"
    assert "--resume" in shown["status_text"]


def test_a_system_clock_change_keeps_the_job_status_running(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = OutputView(output)
    with store_of(output).locked():
        # psutil computes the start time of a process from the boot time, so setting the system clock
        # changes both the boot time and the start time.
        began_s, boot_s = psutil.Process().create_time(), psutil.boot_time()
        monkeypatch.setattr(psutil.Process, "create_time", lambda _: began_s + 3600)
        monkeypatch.setattr(psutil, "boot_time", lambda: boot_s + 3600)
        assert view.fleet()["status"] == "running"


def test_the_dashboard_refuses_a_folder_that_is_not_an_output(tmp_path: Path, finished: Path) -> None:
    check_output(finished)
    with pytest.raises(DataError, match=r"no such folder: name the output folder of a backfill or a stream"):
        check_output(tmp_path / "none")
    with pytest.raises(DataError, match=r"not an output folder \(it has no forecasts/"):
        check_output(tmp_path)
