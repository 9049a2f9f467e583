"""Test of the errors for a Kafka broker that refuses connections or does not answer."""

from __future__ import annotations

import pytest

from pipelines.settings.kafka import Broker, LastError, error_of

confluent_kafka = pytest.importorskip("confluent_kafka", reason="left out: confluent-kafka is not installed")


@pytest.mark.parametrize(
    ("error_names", "message"),
    [
        ([], "here:1: no Kafka broker answers there: see kafka.bootstrap"),
        (["_TRANSPORT"], "here:1: no Kafka broker answers there (the reason): see kafka.bootstrap"),
        (
            ["_AUTHENTICATION", "_ALL_BROKERS_DOWN"],
            "here:1: the broker refuses the connection (the reason): see kafka.options",
        ),
        (["_AUTHENTICATION", "_TRANSPORT"], "here:1: no Kafka broker answers there (the reason): see"),
    ],
)
def test_timeout_errors_distinguish_unreachable_brokers_from_refused_connections(
    error_names: list[str], message: str
) -> None:
    last = LastError()
    for name in error_names:
        last(confluent_kafka.KafkaError(getattr(confluent_kafka.KafkaError, name), "the reason"))
    timed_out = confluent_kafka.KafkaError(confluent_kafka.KafkaError._TIMED_OUT)
    assert str(error_of(Broker("here:1"), timed_out, last)).startswith(message)
