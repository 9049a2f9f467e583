"""Send the rows of a Parquet file to a topic: `python kafka_producer.py HOST:PORT TOPIC FILE`.

The topic is created if it does not exist. The key of a message is its series id, so that the rows of a series
are in one partition and in order.
"""

from __future__ import annotations

import json
import sys

import polars as pl
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

PARTITIONS = 4


def make(bootstrap: str, *topics: str) -> None:
    """Create the topics that do not exist."""
    client = AdminClient({"bootstrap.servers": bootstrap})
    there = client.list_topics(timeout=10).topics
    new = [NewTopic(topic, PARTITIONS, 1) for topic in topics if topic not in there]
    for made in (client.create_topics(new) if new else {}).values():
        made.result()


def send(bootstrap: str, topic: str, rows: pl.DataFrame) -> None:
    """Send rows (``series_id``, ``timestamp``, ``value``) ordered by time, one message each."""
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    text = pl.col("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
    for row in rows.sort("timestamp").with_columns(text).iter_rows(named=True):
        while True:
            try:
                producer.produce(topic, json.dumps(row), row["series_id"])
                break
            except BufferError:  # the client's queue is full: wait until it has sent some
                producer.poll(1.0)
    producer.flush()


def main(bootstrap: str, topic: str, file: str) -> None:
    """Create the topic and the topic of forecasts, and send the file."""
    make(bootstrap, topic, "forecasts")
    send(bootstrap, topic, pl.read_parquet(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
