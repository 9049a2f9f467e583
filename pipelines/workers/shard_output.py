"""Write the forecasts and the late, quarantined and replaced rows of one shard to files or topics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from forecaster.forecasts import Forecasts
from forecaster.shards.shard import Output
from pipelines.sinks.files import FORECASTS, LATE, QUARANTINE, SHADOW, RowPlace, ShardFiles
from pipelines.sinks.kafka import TopicWriter
from pipelines.storage import Location, sync
from pipelines.workers.ownership import WriteGuard
from pipelines.workers.step_settings import StepSettings


class ShardOutput:
    """Writes the output of one shard into files or topics, until the run may not write any more.

    Args:
        settings: settings of the run.
        number: number of the shard.
        guard: decides whether the run may still write.
        topics: sends output to topics; None if all output goes into files.
    """

    def __init__(
        self,
        settings: StepSettings,
        number: int,
        guard: WriteGuard,
        topics: TopicWriter | None = None,
    ) -> None:
        self._guard, self._topics = guard, topics
        self._files = ShardFiles(settings.output, number, settings.shards, settings.format, settings.flat)

    def write(self, output: Output) -> None:
        """Write the quarantined, late and replaced rows and the forecasts that ``output`` holds.

        Raises:
            OutputError: a file cannot be written, or an earlier message could not be delivered.
        """
        for part, rows in ((QUARANTINE, output.quarantined), (LATE, output.late)):
            if len(rows) and self._guard.may_write():
                self._write_rows(part, output, rows)
        forecasts = output.forecasts
        if forecasts is None:
            return
        late = RowPlace(output.partition, output.start) if output.revises else None
        if len(output.replaced) and self._guard.may_write():
            self._files.write_replaced(forecasts, output.replaced, late)
        if len(forecasts) and self._guard.may_write():
            self._write_forecasts(FORECASTS, forecasts, late)
        if len(forecasts) and self._topics is None and self._guard.may_write():
            self._files.write_flat(forecasts, late)
        if output.shadow is not None and len(output.shadow) and self._guard.may_write():
            self._write_forecasts(SHADOW, output.shadow, late)

    def take_unsynced(self) -> list[Location]:
        """Return the files written since the last call; `make_durable` syncs them before a snapshot."""
        return self._files.taken()

    def make_durable(self, files: Iterable[Location]) -> None:
        """Sync ``files`` to the disk, and wait until the broker has acknowledged all messages sent so far.

        Raises:
            OutputError: a message could not be delivered.
            OSError: the disk reports an error.
        """
        if self._topics is not None:
            self._topics.flush()
        sync(files)

    def remove_after(
        self, closed_us: int | None, offsets: Mapping[str, int], snapshot_ns: int, versions: Iterable[str]
    ) -> None:
        """Remove the shard's output files that were written after a snapshot."""
        self._files.remove_after(closed_us, offsets, snapshot_ns, versions)

    def _write_rows(self, part: str, output: Output, rows: pl.DataFrame) -> None:
        if self._topics is not None and self._topics.topics.of(part):
            self._topics.write_rows(part, rows)
        else:
            self._files.write_rows(part, output.partition, output.start, rows)

    def _write_forecasts(self, part: str, forecasts: Forecasts, late: RowPlace | None) -> None:
        if self._topics is not None and self._topics.topics.of(part):
            self._topics.write_forecasts(forecasts, self._files.shard, part)
        else:
            self._files.write_forecasts(forecasts, part, late)
