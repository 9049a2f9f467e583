"""Define the section ``[kafka]`` of the job file: the topics that a stream reads from and sends to."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from forecaster.setting_types import LocalPath, Settings, SettingsConflict
from pipelines.settings.setting_types import Name, Time
from schemas.secrets import SecretOption, SecretUrl

_SECRET = re.compile(r"passw|passphrase|secret|token|user\.info|key\.pem|jaas|oauthbearer\.config")
"""Matches the names of client options that hold secrets, which must not be written into a job file."""


class KafkaConfig(Settings):
    """The topic that a stream reads, and the topics that it sends to."""

    bootstrap: Name = Field(
        default="localhost:9092",
        description="addresses of the Kafka brokers, HOST:PORT with commas between; a login is set "
        "in kafka.options",
    )
    topic: str = Field(default="", description="Kafka topic to read; its messages are rows")
    decoder: Name = Field(
        default="json",
        description="format of messages: json, avro, arrow, or module:function of your own decoder; [data] "
        "names the fields",
    )
    series: Literal["value", "key"] = Field(
        default="value",
        description="key: the key of a message, as text, is the series id; value: a field of the message is",
    )
    keyed: bool = Field(
        default=False,
        description="true: every series has one partition, and each shard follows its own partitions alone: "
        "partition N goes to shard N modulo jobs.shards",
    )
    avro_schema: LocalPath = Field(default="", description="avro: file of the schema")
    registry: SecretUrl = Field(
        default=SecretUrl(""), description="avro: URL of the schema registry, if no file is given"
    )
    registry_wait_s: float = Field(
        default=60.0,
        ge=0,
        allow_inf_nan=False,
        description="avro: seconds to wait for a registry that does not answer; after that, messages with an "
        "unknown schema are quarantined until it answers again",
    )
    start: Literal["earliest", "latest"] | Time = Field(
        default="earliest",
        description="where a stream begins that does not resume from its state table: earliest, latest, or a "
        "time, compared with the timestamps of the messages",
    )
    idle_s: float = Field(
        default=30.0,
        gt=0,
        description="seconds without a row, confirmed with the broker, after which the watermark no longer "
        "waits for a partition; a row that arrives later and is older than the watermark is late",
    )
    group: Name = Field(
        default="statecast",
        description="consumer group under which the broker shows how far the stream has read",
    )
    to_topic: str = Field(
        default="",
        description="Kafka topic that forecasts are sent to; without one, they are written to files",
    )
    to_format: Literal["json", "avro", "arrow"] = Field(
        default="json",
        description="format of sent forecasts: json or avro (one in each message), or arrow (many)",
    )
    to_late: str = Field(default="", description='topic to send late rows to, as JSON; "": write files')
    to_quarantine: str = Field(
        default="", description='topic to send quarantined rows to, as JSON; "": write files'
    )
    to_shadow: str = Field(
        default="",
        description="topic to send the forecasts of stream.shadow to, in the format kafka.to_format; "
        '"": write files',
    )
    options: dict[str, SecretOption] = Field(
        default_factory=dict,
        description="options of the client (librdkafka), such as "
        '{ "security.protocol" = "SASL_SSL", "sasl.password" = "$KAFKA_PASSWORD" }; a value $NAME is '
        "looked up in the environment",
    )

    @model_validator(mode="after")
    def _check_options_and_topics(self) -> KafkaConfig:
        for name, value in self.options.items():
            if _SECRET.search(name) and not value.get_secret_value().startswith("$"):
                raise SettingsConflict(
                    "{}: {} must be $NAME, the name of an environment variable", "kafka.options", name
                )
        if self.to_format == "avro" and self.to_topic and not self.registry.get_secret_value():
            raise SettingsConflict("{} = avro needs {}", "kafka.to_format", "kafka.registry")
        for name in ("to_late", "to_quarantine", "to_shadow"):
            if getattr(self, name) and not self.to_topic:
                raise SettingsConflict(
                    "{} needs {}: without it, all rows are written to files",
                    f"kafka.{name}",
                    "kafka.to_topic",
                )
        return self
