"""One job file, typed: every setting of training, backfill and stream, and how they are read and written."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from forecaster.config import (
    CovariatesConfig,
    Duration,
    NetworkConfig,
    OnlineConfig,
    Settings,
    TrainingConfig,
    WindowConfig,
)
from schemas.errors import ConfigError


def _as_list(paths: object) -> object:
    return (str(paths),) if isinstance(paths, str | Path) else paths


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


Time = Annotated[datetime, AfterValidator(_in_utc)]
Name = Annotated[str, Field(min_length=1)]

_SECRET = re.compile(r"password|secret|token|user\.info|key\.pem|jaas")
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


class Columns(ColumnsConfig):
    """Which column is what, those of ``covariates.observed`` among them."""

    observed: tuple[str, ...] = ()


class DataConfig(ColumnsConfig):
    """What is read."""

    paths: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
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
        description="the engine of a stream; auto: Prism where it is installed, else in process",
    )
    flink_master: Name = Field(
        default="[local]",
        description="flink: [local], a Flink of the job's own, or HOST:PORT of a session cluster",
    )
    flink_workers: str = Field(
        default="",
        description="flink: HOST:PORT of the pool of Python workers, as task managers reach it; without it "
        "the workers are in the job's own process",
    )
    restarts: int = Field(
        default=3,
        ge=0,
        description="how often a stream goes on by itself, from its snapshots, where its engine dies",
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
    avro_schema: str = Field(default="", description="avro: file of the schema")
    registry: str = Field(default="", description="avro: URL of the schema registry, where no file is given")
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
    options: dict[str, str] = Field(
        default_factory=dict,
        description="options of the client (librdkafka), such as "
        '{ "security.protocol" = "SASL_SSL", "sasl.password" = "$KAFKA_PASSWORD" }; a value $NAME is '
        "looked up in the environment",
    )

    @model_validator(mode="after")
    def _keeps_secrets(self) -> KafkaConfig:
        for name, value in self.options.items():
            if _SECRET.search(name) and not value.startswith("$"):
                raise ValueError(f"kafka.options: {name} must be $NAME, a variable of the environment")
        if self.to_format == "avro" and self.to_topic and not self.registry:
            raise ValueError("kafka.to_format = avro needs kafka.registry")
        return self


class MlflowConfig(Settings):
    """Where runs and model versions are kept."""

    tracking_uri: Name = Field(
        default="sqlite:///mlflow.db", description="MLflow store: a database, a folder or a URL"
    )
    experiment: Name = Field(default="statecast", description="experiment that runs are logged to")
    model: Name = Field(default="statecast", description="registered model that versions are added to")


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
        """Every setting that has a value by its dotted name, such as ``network.hidden``."""
        return {key: value for key, _, value in _entries(self) if value is not None}


def _entries(config: JobConfig) -> Iterator[tuple[str, FieldInfo, object]]:
    for name in JobConfig.model_fields:
        section: Settings = getattr(config, name)
        for key, field in type(section).model_fields.items():
            yield f"{name}.{key}", field, getattr(section, key)


_FIELDS = {key: field for key, field, _ in _entries(JobConfig())}


def load_config(path: Path | None = None, overrides: Mapping[str, object] | None = None) -> JobConfig:
    """The settings of a TOML job file, with single ones overridden.

    Args:
        path: The job file; None takes the defaults.
        overrides: Values by dotted name. Text is read as a TOML value where the setting is not text
            itself ("128", "[0.1, 0.5]", "true"); None leaves a setting as it is.

    Raises:
        ConfigError: The file cannot be read or a setting cannot be; one line with file, setting, value
            and what is allowed.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    table: dict[str, Any] = _read(path) if path else {}
    for key, value in given.items():
        if key not in _FIELDS:
            raise ConfigError(f"option {key}: no such setting{_nearest(key)}")
        section, _, name = key.partition(".")
        inner = table.setdefault(section, {})
        if isinstance(inner, dict):  # else pydantic says what is wrong with it
            inner[name] = _parsed(value, _FIELDS[key]) if isinstance(value, str) else value
    try:
        return JobConfig.model_validate(table)
    except ValidationError as error:
        first, *more = error.errors()
        told = _line(first, path, given)
        raise ConfigError(told + (f" (and {len(more)} more)" if more else "")) from None


