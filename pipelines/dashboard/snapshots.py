"""Read series from the snapshots of an output folder, and the last values of one series.

For each series, the id, the last window and the number of windows since its last row are read.
Only the columns for the page are read. A snapshot is read again only after it was replaced. In shapes, S is
the number of series in a snapshot, and R the number of windows in the ring.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from forecaster.arrays import Floats, Ints
from forecaster.components.ring import in_order
from forecaster.shards import snapshot
from forecaster.shards.shard import Shard
from forecaster.time.frequency import Frequency
from pipelines.dashboard.changed_files import ChangedFiles
from pipelines.state.snapshot_file import reading, snapshot_paths, unreadable
from pipelines.state.state_table import FOLDER
from pipelines.storage import Location, store_of
from schemas.errors import DataError

_RING = "ring.values"
_COLUMNS = ("series_id", "clock", "silent", "moments.observed")
_ROWS_AT_ONCE = 1024
_STORE_READ_EVERY_S = 15.0


@dataclass(frozen=True)
class ShardSeries:
    """The series of one shard, from its snapshot.

    Attributes:
        name: file name of the snapshot.
        written_ns: when the snapshot was written, in nanoseconds since 1970.
        shard: the shard without its series: counts, offsets, watermarks.
        ids: ids of the series, ``[S]``.
        clock: last window of each series, ``[S]`` int64.
        silent: number of windows since the last row of each series, ``[S]`` int64.
        live: whether each series is live, ``[S]`` bool.
    """

    name: str
    written_ns: int
    shard: Shard
    ids: pl.Series
    clock: Ints
    silent: Ints
    live: np.ndarray[Any, np.dtype[np.bool_]]

    @property
    def freq(self) -> Frequency:
        """The length of the windows of the series."""
        return self.shard.state.freq

    def row_of(self, series_id: str) -> int | None:
        """Return the row of a series in the snapshot; None if the snapshot does not have the series."""
        return self.ids.index_of(series_id)


class Snapshots:
    """Reads the snapshots of an output folder repeatedly; a snapshot is read again only after a change.

    Args:
        output: output folder.
    """

    def __init__(self, output: Location) -> None:
        self._folder = output / FOLDER
        self._series: ChangedFiles[ShardSeries] = ChangedFiles(_read_series)
        self._last: list[ShardSeries] = []
        self._read_s = float("-inf")
        self._rings = lru_cache(maxsize=64)(self._read_ring)

    @property
    def errors(self) -> list[str]:
        """One line for each snapshot that the last call of `read` could not read."""
        return self._series.errors

    def read(self) -> list[ShardSeries]:
        """Return the series of every readable snapshot, in the order of the shards.

        Raises:
            DataError: an object store replaces the state table again and again.
            OSError: the folder cannot be listed.
        """
        is_due = time.monotonic() - self._read_s >= _STORE_READ_EVERY_S
        if is_due or not store_of(self._folder).bills_requests:
            self._last = store_of(self._folder).read_consistently(
                lambda there: self._series.read(snapshot_paths(there))
            )
            self._read_s = time.monotonic()
        return self._last

    def values(self, series_id: str) -> tuple[Ints, Floats] | None:
        """Return the last values of a series from the ring in its snapshot, oldest first.

        Returns:
            The start of each window in microseconds since 1970, and its value; None for an unknown series.

        Raises:
            DataError: the snapshot is unreadable.
        """
        for known in self.read():
            if (row := known.row_of(series_id)) is None:
                continue
            ring = self._rings(known.name, known.written_ns, row)
            if not len(ring):
                return np.empty(0, np.int64), ring
            values = in_order(ring[None], known.clock[[row]])[0]
            windows = known.clock[row] + 1 - len(values) + np.arange(len(values))
            kept = ~np.isnan(values)
            return known.freq.start_us(windows[kept]), values[kept]
        return None

    def _read_ring(self, name: str, at_ns: int, row: int) -> Floats:
        """Read the ring of one series, by its row in a snapshot; ``_rings`` caches the results."""
        return store_of(self._folder).read_consistently(partial(_ring, name=name, row=row))


def _read_series(path: Location) -> ShardSeries:
    try:
        at_ns = store_of(path).written_ns()
        with store_of(path).open_parts() as file:
            parquet = pq.ParquetFile(file)
            schema, table = parquet.schema_arrow, parquet.read(columns=[*_COLUMNS])
        shard = snapshot.from_arrow(schema.empty_table())
        clock = shard.state.freq.window_of(table["clock"].cast(pa.int64()).to_numpy()) - 1
        ids = pl.Series("series_id", table["series_id"])
        silent, observed = (table[name].to_numpy() for name in _COLUMNS[2:])
        return ShardSeries(path.name, at_ns, shard, ids, clock, silent.astype(np.int64), observed > 0)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(unreadable(path, error)) from error


def _ring(folder: Location, name: str, row: int) -> Floats:
    """Return the last values of the series in one row of a snapshot; empty if the model keeps none."""
    path = folder / name
    with reading(path), store_of(path).open_parts() as file:
        parquet = pq.ParquetFile(file)
        if _RING not in parquet.schema_arrow.names:
            return np.empty(0)
        for group in range(parquet.num_row_groups):
            if row >= (count := parquet.metadata.row_group(group).num_rows):
                row -= count
                continue
            # Early versions of Statecast wrote one large row group, so read a few rows at a time.
            for rows in parquet.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[_RING]):
                if row < rows.num_rows:
                    ring = rows.column(0)[row].values.to_numpy(zero_copy_only=False)
                    return np.asarray(ring, np.float64)
                row -= rows.num_rows
    raise DataError(f"{path}: was replaced while it was read: read it again")
