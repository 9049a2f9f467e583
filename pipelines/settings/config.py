"""Define the settings of a job file: `JobConfig`, and its sections jobs, stream and output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import Field
from pydantic.fields import FieldInfo

from forecaster.config import CovariatesConfig, NetworkConfig, OnlineConfig, TrainingConfig
from forecaster.evaluation.gate import GateConfig
from forecaster.setting_types import Settings
from forecaster.time.window_config import WindowConfig
from pipelines.settings.alert_config import LIST, AlertConfig
from pipelines.settings.data_config import DataConfig
from pipelines.settings.kafka_config import KafkaConfig
from pipelines.settings.mlflow_config import MlflowConfig
from pipelines.settings.setting_types import Name, address_or
from schemas.secrets import SecretOption, SecretUrl


class JobsConfig(Settings):
    """How a job runs: its engine, the restarts of the engine, and how the work is divided."""

    shards: int = Field(
        default=8,
        ge=1,
        le=65_536,
        description="number of shards, the groups of series that are stepped together; forecasts "
        "do not depend on it",
    )
    windows_per_step: int = Field(
        default=32,
        ge=1,
        le=100_000,
        description="largest number of windows in one call of the network when there is a backlog",
    )
    runner: Literal["auto", "in-process", "prism", "flink"] = Field(
        default="auto",
        description="engine that runs the job: in-process, prism, flink, or auto, which runs a "
        "backfill in process and a stream on Prism if it is installed",
    )
    flink_master: Annotated[str, address_or("[local]")] = Field(
        default="[local]",
        description="Flink that the job runs on: [local] starts one for the job, HOST:PORT names a "
        "session cluster",
    )
    flink_workers: Annotated[str, address_or("")] = Field(
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
    """A stream's source of rows, its snapshots, the alias that it follows, and its shadow."""

    source: Literal["replay", "watch", "kafka"] = Field(
        default="replay",
        description="source of the rows: replay (files, as if their rows arrived now), watch (new "
        "files of a folder) or kafka (a topic)",
    )
    speed: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds of event time that a replay reads per second, such as 3600 for an "
        "hour a second; 0 is as fast as possible",
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
    follow: str = Field(
        default="",
        description="alias of the model, such as champion, that a running stream follows: when the alias "
        "moves to another version, the stream changes to that version; unset: the stream keeps its version",
    )
    shadow: str = Field(
        default="",
        description="alias of the model, such as challenger, that names a version which also forecasts every "
        "window, into the folder forecasts-shadow or the topic kafka.to_shadow; unset: no such version",
    )
    shadow_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the series, in whole shards, that the version of stream.shadow forecasts",
    )


class OutputConfig(Settings):
    """The section ``[output]`` of the job file: the output folder, and the format of forecast files."""

    folder: Name = Field(
        default="out",
        description="folder that forecasts, states and quarantined rows are written to; "
        "s3://BUCKET/PREFIX is possible, too",
    )
    format: Literal["parquet", "jsonl"] = Field(
        default="parquet", description="format of the forecast files: parquet or jsonl"
    )
    flat: Literal["csv", "parquet", "jsonl"] | None = Field(
        default=None,
        description="also write the forecasts as flat files, one row for each series, target window and "
        "horizon, into the folder flat: csv, parquet or jsonl; unset: no flat files",
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
    alerts: tuple[AlertConfig, ...] = ()

    def flat(self) -> dict[str, object]:
        """Return all settings but alert rules, by dotted name; leave out None, and keep secrets masked."""
        values = {key: value for key, _, value in self.entries() if value is not None}
        return {
            key: {name: str(option) for name, option in value.items()} if isinstance(value, dict) else value
            for key, value in values.items()
        }

    def with_settings(self, settings: Mapping[str, object]) -> JobConfig:
        """Return a copy with the values in ``settings``, by dotted name; the new values are not checked."""
        sections: dict[str, dict[str, object]] = {}
        for key, value in settings.items():
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value
        changed = {name: getattr(self, name).model_copy(update=new) for name, new in sections.items()}
        return self.model_copy(update=changed)

    def entries(self) -> Iterator[tuple[str, FieldInfo, object]]:
        """Yield the dotted name, the field and the value of each setting, except the rules of alerts."""
        for name in JobConfig.model_fields:
            if name == LIST:
                continue
            section: Settings = getattr(self, name)
            for key, field in type(section).model_fields.items():
                yield f"{name}.{key}", field, getattr(section, key)


def _is_secret(field: FieldInfo) -> bool:
    """Return whether the type of a setting is, or contains, `SecretUrl` or `SecretOption`."""
    return any(kind in (SecretUrl, SecretOption) for kind in (field.annotation, *get_args(field.annotation)))


FIELDS: Final = {key: field for key, field, _ in JobConfig().entries()}
"""The field of each setting, by dotted name."""

SECRET_SETTINGS: Final = tuple(key for key, field in FIELDS.items() if _is_secret(field))
"""The settings that may hold a secret."""
