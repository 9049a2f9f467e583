"""Every setting of training, backfill and stream, typed, by section of the job file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.fields import FieldInfo

from forecaster.config import CovariatesConfig, NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.setting_types import LocalPath, Settings
from forecaster.time.window_config import Duration, WindowConfig
from pipelines.settings.mlflow_config import MlflowConfig
from schemas.errors import ConfigError
from schemas.secrets import SecretOption, SecretUrl


def _as_list(paths: object) -> object:
    return (str(paths),) if isinstance(paths, str | Path) else paths


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _address_or(other: str) -> AfterValidator:
    """HOST:PORT, or ``other``, which is not spoken of where it is nothing."""

    def checked(text: str) -> str:
        if text != other and not _ADDRESS.fullmatch(text):
            raise ValueError(f"must be {other} or HOST:PORT" if other else "must be HOST:PORT")
        return text

    return AfterValidator(checked)


def time_of(option: str, text: str) -> datetime:
    """The time that an option names, in UTC unless it has a zone.

    Raises:
        ConfigError: it names none.
    """
    try:
        return _in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise ConfigError(f"{option} {text}: not a time; write 2013-09-01 or 2013-09-01T00:00Z") from None


def _encoding(name: str) -> str:
    """The name, if it is ``auto`` or one of Python's encodings of text."""
    try:
        if name == "auto" or codecs.lookup(name).encode("x")[0]:
            return name
    except (LookupError, TypeError):
        pass
    raise ValueError(f"must be auto or an encoding such as utf-8, cp1252 or utf-16; {name!r} is none")


def _time_format(text: str) -> str:
    if text == "auto":
        return text
    from schemas.time_formats import check  # patterns are tried with Polars, which takes long to import

    return check(text)


Time = Annotated[datetime, AfterValidator(_in_utc)]
Encoding = Annotated[str, AfterValidator(_encoding)]
TimeFormat = Annotated[str, AfterValidator(_time_format)]
Name = Annotated[str, Field(min_length=1)]

_ADDRESS = re.compile(r"[^/\s@]+:\d+")
_SECRET = re.compile(r"passw|passphrase|secret|token|user\.info|key\.pem|jaas|oauthbearer\.config")
"""Options of a client that nobody should write into a job file."""


class ColumnsConfig(Settings):
    """Which column of a file is what; an empty name is found by the names people use."""

    layout: Literal["auto", "long", "wide"] = Field(
        default="auto",
        description="long: a row is series, time, value; wide: a time column and one column a series; "
        "auto: long if the columns for it are there",
    )
    series_id: str = Field(
        default="", description='column of the series; "" finds series_id, unique_id or item_id'
    )
    timestamp: str = Field(
        default="",
        description='column of times; "" finds timestamp, ds, time, date, datetime, date_time or time_hour',
    )
    value: str = Field(default="", description='column of the value (long only); "" finds value, y or target')
    event_id: str = Field(
        default="", description='column that tells rows of one series and time apart; "": there is none'
    )
    time_format: TimeFormat = Field(
        default="auto",
        description="what times are; auto: ISO 8601, or numbers since 1970 from 1973 on; s, ms, us or ns: "
        "numbers since 1970; excel: days of a spreadsheet; or a pattern such as %m/%d/%Y %H:%M, %Y or %Y%m",
    )
    decimal: Literal["auto", ".", ","] = Field(
        default="auto",
        description="decimal sign of CSV files; auto: found from the numbers of each file, thousands may be "
        "separated",
    )
    missing: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        default=(), description="numbers that stand for a missing value in files, such as [-9999]"
    )
    encoding: Encoding = Field(
        default="auto",
        description="encoding of text files, such as cp1252; auto: UTF-8, or UTF-16 where a file begins "
        "with its mark",
    )


class Columns(ColumnsConfig):
    """Which column is what, those of ``covariates.observed`` among them."""

    observed: tuple[str, ...] = ()


