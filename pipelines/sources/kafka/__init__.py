"""Read a Kafka topic as a log with the partitions and offsets of the topic."""

from pipelines.sources.kafka.source import KafkaSource

__all__ = ["KafkaSource"]
