"""Fixtures for tests of the dashboard: a small output folder, and a server of the dashboard's page."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecaster.model import Forecaster
from forecaster.time.windows import Windows
from pipelines.dashboard.output_view import OutputView
from pipelines.dashboard.server import listening, make_app, server_of
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.storage import Location
from tests.fleets import SHORT_WEEK, START, forecaster, rows_of
from tests.logs import job_of, small_log

RING = 48
IDS = ("gate/1 a", "Gate 10", "gate 2", "yard")
WINDOWS, SILENT = 320, 5
SPIKE = 300
OLD, NEW = forecaster(**SHORT_WEEK), forecaster("gru", seed=3, **SHORT_WEEK)
"""The versions of the stream of `shadowed`: in use, and its shadow."""


def fleet(windows: int = WINDOWS) -> Windows:
    """Return the first ``windows`` windows of four hourly series.

    Series ``gate 2`` has a spike in window `SPIKE`. Series ``yard`` has no value in the last `SILENT` of all
    `WINDOWS` windows.
    """
    at, rng = np.arange(WINDOWS), np.random.default_rng(1)
    values = np.stack([10 * s + np.sin((at + 3 * s) * np.pi / 12) for s in range(len(IDS))], axis=1)
    values += rng.normal(scale=0.05, size=values.shape)
    values[SPIKE, 2] += 40
    values[WINDOWS - SILENT :, 3] = np.nan
    return Windows(IDS, START, values[:windows])


def write_rows(file: Path, windows: Windows) -> Path:
    """Write the rows of a fleet and three invalid rows as CSV."""
    rows_of(windows).write_csv(file, datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ")
    with file.open("a") as lines:
        lines.write("yard,2013-01-01T00:00:00Z,much\nyard,2013-01-01T01:00:00Z,much\nyard,yesterday,1\n")
    return file


def backfill(
    file: Path, output: Location, shards: int = 2, ring: int = RING, model: Forecaster | None = None
) -> None:
    """Run a backfill of a file with ``model``; None stands for a small model."""
    model = model or forecaster(ring=ring)
    run_backfill(BackfillJob(model, (str(file),), Input(Columns()), output, shards, max_quarantined=1))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a CSV file with the rows of `fleet` and three invalid rows."""
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv", fleet())


@pytest.fixture(scope="session")
def finished(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a backfill of the fleet; tests must not change this folder."""
    output = tmp_path_factory.mktemp("finished") / "out"
    backfill(rows, output)
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the output folder of the backfill, which a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture(scope="session")
def shadowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a stream that ran with a shadow; tests must not change this folder."""
    output = tmp_path_factory.mktemp("shadowed") / "out"
    log, _ = small_log(windows=48, every=8)
    run_stream(replace(job_of(log, output, shards=2), shadow=NEW))
    return output


def write_json_lines(output: Path) -> None:
    """Replace the forecast files of an output by files in JSON lines."""
    for file in (output / "forecasts").glob("*.parquet"):
        pl.read_parquet(file).with_columns(
            pl.col("issued_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        ).write_ndjson(file.with_suffix(".jsonl"))
        file.unlink()


@contextmanager
def serving(output: Location) -> Iterator[str]:
    """Serve the dashboard of an output while the block runs, and yield the URL of the dashboard."""
    with listening("127.0.0.1", 0) as listener:
        server = server_of(make_app(OutputView(output)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true; fail after a minute."""
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not become true in time"
        time.sleep(0.02)


def start_texts(windows: range) -> list[str]:
    """Return the start times of windows as the dashboard shows them; window 0 is the fleet's first window."""
    hours = pl.Series([(START + window) * 3_600_000_000 for window in windows], dtype=pl.Int64)
    return hours.cast(pl.Datetime("us")).dt.strftime("%Y-%m-%d %H:%M:%S").to_list()
