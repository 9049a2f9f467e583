"""Read forecasts of one series, and the alarms of all series, from the newest forecast files.

The name of a forecast file contains its windows and its shard (`pipelines.sinks.files`). So the files with a
series and an issue time are found by their names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from zlib import crc32

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecaster.time.frequency import Frequency
from pipelines.dashboard.changed_files import ChangedFiles
from pipelines.sinks.files import FORECASTS, compact_time, read_lines
from pipelines.storage import Location, open_parts, source_of, store_of
from schemas.errors import DataError, one_line

ALARM_FILES: Final = 512
"""Alarms are read from this many of the newest forecast files."""

FILES_AT_ONCE: Final = 64
"""Largest number of files that one call reads, so that a page of a large folder appears soon."""

_STORE_LISTED_EVERY_S = 15.0
_SETTLED_NS = 1_000_000_000
_ROWS_AT_ONCE = 1024
_NAME = re.compile(
    r"(\d{8}T\d{6}Z)-(\d{8}T\d{6}Z)-(.+?)-r(\d+)(?:-.+-\d{15})?-shard-(\d+)-of-(\d+)\.(?:parquet|jsonl)"
)
_ALARM_COLUMNS = ("series_id", "issued_at", "p_value", "alarm")


class ForecastFile(NamedTuple):
    """A forecast file, and the windows, model version and shard that its name contains.

    Attributes:
        last, first: end of its last and first window, as text that sorts by time, such as
            ``20130101T000000Z``.
        model_version: version of the model.
        shard, of: number of the shard, and number of shards.
        path: the file.
    """

    last: str
    first: str
    model_version: str
    shard: int
    of: int
    path: Location

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
    """Reads the forecast files of an output folder repeatedly.

    Args:
        output: output folder.
    """

    def __init__(self, output: Location) -> None:
        self._folder = output / FORECASTS
        self._listed: list[ForecastFile] = []
        self._listed_s, self._listed_ns, self._changed_ns = float("-inf"), 0, 0
        self._alarms: ChangedFiles[pl.DataFrame] = ChangedFiles(_read_alarms)
        self._one = lru_cache(maxsize=256)(_read_one)

    @property
    def errors(self) -> list[str]:
        """One line for each forecast file that the last call of `alarms` could not read."""
        return self._alarms.errors

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
        # List the folder again if it has just changed,
        # because a second change within one tick of the disk's clock does not change its time.
        return self._changed_ns == before_ns and self._listed_ns - before_ns > _SETTLED_NS

    def alarms(self) -> tuple[pl.DataFrame, str | None, int]:
        """Return the alarms in the newest forecast files; each call reads a limited number of new files.

        Returns:
            ``series_id``, ``issued_at`` and ``p_value`` of each alarm; the end of the first window that was
            read, or None without files; the number of files that are left for later calls.

        Raises:
            DataError: a file is unreadable.
        """
        files = self.newest_first()[:ALARM_FILES]
        frames = self._alarms.read((file.path for file in files), FILES_AT_ONCE)
        if not frames:
            return _no_alarms(), None, 0
        read = files[: max(len(files) - self._alarms.unread, 1)]
        alarms = pl.concat([_no_alarms(), *frames]).unique(["series_id", "issued_at"])
        return alarms, min(file.first for file in read), self._alarms.unread

    def fans(
        self, series_id: str, known: tuple[int, int] | None, freq: Frequency, count: int
    ) -> list[dict[str, Any]]:
        """Return the newest forecast of a series, and earlier forecasts, with one horizon between each two.

        The horizon is that of the newest forecast. An earlier forecast is left out if no file has it.

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
    found = []
    for path in folder.glob("*"):
        if name := _NAME.fullmatch(path.name):
            first, last, version, _, shard, of = name.groups()
            found.append(ForecastFile(last, first, version, int(shard), int(of), path))
    return sorted(found, key=lambda file: (file.last, file.path.name), reverse=True)


def _newest(files: list[ForecastFile]) -> Iterator[ForecastFile]:
    """Yield the files that end at one of the newest three window ends, the newest end and file first."""
    lasts = dict.fromkeys(file.last for file in files)
    for last in [*lasts][:3]:
        yield from _last_written_first([file for file in files if file.last == last])


def _last_written_first(files: list[ForecastFile]) -> Iterator[ForecastFile]:
    """Sort forecast files of one window: the last written file is first, because it replaces the others."""
    if len(files) < 2:
        return iter(files)
    return iter(sorted(files, key=lambda file: store_of(file.path).written_ns(), reverse=True))


def time_of(compact: str) -> datetime:
    """Parse the time in the name of a file, such as ``20130101T000000Z``."""
    return datetime.strptime(compact, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _no_alarms() -> pl.DataFrame:
    return pl.DataFrame(
        schema={"series_id": pl.String, "issued_at": pl.Datetime("us", "UTC"), "p_value": pl.Float64}
    )


def _read_alarms(path: Location) -> pl.DataFrame:
    """Return the alarms in a forecast file."""
    try:
        if path.suffix == ".jsonl":
            frame = read_lines(source_of(path))
        else:
            with open_parts(path) as file:
                frame = pl.DataFrame(pq.ParquetFile(file).read(columns=[*_ALARM_COLUMNS]))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, error) from error
    if "alarm" not in frame.columns:  # files of early versions of Statecast have no alarms
        return _no_alarms()
    return frame.filter(pl.col("alarm")).select(_no_alarms().columns)


def _read_one(file: ForecastFile, at_ns: int, series_id: str, issued_us: int | None) -> dict[str, Any] | None:
    """Return a forecast of a series in a forecast file; None if the file has no such forecast.

    Args:
        file: the file.
        at_ns: when the file was written; part of the key in the cache.
        series_id: id of the series.
        issued_us: issue time; None for the last issue time in the file.
    """
    path = file.path
    try:
        if path.suffix == ".jsonl":
            found = _row_of_lines(source_of(path), series_id, issued_us)
        else:
            with open_parts(path) as content:
                found = _row_of_parquet(pq.ParquetFile(content), series_id, issued_us)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, error) from error
    if found is None:
        return None
    return {"issued_us": found[0], "model_version": file.model_version, "forecast": found[1]}


def _row_of_lines(source: Any, series_id: str, issued_us: int | None) -> tuple[int, list[Any]] | None:
    rows = read_lines(source).filter(pl.col("series_id") == series_id)
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
    """Return the issue time and the forecast of a series in a Parquet file; None if there is none."""
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


def _damaged(path: Location, error: BaseException) -> DataError:
    return DataError(f"{path}: not a readable file of forecasts ({one_line(error)}): delete it")
