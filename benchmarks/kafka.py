"""Measure a stream through a real broker: latency from producer to consumer, and the rate of a full topic.

``python -m benchmarks.kafka`` takes several minutes, with ``--quick`` two. It needs Java
(`pipelines.runners.java`). The last line of standard output is one JSON object.

Paced: one process produces one window of the whole fleet each second, as JSON, and another one consumes the
forecasts. The first rows of the next window close a window, so latency counts from the time when those rows
were produced. Unpaced: the job reads a full topic of Arrow or JSON messages as fast as it can, first as any
topic and then as a topic keyed by series, so that each shard reads only one partition.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks import fleet, machine
from benchmarks.fleet import Fleet
from benchmarks.targets import line
from pipelines.jobs.forecast import run_stream
from pipelines.jobs.job import StreamJob
from pipelines.settings.kafka import Broker as Address
from pipelines.sinks.kafka import Topics
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.messages import DecoderSpec
from pipelines.sources.reader import request_stop
from pipelines.sources.replay import ReplaySource
from pipelines.state import state_table
from pipelines.storage import store_of
from tests.cluster.broker import Broker

_PARTITIONS = 4
_ROWS_A_MESSAGE = 2_500


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kafka", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it runs")
    parser.add_argument("--series", type=int, default=10_000, help="size of the fleet")
    parser.add_argument("--part", choices=["produce", "consume"], help=argparse.SUPPRESS)
    parser.add_argument("--bootstrap", help=argparse.SUPPRESS)
    parser.add_argument("--windows", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.part:
        # The garbage collector would take processor time from the job, and it would find no reference cycles.
        gc.disable()
    if chosen.part == "produce":
        return _produce_paced(chosen.bootstrap, chosen.series, chosen.windows)
    if chosen.part == "consume":
        return _consume(chosen.bootstrap, chosen.series, chosen.windows)
    print(machine.described(), flush=True)
    found: dict[str, float] = {"series": chosen.series}
    with (
        tempfile.TemporaryDirectory(prefix="statecast-kafka-") as folder,
        Broker.start(Path(folder) / "broker") as broker,
    ):
        windows = 20 if chosen.quick else 60
        found |= _paced(broker.bootstrap, Path(folder) / "paced", chosen.series, windows)
        line("produced to consumed, p50 (ms)", found["p50_ms"], "at most", 300)
        line("produced to consumed, p99 (ms)", found["p99_ms"], "at most", 600)
        windows = (1_000_000 if chosen.quick else 10_000_000) // chosen.series
        found["replay"] = _replayed(Path(folder) / "replay", chosen.series, windows)
        print(f"{found['replay']:>12,.0f}  a replay of {windows * chosen.series:,} rows, whole job")
        for kind in ("arrow", "json"):
            _fill(broker.bootstrap, kind, chosen.series, windows)
            for name, keyed in ((kind, False), (f"{kind}_keyed", True)):
                job = _job(broker.bootstrap, kind, kind, Path(folder) / name, keyed=keyed)
                found[name] = _rate(job, windows * chosen.series)
                print(f"{found[name]:>12,.0f}  the same from a topic, {kind}{', keyed' * keyed}")
                line(f"{name} / replay", found[name] / found["replay"], "at least", 0.8)
    print(json.dumps({name: round(value, 1) for name, value in found.items()}))
    return 0


def _paced(bootstrap: str, output: Path, series: int, windows: int) -> dict[str, float]:
    _create_topics(bootstrap, "paced", "forecasts")
    asked = ["--bootstrap", bootstrap, "--series", str(series), "--windows", str(windows)]
    command = [sys.executable, "-m", "benchmarks.kafka", *asked, "--part"]
    parts = [
        subprocess.Popen([*command, part], stdout=subprocess.PIPE, text=True)
        for part in ("produce", "consume")
    ]
    job = _job(bootstrap, "paced", "json", output, Topics(Address(bootstrap), "forecasts"))
    _run(job, series * windows)
    produced, consumed = (json.loads(part.communicate()[0]) for part in parts)
    latency_ms = [
        1000 * (at - produced[window + 1])
        for window, at, many in consumed
        if window + 1 < len(produced)
        for _ in range(many)
    ]
    # drop the first fifth of the forecasts, because the engine was starting
    latency_ms = latency_ms[len(latency_ms) // 5 :]
    levels = statistics.quantiles(latency_ms, n=100)
    return {"p50_ms": round(levels[49], 1), "p99_ms": round(levels[98], 1)}


def _replayed(folder: Path, series: int, windows: int) -> float:
    """Return the rate of a replay from a Parquet file, in series-steps per second, start-up included."""
    folder.mkdir()
    rows, states = str(Fleet(series).write(folder / "rows.parquet", windows)), folder / "out" / "state"
    source = ReplaySource((rows,), fleet.INPUT, fleet.FREQ, manifest_folder=states)
    return _rate(StreamJob(fleet.forecaster(), source, folder / "out"), series * windows)


def _fill(bootstrap: str, kind: str, series: int, windows: int) -> None:
    """Create a topic with the name of its message format and fill it with the rows of the fleet."""
    _create_topics(bootstrap, kind)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "compression.type": "lz4"})
    for frame in Fleet(series).frames(windows):
        for value, partition in messages(frame, kind):
            _put(producer, kind, value, partition)
    producer.flush()


def _rate(job: StreamJob, rows: int) -> float:
    began_s = time.monotonic()
    outcome = _run(job, rows)
    assert outcome.counts.missing == 0, outcome.counts
    rate = outcome.counts.series_steps / (time.monotonic() - began_s)
    store_of(job.output).remove_tree()  # free the disk of gigabytes of forecasts
    return float(rate)


def _run(job: StreamJob, rows: int) -> Any:
    def look(numbers: Any) -> None:
        if numbers.counts.rows_in >= rows:
            request_stop(job.stop_file)

    return run_stream(job, look)


def _job(
    bootstrap: str, topic: str, kind: str, output: Path, topics: Topics | None = None, keyed: bool = False
) -> StreamJob:
    states = output / "state"
    source = KafkaSource(Address(bootstrap), topic, DecoderSpec(kind), fleet.INPUT, fleet.FREQ, states)
    if not keyed:
        return StreamJob(fleet.forecaster(), source, output, topics=topics)
    source = replace(source, keyed_shards=_PARTITIONS, read_series_shards=state_table.read_series_shards)
    return StreamJob(fleet.forecaster(), source, output, shards=_PARTITIONS, topics=topics)


def _create_topics(bootstrap: str, *names: str) -> None:
    client = AdminClient({"bootstrap.servers": bootstrap})
    for made in client.create_topics([NewTopic(name, _PARTITIONS, 1) for name in names]).values():
        made.result(30)


def messages(frame: pl.DataFrame, kind: str) -> Iterator[tuple[bytes, int]]:
    """Yield rows in time order as messages with their partitions; a series is always in the same partition.

    A JSON message holds one row, and partitions alternate with the rows of a window. An Arrow message holds
    many rows of one partition.
    """
    home = frame["series_id"].str.tail(2).cast(pl.Int64) % _PARTITIONS
    for _, window in frame.with_columns(home.alias("home")).group_by("timestamp", maintain_order=True):
        if kind == "json":
            sink = io.BytesIO()
            window.drop("home").write_ndjson(sink)
            yield from zip(sink.getvalue().splitlines(), window["home"].to_list(), strict=True)
            continue
        for number in range(_PARTITIONS):
            for piece in window.filter(pl.col("home") == number).drop("home").iter_slices(_ROWS_A_MESSAGE):
                sink = io.BytesIO()
                piece.write_ipc_stream(sink)
                yield sink.getvalue(), number


def _put(producer: Any, topic: str, value: bytes, partition: int) -> None:
    while True:
        try:
            producer.produce(topic, value, partition=partition)
            return
        except BufferError:
            producer.poll(0.05)


def _produce_paced(bootstrap: str, series: int, windows: int) -> int:
    """Produce one window each second, and print the times at which the windows were begun."""
    frames = [
        window for _, window in _all_rows(Fleet(series), windows).group_by("timestamp", maintain_order=True)
    ]
    made = [[*messages(frame, "json")] for frame in frames]
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})
    time.sleep(5)
    began_s, at = time.time(), []
    for window, sent in enumerate(made):
        time.sleep(max(0.0, began_s + window - time.time()))
        at.append(time.time())
        for value, partition in sent:
            _put(producer, "paced", value, partition)
        producer.poll(0)
    producer.flush()
    print(json.dumps(at))
    return 0


def _all_rows(of: Fleet, windows: int) -> pl.DataFrame:
    return pl.concat(of.frames(windows))


def _consume(bootstrap: str, series: int, windows: int) -> int:
    """Consume all forecasts; print window, arrival time and number of forecasts of each poll and window."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench"})
    consumer.assign([TopicPartition("forecasts", number, 0) for number in range(_PARTITIONS)])
    found: Counter[tuple[Any, float]] = Counter()
    while found.total() < series * (windows - 1):
        messages, now_s = consumer.consume(10_000, 0.01), time.time()
        found.update((dict(message.headers() or ())["issued_at"], now_s) for message in messages)
    consumer.close()
    print(json.dumps([(_window_before(issued), now_s, many) for (issued, now_s), many in found.items()]))
    return 0


def _window_before(issued_at: bytes) -> int:
    """Return the number, from 0, of the window that ends at an issue time."""
    end_s = datetime.fromisoformat(issued_at.decode()).timestamp()
    return int(end_s) // fleet.FREQ_S - 1 - fleet.START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
