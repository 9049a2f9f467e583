"""Tests that a backfill and a stream report the same notices about unusual rows as a training."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.pipelines.cli.conftest import Job

BEGIN = datetime(2023, 1, 1, tzinfo=UTC)
COMMANDS = ["backfill", "stream", "train"]


def row_notices(job: Job, command: str, path: str, more: str = "") -> list[str]:
    """Run a command and return its output lines that are notices about rows."""
    options = {
        "backfill": "-m model",
        "stream": "-m model --runner in-process",
        "train": "--epochs 1 --hidden 4 --horizon 3",
    }[command]
    _, lines = job(f"{command} {path} {options}{more}")
    words = ("left out", "apart", "may stand for none", "weekday")
    return [line for line in lines if any(word in line for word in words)]


def write_csv(path: Path, rows: list[tuple[datetime, float]]) -> None:
    lines = [f"a,{at.isoformat()},{value}" for at, value in rows]
    path.write_text("\n".join(["series_id,timestamp,value", *lines, ""]))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_long_gap_after_the_first_row_is_reported(job: Job, command: str) -> None:
    rows = [(BEGIN + timedelta(hours=hour), hour % 24 + 0.5) for hour in range(200)]
    write_csv(job.folder / "in.csv", [(datetime(1900, 1, 1, tzinfo=UTC), 1.0), *rows])
    (line,) = row_notices(job, command, "in.csv")
    assert "windows in which no series had rows for long are left out" in line
    assert "between 1900-01-29 and 2023-01-01" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_windows_far_shorter_than_the_row_interval_are_reported(job: Job, command: str) -> None:
    # A training needs values before its held-out windows, so it gets the rows of more weeks. Windows of 6
    # hours keep the number of windows small.
    weeks, more = (36, " --freq 6h") if command == "train" else (6, "")
    rows = [(BEGIN + timedelta(weeks=week), week % 7 + 0.5) for week in range(weeks)]
    write_csv(job.folder / "in.csv", rows)
    (line,) = row_notices(job, command, "in.csv", more)
    apart, empty = ("28 windows of 6h", "96%") if more else ("168 windows of 1h", "99%")
    assert line == (
        f"rows are usually {apart} apart, so {empty} of the windows are empty: train with longer windows, "
        "such as --freq 1w-sun"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_that_seem_to_mean_missing_values_are_reported(job: Job, command: str) -> None:
    rows = [(BEGIN + timedelta(hours=hour), 20.0 + hour % 7) for hour in range(200)]
    rows[30:33] = [(at, -9999.0) for at, _ in rows[30:33]]
    write_csv(job.folder / "in.csv", rows)
    (line,) = row_notices(job, command, "in.csv")
    assert line == (
        "values that may stand for none (-9999) in 1 series, such as -9999, 3 times in 'a', whose other "
        "values are 20 to 26: if so, set data.missing = [-9999]"
    )
