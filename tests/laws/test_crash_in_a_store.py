"""Law: a stream into an object store that dies at any of its requests ends as if it had not."""

from __future__ import annotations

import tempfile
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.windows import Windows
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.sinks.files import read_forecasts, read_quarantine
from pipelines.sources.files import Input
from pipelines.sources.replay import ReplaySource
from pipelines.sources.tables import Columns
from pipelines.storage import Location, Remote, lease
from tests.fleets import HOUR, assert_same_frames, forecaster, rows_of, scales
from tests.mortals import Killed, Mortal
from tests.stores import in_memory

_CHANGES = "write_bytes", "create", "copy", "unlink", "remove_below"


def lived(job: StreamJob, mortal: Mortal) -> Any:
    """One life of a stream; what it ends with, or None where it died."""
    with ExitStack() as stack:
        for name in _CHANGES:
            stack.enter_context(patch.object(Remote, name, mortal.of(getattr(Remote, name))))
        # Those before it are dead, though they were of this process.
        stack.enter_context(patch.object(lease, "_is_dead", lambda told: True))
        with suppress(Killed):
            return run_stream(job).counts
    return None


@settings(max_examples=8)
@given(
    kills=st.lists(st.tuples(st.integers(0, 150), st.booleans(), st.integers(1, 9)), min_size=1, max_size=4),
    shards=st.integers(1, 3),
)
def test_a_stream_that_dies_at_any_request_ends_as_the_one_that_did_not(
    small_fleet: Windows, kills: list[tuple[int, bool, int]], shards: int
) -> None:
    with tempfile.TemporaryDirectory() as name, in_memory() as store:
        path, clean = Path(name) / "rows.csv", Path(name) / "clean"
        rows = rows_of(small_fleet).head(200)
        bad = rows.head(3).with_columns(value=float("nan"))
        pl.concat([rows.head(100), bad, rows]).sample(fraction=1, shuffle=True, seed=1).write_csv(path)

        def job(output: Location) -> StreamJob:
            source = ReplaySource(
                (str(path),), Input(Columns()), HOUR, windows_per_step=5, manifest_folder=output / "state"
            )
            return StreamJob(
                forecaster(), source, output, shards=shards, windows_per_step=4, resume=True,
                snapshot_every_s=0.0, runner="in-process",
            )  # fmt: skip

        ghosts = frozenset[threading.Thread]()
        for left, after, windows_per_step in kills:
            lived(replace(job(store), windows_per_step=windows_per_step), Mortal(left, after, ghosts))
            ghosts = frozenset(threading.enumerate()) - {threading.current_thread()}
        ended = lived(job(store), Mortal(10**9, True, ghosts))

        assert ended == run_stream(job(clean)).counts
        assert_same_frames(read_forecasts(clean), read_forecasts(store), scales(small_fleet))
        assert read_quarantine(clean).equals(read_quarantine(store))
        # no forecast in two objects: what a life wrote after its last snapshot is gone
        written = [pl.read_parquet(file.open("rb")) for file in (store / "forecasts").glob("*")]
        assert sum(map(len, written)) == len(read_forecasts(clean))
