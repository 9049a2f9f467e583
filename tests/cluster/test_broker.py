"""Test that the broker of the tests keeps its messages and its address after a kill and a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.broker import Broker

confluent_kafka = pytest.importorskip("confluent_kafka")
admins = pytest.importorskip("confluent_kafka.admin")


def test_a_killed_broker_keeps_its_messages_and_its_address(broker: Broker, tmp_path: Path) -> None:
    with Broker.start(tmp_path / "separate") as own:
        assert own.bootstrap != broker.bootstrap
        admin = admins.AdminClient({"bootstrap.servers": own.bootstrap})
        admin.create_topics([admins.NewTopic("rows", 2)])["rows"].result(20)
        producer = confluent_kafka.Producer({"bootstrap.servers": own.bootstrap})
        for number in range(10):
            producer.produce("rows", str(number), partition=number % 2)
        assert producer.flush(20) == 0
        before, address = own.pid, own.bootstrap
        own.kill()
        assert own.pid is None
        own.restart()
        assert own.pid not in (None, before)
        assert own.bootstrap == address
        consumer = confluent_kafka.Consumer({"bootstrap.servers": own.bootstrap, "group.id": "reader"})
        ends = [
            consumer.get_watermark_offsets(confluent_kafka.TopicPartition("rows", partition), timeout=20)
            for partition in range(2)
        ]
        consumer.close()
        assert ends == [(0, 5), (0, 5)]
    assert own.pid is None
