"""Files of forecasts, late rows and quarantined rows in an output folder.

Files appear whole: each is written under a hidden name and renamed, or put at once. A name says what is in
the file: windows, model version, revision and shard of forecasts; place in the log of rows. So a rerun writes
over what it wrote before, and two models can write into one folder. What a killed job wrote after its last
snapshot is removed when it goes on, since it is written again (`ShardFiles.remove_after`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Literal
from urllib.parse import quote

import polars as pl

from forecaster.forecasts import Forecasts
from forecaster.time.windows import MICROSECONDS
from pipelines.storage import Location, Target, as_of_one_moment, source_of, write_whole, written_ns
from schemas import late, quarantine, replaced
from schemas.errors import DataError, OutputError
from schemas.forecasts import IDENTITY

Format = Literal["parquet", "jsonl"]

FORECASTS, QUARANTINE, LATE, REPLACED = "forecasts", "quarantine", "late", "replaced"
PARTS = (FORECASTS, QUARANTINE, LATE, REPLACED)
"""Folders of an output folder that jobs add files to."""

_LONGEST_STEM = 100  # characters of a name that the disk limits to 255 bytes
_ISSUED = re.compile(r"\d{8}T\d{6}Z-(\d{8}T\d{6}Z)-.+\.(?:parquet|jsonl)")
_ROWS = re.compile(r"(.+)-(\d{15})-shard-(\d+)-of-(\d+)\.parquet")


@dataclass
class ShardFiles:
    """What one shard writes.

    Attributes:
        folder: output folder.
        number, of: which shard of how many.
        model_version: version of the model whose forecasts it writes.
        format: of the forecast files.
        unsynced: files written since `taken` was called last.
    """

    folder: Location
    number: int
    of: int
    model_version: str
    format: Format
    unsynced: list[Location] = field(default_factory=list)

    @property
    def shard(self) -> str:
        """How names end: the shard and how many there are."""
        return f"shard-{self.number:04d}-of-{self.of:04d}"

    def write_forecasts(self, forecasts: Forecasts) -> None:
        """A block of forecasts as one file.

        Raises:
            OutputError: the file cannot be written.
        """
        name, frame = f"{self._block(forecasts)}.{self.format}", forecasts.frame()
        self._write(FORECASTS, name, lambda path: write_frame(frame, path, self.format))

    def write_replaced(self, forecasts: Forecasts, rows: pl.DataFrame) -> None:
        """The rows of a block's windows that later rows took the place of.

        Raises:
            OutputError: the file cannot be written.
        """
        name = f"{self._block(forecasts)}.parquet"
        self._write(REPLACED, name, lambda path: write_frame(rows, path, "parquet"))

    def _block(self, forecasts: Forecasts) -> str:
        """How the files of a block are named: its windows, the model, and the shard."""
        stop = forecasts.start + len(forecasts.issued)
        first, last = (compact_time(forecasts.freq.end_us(w)) for w in (forecasts.start, stop - 1))
        return f"{first}-{last}-{self.model_version}-r0-{self.shard}"

    def write_rows(self, part: str, partition: str, start: int, rows: pl.DataFrame) -> None:
        """Late or quarantined rows of a batch of ``partition`` that begins at ``start``.

        Raises:
            OutputError: the file cannot be written.
        """
        name = f"{_stem(partition)}-{start:015d}-{self.shard}.parquet"
        self._write(part, name, lambda path: write_frame(rows, path, "parquet"))

    def taken(self) -> list[Location]:
        """What was written since the last call: a snapshot takes for granted that the disk keeps it."""
        taken, self.unsynced = self.unsynced, []
        return taken

    def remove_after(self, closed_us: int | None, offsets: Mapping[str, int], snapshot_ns: int) -> None:
        """Removes what this shard wrote after a snapshot.

        Args:
            closed_us: the end of the last window that it had closed by then; None where it had closed none.
                What is newer than the snapshot was written after it then; the rest is an earlier job's.
            offsets: how far it had read each partition; of one that is not there it had read nothing.
            snapshot_ns: when the snapshot was written, in nanoseconds since 1970.
        """
        closed = None if closed_us is None else compact_time(closed_us)
        # earlier versions called files by the plain name of their partition
        reached = {**offsets, **{_stem(name): offset for name, offset in offsets.items()}}
        pattern = f"*-{self.model_version}-r*-{self.shard}.*"
        blocks = [path for part in (FORECASTS, REPLACED) for path in (self.folder / part).glob(pattern)]
        for path in blocks:
            if (found := _ISSUED.fullmatch(path.name)) and closed is not None:
                is_after = found[1] > closed
            else:
                is_after = path.name.startswith(".") or written_ns(path) >= snapshot_ns
            if is_after:
                path.unlink(missing_ok=True)
        for part in (QUARANTINE, LATE):
            for path in (self.folder / part).glob(f"*-{self.shard}.*"):
                if (found := _ROWS.fullmatch(path.name)) and found[1] in reached:
                    is_after = int(found[2]) >= reached[found[1]]
                else:
                    is_after = path.name.startswith(".") or written_ns(path) >= snapshot_ns
                if is_after:
                    path.unlink(missing_ok=True)

    def _write(self, part: str, name: str, write: Callable[[Target], None]) -> None:
        path = self.folder / part / name
        try:
            write_whole(path, write)
        except (OSError, pl.exceptions.PolarsError) as error:  # a full disk is either
            said = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise OutputError(f"{path}: cannot be written: {said}") from error
        self.unsynced.append(path)


def _stem(partition: str) -> str:
    """Return the beginning of the names of a partition's files.

    Readers of folders, ours among them, skip names that begin with a dot or an underscore, as topics may; and
    a topic's name may be nearly as long as a file's.
    """
    name = quote(partition, safe="")
    if name.startswith((".", "_")):
        name = f"%{ord(name[0]):X}{name[1:]}"
    if len(name) <= _LONGEST_STEM:
        return name
    return f"{name[:_LONGEST_STEM]}~{sha256(partition.encode()).hexdigest()[:16]}"


def write_frame(frame: pl.DataFrame, path: Target, format_: Format) -> None:
    """A frame as Parquet or JSON lines.

    Parquet is not compressed: forecasts are random bits to a compressor, which saves a sixth of the bytes and
    takes half of the time.
    """
    if format_ == "jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path, compression="uncompressed", statistics=False)


def read_forecasts(folder: Location) -> pl.DataFrame:
    """All forecasts under ``folder`` (an output folder), sorted by issue time and series.

    Where several files hold the same identity, the last written counts.

    Raises:
        DataError: there are none, or a file of them cannot be read.
    """
    frames = as_of_one_moment(folder / FORECASTS, _read_files)
    if not frames:
        raise DataError(f"{folder}: no forecasts here: name the output folder of a backfill or a stream")
    return (
        pl.concat(frames, how="diagonal")  # those written before there were p-values have none
        .unique(IDENTITY, keep="last", maintain_order=True)
        .sort("issued_at", "series_id")
    )


def read_quarantine(folder: Location) -> pl.DataFrame:
    """All quarantined rows under ``folder`` (``schemas.quarantine``), by file and row.

    Raises:
        DataError: a file of them cannot be read.
    """
    return _read_rows(folder / QUARANTINE, quarantine.empty()).sort("file", "row")


def read_late(folder: Location) -> pl.DataFrame:
    """All late rows under ``folder`` (``schemas.late``), by their place in the log.

    Raises:
        DataError: a file of them cannot be read.
    """
    return _read_rows(folder / LATE, late.empty()).sort("partition", "offset")


def read_replaced(folder: Location) -> pl.DataFrame:
    """All replaced rows under ``folder`` (``schemas.replaced``), by series and time.

    Raises:
        DataError: a file of them cannot be read.
    """
    return _read_rows(folder / REPLACED, replaced.empty()).sort("series_id", "timestamp")


def _read_rows(folder: Location, empty: pl.DataFrame) -> pl.DataFrame:
    frames = as_of_one_moment(folder, partial(_read_files, pattern="*.parquet"))
    return pl.concat([empty, *frames], how="diagonal")


def _read_files(folder: Location, pattern: str = "*") -> list[pl.DataFrame]:
    """What the files of a part hold, in the order in which they were written."""
    there = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    frames = []
    for file in sorted(there, key=written_ns):
        try:
            data = source_of(file)
            frames.append(pl.read_parquet(data) if file.suffix == ".parquet" else _read_lines(data))
        except (pl.exceptions.PolarsError, OSError) as error:
            said = " ".join(str(error).split())[:200]
            raise DataError(f"{file}: no readable file of {folder.name} ({said}): delete it") from error
    return frames


def _read_lines(file: Target) -> pl.DataFrame:
    frame = pl.read_ndjson(file)
    nested_fields = frame.select("forecast").explode("forecast").unnest("forecast").columns
    names = [name for name in nested_fields if name != "horizon"]
    nested = pl.List(pl.Struct({"horizon": pl.Int16, **dict.fromkeys(names, pl.Float64)}))
    return frame.with_columns(
        pl.col("issued_at").str.to_datetime(time_unit="us", time_zone="UTC"),
        pl.col("revision").cast(pl.Int32),
        # A file in which none is known holds no type of theirs.
        pl.col("p_value").cast(pl.Float64),
        pl.col("alarm").cast(pl.Boolean),
        pl.col("forecast").cast(nested),
    )


def compact_time(us: int) -> str:
    """Return a time in microseconds since 1970 as in the names of files: ``20130101T000000Z``."""
    return datetime.fromtimestamp(us / MICROSECONDS, UTC).strftime("%Y%m%dT%H%M%SZ")
