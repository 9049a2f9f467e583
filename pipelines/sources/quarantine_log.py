"""Read the rows of a quarantine again, as a partition of its own, with corrected settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

import polars as pl

from forecaster.shards.batch import Batch
from forecaster.time.duplicates import ORIGIN
from pipelines.sources.base import Position, Positions, Step
from pipelines.sources.files.decimals import NO_COMMA, Decimals
from pipelines.sources.files.opened_file import without_codes, without_null_values
from pipelines.sources.files.validated_rows import Input
from pipelines.storage import Location, store_of
from schemas import cells, observations, quarantine
from schemas.errors import DataError, one_line
from schemas.observations import OBSERVED
from schemas.time_formats import UNITS

_BATCH_ROWS: Final = 1 << 17

_WITHOUT_CELLS: Final = (
    "file cannot be read",
    "row cannot be read",
    "message is empty",
    "message cannot be decoded",
    "schema is unknown",
)
"""The kinds of faults of rows whose cells are unknown: no setting can correct them."""

_OUTSIDE: Final = "the time is outside data.start and data.end"


@dataclass(frozen=True)
class RowsAgain:
    """The rows of a quarantine, read again.

    The rows are sorted by series, so that each series is repaired once. The offset of a row is its place in
    this order, from 0.

    Attributes:
        rows: observation frame with ``offset``, and with `ORIGIN` if files of a watched folder hold rows.
        rejected: frame of quarantined rows with ``offset``: the rows that were rejected again, with their new
            reasons. Files that cannot be read are rows whose ``row`` is 0.
        count: number of all rows.
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    count: int

    def batch(self, partition: str, first: int, start: int, stop: int) -> Batch:
        """Return the rows with offsets ``start`` to ``stop - 1`` as a batch of ``partition``.

        In the batch, offsets are counted from ``first``, the first offset of the partition, and not from 0.
        """
        at = pl.col("offset")
        rows, rejected = (
            frame.filter(at.is_between(start, stop - 1)).with_columns(at + first)
            for frame in (self.rows, self.rejected)
        )
        return Batch(partition, first + start, first + stop, rows, rejected)


def read_again(
    files: Sequence[Location], how: Input, now_s: float, numbers: Mapping[str, int] | None = None
) -> RowsAgain:
    """Read quarantined rows again: the same files and arguments always give the same rows.

    A row outside the time bounds is rejected again, because it was counted as a row inside when its time
    could not be read.

    The text of a cell that is not a number is read with ``data.decimal`` if it is set. Numbers are left
    unchanged, because they were read before with the decimal sign of their file.

    Args:
        files: files of a quarantine.
        how: the settings by which the rows are read.
        now_s: wall clock (seconds since 1970); rows more than ``how.max_future_s`` after it are rejected.
        numbers: the number of each file of a watched folder, by its name; see `FolderManifest.number`.

    Raises:
        DataError: a file cannot be read, or its rows have columns that ``how`` does not name.
    """
    frames = [_read(file, how) for file in files]
    read = pl.concat([quarantine.empty(), *frames], how="diagonal")
    raw = read.hstack(_cells_of(read["raw"], how)).sort("series_id", maintain_order=True)
    raw = raw.with_columns(offset=pl.int_range(pl.len(), dtype=pl.Int64))
    has_cells = ~pl.col("kind").is_in(_WITHOUT_CELLS)
    readable, unreadable = raw.filter(has_cells), raw.filter(~has_cells)
    inside, _ = how.within(_corrected(readable, how))
    outside = readable.join(inside, on="offset", how="anti").with_columns(
        column=pl.lit("timestamp"), reason=pl.lit(_OUTSIDE), kind=pl.lit(quarantine.OTHER)
    )
    rows, rejected = how.validated(
        inside.select("file", "row", *_names(how), "offset"), inside["offset"], round(now_s * 1e6)
    )
    # Store the original cells of rejected rows, because `_corrected` may have rewritten the cells.
    rejected = rejected.with_columns(raw["raw"].gather(rejected["offset"]).alias("raw"))
    every = [rejected, *(frame.select(rejected.columns) for frame in (unreadable, outside))]
    if numbers:
        rows = rows.with_columns(_origins(raw, numbers).gather(rows["offset"]).alias(ORIGIN))
    return RowsAgain(rows, pl.concat(every).sort("offset"), len(raw))


