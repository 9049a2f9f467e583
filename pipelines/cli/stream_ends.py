"""Build the source and the output topics of a stream from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.storage import Location, location

if TYPE_CHECKING:
    from forecaster.model import Forecaster
    from forecaster.time.frequency import Frequency
    from pipelines.settings.config import JobConfig
    from pipelines.sinks.kafka import Topics
    from pipelines.sources.base import Log, Source


def source_of(job: JobConfig, forecaster: Forecaster, files: list[Path]) -> Source | Log:
    """Return the source of a stream: a topic, a watched folder or a replay.

    Args:
        job: settings of the stream.
        forecaster: model of the stream; gives the windows, and the lateness unless the job sets one.
        files: files of a replay.

    Raises:
        StatecastError: the topic cannot be read with these settings.
    """
    from pipelines.sinks.numbers import notices_of
    from pipelines.sources.files.row_notices import Notes
    from pipelines.sources.files.validated_rows import input_of
    from pipelines.sources.folder import FolderSource
    from pipelines.sources.replay import ReplaySource
    from pipelines.state import state_table

    freq = forecaster.window_config.frequency
    is_set = "allowed_lateness" in job.windows.model_fields_set
    lateness_s = (job.windows if is_set else forecaster.window_config).lateness_s
    states, memory_bytes = location(job.output.folder) / state_table.FOLDER, job.data.memory_mb << 20
    if job.stream.source == "kafka":
        return _topic_source(job, freq, lateness_s, states)
    if job.stream.source == "watch":
        return FolderSource(
            Path(job.data.paths[0]),
            input_of(job, freq, skip_bad_files=True),
            states,
            lateness_s,
            job.stream.poll_s,
            memory_bytes=memory_bytes,
        )
    return ReplaySource(
        tuple(map(str, files)),
        input_of(job, freq),
        freq,
        lateness_s,
        job.stream.speed,
        memory_bytes=memory_bytes,
        manifest_folder=states,
        notes=Notes(notices_of(location(job.output.folder)), forecaster.window_config),
    )


def _topic_source(job: JobConfig, freq: Frequency, lateness_s: int, states: Location) -> Log:
    from pipelines.settings.kafka import Broker, kafka_options
    from pipelines.sources.files.validated_rows import columns_of, input_of
    from pipelines.sources.kafka import KafkaSource
    from pipelines.sources.messages import DecoderSpec
    from pipelines.state import state_table

    kafka = job.kafka
    columns, in_key = columns_of(job), kafka.series == "key"
    source = KafkaSource(
        Broker(kafka.bootstrap, kafka_options(kafka.options)),
        kafka.topic,
        DecoderSpec(
            kafka.decoder,
            columns,
            in_key,
            kafka.avro_schema,
            kafka.registry.get_secret_value(),
            kafka.registry_wait_s,
        ),
        input_of(job, freq),
        freq,
        states,
        lateness_s,
        kafka.start,
        kafka.idle_s,
        kafka.group,
        keyed_shards=job.jobs.shards if kafka.keyed else None,
        read_series_shards=state_table.read_series_shards,
        read_offsets=state_table.read_offsets,
    )
    source.begin({})  # A wrong setting must raise an error before the job creates any file.
    return source


def output_topics(job: JobConfig) -> Topics | None:
    """Return the topics that a stream sends to; None if it writes files.

    Raises:
        StatecastError: a topic cannot be written to.
    """
    kafka = job.kafka
    if not kafka.to_topic:
        return None
    from pipelines.settings.kafka import Broker, kafka_options
    from pipelines.sinks.kafka import Topics, check_topics

    broker = Broker(kafka.bootstrap, kafka_options(kafka.options))
    topics = Topics(
        broker,
        kafka.to_topic,
        kafka.to_format,
        kafka.registry.get_secret_value(),
        kafka.to_late,
        kafka.to_quarantine,
        kafka.to_shadow,
    )
    check_topics(topics)
    return topics
