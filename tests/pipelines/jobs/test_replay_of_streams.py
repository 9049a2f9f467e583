"""Tests that a replay of the quarantine of a stream gives the forecasts of a stream of correct rows.

The streams change their model version, have a shadow, write into an object store, or send to a topic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest

from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.jobs.quarantine_job import QuarantineJob
from pipelines.jobs.quarantine_replay import replay_quarantine
from pipelines.settings.data_config import Columns
from pipelines.settings.kafka import Broker
from pipelines.sinks import kafka
from pipelines.sinks.files import SHADOW, read_forecasts, read_quarantine
from pipelines.sinks.kafka import Topics
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.model_changes import Request, read_changes, request_change, store_model
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import Location
from tests.comparisons import YOUNG, assert_same_frames, assert_same_live_series
from tests.fleets import HALF_A_DAY, SHORT_WEEK, forecaster
from tests.stores import in_memory

SERIES, WINDOWS, REPAIR = "abc", 24, 100
# In each of these windows, one of the three rows in the file ``wrong`` has a decimal comma.
WRONG = range(8, 22)
SCALE = dict.fromkeys(SERIES, 1.0)
OLD, NEW = forecaster(**SHORT_WEEK), forecaster("gru", seed=3, **SHORT_WEEK)
POINTS, COMMAS = (Input(Columns.model_validate({"decimal": sign})) for sign in ".,")
REPLAYED = len(WRONG)


def stream(folder: Path, output: Location, name: str) -> StreamJob:
    """Write rows to a file, and return a stream that replays the file.

    The name of the file is ``name``. If it is ``wrong``, some rows have a decimal comma.
    """
    lines = ["series_id,timestamp,value"]
    for window in range(WINDOWS):
        for number, series in enumerate(SERIES):
            value = f"{10 * number + (window * 7 + number) % 5 + 0.5:.1f}"
            if name == "wrong" and window in WRONG and (window + number) % 3 == 0:
                value = f'"{value.replace(".", ",")}"'
            lines.append(f"{series},2013-01-{1 + window // 2:02}T{window % 2 * 12:02}:10Z,{value}")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines))
    source = ReplaySource(
        (str(path),), POINTS, HALF_A_DAY, windows_per_step=2, manifest_folder=output / "state"
    )
    return StreamJob(OLD, source, output, shards=2, repair=REPAIR, runner="in-process")


def replay_of(job: StreamJob) -> QuarantineJob:
    """Return the job that replays a stream's quarantine, with settings that accept the rejected rows."""
    return QuarantineJob(
        forecaster=OLD, input=COMMAS, output=job.output, repair=REPAIR, topics=job.topics, threads=1
    )


def assert_replayed_like(right: StreamJob, wrong: StreamJob) -> None:
    """Run both streams, replay the quarantine of ``wrong``; assert equal states of live series in both.

    Also assert that the replay repaired all quarantined rows. Forecasts are not compared here.
    """
    run_stream(right)
    assert run_stream(wrong).counts.rejected == REPLAYED
    counts = replay_quarantine(replay_of(wrong)).counts
    assert (counts.replayed, counts.used, counts.repaired, counts.missing) == (
        REPLAYED,
        REPLAYED,
        REPLAYED,
        0,
    )
    assert not len(read_quarantine(wrong.output))
    assert_same_live_series(
        *([shard.state for shard in state_table.read(job.states).shards] for job in (right, wrong))
    )


def newest(output: Location, part: str = "forecasts") -> pl.DataFrame:
    """Return the newest revision of each forecast in an output, with the column ``revision`` set to 0."""
    return read_forecasts(output, part).with_columns(revision=pl.lit(0, pl.Int32))


def assert_same_outputs(right: Location, wrong: Location, part: str = "forecasts") -> None:
    assert read_forecasts(wrong, part)["revision"].max() == REPLAYED // len(SERIES) + 1
    assert_same_frames(newest(right, part), newest(wrong, part), SCALE, within=YOUNG)


