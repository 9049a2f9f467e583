"""Read a Kafka topic as a log; the log has the partitions and offsets of the topic."""

from pipelines.sources.kafka.source import KafkaSource

__all__ = ["KafkaSource"]
