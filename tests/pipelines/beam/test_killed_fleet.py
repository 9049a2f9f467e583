"""Tests that a pipeline of `ForecastFleet` that is killed and run again gives the forecasts of a backfill."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import polars as pl
import psutil
import pytest

from forecaster.time.windows import Windows
from pipelines import read_forecasts
from schemas.forecasts import IDENTITY
from tests.comparisons import assert_same_frames
from tests.fleets import forecaster, rows_of, scales
from tests.forked import ForkedProcess

PATIENCE_S = 120.0


def start_fleet(folder: Path, *pool: str, stderr: int = subprocess.DEVNULL) -> ForkedProcess:
    files = (str(folder / name) for name in ("rows.parquet", "model", "fleet"))
    command = ["-m", "tests.pipelines.beam.fleet_on_prism", *files, *pool]
    return ForkedProcess(command, stdout=subprocess.DEVNULL, stderr=stderr)


def files_in(folder: Path) -> set[str]:
    """Return the names of complete files; a killed process may leave an incomplete file, which is hidden."""
    return {path.name for path in folder.glob("[!.]*")}


def wait_for_files(folder: Path, process: ForkedProcess) -> set[str]:
    """Wait up to `PATIENCE_S` until a pipeline has written twelve files; return the names of its files."""
    until_s = time.monotonic() + PATIENCE_S
    while len(files_in(folder)) < 12 and process.poll() is None and time.monotonic() < until_s:
        time.sleep(0.02)
    assert process.poll() is None
    return files_in(folder)


@pytest.fixture
def inputs(observed: Windows, tmp_path: Path) -> Path:
    """Write the rows of the fixture ``observed`` and a model to a folder, and return the folder."""
    rows_of(observed).write_parquet(tmp_path / "rows.parquet")
    forecaster().save(tmp_path / "model")
    return tmp_path


def assert_complete(output: Path, before: set[str], backfilled: pl.DataFrame, observed: Windows) -> None:
    """Assert that a second run added files, and that all files together give the forecasts of the backfill.

    The files of the first run, named in ``before``, must remain. A busy machine may cut the forecasts of the
    two runs into other frames: the second run then writes forecasts of the first run again, but each once.
    """
    assert before < files_in(output / "forecasts")
    for names in (before, files_in(output / "forecasts") - before):
        written = pl.concat([pl.read_parquet(output / "forecasts" / name) for name in names])
        assert written.select(IDENTITY).is_unique().all()
    assert_same_frames(read_forecasts(output), backfilled, scales(observed))


@pytest.mark.prism
def test_rerunning_a_killed_pipeline_gives_forecasts_of_a_backfill(
    observed: Windows, backfilled: pl.DataFrame, inputs: Path
) -> None:
    output = inputs / "fleet"
    process = start_fleet(inputs)
    wait_for_files(output / "forecasts", process)
    # The kill also ends the workers, which are threads of the process, and Prism, which a watcher ends.
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = files_in(output / "forecasts")
    assert 0 < len(read_forecasts(output)) < len(backfilled)
    assert start_fleet(inputs).wait(PATIENCE_S) == 0
    assert_complete(output, before, backfilled, observed)


@pytest.mark.prism
def test_a_killed_worker_ends_the_pipeline_with_engine_lost(
    observed: Windows, backfilled: pl.DataFrame, inputs: Path
) -> None:
    command = ["-m", "pipelines.runners.pool", "--port=0"]
    with ForkedProcess(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as pool:
        try:
            assert pool.stdout is not None
            address = pool.stdout.readline().split()[-1]
            process = start_fleet(inputs, address, stderr=subprocess.PIPE)
            before = wait_for_files(inputs / "fleet" / "forecasts", process)
            (worker,) = psutil.Process(pool.pid).children()
            worker.kill()
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            pool.terminate()
    assert process.returncode == 1
    assert errors.count("Traceback") == 1
    *_, last = errors.splitlines()
    assert last == (
        "schemas.errors.EngineLost: a worker has died, and Prism cannot replace it: run the pipeline again"
    )
    assert start_fleet(inputs).wait(PATIENCE_S) == 0
    assert_complete(inputs / "fleet", before, backfilled, observed)
