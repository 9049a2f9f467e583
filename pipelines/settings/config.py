"""The types, defaults and descriptions of all settings, as one class for each section of the job file."""

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
from forecaster.evaluation.gate import GateConfig
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
    """Return a validator that accepts HOST:PORT and the text ``other``, which may be empty."""

    def checked(text: str) -> str:
        if text != other and not _ADDRESS.fullmatch(text):
            raise ValueError(f"must be {other} or HOST:PORT" if other else "must be HOST:PORT")
        return text

    return AfterValidator(checked)


def time_of(option: str, text: str) -> datetime:
    """Return the time that an option gives, read as UTC unless it has a zone.

    Raises:
        ConfigError: the text is not a time.
    """
    try:
        return _in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise ConfigError(f"{option} {text}: not a time; write 2013-09-01 or 2013-09-01T00:00Z") from None


def _encoding(name: str) -> str:
    """Check that a name is ``auto`` or a text encoding of Python, and return it.

    Raises:
        ValueError: the name is neither.
    """
    try:
        if name == "auto" or codecs.lookup(name).encode("x")[0]:
            return name
    except (LookupError, TypeError):
        pass
    raise ValueError("must be auto or an encoding of Python, such as utf-8, cp1252 or utf-16")


def _time_format(text: str) -> str:
    if text == "auto":
        return text
    from schemas.time_formats import check  # not at the top, because it imports Polars, which takes long

    return check(text)


Time = Annotated[datetime, AfterValidator(_in_utc)]
Encoding = Annotated[str, AfterValidator(_encoding)]
TimeFormat = Annotated[str, AfterValidator(_time_format)]
Name = Annotated[str, Field(min_length=1)]

_ADDRESS = re.compile(r"[^/\s@]+:\d+")
_SECRET = re.compile(r"passw|passphrase|secret|token|user\.info|key\.pem|jaas|oauthbearer\.config")
"""Matches the names of client options that hold secrets, which must not be written into a job file."""


class ColumnsConfig(Settings):
    """Names of the columns of files; an empty name selects the column by its usual names."""

    layout: Literal["auto", "long", "wide"] = Field(
        default="auto",
        description="long: a row holds a series, a time and a value; wide: a time column and one column for "
        "each series; auto: long if the files have its columns",
    )
    series_id: str = Field(
        default="", description='column of series ids; "" finds series_id, unique_id or item_id'
    )
    timestamp: str = Field(
        default="",
        description='column of times; "" finds timestamp, ds, time, date, datetime, date_time or time_hour',
    )
    value: str = Field(default="", description='column of the value (long only); "" finds value, y or target')
    event_id: str = Field(
        default="",
        description='column that distinguishes rows with the same series and time; "": no such column',
    )
    time_format: TimeFormat = Field(
        default="auto",
        description="format of the times; auto: ISO 8601, or numbers since 1970 from 1973 on; s, ms, us or "
        "ns: numbers since 1970; excel: days of a spreadsheet; or a pattern such as %m/%d/%Y %H:%M, %Y "
        "or %Y%m",
    )
    decimal: Literal["auto", ".", ","] = Field(
        default="auto",
        description="decimal sign of CSV files; auto: detected from the numbers of each file, which may have "
        "thousands separators",
    )
    missing: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        default=(), description="numbers that mean a missing value in files, such as [-9999]"
    )
    encoding: Encoding = Field(
        default="auto",
        description="encoding of text files, such as cp1252; auto: UTF-8, or UTF-16 if a file begins with "
        "its byte order mark",
    )


class Columns(ColumnsConfig):
    """Names of the columns of files, with the names of the observed covariates (``covariates.observed``)."""

    observed: tuple[str, ...] = ()


class DataConfig(ColumnsConfig):
    """The input files, which rows of them are read, and how bad rows and files are treated."""

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
        description="quarantine a file that cannot be read and continue (true), or stop (false); unset: a "
        "stream that watches a folder continues, every other job stops",
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
        description="megabytes of rows that a source may hold; a larger replay is sorted in pieces on disk",
    )

    @model_validator(mode="after")
    def _check_order_of_bounds(self) -> DataConfig:
        if self.start and self.end and self.start >= self.end:
            raise ValueError("data.end must be later than data.start")
        return self


