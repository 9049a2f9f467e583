"""Run a stream that reads a topic on a cluster; cause faults; compare its forecasts with a backfill."""

from __future__ import annotations

import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from forecaster.time.windows import MICROSECONDS, Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.runners.base import FlinkSettings
from pipelines.settings.kafka import Broker as Address
from pipelines.sinks import numbers
from pipelines.sinks.files import FORECASTS, read_forecasts
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.reader import request_stop
from schemas.errors import EngineError, EngineLost
from schemas.forecasts import IDENTITY
from tests.cluster.broker import Broker
from tests.cluster.flink import FlinkCluster
from tests.fleets import HOUR, START, forecaster, rows_of
from tests.stores import on_disk
from tests.topics import values_of

SERIES: Final = 40
WINDOWS: Final = 6000
SHARDS: Final = 4
PARTITIONS: Final = 4
_TOPIC: Final = "readings"
_WINDOWS_A_SECOND: Final = 2.0
_LIMIT_S: Final = 420.0  # longest wait for a restart, a closed window or the job's end, on a busy machine


@dataclass(frozen=True)
class Verdict:
    """How many forecasts a stream lost or repeated after a fault, and the seconds until it recovered.

    Attributes:
        lost: number of forecasts of the backfill that the stream does not have.
        doubled: number of forecasts of the stream that are repeats or are missing in the backfill.
        recovery_s: seconds from the fault to the next closed window.
    """

    lost: int
    doubled: int
    recovery_s: float


def make_topic(broker: Broker) -> None:
    """Create an empty topic on the broker."""
    client = AdminClient({"bootstrap.servers": broker.bootstrap})
    client.create_topics([NewTopic(_TOPIC, PARTITIONS, 1)])[_TOPIC].result(30)


def produce(broker: Broker, rows: pl.DataFrame) -> None:
    """Send rows at a fixed pace, all rows of a series to one partition; the last partition gets no rows."""
    client = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "log_level": 0})
    began_s = time.monotonic()
    windows = rows.with_columns(pl.col("timestamp").dt.truncate("1h").alias("window"))
    for window, part in enumerate(windows.partition_by("window", maintain_order=True, include_key=False)):
        for series, value in zip(part["series_id"], values_of(part), strict=True):
            client.produce(_TOPIC, value, partition=zlib.crc32(series.encode()) % (PARTITIONS - 1))
        client.poll(0)
        time.sleep(max(began_s + window / _WINDOWS_A_SECOND - time.monotonic(), 0))
    client.flush()


@dataclass
class Stream:
    """A job on a Flink cluster that streams a topic, and a backfill of the same rows.

    A thread of this process starts the streaming job; the backfill ends before the stream starts.

    Attributes:
        cluster: the Flink cluster.
        broker: the broker with the topic.
        folder: the folder for the rows and the outputs.
        restarts: the reason of each restart.
        failed: errors that ended the stream.
        newest_us: at the last restart, the end of the newest window that any shard had closed.
    """

    cluster: FlinkCluster
    broker: Broker
    folder: Path
    restarts: list[str] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)
    newest_us: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        values = rng.normal(size=(WINDOWS, SERIES)).cumsum(axis=0)
        self.fleet = Windows(tuple(f"series {i}" for i in range(SERIES)), START, values)
        path = self.folder / "rows.parquet"
        rows = rows_of(self.fleet).sort("timestamp")
        rows.write_parquet(path)
        backfill = BackfillJob(
            forecaster(), (str(path),), Input(Columns()), self.folder / "quiet", shards=SHARDS
        )
        run_backfill(backfill)
        make_topic(self.broker)
        threading.Thread(target=produce, args=(self.broker, rows), daemon=True).start()
        self.expected = read_forecasts(backfill.output).select(IDENTITY)
        self.job = StreamJob(
            forecaster(),
            KafkaSource(
                Address(self.broker.bootstrap),
                _TOPIC,
                DecoderSpec(),
                Input(Columns()),
                HOUR,
                self.folder / "stream" / "state",
                idle_s=1.0,
            ),
            self.folder / "stream",
            shards=SHARDS,
            runner="flink",
            flink=FlinkSettings(self.cluster.master, self.cluster.workers),
            beam_options=("--checkpointing_interval=5000",),
            snapshot_every_s=2.0,
            restarts=20,
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while True:
                try:
                    run_stream(self.job, on_restart=self._record_restart)
                    return
                except EngineLost:
                    raise
                except EngineError as error:  # a fault has ended the job: start it again, as a person would
                    self._record_restart(str(error))
                    self.job = replace(self.job, resume=True)
        except BaseException as error:
            self.failed.append(error)

    def _record_restart(self, line: str) -> None:
        self.newest_us = max((s.closed_us or 0 for s in numbers.read_shards(self.job.output)), default=0)
        self.restarts.append(line)
        print(f"  {line[:300]}", file=sys.stderr, flush=True)

    def through_us(self) -> int:
        """Return the end of the last window that every shard has closed; 0 until each has closed a window."""
        shards = numbers.read_shards(self.job.output)
        closed = [shard.closed_us or 0 for shard in shards]
        return min(closed) if len(closed) == SHARDS else 0

    def await_window(self, after_us: int) -> int:
        """Wait until every shard has closed a window that ends after ``after_us``; return `through_us`."""
        until_s = time.monotonic() + _LIMIT_S
        while (through_us := self.through_us()) <= after_us:
            if self.failed:
                raise self.failed[0]
            if time.monotonic() > until_s or not self.thread.is_alive():
                raise AssertionError(f"the stream makes no progress; last restart: {self.restarts[-1:]}")
            time.sleep(0.1)
        return through_us

    def apply_fault(self, fault: Callable[[Stream], None], is_waited_out: bool = False) -> Verdict:
        """Cause a fault, wait until the stream has recovered, and return the result of `compare`.

        The stream recovers by a restart; if the fault ``is_waited_out``, the same run continues.
        """
        self.await_window(self.through_us())
        restarts, self.newest_us = len(self.restarts), self.through_us()
        began_s = time.monotonic()
        fault(self)
        while not is_waited_out and len(self.restarts) == restarts:
            assert time.monotonic() - began_s < _LIMIT_S, "the fault caused no restart"
            time.sleep(0.1)
        through_us = self.await_window(self.newest_us)
        return self.compare(through_us, time.monotonic() - began_s)

    def compare(self, through_us: int, recovery_s: float = 0.0) -> Verdict:
        """Compare the forecasts of stream and backfill up to ``through_us``, by `IDENTITY`, not by value."""
        end = datetime.fromtimestamp(through_us / MICROSECONDS, UTC)
        raw = pl.concat([pl.read_parquet(path, columns=list(IDENTITY)) for path in self._files()])
        ours = raw.filter(pl.col("issued_at") <= end)
        theirs = self.expected.filter(pl.col("issued_at") <= end)
        lost = len(theirs.join(ours, on=IDENTITY, how="anti"))
        doubled = len(ours) - len(theirs) + lost
        return Verdict(lost, doubled, round(recovery_s, 1))

    def end(self) -> None:
        """Request the stop of the stream, and wait until it has ended."""
        request_stop(self.job.stop_file)
        self.thread.join(_LIMIT_S)
        if self.failed:
            raise self.failed[0]
        assert not self.thread.is_alive()

    def _files(self) -> list[Path]:
        return [
            path for path in (on_disk(self.job.output) / FORECASTS).glob("*.parquet") if path.name[0] != "."
        ]
