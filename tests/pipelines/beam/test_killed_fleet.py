"""A pipeline of `ForecastFleet` that is killed and run again leaves the forecasts of a backfill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from forecaster.time.windows import Windows
from pipelines import read_forecasts
from tests.comparisons import assert_same_frames
from tests.fleets import forecaster, rows_of, scales
from tests.processes import started

ROOT = Path(__file__).parents[3]
PATIENCE_S = 120.0


def start_fleet(folder: Path) -> subprocess.Popen[str]:
    arguments = (str(folder / "rows.parquet"), str(folder / "model"), str(folder / "fleet"))
    command = (sys.executable, "-m", "tests.pipelines.beam.fleet_on_prism", *arguments)
    return started(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def files_in(folder: Path) -> set[str]:
    """Return the names of complete files; a process that is killed may leave a hidden one."""
    return {path.name for path in folder.glob("[!.]*")}


@pytest.mark.prism
def test_a_killed_pipeline_run_again_equals_a_backfill(
    observed: Windows, backfilled: pl.DataFrame, tmp_path: Path
) -> None:
    rows_of(observed).write_parquet(tmp_path / "rows.parquet")
    forecaster().save(tmp_path / "model")
    forecasts = tmp_path / "fleet" / "forecasts"

    process, until_s = start_fleet(tmp_path), time.monotonic() + PATIENCE_S
    while len(files_in(forecasts)) < 12 and process.poll() is None and time.monotonic() < until_s:
        time.sleep(0.02)
    assert process.poll() is None
    # The workers of the pipeline are threads of this process, and its Prism ends with it.
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = files_in(forecasts)
    assert 0 < len(read_forecasts(tmp_path / "fleet")) < len(backfilled)

    assert start_fleet(tmp_path).wait(PATIENCE_S) == 0
    assert before < files_in(forecasts)
    written = [pl.read_parquet(forecasts / name) for name in files_in(forecasts)]
    assert sum(map(len, written)) == len(backfilled)  # the second run replaced the files of the first
    assert_same_frames(read_forecasts(tmp_path / "fleet"), backfilled, scales(observed))