class DataConfig(ColumnsConfig):
    """What is read."""

    paths: Annotated[tuple[LocalPath, ...], BeforeValidator(_as_list)] = Field(
        default=(), description="files or folders: CSV, Parquet or JSON lines"
    )
    start: Time | None = Field(
        default=None, description="only rows from this time on (UTC unless it has a zone)"
    )
    end: Time | None = Field(default=None, description="only rows before this time")
    batch_rows: int = Field(default=200_000, ge=1, le=100_000_000, description="rows read at a time")
    skip_bad_files: bool | None = Field(
        default=None,
        description="quarantine a file that cannot be read and go on (true), or stop (false); unset: a "
        "stream that watches a folder goes on, every other job stops",
    )
    max_future: Duration | None = Field(
        default=None,
        description="a row later than the wall clock by more than this is quarantined; unset: one window",
    )
    max_quarantined: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="a larger share of quarantined rows ends a backfill, a training, an evaluation or a "
        "labelling; a stream warns; 1 takes any share",
    )
    memory_mb: int = Field(
        default=2048,
        ge=16,
        le=16_777_216,
        description="megabytes of rows a source may hold; a replay of more is sorted in pieces on disk",
    )

    @model_validator(mode="after")
    def _rises(self) -> DataConfig:
        if self.start and self.end and self.start >= self.end:
            raise ValueError("data.end must be later than data.start")
        return self


class JobsConfig(Settings):
    """How work is cut up."""

    shards: int = Field(
        default=8,
        ge=1,
        le=65_536,
        description="groups of series stepped together; forecasts do not depend on it",
    )
    windows_per_step: int = Field(
        default=32,
        ge=1,
        le=100_000,
        description="most windows of a shard advanced at once, where there is a backlog",
    )
    runner: Literal["auto", "in-process", "prism", "flink"] = Field(
        default="auto",
        description="the engine; auto: a backfill runs in process, a stream on Prism where it is installed, "
        "else in process",
    )
    flink_master: Annotated[str, _address_or("[local]")] = Field(
        default="[local]",
        description="flink: [local], a Flink of the job's own, or HOST:PORT of a session cluster",
    )
    flink_workers: Annotated[str, _address_or("")] = Field(
        default="",
        description="flink: HOST:PORT of the pool of Python workers, as task managers reach it; without it "
        "the workers are in the job's own process",
    )
    restarts: int = Field(
        default=3,
        ge=0,
        description="how often a job goes on by itself where its engine dies: a stream from its snapshots, a "
        "backfill from the start",
    )


class StreamConfig(Settings):
    """How rows arrive in a stream."""

    source: Literal["replay", "watch", "kafka"] = Field(
        default="replay",
        description="replay: the files as if they came in now; watch: folders for new files; kafka: a topic",
    )
    speed: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="replay: seconds of event time per second; 0 is as fast as possible",
    )
    snapshot_every_s: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds between two snapshots of the state; a stream that is killed does again what it "
        "did since the last",
    )
    poll_s: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="watch: seconds between two looks into the folders",
    )


