"""What clusters do while a stream runs on one: processes are killed, and it is held against a quiet stream.

One stream goes through all faults, one after the other. After each it must have gone on by itself; what it
has written by then is what a job that nothing happened to wrote: nothing lost, nothing twice.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import psutil
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from forecaster.windows import MICROSECONDS, Windows
from pipelines.jobs.forecast import run_backfill, run_stream
from pipelines.jobs.job import BackfillJob, StreamJob
from pipelines.kafka import Broker as Address
from pipelines.runners import flink
from pipelines.runners.base import FlinkSettings
from pipelines.sinks import numbers
from pipelines.sinks.files import FORECASTS, read_forecasts
from pipelines.sources.files import Input
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.reader import ask_to_stop
from pipelines.sources.tables import Columns
from schemas.errors import EngineError, EngineLost
from tests.cluster.broker import Broker
from tests.cluster.flink import FlinkCluster
from tests.fleets import HOUR, START, assert_same_frames, forecaster, rows_of, scales
from tests.stores import on_disk
from tests.topics import values_of

SERIES: Final = 40
WINDOWS: Final = 6000
SHARDS: Final = 4
PARTITIONS: Final = 4
_TOPIC: Final = "readings"
_WINDOWS_A_SECOND: Final = 2.0
_AWAY_S: Final = 10.0
_SAVEPOINT_S: Final = 60.0
_LIMIT_S: Final = 420.0  # of one fault; machines are shared
_IDENTITY: Final = ["series_id", "issued_at", "model_version", "revision"]


@dataclass(frozen=True)
class Verdict:
    """What came of a fault.

    Attributes:
        lost: forecasts that are not there.
        doubled: forecasts that are there twice, or that a quiet job does not make.
        recovery_s: from the kill to the next new window.
    """

    lost: int
    doubled: int
    recovery_s: float


def make_topic(broker: Broker) -> None:
    """An empty topic."""
    client = AdminClient({"bootstrap.servers": broker.bootstrap})
    client.create_topics([NewTopic(_TOPIC, PARTITIONS, 1)])[_TOPIC].result(30)


def produce(broker: Broker, rows: pl.DataFrame) -> None:
    """Sends rows as time goes on, each series to a partition of its own; the last partition stays idle."""
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
    """A stream of a topic on a cluster, in a thread of this process, and a quiet job of the same rows."""

    cluster: FlinkCluster
    broker: Broker
    folder: Path
    restarts: list[str] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)
    newest_us: int = 0

    def __post_init__(self) -> None:
        chance = np.random.default_rng(0)
        values = chance.normal(size=(WINDOWS, SERIES)).cumsum(axis=0)
        self.fleet = Windows(tuple(f"series {i}" for i in range(SERIES)), START, values)
        path = self.folder / "rows.parquet"
        rows = rows_of(self.fleet).sort("timestamp")
        rows.write_parquet(path)
        quiet = BackfillJob(
            forecaster(), (str(path),), Input(Columns()), self.folder / "quiet", shards=SHARDS
        )
        run_backfill(quiet)
        make_topic(self.broker)
        threading.Thread(target=produce, args=(self.broker, rows), daemon=True).start()
        self.expected = read_forecasts(quiet.output).select(_IDENTITY)
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
                    run_stream(self.job, on_restart=self._told)
                    return
                except EngineLost:
                    raise
                except EngineError as error:  # somebody ended it: a person would start it again
                    self._told(str(error))
                    self.job = replace(self.job, resume=True)
        except BaseException as error:
            self.failed.append(error)

    def _told(self, line: str) -> None:
        self.newest_us = max((s.closed_us or 0 for s in numbers.read_shards(self.job.output)), default=0)
        self.restarts.append(line)
        print(f"  {line[:300]}", file=sys.stderr, flush=True)

    def through_us(self) -> int:
        """The end of the last window that every shard has forecast from; 0 before the first."""
        shards = numbers.read_shards(self.job.output)
        closed = [shard.closed_us or 0 for shard in shards]
        return min(closed) if len(closed) == SHARDS else 0

    def await_window(self, after_us: int) -> int:
        """Waits until every shard is past a time; the end of the last window that all have closed."""
        until_s = time.monotonic() + _LIMIT_S
        while (through_us := self.through_us()) <= after_us:
            if self.failed:
                raise self.failed[0]
            if time.monotonic() > until_s or not self.thread.is_alive():
                raise AssertionError(f"the stream stands still: {self.restarts[-1:]}")
            time.sleep(0.1)
        return through_us

    def suffer(self, name: str) -> Verdict:
        """Has a fault happen, and waits until the stream has gone on."""
        self.await_window(self.through_us())
        restarts, self.newest_us = len(self.restarts), self.through_us()
        began_s = time.monotonic()
        FAULTS[name](self)
        # A broker that is away for a while is waited for.
        while name != "broker" and len(self.restarts) == restarts:
            assert time.monotonic() - began_s < _LIMIT_S, "nothing died"
            time.sleep(0.1)
        through_us = self.await_window(self.newest_us)
        return self.judged(through_us, time.monotonic() - began_s)

    def judged(self, through_us: int, recovery_s: float = 0.0) -> Verdict:
        """What is there up to a time, held against the quiet job's."""
        end = datetime.fromtimestamp(through_us / MICROSECONDS, UTC)
        raw = pl.concat([pl.read_parquet(path, columns=_IDENTITY) for path in self._files()])
        ours = raw.filter(pl.col("issued_at") <= end)
        theirs = self.expected.filter(pl.col("issued_at") <= end)
        lost = len(theirs.join(ours, on=_IDENTITY, how="anti"))
        doubled = len(ours) - len(theirs) + lost
        return Verdict(lost, doubled, round(recovery_s, 1))

    def end(self) -> None:
        """Asks the stream to stop, and waits for it."""
        ask_to_stop(self.job.stop_file)
        self.thread.join(_LIMIT_S)
        if self.failed:
            raise self.failed[0]
        assert not self.thread.is_alive()

    def _files(self) -> list[Path]:
        return [
            path for path in (on_disk(self.job.output) / FORECASTS).glob("*.parquet") if path.name[0] != "."
        ]