def test_a_quarantine_replay_repairs_windows_across_a_model_change(tmp_path: Path) -> None:
    jobs = []
    for name in ("right", "wrong"):
        job = replace(stream(tmp_path, tmp_path / f"{name}-out", name), follows=True, model="weather/1")
        store_model(job.output, NEW)
        request_change(job.output, Request(NEW.version, "weather/2", 10))
        jobs.append(job)
    assert_replayed_like(*jobs)
    changes = {read_changes(job.states) for job in jobs}
    ((_, change),) = changes
    assert change.window is not None
    first = HALF_A_DAY.window_of(1_356_998_400_000_000)  # 2013-01-01
    assert WRONG[0] < change.window - first < WRONG[-1]
    assert_same_outputs(jobs[0].output, jobs[1].output)
    assert set(newest(jobs[1].output)["model_version"]) == {OLD.version, NEW.version}


def test_a_quarantine_replay_repairs_the_forecasts_of_a_shadow(tmp_path: Path) -> None:
    jobs = [replace(stream(tmp_path, tmp_path / f"{n}-out", n), shadow=NEW) for n in ("right", "wrong")]
    assert_replayed_like(*jobs)
    for part in ("forecasts", SHADOW):
        assert_same_outputs(jobs[0].output, jobs[1].output, part)
    shadows = [shard.shadow for shard in state_table.read(jobs[1].states).shards]
    assert {None if shadow is None else shadow.model_version for shadow in shadows} == {NEW.version}


def test_quarantine_replay_corrects_an_output_in_an_object_store(tmp_path: Path) -> None:
    with in_memory() as store:
        right, wrong = stream(tmp_path, tmp_path / "out", "right"), stream(tmp_path, store, "wrong")
        assert_replayed_like(right, wrong)
        assert_same_outputs(right.output, store)
        assert replay_quarantine(replay_of(wrong)).nothing == f"{store}: no row is in quarantine"


class Producer:
    """A Kafka producer that appends each message to the class attribute ``sent``, a list."""

    sent: ClassVar[list[tuple[str, bytes, bytes, dict[str, bytes]]]] = []

    def __init__(self, settings: dict[str, Any]) -> None:
        assert settings["bootstrap.servers"] == "nowhere:9092"

    def produce(self, topic: str, value: bytes, key: bytes, headers: list[tuple[str, bytes]]) -> None:
        self.sent.append((topic, key, value, dict(headers)))

    def poll(self, timeout_s: float) -> int:
        return 0

    def flush(self, timeout_s: float) -> int:
        return 0


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bytes, bytes, dict[str, bytes]]]]:
    """Replace Kafka's producer; yield the list of sent messages, each as topic, key, value and headers."""
    monkeypatch.setattr(kafka, "client", lambda name: {"Producer": Producer}[name])
    yield Producer.sent
    Producer.sent.clear()


def test_quarantine_replay_sends_revised_forecasts_to_the_forecast_topic(
    tmp_path: Path, sent: list[tuple[str, bytes, bytes, dict[str, bytes]]]
) -> None:
    right = stream(tmp_path, tmp_path / "right-out", "right")
    topics = Topics(Broker("nowhere:9092"), "forecasts")
    wrong = replace(stream(tmp_path, tmp_path / "wrong-out", "wrong"), topics=topics)
    assert_replayed_like(right, wrong)
    assert not any((wrong.output / "forecasts").glob("*"))
    found: dict[tuple[bytes, bytes], tuple[int, Any]] = {}
    for topic, key, value, headers in sent:
        assert topic == "forecasts"
        found[key, headers["issued_at"]] = max(
            found.get((key, headers["issued_at"]), (-1, None)),
            (int(headers["revision"]), json.loads(value)),
            key=lambda one: one[0],
        )
    made = pl.DataFrame([message for _, message in found.values()], schema_overrides={"revision": pl.Int32})
    made = made.with_columns(
        pl.col("issued_at").str.to_datetime(time_unit="us", time_zone="UTC"), revision=pl.lit(0, pl.Int32)
    )
    assert max(revision for revision, _ in found.values()) > 1
    assert_same_frames(newest(right.output), made, SCALE, within=YOUNG)
