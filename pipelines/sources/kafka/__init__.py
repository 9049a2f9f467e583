"""A topic of a Kafka broker as a log: its partitions and offsets are the broker's."""

from pipelines.sources.kafka.source import KafkaSource, forget

__all__ = ["KafkaSource", "forget"]