def kill_worker(stream: Stream) -> None:
    """SIGKILL to a Python worker."""
    assert stream.cluster.pool.process is not None
    workers = stream.cluster.pool.process.children()
    assert workers, "no worker runs"
    workers[0].kill()


def kill_task_manager(stream: Stream) -> None:
    """SIGKILL to one task manager; another takes its place."""
    stream.cluster.task_managers[0].kill()
    stream.cluster.go_on()


def kill_job_manager(stream: Stream) -> None:
    """SIGKILL to the job manager; the one that takes its place knows of no job."""
    stream.cluster.job_manager.kill()
    stream.cluster.go_on()


def kill_broker(stream: Stream) -> None:
    """SIGKILL to the broker, which is away for ten seconds."""
    stream.broker.kill()
    time.sleep(_AWAY_S)
    stream.broker.restart()


def kill_everything(stream: Stream) -> None:
    """SIGKILL to the broker, all of the cluster and all workers at once; all are started anew."""
    stream.broker.kill()
    for server in stream.cluster.servers:
        server.kill()
    stream.broker.restart()
    stream.cluster.go_on()


def cancel(stream: Stream) -> None:
    """The job is cancelled, and started again from the state table."""
    for job in running(stream.cluster):
        flink.cancel(stream.cluster.master, job)


def stop_with_savepoint(stream: Stream) -> None:
    """The job is stopped with a savepoint, and started again from the state table."""
    master = stream.cluster.master
    for job in running(stream.cluster):
        asked = flink.ask(master, f"/jobs/{job}/stop", "POST", {"drain": False})["request-id"]
        until_s = time.monotonic() + _SAVEPOINT_S
        while (done := flink.ask(master, f"/jobs/{job}/savepoints/{asked}"))["status"]["id"] != "COMPLETED":
            assert time.monotonic() < until_s, f"no savepoint in {_SAVEPOINT_S:.0f} s"
            time.sleep(0.2)
        assert Path(done["operation"]["location"].removeprefix("file:")).is_dir(), done


def running(cluster: FlinkCluster) -> list[str]:
    """The ids of the jobs that run."""
    return [job for job, (_, state) in flink.jobs(cluster.master).items() if state == "RUNNING"]


def await_checkpoint(cluster: FlinkCluster) -> str:
    """A checkpoint of the job that runs is complete, as it is every few seconds; its size and time."""
    until_s = time.monotonic() + _SAVEPOINT_S
    while time.monotonic() < until_s:
        for job in running(cluster):
            if done := flink.ask(cluster.master, f"/jobs/{job}/checkpoints")["latest"]["completed"]:
                return f"{done['state_size']} bytes in {done['end_to_end_duration']} ms"
        time.sleep(0.5)
    raise AssertionError(f"no checkpoint in {_SAVEPOINT_S:.0f} s")


FAULTS: Final[Mapping[str, Callable[[Stream], None]]] = {
    "worker": kill_worker,
    "task_manager": kill_task_manager,
    "job_manager": kill_job_manager,
    "broker": kill_broker,
    "everything": kill_everything,
    "savepoint": stop_with_savepoint,
    "cancelled": cancel,
}


def run_faults(
    folder: Path, names: tuple[str, ...] = tuple(FAULTS), task_managers: int = 2
) -> dict[str, Verdict]:
    """A cluster, a stream on it, and faults; the verdict of each, and of the whole when it has stopped."""
    with (
        Broker.start(folder / "kafka") as broker,
        FlinkCluster.start(folder / "cluster", task_managers) as cluster,
    ):
        stream = Stream(cluster, broker, folder)
        verdicts = {}
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            verdicts[name] = stream.suffer(name)
            print(f"  {verdicts[name]}", file=sys.stderr, flush=True)
        print(f"the last checkpoint: {await_checkpoint(cluster)}", file=sys.stderr, flush=True)
        stream.end()
        verdicts["stopped"] = stream.judged(stream.through_us())
        left = read_forecasts(stream.job.output)
        quiet = read_forecasts(folder / "quiet").join(left, on=_IDENTITY, how="semi")
        assert_same_frames(quiet, left, scales(stream.fleet))
    return verdicts


def main(names: list[str]) -> int:
    """Runs faults, all or those named; the last line is one JSON object."""
    try:
        with tempfile.TemporaryDirectory(prefix="statecast-faults-") as folder:
            verdicts = run_faults(Path(folder), tuple(names) or tuple(FAULTS))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({name: asdict(verdict) for name, verdict in verdicts.items()}))
    return int(any(verdict.lost or verdict.doubled for verdict in verdicts.values()))


if __name__ == "__main__":
    psutil.Process().nice(5)
    sys.exit(main(sys.argv[1:]))