class KafkaConfig(Settings):
    """A topic that a stream reads, and topics that it writes to."""

    bootstrap: Name = Field(default="localhost:9092", description="host:port of brokers, with commas between")
    topic: str = Field(default="", description="topic whose messages are rows")
    decoder: Name = Field(
        default="json",
        description="what a message is: json, avro, arrow, or module:function of a decoder of one's own; "
        "which field is what is said in [data]",
    )
    series: Literal["value", "key"] = Field(
        default="value", description="key: the key of a message, as text, is its series"
    )
    keyed: bool = Field(
        default=False,
        description="true: every series has one partition, and each shard follows its own partitions alone: "
        "partition N goes to shard N modulo jobs.shards",
    )
    avro_schema: LocalPath = Field(default="", description="avro: file of the schema")
    registry: SecretUrl = Field(
        default=SecretUrl(""), description="avro: URL of the schema registry, where no file is given"
    )
    registry_wait_s: float = Field(
        default=60.0,
        ge=0,
        allow_inf_nan=False,
        description="avro: seconds to wait for a registry that does not answer; then messages whose schema "
        "is not known are quarantined, until it answers again",
    )
    start: Literal["earliest", "latest"] | Time = Field(
        default="earliest",
        description="where a stream begins that does not go on from its state table: earliest, latest, or a "
        "time, that of the messages",
    )
    idle_s: float = Field(
        default=30.0,
        gt=0,
        description="seconds without a row, confirmed with the broker, after which a partition no longer "
        "holds the others back; a row that comes later and is older than they are is late",
    )
    group: Name = Field(
        default="statecast", description="consumer group under which the broker shows people how far we are"
    )
    to_topic: str = Field(default="", description='topic to send forecasts to; "": files')
    to_format: Literal["json", "avro", "arrow"] = Field(
        default="json", description="forecasts as a message each (json, avro), or many (arrow)"
    )
    to_late: str = Field(default="", description='topic to send late rows to, as JSON; "": files')
    to_quarantine: str = Field(
        default="", description='topic to send quarantined rows to, as JSON; "": files'
    )
    options: dict[str, SecretOption] = Field(
        default_factory=dict,
        description="options of the client (librdkafka), such as "
        '{ "security.protocol" = "SASL_SSL", "sasl.password" = "$KAFKA_PASSWORD" }; a value $NAME is '
        "looked up in the environment",
    )

    @model_validator(mode="after")
    def _keeps_secrets(self) -> KafkaConfig:
        for name, value in self.options.items():
            if _SECRET.search(name) and not value.get_secret_value().startswith("$"):
                raise ValueError(f"kafka.options: {name} must be $NAME, a variable of the environment")
        if self.to_format == "avro" and self.to_topic and not self.registry.get_secret_value():
            raise ValueError("kafka.to_format = avro needs kafka.registry")
        for name in ("to_late", "to_quarantine"):
            if getattr(self, name) and not self.to_topic:
                raise ValueError(f"kafka.{name} needs kafka.to_topic: without it all goes to files")
        return self


class OutputConfig(Settings):
    """Where results go."""

    folder: Name = Field(
        default="out", description="folder for forecasts, states, scores and quarantined rows"
    )
    format: Literal["parquet", "jsonl"] = Field(
        default="parquet", description="forecasts as parquet or jsonl files"
    )


class JobConfig(Settings):
    """All settings of a job, by section."""

    data: DataConfig = Field(default_factory=DataConfig)
    windows: WindowConfig = Field(default_factory=WindowConfig)
    covariates: CovariatesConfig = Field(default_factory=CovariatesConfig)
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    online: OnlineConfig = Field(default_factory=OnlineConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    jobs: JobsConfig = Field(default_factory=JobsConfig)
    stream: StreamConfig = Field(default_factory=StreamConfig)
    kafka: KafkaConfig = Field(default_factory=KafkaConfig)
    mlflow: MlflowConfig = Field(default_factory=MlflowConfig)
    output: OutputConfig = Field(default_factory=OutputConfig)

    def flat(self) -> dict[str, object]:
        """Every setting that has a value, by its dotted name as ``network.hidden``; secrets are masked."""
        values = {key: value for key, _, value in self.entries() if value is not None}
        return {
            key: {name: str(option) for name, option in value.items()} if isinstance(value, dict) else value
            for key, value in values.items()
        }

    def entries(self) -> Iterator[tuple[str, FieldInfo, object]]:
        """Every setting: its dotted name, what it can be, and its value."""
        for name in JobConfig.model_fields:
            section: Settings = getattr(self, name)
            for key, field in type(section).model_fields.items():
                yield f"{name}.{key}", field, getattr(section, key)


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting may hold a secret: its type says so, and its text leaves the secret out."""
    return any(kind in (SecretUrl, SecretOption) for kind in (field.annotation, *get_args(field.annotation)))


SECRET_SETTINGS: Final = tuple(key for key, field, _ in JobConfig().entries() if is_secret(field))
"""The settings that may hold a secret."""
