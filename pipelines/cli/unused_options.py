"""Refuse options of a stream that have no effect with its source or its sink."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pipelines.cli.settings import FLAGS
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
"""Setting -> the sources with which the setting has an effect; other settings have one with all sources."""

_TO_TOPIC: Final = ("kafka.to_format", "kafka.to_late", "kafka.to_quarantine")
"""Settings that have an effect only if forecasts are sent to a topic."""


def check_single_source(watch: bool, source: str | None) -> None:
    """Check that the options name a single source.

    Raises:
        ConfigError: ``--watch`` is given, and ``--source`` names another source.
    """
    if watch and source not in (None, "watch"):
        raise ConfigError(f"--watch and --source {source} name two sources: leave one of them out")


def check_options_have_effect(job: JobConfig, typed: Iterable[str]) -> None:
    """Check that every setting given on the command line has an effect.

    Args:
        job: settings of a stream.
        typed: names of the settings that options set, such as ``kafka.topic``.

    Raises:
        ConfigError: a setting has no effect; the message names its option.
    """
    source, has_topic = job.stream.source, bool(job.kafka.to_topic)
    for key in typed:
        sources = _SOURCES.get(key, (source,))
        if source not in sources:
            needs = " or ".join(f"--source {name}" for name in sources)
            raise ConfigError(
                f"{_option(key)} has no effect with --source {source}: leave it out, or use {needs}"
            )
        if key in _TO_TOPIC and not has_topic:
            raise ConfigError(f"{_option(key)} has no effect without --to-topic: leave it out, or add that")
        if key == "output.format" and has_topic:
            raise ConfigError("--format has no effect with --to-topic: leave it out, or use kafka.to_format")
        if key == "kafka.bootstrap" and source != "kafka" and not has_topic:
            raise ConfigError("--bootstrap has no effect without --source kafka or --to-topic: leave it out")


def _option(key: str) -> str:
    """Return the option that sets a setting on the command line."""
    if key == "data.skip_bad_files":
        return "--skip-bad-files"
    return FLAGS.get(key, f"--set {key}")
