"""Check that the options of ``statecast stream`` fit together, and that each option has an effect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.settings.config import JobConfig

_SOURCES: Final = {
    "stream.speed": ("replay",),
    "stream.poll_s": ("watch",),
    "data.skip_bad_files": ("replay", "watch"),
    "data.paths": ("replay", "watch"),
    "kafka.topic": ("kafka",),
    "kafka.decoder": ("kafka",),
    "kafka.series": ("kafka",),
    "kafka.keyed": ("kafka",),
    "kafka.avro_schema": ("kafka",),
    "kafka.registry_wait_s": ("kafka",),
    "kafka.start": ("kafka",),
    "kafka.idle_s": ("kafka",),
    "kafka.group": ("kafka",),
}
"""Setting -> the sources with which it has an effect; a setting not listed has an effect with all sources."""

_TO_TOPIC: Final = ("kafka.to_format", "kafka.to_late", "kafka.to_quarantine", "kafka.to_shadow")
"""Settings that have an effect only if forecasts are sent to a topic."""

_OF_SHADOW: Final = ("stream.shadow_share", "kafka.to_shadow")
"""Settings that have an effect only if the stream has a shadow."""


def check_single_source(watch: bool, source: str | None) -> None:
    """Check that ``--watch`` and ``--source`` do not name two different sources.

    Raises:
        ConfigError: ``--watch`` is given, and ``--source`` names another source.
    """
    if watch and source not in (None, "watch"):
        raise ConfigError(f"--watch and --source {source} name two sources: leave one of them out")


def check_stream(job: JobConfig, data: list[str] | None, resume: bool, fresh: bool) -> None:
    """Check that a stream has the input that its source needs, and not both --resume and --fresh.

    Args:
        job: settings of the stream.
        data: the DATA arguments of the command.
        resume: whether ``--resume`` is given.
        fresh: whether ``--fresh`` is given.

    Raises:
        ConfigError: an input is missing or superfluous, or both ways to start are given.
    """
    source, paths = job.stream.source, job.data.paths
    if source == "kafka" and not job.kafka.topic:
        raise ConfigError("--source kafka needs a topic: name it with --topic")
    if source == "kafka" and data:
        raise ConfigError(f"a stream of a topic reads no files: leave {data[0]} out")
    if source == "watch" and (len(paths) != 1 or not Path(paths[0]).is_dir()):
        raise ConfigError("--watch takes one folder that exists: statecast stream FOLDER --watch")
    if resume and fresh:
        raise ConfigError(
            "--resume keeps the state of an earlier stream and --fresh starts without it: give one of them"
        )


def check_options_have_effect(job: JobConfig, typed: Mapping[str, str]) -> None:
    """Raise ConfigError if a setting on the command line has no effect, or if two settings conflict.

    Args:
        job: settings of a stream.
        typed: for each setting that was given, such as ``kafka.topic``, the option that gave it.

    Raises:
        ConfigError: a setting has no effect (the message names its option), or ``output.flat`` and
            ``windows.repair`` are both set.
    """
    source, has_topic = job.stream.source, bool(job.kafka.to_topic)
    if job.output.flat and job.windows.repair:
        raise ConfigError(
            "output.flat and windows.repair cannot be combined, because flat files have no column for the "
            "revision of a forecast: leave one of them out"
        )
    for key, option in typed.items():
        sources = _SOURCES.get(key, (source,))
        if source not in sources:
            needs = " or ".join(f"--source {name}" for name in sources)
            raise ConfigError(f"{option} has no effect with --source {source}: leave it out, or use {needs}")
        if key in _TO_TOPIC and not has_topic:
            raise ConfigError(f"{option} has no effect without --to-topic: leave it out, or add --to-topic")
        if key in _OF_SHADOW and not job.stream.shadow:
            raise ConfigError(f"{option} has no effect without stream.shadow: leave it out, or set both")
        if key in ("output.format", "output.flat") and has_topic:
            raise ConfigError(f"{option} has no effect with --to-topic: leave it out, or use kafka.to_format")
        if key == "kafka.bootstrap" and source != "kafka" and not has_topic:
            raise ConfigError(f"{option} has no effect without --source kafka or --to-topic: leave it out")
