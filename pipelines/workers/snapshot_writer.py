"""Write the snapshots of one shard, each after the shard's earlier output is durable."""

from __future__ import annotations

import time
from collections.abc import Iterable

from forecaster.shards.shard import Shard
from pipelines.state import snapshot_file
from pipelines.storage import Location
from pipelines.workers.numbers_publisher import NumbersPublisher
from pipelines.workers.ownership import WriteGuard
from pipelines.workers.shard_output import ShardOutput
from pipelines.workers.step_settings import StepSettings


class SnapshotWriter:
    """Writes the snapshots of one shard; create it before the shard's snapshot is read.

    The writer records which version of the snapshot exists when it is created; see `OwnedFile`.

    Args:
        settings: settings of the run.
        number: number of the shard.
        output: output of the shard, which is made durable before each snapshot.
        publisher: publishes the time and duration of each snapshot.
        guard: decides whether the run may still write.

    Raises:
        DataError: the object store cannot be reached.
    """

    def __init__(
        self,
        settings: StepSettings,
        number: int,
        output: ShardOutput,
        publisher: NumbersPublisher,
        guard: WriteGuard,
    ) -> None:
        self._settings, self._number, self._guard = settings, number, guard
        self._output, self._publisher = output, publisher
        self._file = snapshot_file.owned(settings.states, number, settings.shards)

    def take_over(self) -> tuple[Shard, int]:
        """Read the snapshot of the shard, and prevent earlier runs from replacing it.

        Returns:
            The shard, and when its snapshot was written, in nanoseconds since 1970.

        Raises:
            StatecastError: the snapshot cannot be read or written.
        """
        settings = self._settings
        return snapshot_file.take_over(
            self._file, settings.states, self._number, settings.shards, settings.job, self._guard.may_write
        )

    def write(self, shard: Shard, files: Iterable[Location]) -> None:
        """Write a snapshot of the shard, if the run may still write.

        Args:
            shard: the shard.
            files: files with output that precedes the snapshot and is not yet synced.

        Raises:
            OutputError: the snapshot cannot be written, or a message before it could not be delivered.
            OSError: the disk reports an error of a file before the snapshot.
        """
        began_s = time.monotonic()
        self._output.make_durable(files)
        if snapshot_file.write_shard(self._settings.states, shard, self._guard.may_write, self._file):
            self._publisher.publish_snapshot(time.monotonic() - began_s)
