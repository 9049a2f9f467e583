"""The ends of a stream as its job file names them: where rows come from, and topics that forecasts go to."""

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
    """Where the rows of a stream come from.

    Args:
        job: its settings.
        forecaster: its windows and lateness hold unless the job says.
        files: what is replayed.

    Raises:
        StatecastError: the topic cannot be read as asked.
    """
    from pipelines.sinks.numbers import notices_of
    from pipelines.sources.files.row_notices import Notes
    from pipelines.sources.files.validated_rows import input_of
    from pipelines.sources.folder import FolderSource
    from pipelines.sources.replay import ReplaySource
    from pipelines.state import state_table

    freq = forecaster.window_config.frequency
    asked = "allowed_lateness" in job.windows.model_fields_set
    lateness_s = (job.windows if asked else forecaster.window_config).lateness_s
    states, memory_bytes = location(job.output.folder) / state_table.FOLDER, job.data.memory_mb << 20
    if job.stream.source == "kafka":
        return _topic(job, freq, lateness_s, states)
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


def _topic(job: JobConfig, freq: Frequency, lateness_s: int, states: Location) -> Log:
    from pipelines.settings.kafka import Broker, options_of
    from pipelines.sources.files.validated_rows import columns_of, input_of
    from pipelines.sources.kafka import KafkaSource
    from pipelines.sources.messages import DecoderSpec
    from pipelines.state import state_table

    asked = job.kafka
    columns, in_key = columns_of(job), asked.series == "key"
    source = KafkaSource(
        Broker(asked.bootstrap, options_of(asked.options)),
        asked.topic,
        DecoderSpec(
            asked.decoder,
            columns,
            in_key,
            asked.avro_schema,
            asked.registry.get_secret_value(),
            asked.registry_wait_s,
        ),
        input_of(job, freq),
        freq,
        states,
        lateness_s,
        asked.start,
        asked.idle_s,
        asked.group,
        keyed_shards=job.jobs.shards if asked.keyed else None,
        homes=state_table.homes,
        reached=state_table.offsets,
    )
    source.begin({})  # what is wrong with the topic is told before anything is made
    return source


def topics_of(job: JobConfig) -> Topics | None:
    """The topics that a stream sends to; None for files.

    Raises:
        StatecastError: they cannot be sent to.
    """
    asked = job.kafka
    if not asked.to_topic:
        return None
    from pipelines.settings.kafka import Broker, options_of
    from pipelines.sinks.kafka import Topics, check_topics

    broker = Broker(asked.bootstrap, options_of(asked.options))
    topics = Topics(
        broker,
        asked.to_topic,
        asked.to_format,
        asked.registry.get_secret_value(),
        asked.to_late,
        asked.to_quarantine,
    )
    check_topics(topics)
    return topics
