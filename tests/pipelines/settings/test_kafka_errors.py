from __future__ import annotations

import pytest

from pipelines.settings.kafka import Broker, LastError, error_of

confluent_kafka = pytest.importorskip("confluent_kafka", reason="left out: confluent-kafka is not installed")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([], "here:1: no Kafka broker answers there: see kafka.bootstrap"),
        (["_TRANSPORT"], "here:1: no Kafka broker answers there (it said so): see kafka.bootstrap"),
        (["_AUTHENTICATION", "_ALL_BROKERS_DOWN"], "here:1: refuses us (it said so): see kafka.options"),
        (["_AUTHENTICATION", "_TRANSPORT"], "here:1: no Kafka broker answers there (it said so): see"),
    ],
)
def test_a_broker_that_lets_nobody_in_is_told_from_one_that_is_away(said: list[str], told: str) -> None:
    last = LastError()
    for name in said:
        last(confluent_kafka.KafkaError(getattr(confluent_kafka.KafkaError, name), "it said so"))
    timed_out = confluent_kafka.KafkaError(confluent_kafka.KafkaError._TIMED_OUT)
    assert str(error_of(Broker("here:1"), timed_out, last)).startswith(told)
