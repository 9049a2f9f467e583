"""Read forecasts of one series from the newest forecast files.

The name of a forecast file contains its windows and its shard (`pipelines.sinks.files`). So the files with a
series and an issue time are found by their names.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecaster.time.frequency import Frequency
from pipelines.sinks.file_names import BLOCK_FILE, compact_time
from pipelines.sinks.files import FORECASTS, read_lines
from pipelines.storage import Location, store_of
from schemas.errors import DataError, one_line

_STORE_LISTED_EVERY_S = 15.0
_SETTLED_NS = 1_000_000_000
_ROWS_AT_ONCE = 1024


class ForecastFile(NamedTuple):
    """A forecast file, and the windows, model version, revision and shard that its name contains.

    Attributes:
        last, first: end of its last and first window, as text that sorts by time, such as
            ``20130101T000000Z``.
        model_version: version of the model.
        shard, of: number of the shard, and number of shards.
        path: the file.
        revision: the largest revision of the forecasts in the file; 0 for first forecasts.
        offset: offset of the first late row that changed the forecasts; 0 for first forecasts.
    """

    last: str
    first: str
    model_version: str
    shard: int
    of: int
    path: Location
    revision: int = 0
    offset: int = 0

    @staticmethod
    def parse(path: Location) -> ForecastFile | None:
        """Parse the name of a forecast file; return None if ``path`` has no such name."""
        if (name := BLOCK_FILE.fullmatch(path.name)) is None:
            return None
        revision, offset = int(name["revision"]), int(name["offset"] or 0)
        shard, of = int(name["shard"]), int(name["of"])
        return ForecastFile(name["last"], name["first"], name["version"], shard, of, path, revision, offset)

    def may_hold(self, series_id: str, known: tuple[int, int] | None) -> bool:
        """Return whether the file belongs to the shard of a series, so that it may contain the series.

        Args:
            series_id: id of the series.
            known: number of its shard and number of shards, if a snapshot has the series.
        """
        if known is not None and known[1] == self.of:
            return known[0] == self.shard
        return crc32(series_id.encode()) % self.of == self.shard


class ForecastFiles:
    """Reads the forecast files of an output folder; lists the folder again only if it may have changed.

    Args:
        output: output folder.
        part: the folder in it; ``forecasts-shadow`` has the forecasts of a shadow.
    """

    def __init__(self, output: Location, part: str = FORECASTS) -> None:
        self._folder = output / part
        self._listed: list[ForecastFile] = []
        self._listed_s, self._listed_ns, self._changed_ns = float("-inf"), 0, 0
        self._one = lru_cache(maxsize=256)(_read_one)

    def newest_first(self) -> list[ForecastFile]:
        """Return the forecast files, sorted by their last window, the newest first."""
        if not self._is_current():
            self._listed_s, self._listed_ns = time.monotonic(), time.time_ns()
            self._listed = store_of(self._folder).read_consistently(_list)
        return self._listed

    def _is_current(self) -> bool:
        """Return whether the last listing of the forecast folder is still valid."""
        folder = store_of(self._folder).on_disk
        if folder is None:
            return time.monotonic() - self._listed_s < _STORE_LISTED_EVERY_S
        before_ns = self._changed_ns
        self._changed_ns = folder.stat().st_mtime_ns if folder.is_dir() else 0
        # A listing soon after a change of the folder is not valid: a second change within one tick of
        # the disk's clock does not change the folder's time.
        return self._changed_ns == before_ns and self._listed_ns - before_ns > _SETTLED_NS

    def fans(
        self, series_id: str, known: tuple[int, int] | None, freq: Frequency, count: int
    ) -> list[dict[str, Any]]:
        """Return the newest forecast of a series, and the forecasts issued 1, 2, ... horizons before it.

        The horizon is the length of the newest forecast. An earlier forecast is left out if no file has it.

        Args:
            series_id: id of the series.
            known: number of its shard and number of shards, if a snapshot has the series.
            freq: length of the windows.
            count: largest number of forecasts.

        Returns:
            Forecasts, the newest first: ``issued_us``, ``model_version``, and ``forecast``, a list of dicts
            with ``horizon`` and the quantiles.

        Raises:
            DataError: a file is unreadable.
        """
        files = [file for file in self.newest_first() if file.may_hold(series_id, known)]
        newest = next((fan for file in _newest(files) if (fan := self._read(file, series_id))), None)
        if newest is None:
            return []
        fans, horizon = [newest], len(newest["forecast"])
        last = freq.window_of(newest["issued_us"])
        for k in range(1, count):
            wanted = compact_time(issued_us := freq.start_us(last - k * horizon))
            there = [file for file in files if file.first <= wanted <= file.last]
            found = (self._read(file, series_id, issued_us) for file in _last_written_first(there))
            if (fan := next((fan for fan in found if fan is not None), None)) is not None:
                fans.append(fan)
        return fans

    def _read(
        self, file: ForecastFile, series_id: str, issued_us: int | None = None
    ) -> dict[str, Any] | None:
        try:
            return self._one(file, store_of(file.path).written_ns(), series_id, issued_us)
        except FileNotFoundError:
            return None


def _list(folder: Location) -> list[ForecastFile]:
    found = [file for path in folder.glob("*") if (file := ForecastFile.parse(path)) is not None]
    return sorted(found, key=lambda file: (file.last, file.path.name), reverse=True)


def _newest(files: list[ForecastFile]) -> Iterator[ForecastFile]:
    """Yield the files with one of the three newest last windows.

    The newest window comes first. Of files with the same last window, the one written last comes first.
    """
    lasts = dict.fromkeys(file.last for file in files)
    for last in [*lasts][:3]:
        yield from _last_written_first([file for file in files if file.last == last])


def _last_written_first(files: list[ForecastFile]) -> Iterator[ForecastFile]:
    """Sort forecast files by their time of writing, latest first: a later file replaces the earlier ones.

    Object stores give whole seconds. Of files of one second, a later late row gives the later revision.
    """
    if len(files) < 2:
        return iter(files)

    def written(file: ForecastFile) -> tuple[int, bool, int]:
        return store_of(file.path).written_ns(), file.revision > 0, file.offset

    return iter(sorted(files, key=written, reverse=True))


def _read_one(file: ForecastFile, at_ns: int, series_id: str, issued_us: int | None) -> dict[str, Any] | None:
    """Return the forecast of one series at one issue time from a forecast file; None if the file lacks it.

    Args:
        file: the file.
        at_ns: when the file was written; part of the key in the cache.
        series_id: id of the series.
        issued_us: issue time; None for the last issue time in the file.
    """
    path = file.path
    with readable(path):
        if path.suffix == ".jsonl":
            found = _row_of_lines(store_of(path).source(), series_id, issued_us)
        else:
            with store_of(path).open_parts() as content:
                found = _row_of_parquet(pq.ParquetFile(content), series_id, issued_us)
    if found is None:
        return None
    return {"issued_us": found[0], "model_version": file.model_version, "forecast": found[1]}


def _row_of_lines(source: Any, series_id: str, issued_us: int | None) -> tuple[int, list[Any]] | None:
    rows = read_lines(source, pl.col("series_id") == series_id)
    rows = rows.with_columns(pl.col("issued_at").to_physical()).sort("issued_at")
    if issued_us is not None:
        rows = rows.filter(pl.col("issued_at") == issued_us)
    if rows.is_empty():
        return None
    last = rows.row(-1, named=True)
    return last["issued_at"], last["forecast"]


def _row_of_parquet(
    parquet: pq.ParquetFile, series_id: str, issued_us: int | None
) -> tuple[int, list[Any]] | None:
    """Return the issue time and the forecast of a series; None if the Parquet file has no such forecast.

    The newest forecast in the file is returned if ``issued_us`` is None.
    """
    for group in reversed(range(parquet.num_row_groups)):
        keys = parquet.read_row_group(group, columns=["series_id", "issued_at"])
        issued = keys["issued_at"].cast(pa.int64())
        is_it = pc.equal(keys["series_id"], series_id)
        if issued_us is not None:
            is_it = pc.and_(is_it, pc.equal(issued, issued_us))
        rows = pc.indices_nonzero(is_it)
        if not len(rows):
            continue
        row = rows[-1].as_py()  # windows ascend within a file, so the last row is the newest
        found_us = issued[row].as_py()
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=["forecast"]):
            if row < batch.num_rows:
                return found_us, batch.column(0)[row].as_py()
            row -= batch.num_rows
    return None


@contextmanager
def readable(path: Location) -> Iterator[None]:
    """Raise a DataError if the ``with`` block cannot read ``path``; keep a FileNotFoundError as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable file of forecasts ({one_line(error)}): delete it") from error
