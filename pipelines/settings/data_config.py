"""Define the section ``[data]`` of the job file: the input files, their columns and their bad rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from forecaster.setting_types import LocalPath, Settings, SettingsConflict
from forecaster.time.window_config import Duration
from pipelines.settings.setting_types import Encoding, Name, Time, TimeFormat, TimeZone

_UNSET = object()


def _as_list(paths: object) -> object:
    return (str(paths),) if isinstance(paths, str | Path) else paths


class ColumnsConfig(Settings):
    """The columns of input files, and how their cells are read.

    If ``series_id``, ``timestamp`` or ``value`` is empty, a job looks for a column with a usual name.
    """

    layout: Literal["auto", "long", "wide"] = Field(
        default="auto",
        description="long: a row holds a series, a time and a value; wide: a time column and one column for "
        "each series; auto: long if the files have its columns",
    )
    series_id: str | tuple[Name, ...] = Field(
        default="",
        description='column of series ids; "" finds series_id, unique_id or item_id; several, such as '
        '["store", "item"], are joined with "/"',
    )
    timestamp: str = Field(
        default="",
        description='column of times; "" finds timestamp, ds, time, date, datetime, date_time or time_hour',
    )
    value: str = Field(default="", description='column of the value (long only); "" finds value, y or target')
    event_id: str = Field(
        default="",
        description="column that identifies an event of a series: rows with the same series and event are "
        'versions of one event, even if their times differ; "": rows with the same series and time are '
        "versions",
    )
    duplicates: Literal["last", "first"] = Field(
        default="last",
        description="which row counts of rows with the same series and event, or series and time: the last "
        "or the first to arrive; the others are counted as duplicates",
    )
    time_format: TimeFormat = Field(
        default="auto",
        description="format of the times; auto: ISO 8601, or s, ms, us or ns since 1970 if the time is after "
        "1973, or for files the format that reads all times of a file; s, ms, us or ns: this unit since "
        "1970; excel: days of a spreadsheet; or a pattern such as %m/%d/%Y %H:%M, %Y or %Y%m",
    )
    time_zone: TimeZone = Field(
        default="",
        description="zone of times without a zone, such as Europe/Berlin; a local time that the zone skips "
        'or repeats when clocks change is quarantined; "": UTC',
    )
    decimal: Literal["auto", ".", ","] = Field(
        default="auto",
        description="decimal sign of CSV files; auto: detected from the numbers of each file, which may have "
        "thousands separators",
    )
    missing: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        default=(), description="numbers that mean a missing value in files, such as [-9999]"
    )
    null_values: tuple[str, ...] = Field(
        default=(),
        description='texts that mean a missing number or time in files, such as ["-", "n/a"], beside the '
        "empty text, NA, null and None",
    )
    encoding: Encoding = Field(
        default="auto",
        description="encoding of text files, such as cp1252; auto: UTF-16 if a file begins with its byte "
        "order mark, else UTF-8, or Windows-1252 if the first line beyond ASCII is not UTF-8",
    )

    @model_validator(mode="after")
    def _check_event_column(self) -> Self:
        named = {"data.series_id": self.series_columns, "data.timestamp": (self.timestamp,)}
        for name, columns in (named | {"data.value": (self.value,)}).items():
            if self.event_id and self.event_id in columns:
                raise SettingsConflict("{} and {} name the same column", "data.event_id", name)
        return self

    @property
    def series_columns(self) -> tuple[str, ...]:
        """The columns of series ids that ``data.series_id`` names; if empty, a job tries the usual names."""
        return tuple(filter(None, (self.series_id,))) if isinstance(self.series_id, str) else self.series_id

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        """Omit the settings that version 0.1.0 lacked if they have their default values.

        The manifests of replays contain this text, and a run can continue a replay only if its own text is
        equal. So a run can continue a replay that version 0.1.0 began.
        """
        later: dict[str | None, object] = {"time_zone": "", "null_values": (), "duplicates": "last"}
        return ((name, value) for name, value in super().__repr_args__() if later.get(name, _UNSET) != value)


class Columns(ColumnsConfig):
    """The columns of input files, including columns of observed covariates, and how their cells are read."""

    observed: tuple[str, ...] = ()


class DataConfig(ColumnsConfig):
    """The input files, the bounds of the rows to read, and the treatment of bad rows and files."""

    paths: Annotated[tuple[LocalPath, ...], BeforeValidator(_as_list)] = Field(
        default=(),
        description="files, folders or patterns such as data/*.csv: CSV, Parquet, JSON lines or Excel",
    )
    start: Time | None = Field(
        default=None,
        description="read only rows from this time on, such as 2013-09-01 or 2013-09-01T05:00Z "
        "(UTC unless it has a zone)",
    )
    end: Time | None = Field(default=None, description="read only rows before this time")
    batch_rows: int = Field(default=200_000, ge=1, le=100_000_000, description="rows read at a time")
    skip_bad_files: bool | None = Field(
        default=None,
        description="quarantine a file that cannot be read and continue (true), or stop (false); unset: a "
        "stream that watches a folder continues, every other job stops",
    )
    max_future: Duration | None = Field(
        default=None,
        description="a row later than the wall clock by more than this is quarantined; unset: one window",
    )
    max_quarantined: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="a larger share of quarantined rows ends a backfill, a training, an evaluation or a "
        "labelling; a stream warns; 1 takes any share",
    )
    memory_mb: int = Field(
        default=2048,
        ge=16,
        le=16_777_216,
        description="megabytes of rows that a source may hold; a larger replay is sorted in pieces on disk",
    )

    @model_validator(mode="after")
    def _check_order_of_bounds(self) -> DataConfig:
        if self.start and self.end and self.start >= self.end:
            raise SettingsConflict("{} must be later than {}", "data.end", "data.start")
        return self
