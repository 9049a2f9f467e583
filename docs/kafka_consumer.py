"""Reads forecasts from a topic, each of them once: `python kafka_consumer.py HOST:PORT TOPIC`.

A stream that was killed sends again what it had sent since its last snapshots: the same forecasts, under
the same identities. Those of a series lie in one partition, in the order of their issue. So a forecast that
is not later than the last one of its series, model version and revision has been seen before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from confluent_kafka import Consumer


class Once:
    """Lets each forecast through once. It holds one time a series, and nothing of the forecasts."""

    def __init__(self) -> None:
        self.newest: dict[tuple[bytes, bytes, bytes], bytes] = {}

    def is_new(self, message: Any) -> bool:
        """Whether nothing of this identity came before."""
        headers = dict(message.headers())
        of = message.key(), headers["model_version"], headers["revision"]
        if headers["issued_at"] <= self.newest.get(of, b""):  # ISO 8601, all in UTC: text sorts as time does
            return False
        self.newest[of] = headers["issued_at"]
        return True


def forecasts(messages: Iterable[Any], once: Once) -> Iterator[dict[str, Any]]:
    """The forecasts of JSON messages, without repeats."""
    for message in messages:
        if once.is_new(message):
            yield json.loads(message.value())


def main(bootstrap: str, topic: str) -> None:
    """Prints forecasts as they come."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "shown", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    once = Once()
    while True:
        messages = [message for message in consumer.consume(1000, 1.0) if message.error() is None]
        for forecast in forecasts(messages, once):
            print(forecast["series_id"], forecast["issued_at"], forecast["forecast"][0])


if __name__ == "__main__":
    main(*sys.argv[1:])
