"""A disk in memory for one shard, from which a job resumes after a kill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from forecaster.forecasts import Forecasts
from forecaster.model import Forecaster
from forecaster.shards import snapshot
from forecaster.shards.apply import apply
from forecaster.shards.batch import Batch
from forecaster.shards.models import Models
from forecaster.shards.shard import Output, Shard
from forecaster.shards.sharding import Splitter


@dataclass
class Disk:
    """The snapshot and the output files of one shard, in memory.

    The snapshot is a copy of the shard, which `restore` encodes and decodes, since most are never restored.

    The key of a file of forecasts is its first window and the window after its last one. The key of a file
    of late or quarantined rows is its partition and first offset. The key of a file of revised forecasts is
    both, the partition and the offset of its first late row first.
    """

    snapshot: Shard | None = None
    forecasts: dict[tuple[int, int], Forecasts] = field(default_factory=dict)
    late: dict[tuple[str, int], pl.DataFrame] = field(default_factory=dict)
    quarantined: dict[tuple[str, int], pl.DataFrame] = field(default_factory=dict)
    shadows: dict[tuple[int, int], Forecasts] = field(default_factory=dict)
    revised: dict[tuple[str, int, int, int], Forecasts] = field(default_factory=dict)
    revised_shadows: dict[tuple[str, int, int, int], Forecasts] = field(default_factory=dict)

    def write(self, output: Output) -> None:
        """Store the forecasts, late rows and quarantined rows of an output with the keys described in `Disk`.

        The forecasts include the revised forecasts and the forecasts of a shadow.
        """
        place = (output.partition, output.start)
        if len(output.quarantined):
            self.quarantined[place] = output.quarantined
        if len(output.late):
            self.late[place] = output.late
        for files, revised, block in (
            (self.forecasts, self.revised, output.forecasts),
            (self.shadows, self.revised_shadows, output.shadow),
        ):
            if block is not None and len(block):
                windows = (block.start, int(block.index[-1]) + 1)
                if output.revises:
                    revised[*place, *windows] = block
                else:
                    files[windows] = block

    def restore(self, cold: Shard) -> Shard:
        """Return the shard of the snapshot, or ``cold`` if there is no snapshot.

        Remove the files that were written after the snapshot.
        """
        shard = cold if self.snapshot is None else snapshot.from_bytes(snapshot.to_bytes(self.snapshot))
        closed = -1 if shard.closed_through is None else shard.closed_through
        self.forecasts, self.shadows = (
            {name: one for name, one in files.items() if name[0] <= closed}
            for files in (self.forecasts, self.shadows)
        )
        every: tuple[dict[Any, Any], ...] = (self.late, self.quarantined, self.revised, self.revised_shadows)
        for rows in every:
            for key in [*rows]:
                if key[1] >= shard.offsets.get(key[0], 0):
                    del rows[key]
        return shard


def outputs(
    model: Models | Forecaster, shard: Shard, batches: Iterable[Batch], windows_per_step: int
) -> Iterator[tuple[Shard, Output]]:
    """Apply batches to one shard; yield each pair of shard and output that `apply` yields."""
    splitter = Splitter(shard.of)
    for batch in batches:
        part = splitter.split(batch).get(shard.number)
        for after, output in () if part is None else apply(shard, part, model, windows_per_step):
            shard = after
            yield after, output
