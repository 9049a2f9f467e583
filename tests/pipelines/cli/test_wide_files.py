"""Tests of several wide files with the same columns; a wide file has a column for each series.

If the files are of one sensor, each column is one series that continues from file to file.

Files of different sensors are refused, because their values for one time differ. The setting
data.layout = wide declares that the files are of one sensor.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.sinks.files import read_quarantine
from tests.pipelines.cli.conftest import Job

BEGIN = datetime(2023, 1, 1, tzinfo=UTC)


def write_site(path: Path, level: float, hours_from: int = 0, count: int = 40, **changed: float) -> Path:
    """Write a wide CSV file of a site with hourly temperatures and humidities.

    Args:
        path: path of the file.
        level: temperature at the first hour of each day.
        hours_from: first hour.
        count: number of hours.
        changed: temperatures that replace the regular ones, by hour, such as ``h3=5.0``.
    """
    path.parent.mkdir(exist_ok=True)
    lines = ["time,temp,hum"]
    for hour in range(hours_from, hours_from + count):
        temp = changed.get(f"h{hour}", level + hour % 24)
        lines.append(f"{(BEGIN + timedelta(hours=hour)).isoformat()},{temp},{40 + hour % 7}")
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.mark.parametrize("command", ["backfill", "train", "evaluate --train-rows 20", "stream"])
def test_wide_files_with_conflicting_values_of_a_series_are_refused(job: Job, command: str) -> None:
    write_site(job.folder / "in" / "site1.csv", 10)
    write_site(job.folder / "in" / "site2.csv", 20)
    name, _, options = command.partition(" ")
    model = " -m model" if name in ("backfill", "stream") else ""
    for files in ("in", "in/site1.csv in/site2.csv"):
        _, lines = job(f"{name} {files}{model} {options}", 3)
        assert "in/site2.csv: series 'temp' is 20 at 2023-01-01T00:00:00Z" in lines[-1]
        assert "10 in in/site1.csv" in lines[-1]
        assert "'site2 temp'" in lines[-1]
        assert "data.layout = wide" in lines[-1]
    assert not (job.folder / "out").exists()
    if name == "backfill":
        result, _ = job("backfill in -m model --set data.layout=wide")
        # With data.layout = wide, the series ids do not contain the names of the files.
        # Both files have the series 'temp', so the temperatures of site2.csv replace those of site1.csv.
        assert (result["used"], result["replaced"]) == (80, 40)


def test_files_of_one_sensor_have_one_series_per_column(job: Job) -> None:
    # The first two files also have a row for the first hour of the next file, with the wrong value 5.
    for day in range(3):
        last = {f"h{24 * (day + 1)}": 5.0} if day < 2 else {}
        write_site(job.folder / "in" / f"{day}.csv", 10, 24 * day, 25 if day < 2 else 24, **last)
    write_site(job.folder / "in" / "again.csv", 10, 30, 12)
    result, _ = job("backfill in -m model")
    assert (result["used"], result["duplicates"], result["replaced"]) == (144, 28, 2)
    write_site(job.folder / "in" / "again.csv", 10, 30, 12, h35=99.0)
    _, (line,) = job("backfill in -m model", 3)
    assert "series 'temp' is 99 at 2023-01-02T11:00:00Z, and 21 in in/1.csv" in line


def test_watched_wide_file_contradicting_an_earlier_file_is_rejected(job: Job) -> None:
    write_site(job.folder / "in" / "1.csv", 10)
    write_site(job.folder / "in" / "2.csv", 20)
    write_site(job.folder / "in" / "3.csv", 10, 40)
    result, _ = job.watch("in")
    assert (result["used"] + result["pending"], result["bad_files"], result["late"]) == (160, 1, 0)
    (reason,) = read_quarantine(job.folder / "out")["reason"]
    assert reason.startswith("series 'temp' is 20 at 2023-01-01T00:00:00Z, and 10 in in/1.csv")
    write_site(job.folder / "in" / "4.csv", 30, 50)  # a file with the values of a third sensor
    result, _ = job.watch("in", "--resume")
    assert result["bad_files"] == 2