def _read(file: Location, how: Input) -> pl.DataFrame:
    """Return the rows of one file of a quarantine.

    Raises:
        DataError: the file cannot be read, or its rows have columns that ``how`` does not name.
    """
    try:
        frame = pl.read_parquet(store_of(file).source())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file}: cannot be read ({one_line(error)}): restore the file") from error
    if "kind" not in frame.columns:  # An early version of Statecast wrote the file.
        frame = frame.with_columns(kind=pl.lit(quarantine.OTHER))
    raw = frame["raw"].filter(frame["raw"] != "")
    unnamed = json.loads(raw[0]).keys() - {*_names(how)} if len(raw) else set()
    if unnamed:
        name = min(unnamed)
        setting = "data.event_id" if name == "event_id" else "covariates.observed"
        raise DataError(
            f"{file}: its rows have a column {name.removeprefix(OBSERVED)!r}, which no setting names: give "
            f"the job file that the job was run with, or set {setting}"
        )
    return frame


def _names(how: Input) -> list[str]:
    """Return the names of the cells of a quarantined row, for a job with the settings ``how``."""
    event = ["event_id"] if how.columns.event_id else []
    return [*observations.SCHEMA, *event, *(OBSERVED + name for name in how.columns.observed)]


def _cells_of(raw: pl.Series, how: Input) -> pl.DataFrame:
    """Return the cells of quarantined rows as columns of text; null if a row lacks a cell."""
    dtype = pl.Struct(dict.fromkeys(_names(how), pl.String()))
    return raw.set(raw == "", None).str.json_decode(dtype).struct.unnest()


def _corrected(raw: pl.DataFrame, how: Input) -> pl.DataFrame:
    """Return raw rows with their cells converted as the input settings ``how`` require.

    A number with the decimal sign of the settings gets a decimal point. Null texts and codes of missing
    values become null.
    """
    columns = how.columns
    values = ["value", *(OBSERVED + name for name in columns.observed)]
    numbers = [*values, *(["timestamp"] if columns.time_format in UNITS else [])]
    raw = without_null_values(raw, [*numbers, "timestamp"], columns.null_values)
    if columns.decimal != "auto":
        unread = raw.select(pl.col(name).str.strip_suffix(NO_COMMA) for name in numbers)
        read = Decimals(Path("quarantine"), columns.decimal).rewrite(unread, numbers)
        raw = raw.with_columns(
            read[name].zip_with(cells.numbers(raw[name]).is_null(), raw[name]) for name in numbers
        )
    return without_codes(raw, values, columns.missing)


def _origins(raw: pl.DataFrame, numbers: Mapping[str, int]) -> pl.Series:
    """Return the column `ORIGIN`: for each row, a number that identifies the file and the row in the file.

    The values equal those of `FolderSource`; the value is null if no file of the folder holds the row.

    So the rows of a file that was read twice, because it has grown, are read again once.
    """
    files = raw["file"].unique()
    known = {file: numbers[PurePath(file).name] for file in files if PurePath(file).name in numbers}
    number = raw["file"].replace_strict(known, default=None, return_dtype=pl.Int64)
    return number * (1 << 32) + raw["row"] - 1


class QuarantineLog:
    """A log with one extra partition, the rows of a quarantine; no other partition gets further rows.

    Args:
        partition: name of the partition.
        first: offset of its first row.
        again: the rows.
        closing: a batch without rows that closes windows at the end, None if no windows are to be closed.
    """

    is_paced = False

    def __init__(self, partition: str, first: int, again: RowsAgain, closing: Batch | None = None) -> None:
        self.partition, self.first, self.again, self.closing = partition, first, again, closing

    def begin(self, reached: Positions) -> Positions:
        """Return the positions ``reached``; if they lack this log's partition, add it at its first row."""
        return {**reached, self.partition: reached.get(self.partition, Position(self.first))}

    def step(self, places: Positions) -> Step[Positions] | None:
        """Return the next rows from the positions ``places`` on; None after the last step.

        The last step follows all rows: it returns the batch `closing`, if any, and an empty batch.
        """
        place = places[self.partition]
        at = place.offset - self.first
        if at > self.again.count:
            return None
        batches = tuple(self._batches(at))
        return Step(batches, {**places, self.partition: place._replace(offset=batches[-1].stop)})

    def _batches(self, at: int) -> Iterator[Batch]:
        count = self.again.count
        if at < count:
            stop = min((at // _BATCH_ROWS + 1) * _BATCH_ROWS, count)
            yield self.again.batch(self.partition, self.first, at, stop)
            return
        # Only the last batch, which has no rows, moves the offset past ``count``. It comes after the closing
        # batch. So if a job is killed before the last batch, the resumed job gets the closing batch again.
        if self.closing is not None:
            yield self.closing
        yield self.again.batch(self.partition, self.first, count, count + 1)