class JobsConfig(Settings):
    """The engine of a job, and how its work is divided."""

    shards: int = Field(
        default=8,
        ge=1,
        le=65_536,
        description="number of groups of series that are stepped together; forecasts do not depend on it",
    )
    windows_per_step: int = Field(
        default=32,
        ge=1,
        le=100_000,
        description="most windows that a shard is advanced by in one call when there is a backlog",
    )
    runner: Literal["auto", "in-process", "prism", "flink"] = Field(
        default="auto",
        description="the engine; auto: a backfill runs in process, a stream on Prism if it is installed, "
        "else in process",
    )
    flink_master: Annotated[str, _address_or("[local]")] = Field(
        default="[local]",
        description="flink: [local] starts a Flink for the job, HOST:PORT names a session cluster",
    )
    flink_workers: Annotated[str, _address_or("")] = Field(
        default="",
        description="flink: HOST:PORT of the pool of Python workers, as task managers reach it; without it "
        "the workers run in the job's own process",
    )
    restarts: int = Field(
        default=3,
        ge=0,
        description="how often a job restarts by itself if its engine dies: a stream from its snapshots, a "
        "backfill from the start",
    )


class StreamConfig(Settings):
    """The source of a stream's rows, and how often its state is saved."""

    source: Literal["replay", "watch", "kafka"] = Field(
        default="replay",
        description="replay: files, as if their rows arrived now; watch: files of a folder; kafka: a topic",
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
        description="seconds between two snapshots of the state; a stream that is killed repeats the work "
        "since the last one",
    )
    poll_s: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="watch: seconds between two listings of the folder",
    )


class KafkaConfig(Settings):
    """The topic that a stream reads, and the topics that it sends to."""

    bootstrap: Name = Field(default="localhost:9092", description="host:port of brokers, with commas between")
    topic: str = Field(default="", description="topic whose messages are rows")
    decoder: Name = Field(
        default="json",
        description="format of messages: json, avro, arrow, or module:function of your own decoder; [data] "
        "names the fields",
    )
    series: Literal["value", "key"] = Field(
        default="value",
        description="key: the key of a message, as text, is its series id; value: a field of it is",
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
    to_topic: str = Field(default="", description='topic to send forecasts to; "": write files')
    to_format: Literal["json", "avro", "arrow"] = Field(
        default="json",
        description="format of sent forecasts: one a message (json, avro), or many a message (arrow)",
    )
    to_late: str = Field(default="", description='topic to send late rows to, as JSON; "": write files')
    to_quarantine: str = Field(
        default="", description='topic to send quarantined rows to, as JSON; "": write files'
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
                raise ValueError(f"kafka.options: {name} must be $NAME, the name of an environment variable")
        if self.to_format == "avro" and self.to_topic and not self.registry.get_secret_value():
            raise ValueError("kafka.to_format = avro needs kafka.registry")
        for name in ("to_late", "to_quarantine"):
            if getattr(self, name) and not self.to_topic:
                raise ValueError(
                    f"kafka.{name} needs kafka.to_topic: without it, all rows are written to files"
                )
        return self


class OutputConfig(Settings):
    """The folder of the results, and the format of forecast files."""

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
    gate: GateConfig = Field(default_factory=GateConfig)
    mlflow: MlflowConfig = Field(default_factory=MlflowConfig)
    output: OutputConfig = Field(default_factory=OutputConfig)

    def flat(self) -> dict[str, object]:
        """Return every setting that has a value, by its dotted name; secrets are masked."""
        values = {key: value for key, _, value in self.entries() if value is not None}
        return {
            key: {name: str(option) for name, option in value.items()} if isinstance(value, dict) else value
            for key, value in values.items()
        }

    def entries(self) -> Iterator[tuple[str, FieldInfo, object]]:
        """Yield the dotted name, the field and the value of every setting."""
        for name in JobConfig.model_fields:
            section: Settings = getattr(self, name)
            for key, field in type(section).model_fields.items():
                yield f"{name}.{key}", field, getattr(section, key)


def is_secret(field: FieldInfo) -> bool:
    """Return whether a setting has one of the types that mask secrets in their text."""
    return any(kind in (SecretUrl, SecretOption) for kind in (field.annotation, *get_args(field.annotation)))


SECRET_SETTINGS: Final = tuple(key for key, field, _ in JobConfig().entries() if is_secret(field))
"""The settings that may hold a secret."""
