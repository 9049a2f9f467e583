"""Print the forecasts of a topic, each once: `python kafka_consumer.py HOST:PORT TOPIC`.

After a kill, a stream sends the forecasts since its last snapshots again, under the same identities. The
forecasts of a series are in one partition, in the order of their issue times. So a forecast whose issue time
is not later than that of the last one of its series, model version and revision is a repetition.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from confluent_kafka import Consumer


class Once:
    """A filter that accepts each forecast once. It stores one issue time for each series and no forecast."""

    def __init__(self) -> None:
        self.newest: dict[tuple[bytes, bytes, bytes], bytes] = {}

    def is_new(self, message: Any) -> bool:
        """Return whether a message is later than the last one of its series, and remember it if it is."""
        headers = dict(message.headers())
        of = message.key(), headers["model_version"], headers["revision"]
        if headers["issued_at"] <= self.newest.get(of, b""):  # ISO 8601 in UTC sorts as text
            return False
        self.newest[of] = headers["issued_at"]
        return True


def forecasts(messages: Iterable[Any], once: Once) -> Iterator[dict[str, Any]]:
    """Yield the forecasts of JSON messages without repetitions."""
    for message in messages:
        if once.is_new(message):
            yield json.loads(message.value())


def main(bootstrap: str, topic: str) -> None:
    """Print forecasts as they arrive."""
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
