"""Write and read the files of forecasts and of late, quarantined and replaced rows in an output folder.

A file is complete or absent: it is written under a hidden name and renamed, or put into a store in one
request. The name of a forecast file consists of the windows, the model version, the largest revision and the
shard. The name of a file of revised forecasts also has the partition and the offset of the first late row
that changed them. The name of a file of rows consists of their partition, offset and shard. So a rerun
replaces the files of the first run, and two models can write into one folder. A resumed job writes the
forecasts after its last snapshot again, so it first removes their files (`ShardFiles.remove_after`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Literal, NamedTuple

import polars as pl

from forecaster.forecasts import Forecasts, flat
from pipelines.sinks.file_names import BLOCK_FILE, ROW_FILE, compact_time, partition_stem
from pipelines.sinks.flat_forecasts import FlatFormat, write_flat
from pipelines.storage import Location, Target, output_errors, store_of, write_whole
from schemas import late, quarantine, replaced
from schemas.errors import DataError, one_line
from schemas.forecasts import IDENTITY

Format = Literal["parquet", "jsonl"]

FORECASTS, QUARANTINE, LATE, REPLACED = "forecasts", "quarantine", "late", "replaced"
FLAT = "flat"  # folder of the forecast files with one row for each horizon
SHADOW = "forecasts-shadow"  # folder of a shadow's forecasts
PARTS = (FORECASTS, FLAT, QUARANTINE, LATE, REPLACED)
"""Names of the folders in an output folder to which jobs add files."""

_ROWS_OF_A_GROUP = 16_384


class RowPlace(NamedTuple):
    """The partition and the offset of a row."""

    partition: str
    offset: int


@dataclass
class ShardFiles:
    """The output files of one shard.

    Attributes:
        folder: output folder.
        number, of: number of the shard, and number of shards.
        format: format of the forecast files.
        flat: format of the flat files that are written beside the forecast files; None for no flat files.
        unsynced: files written since the last call of `taken`.
    """

    folder: Location
    number: int
    of: int
    format: Format
    flat: FlatFormat | None = None
    unsynced: list[Location] = field(default_factory=list)

    @property
    def shard(self) -> str:
        """The end of the shard's file names before the suffix: its number, and the number of shards."""
        return f"shard-{self.number:04d}-of-{self.of:04d}"

    def write_forecasts(
        self, forecasts: Forecasts, part: str = FORECASTS, late: RowPlace | None = None
    ) -> None:
        """Write a block of forecasts as one file into the folder ``part``.

        Args:
            forecasts: the forecasts.
            part: the folder in the output folder.
            late: the first late row that changed the forecasts; None for the first forecasts of windows.

        Raises:
            OutputError: the file cannot be written.
        """
        name, frame = f"{self._block_name(forecasts, late)}.{self.format}", forecasts.frame()
        self._write(part, name, lambda path: write_frame(frame, path, self.format))

    def write_flat(self, forecasts: Forecasts, late: RowPlace | None = None) -> None:
        """Write a block of forecasts as one flat file, if the job writes flat files.

        The file has one row for each series, target window and horizon (`forecaster.forecasts.flat`). The
        arguments are as in `write_forecasts`.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.flat is not None:
            rows = flat(forecasts.frame(), forecasts.freq)
            name = f"{self._block_name(forecasts, late)}.{self.flat}"
            self._write(FLAT, name, partial(write_flat, rows, format_=self.flat))

    def write_replaced(self, forecasts: Forecasts, rows: pl.DataFrame, late: RowPlace | None = None) -> None:
        """Write the replaced rows of a block: rows that do not count, because other rows replace them.

        The arguments are as in `write_forecasts`.

        Raises:
            OutputError: the file cannot be written.
        """
        name = f"{self._block_name(forecasts, late)}.parquet"
        self._write(REPLACED, name, lambda path: write_frame(rows, path, "parquet"))

    def _block_name(self, forecasts: Forecasts, late: RowPlace | None) -> str:
        """Return the name of each file that is written for a block of forecasts, without the suffix."""
        first, last = (compact_time(forecasts.freq.end_us(int(w))) for w in forecasts.index[[0, -1]])
        revision = "r0"
        if late is not None:
            most = 1 if forecasts.revision is None else max(1, int(forecasts.revision.max()))
            revision = f"r{most}-{partition_stem(late.partition)}-{late.offset:015d}"
        return f"{first}-{last}-{forecasts.model_version}-{revision}-{self.shard}"

    def write_rows(self, part: str, partition: str, start: int, rows: pl.DataFrame) -> None:
        """Write the late or quarantined rows of the batch that begins at offset ``start`` of ``partition``.

        Raises:
            OutputError: the file cannot be written.
        """
        name = f"{partition_stem(partition)}-{start:015d}-{self.shard}.parquet"
        self._write(part, name, lambda path: write_frame(rows, path, "parquet"))

    def taken(self) -> list[Location]:
        """Return the files written since the last call; the caller syncs them before the next snapshot."""
        taken, self.unsynced = self.unsynced, []
        return taken

    def remove_after(
        self, closed_us: int | None, offsets: Mapping[str, int], snapshot_ns: int, versions: Iterable[str]
    ) -> None:
        """Remove the output files that this shard wrote after a snapshot; the resumed run writes them again.

        Args:
            closed_us: end of the last window that the snapshot has closed, in microseconds; None if it has
                closed none. With None, only files written after the snapshot are removed: older files belong
                to an earlier job.
            offsets: the next offset of each partition in the snapshot; a partition that is missing has not
                been read.
            snapshot_ns: when the snapshot was written, in nanoseconds since 1970. A file with the same time
                counts as later, because object stores give whole seconds.
            versions: versions of the model whose forecasts are removed.
        """
        closed = None if closed_us is None else compact_time(closed_us)
        reached = {partition_stem(name): offset for name, offset in offsets.items()}

        def is_newer(path: Location) -> bool:
            return path.name.startswith(".") or store_of(path).written_ns() >= snapshot_ns

        def is_later_block(path: Location) -> bool:
            found = BLOCK_FILE.fullmatch(path.name)
            if found is not None and found["partition"] in reached:
                return int(found["offset"]) >= reached[found["partition"]]
            if found is None or found["partition"] or closed is None:
                return is_newer(path)
            return found["last"] > closed

        def is_later_batch(path: Location) -> bool:
            found = ROW_FILE.fullmatch(path.name)
            if found is None or found["partition"] not in reached:
                return is_newer(path)
            return int(found["offset"]) >= reached[found["partition"]]

        for part, version in product((FORECASTS, FLAT, REPLACED), versions):
            self._remove(part, f"*-{version}-r*-{self.shard}.*", is_later_block)
        self._remove(SHADOW, f"*-r*-{self.shard}.*", is_later_block)
        for part in (QUARANTINE, LATE):
            self._remove(part, f"*-{self.shard}.*", is_later_batch)

    def _remove(self, part: str, pattern: str, condition: Callable[[Location], bool]) -> None:
        for path in [*(self.folder / part).glob(pattern)]:
            if condition(path):
                path.unlink(missing_ok=True)

    def _write(self, part: str, name: str, write: Callable[[Target], None]) -> None:
        path = self.folder / part / name
        with output_errors(f"{path}: cannot be written", pl.exceptions.PolarsError):
            write_whole(path, write)
        self.unsynced.append(path)


def write_frame(frame: pl.DataFrame, path: Target, format_: Format) -> None:
    """Write a frame into a file, as Parquet or as JSON lines.

    The Parquet file is not compressed. Compression would save only a sixth of the bytes, because the digits
    of forecasts are nearly random, and it would take half of the writing time. The file has small row groups,
    so that a reader of one series reads few forecasts of other series.
    """
    if format_ == "jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(
            path, compression="uncompressed", statistics=False, row_group_size=_ROWS_OF_A_GROUP
        )


def read_forecasts(folder: Location, part: str = FORECASTS, *, all_revisions: bool = False) -> pl.DataFrame:
    """Read the forecasts in an output folder, sorted by issue time and series.

    If several files hold a forecast of the same identity, the file written last counts. Only the newest
    revision of a forecast is returned, unless ``all_revisions``.

    Args:
        folder: output folder.
        part: the folder in it; ``forecasts-shadow`` reads the forecasts of a shadow.
        all_revisions: whether to return all revisions of a forecast.

    Raises:
        DataError: there are no forecasts, or a file is unreadable.
    """
    frames = store_of(folder / part).read_consistently(_read_files)
    if not frames:
        raise DataError(f"{folder}: no forecasts here: name the output folder of a backfill or a stream")
    found = (
        pl.concat(frames, how="diagonal")  # Files of early versions of Statecast have no p-values.
        .unique(IDENTITY, keep="last", maintain_order=True)
        .sort("issued_at", "series_id")
    )
    if all_revisions or not (found["revision"] > 0).any():
        return found
    newest = found.sort("revision").unique(IDENTITY[:3], keep="last", maintain_order=True)
    return newest.sort("issued_at", "series_id")


def read_quarantine(folder: Location) -> pl.DataFrame:
    """Read all quarantined rows in an output folder (``schemas.quarantine``), sorted by file and row.

    Raises:
        DataError: a file is unreadable.
    """
    return _read_rows(folder / QUARANTINE, quarantine.empty()).sort("file", "row")


def read_late(folder: Location) -> pl.DataFrame:
    """Read all late rows in an output folder (``schemas.late``), sorted by partition and offset.

    Raises:
        DataError: a file is unreadable.
    """
    return _read_rows(folder / LATE, late.empty()).sort("partition", "offset")


def read_replaced(folder: Location) -> pl.DataFrame:
    """Read all replaced rows in an output folder (``schemas.replaced``), sorted by series and time.

    Raises:
        DataError: a file is unreadable.
    """
    return _read_rows(folder / REPLACED, replaced.empty()).sort("series_id", "timestamp")


def _read_rows(folder: Location, empty: pl.DataFrame) -> pl.DataFrame:
    frames = store_of(folder).read_consistently(partial(_read_files, pattern="*.parquet"))
    return pl.concat([empty, *frames], how="diagonal")


def _read_files(folder: Location, pattern: str = "*") -> list[pl.DataFrame]:
    """Read all files of a folder as frames, in the order in which the files were written."""
    there = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    frames = []
    for file in sorted(there, key=lambda path: store_of(path).written_ns()):
        try:
            data = store_of(file).source()
            frames.append(pl.read_parquet(data) if file.suffix == ".parquet" else read_lines(data))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"{file}: not a readable file of {folder.name} ({one_line(error)}): delete it"
            ) from error
    return frames


def read_lines(file: Target, only: pl.Expr | None = None) -> pl.DataFrame:
    """Read a file of forecasts in JSON lines as a forecast frame.

    Args:
        file: the file.
        only: condition on the columns of the file; only the rows that meet it are kept in memory. None keeps
            all rows.

    Raises:
        PolarsError: the file is not readable.
    """
    lines = pl.scan_ndjson(file)
    frame = (lines if only is None else lines.filter(only)).collect()
    nested_fields = frame.select("forecast").explode("forecast").unnest("forecast").columns
    names = [name for name in nested_fields if name != "horizon"]
    nested = pl.List(pl.Struct({"horizon": pl.Int16, **dict.fromkeys(names, pl.Float64)}))
    return frame.with_columns(
        pl.col("issued_at").str.to_datetime(time_unit="us", time_zone="UTC"),
        pl.col("revision").cast(pl.Int32),
        # A column with only nulls has no type in JSON, so cast it. Files of early versions lack both columns.
        *(
            pl.col(name).cast(dtype)
            for name, dtype in (("p_value", pl.Float64), ("alarm", pl.Boolean))
            if name in frame.columns
        ),
        pl.col("forecast").cast(nested),
    )