def commented_toml(config: JobConfig | None = None) -> str:
    """The settings as a commented job file, which ``load_config`` reads back as it was."""
    lines: list[str] = []
    section = ""
    for key, field, value in _entries(config or JobConfig()):
        name, _, leaf = key.partition(".")
        if name != section:
            section = name
            doc = (type(getattr(config or JobConfig(), name)).__doc__ or "").splitlines()[0]
            lines += ["", f"# {doc}", f"[{name}]"] if lines else [f"# {doc}", f"[{name}]"]
        lines.append(f"# {field.description}")
        lines.append(f"# {leaf} = {_example(field)}" if value is None else f"{leaf} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such job file; `statecast init` writes one") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        told, _, where = str(error).rstrip(")").partition(" (at ")
        raise ConfigError(f"{path}: {where}: not TOML: {told}") from None


def _parsed(text: str, field: FieldInfo) -> object:
    kinds = get_args(field.annotation) if get_origin(field.annotation) is Literal else (field.annotation,)
    if all(kind is str or isinstance(kind, str) for kind in kinds):
        return text
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return found["value"] if len(found) == 1 else text


def _example(field: FieldInfo) -> str:
    """What a setting without a value could be."""
    kinds = get_args(field.annotation)
    return "false" if bool in kinds else "2013-01-01T00:00:00Z" if Time in kinds else '"1h"'


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return repr(value)


def _line(error: ErrorDetails, path: Path | None, given: Mapping[str, object]) -> str:
    """One line for one of pydantic's errors: where, which setting, its value, what is allowed."""
    parts = [str(part) for part in error["loc"]]
    key = ".".join(parts[:2])
    source = "option" if key in given or path is None else f"{path}:"
    allowed = _allowed(error, key)
    if error["type"] == "extra_forbidden":
        return f"{source} {key}: {allowed}"
    if allowed.startswith(f"{parts[0]}." if parts else "?"):  # a rule between settings names them itself
        named = "option" if any(k.startswith(f"{parts[0]}.") for k in given) else source
        return f"{named} {allowed}"
    at = f"[{parts[2]}]" if len(parts) > 2 and parts[2].isdigit() else ""
    return f"{source} {key}{at} = {_shown(error['input'])}: {allowed}"


def _shown(value: object) -> str:
    text = (
        " ".join(str(value).split()) if not isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )
    return text if len(text) <= 60 else text[:57] + "..."


_PHRASES = {
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list, such as [1, 2]",
}


def _allowed(error: ErrorDetails, key: str) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"no such setting{_nearest(key)}"
    if kind in _PHRASES:
        return _PHRASES[kind].format(**context)
    if kind == "literal_error":
        return "must be " + re.sub(r"'(\w+)'", r"\1", str(context["expected"]))
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "model_attributes_type"):
        return f"must be a section that begins with [{key}]"
    for prefix, phrase in (
        ("int", "must be a whole number"),
        ("float", "must be a number"),
        ("bool", "must be true or false"),
        ("date", "must be a time, such as 2013-01-31T05:00:00Z"),
    ):
        if kind.startswith(prefix):
            return phrase
    return error["msg"]


def _nearest(key: str) -> str:
    """What may have been meant: the setting or section of the nearest name, else those there are."""
    leaf = key.rpartition(".")[2]
    same = [k for k in _FIELDS if k.rpartition(".")[2] == leaf]
    close = same or difflib.get_close_matches(key, _FIELDS if "." in key else JobConfig.model_fields, 1, 0.7)
    if not close:
        near = difflib.get_close_matches(leaf, [k.rpartition(".")[2] for k in _FIELDS], 1, 0.75)
        close = [k for k in _FIELDS if near and k.rpartition(".")[2] == near[0]]
    if close:
        return f"; did you mean {close[0]}?"
    section = key.partition(".")[0]
    if "." in key and section in JobConfig.model_fields:
        names = [k.partition(".")[2] for k in _FIELDS if k.startswith(f"{section}.")]
        return f"; [{section}] has {', '.join(names)}"
    return f"; the sections are {', '.join(JobConfig.model_fields)}"
