"""Read the alarms of all series from the newest forecast files; the newest revision of a forecast counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Final, NamedTuple

import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.dashboard.changed_files import ChangedFiles
from pipelines.dashboard.forecast_files import ForecastFile, ForecastFiles, readable
from pipelines.sinks.file_names import parse_compact_time
from pipelines.sinks.files import read_lines
from pipelines.storage import Location, store_of

ALARM_FILES: Final = 512
"""Alarms are read from this many of the newest forecast files."""

ROWS_AT_ONCE: Final = 1 << 21
"""A call opens no further file after so many rows, so that the page of a large folder appears soon."""

# A file counts as at least this many rows, because opening it takes as long as reading so many.
_ROWS_OF_A_FILE: Final = 1 << 15
_ROW: Final = ("series_id", "issued_at", "revision")
_COLUMNS: Final = (*_ROW, "p_value", "alarm")
_ALARMS: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {
    "series_id": pl.String,
    "issued_at": pl.Datetime("us", "UTC"),
    "revision": pl.Int32,
    "p_value": pl.Float64,
    "key": pl.UInt64,
}
_REVISIONS: Final[Mapping[str, pl.DataType | type[pl.DataType]]] = {"key": pl.UInt64, "revision": pl.Int32}


class Alarms(NamedTuple):
    """The alarms in the newest forecast files.

    Attributes:
        rows: ``series_id``, ``issued_at`` and ``p_value`` of each alarm.
        since: end of the first window whose first forecasts were read; None without files.
        unread: number of files that are left for later calls.
    """

    rows: pl.DataFrame
    since: datetime | None
    unread: int


class AlarmReader:
    """Reads the alarms in the forecast files of an output folder repeatedly.

    Args:
        files: the forecast files.
    """

    def __init__(self, files: ForecastFiles) -> None:
        self._files = files
        self._read: ChangedFiles[_FileAlarms] = ChangedFiles(_read_file, lambda read: read.cost)
        self._last = Alarms(pl.DataFrame(schema=_ALARMS), None, 0)

    @property
    def errors(self) -> list[str]:
        """The error of each forecast file that the last call of `read` could not read, one line each."""
        return self._read.errors

    def read(self) -> Alarms:
        """Return the alarms in the newest forecast files; each call reads a limited number of new rows.

        Raises:
            DataError: an object store changes the folder again and again.
        """
        files = [*islice(_in_reading_order(self._files.newest_first()), ALARM_FILES)]
        read = self._read.read((file.path for file in files), ROWS_AT_ONCE)
        if self._read.is_changed:
            opened = files[: len(files) - self._read.unread]
            first = min((file.first for file in opened if file.revision == 0), default=None)
            self._last = Alarms(
                _newest_revisions(read),
                None if first is None else parse_compact_time(first),
                self._read.unread,
            )
        return self._last


def _in_reading_order(newest_first: list[ForecastFile]) -> Iterator[ForecastFile]:
    """Yield all forecast files; a file of first forecasts follows all files that may revise it.

    Files of first forecasts come newest first, and so do files of revised forecasts. So a first forecast is
    never read without its revisions, which may have cleared its alarm.
    """
    revised = deque(file for file in newest_first if file.revision)
    for file in newest_first:
        if file.revision == 0:
            while revised and revised[0].last >= file.first:
                yield revised.popleft()
            yield file
    yield from revised


class _FileAlarms(NamedTuple):
    """The alarms in one forecast file; of a file of revised forecasts, also the revisions of all forecasts.

    Attributes:
        cost: number of rows that one call of `AlarmReader.read` may read less after this file.
        alarms: rows with an alarm; ``key`` is a hash of series, issue time and model version.
        revisions: ``key`` and ``revision`` of each row of a file of revised forecasts; else empty.
    """

    cost: int
    alarms: pl.DataFrame
    revisions: pl.DataFrame


def _newest_revisions(files: list[_FileAlarms]) -> pl.DataFrame:
    """Return the alarms in forecast files, without the alarms of forecasts that a later revision replaced."""
    alarms = pl.concat([pl.DataFrame(schema=_ALARMS), *(file.alarms for file in files)])
    revisions = pl.concat([pl.DataFrame(schema=_REVISIONS), *(file.revisions for file in files)])
    newest = revisions.group_by("key").agg(pl.col("revision").max().alias("newest"))
    counted = alarms.join(newest, on="key", how="left").filter(
        pl.col("revision") >= pl.col("newest").fill_null(0)
    )
    return counted.unique(["series_id", "issued_at"]).select("series_id", "issued_at", "p_value")


def _read_file(path: Location) -> _FileAlarms:
    file = ForecastFile.parse(path)
    assert file is not None
    with readable(path):
        if path.suffix == ".jsonl":
            only = None if file.revision else pl.col("alarm").cast(pl.Boolean)
            parts, count = [frame := read_lines(store_of(path).source(), only).select(_COLUMNS)], len(frame)
        else:
            with store_of(path).open_parts() as opened:
                parquet = pq.ParquetFile(opened)
                parts, count = _read_parquet(parquet, file.revision > 0), parquet.metadata.num_rows
    key = pl.struct("series_id", "issued_at", pl.lit(file.model_version)).hash().alias("key")
    rows = pl.concat([pl.DataFrame(schema=_ALARMS).drop("key"), *parts], how="diagonal").with_columns(key)
    alarms = rows.filter(pl.col("alarm")) if parts else rows
    revisions = rows.select(*_REVISIONS) if file.revision else pl.DataFrame(schema=_REVISIONS)
    return _FileAlarms(max(count, _ROWS_OF_A_FILE), alarms.select(*_ALARMS), revisions)


def _read_parquet(parquet: pq.ParquetFile, is_revised: bool) -> list[pl.DataFrame]:
    """Return the rows with an alarm, or all rows if ``is_revised``; [] without a column ``alarm``."""
    if "alarm" not in parquet.schema_arrow.names:  # Files of early versions of Statecast have no alarms.
        return []
    parts = []
    for group in range(parquet.num_row_groups):
        if is_revised or pc.any(parquet.read_row_group(group, ["alarm"])["alarm"]).as_py():
            rows = pl.DataFrame(parquet.read_row_group(group, [*_COLUMNS]))
            parts.append(rows if is_revised else rows.filter(pl.col("alarm")))
    return parts
