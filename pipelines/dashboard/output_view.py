"""Read from an output folder what the dashboard shows: the fleet, one series, and a search by series id.

The folder may be written, replaced or deleted at any time. If a part cannot be read, it is missing from the
result, and a note gives the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import polars as pl

from pipelines.dashboard import fleet
from pipelines.dashboard.alarms import AlarmReader
from pipelines.dashboard.changed_files import ChangedFiles
from pipelines.dashboard.forecast_files import ForecastFiles
from pipelines.dashboard.job_status import is_output, job_status
from pipelines.dashboard.series_search import SeriesSearch
from pipelines.dashboard.snapshots import ShardSeries, Snapshots
from pipelines.sinks.files import LATE, SHADOW
from pipelines.sinks.numbers import read_shards
from pipelines.storage import Location, markers, store_of
from schemas.errors import DataError, StatecastError

FANS: Final = 3
"""Number of forecasts that are drawn for a series."""

_LATE_FILES = 32
_STORE_READ_EVERY_S = 10.0

T = TypeVar("T")


def check_output(output: Location) -> None:
    """Raise DataError unless a folder is the output folder of a job.

    Raises:
        DataError: the folder does not exist, or is not an output folder.
    """
    folder = store_of(output).on_disk
    if folder is not None and not folder.is_dir():
        raise DataError(f"{output}: no such folder: name the output folder of a backfill or a stream")
    try:
        if is_output(output):
            return
    except OSError as error:
        raise DataError(f"{output}: cannot be read: {error.strerror or error}") from error
    raise DataError(
        f"{output}: not an output folder (it has no forecasts/ and no state/): name the output folder of a "
        "backfill or a stream"
    )


class OutputView:
    """Reads an output folder for the dashboard, one request at a time.

    Args:
        output: output folder.
    """

    def __init__(self, output: Location) -> None:
        self.output = output
        self._snapshots, self._search = Snapshots(output), SeriesSearch()
        self._forecasts, self._shadow = ForecastFiles(output), ForecastFiles(output, SHADOW)
        self._alarms = AlarmReader(self._forecasts)
        self._late: ChangedFiles[pl.DataFrame] = ChangedFiles(_read_lateness)
        self._lock = threading.Lock()
        self._fleet: dict[str, Any] = {}
        self._read_s = float("-inf")

    def fleet(self) -> dict[str, Any]:
        """Return the page's data about the fleet: numbers, scores, alarms, silent series, status and notes.

        An object store is read at most every ten seconds, because stores bill every request.
        """
        with self._lock:
            is_due = time.monotonic() - self._read_s >= _STORE_READ_EVERY_S
            if is_due or not store_of(self.output).bills_requests:
                self._fleet, self._read_s = self._read_fleet(), time.monotonic()
            return self._fleet

    def _read_fleet(self) -> dict[str, Any]:
        notes: list[str] = []
        status = _read_or_note(lambda: job_status(self.output), notes)
        shards = self._read_shards(notes)
        published = _read_or_note(lambda: read_shards(self.output), notes) or []
        # Until the first backfill into this output ends, only the backfill's hidden folder has numbers.
        if not published and not shards:
            published = _read_or_note(lambda: read_shards(self.output / markers.BACKFILL), notes) or []
        numbers = fleet.numbers_of(published, shards)
        models = fleet.model_versions(numbers, shards)
        return {
            "output": str(self.output),
            "status": status.status if status else "absent",
            "status_text": status.text if status else "",
            "read_at": fleet.text_of(int(time.time() * 1e6)),
            **fleet.as_json(numbers, time.time()),
            "models": models,
            "versions": fleet.versions(numbers.counts, models, self._shadows(shards, notes)),
            "model_notice": numbers.model_notice,
            "lateness_s": self._lateness(notes),
            "alarms": self._alarms_of_fleet(notes),
            "silent": fleet.silent_series(shards) | {"least_windows": fleet.SILENT_WINDOWS},
            "notes": [*dict.fromkeys(notes)],
        }

    def search(self, text: str) -> dict[str, Any]:
        """Return how many series ids contain a text, and at most 50 of these ids.

        Ids that begin with the text come first. The case of letters does not matter.
        """
        with self._lock:
            notes: list[str] = []
            found = self._search.find(self._read_shards(notes), text)
            return {**found._asdict(), "notes": notes}

    def series(self, series_id: str) -> dict[str, Any]:
        """Return the values, forecasts and alarms of one series; ``time`` holds the starts of windows."""
        with self._lock:
            notes: list[str] = []
            shards = self._read_shards(notes)
            own = next((one for one in shards if one.row_of(series_id) is not None), None)
            found = _read_or_note(lambda: self._snapshots.values(series_id), notes) if own else None
            start_us, values = found if found is not None else ((), ())
            if own is None and shards:
                notes.append(f"no series has the id {series_id}")
            if own is not None and found is not None and not len(values):
                notes.append("the model keeps no past values (network.ring = 0), or all of them are missing")
            return {
                "series_id": series_id,
                "time": [fleet.text_of(int(us)) for us in start_us],
                "value": [float(value) for value in values],
                "window_s": own.freq.nominal_s if own else None,
                "fans": _fans(self._forecasts, series_id, own, notes),
                "shadow_fans": _fans(self._shadow, series_id, own, notes),
                "alarms": self._alarms_of(series_id, own, notes),
                "notes": [*dict.fromkeys(notes)],
            }

    def _read_shards(self, notes: list[str]) -> list[ShardSeries]:
        shards = _read_or_note(self._snapshots.read, notes) or []
        notes += self._snapshots.errors
        return shards

    def _shadows(self, shards: list[ShardSeries], notes: list[str]) -> set[str]:
        """Return the model versions of all shadows that are in a snapshot or have written forecast files."""
        files = _read_or_note(self._shadow.newest_first, notes) or []
        now = {one.shard.shadow.model_version for one in shards if one.shard.shadow is not None}
        return now | {file.model_version for file in files}

    def _alarms_of_fleet(self, notes: list[str]) -> dict[str, Any]:
        found = _read_or_note(self._alarms.read, notes)
        notes += self._alarms.errors
        if found is None:
            return {"total": 0, "since": None, "unread_files": 0, "series": []}
        return {
            "total": len(found.rows),
            "since": None if found.since is None else f"{found.since:%Y-%m-%d %H:%M:%S}",
            "unread_files": found.unread,
            "series": fleet.most_alarms(found.rows),
        }

    def _alarms_of(self, series_id: str, own: ShardSeries | None, notes: list[str]) -> list[dict[str, Any]]:
        """Return the alarms of a series, each with the start of its window and the p-value of its value."""
        found = _read_or_note(self._alarms.read, notes) if own else None
        if found is None or own is None:
            return []
        rows = found.rows.filter(pl.col("series_id") == series_id).sort("issued_at")
        freq, ends_us = own.freq, rows["issued_at"].to_physical().to_list()
        starts = [fleet.text_of(freq.start_us(freq.window_of(us) - 1)) for us in ends_us]
        return [{"time": at, "p_value": p} for at, p in zip(starts, rows["p_value"].to_list(), strict=True)]

    def _lateness(self, notes: list[str]) -> dict[str, float | None] | None:
        """Return the number of recent late rows, and the median and 99 % quantile of their lateness.

        The result is None if there are no late rows.
        """

        def read() -> list[pl.DataFrame]:
            files = sorted((self.output / LATE).glob("*.parquet"), key=_offset_text, reverse=True)
            return self._late.read(files[:_LATE_FILES])

        frames: Iterable[pl.DataFrame] = _read_or_note(read, notes) or []
        notes += self._late.errors
        seconds = pl.concat([pl.DataFrame(schema={"late_s": pl.Float64}), *frames])["late_s"]
        if seconds.is_empty():
            return None
        return {"rows": len(seconds), "p50": seconds.quantile(0.5), "p99": seconds.quantile(0.99)}


def _read_or_note(read: Callable[[], T], notes: list[str]) -> T | None:
    """Return the result of ``read``; if it raises an error, add the error to ``notes`` and return None.

    A missing file also gives None, but no note.
    """
    try:
        return read()
    except FileNotFoundError:  # a job is replacing the file; the next request finds the new file
        return None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        notes.append(f"{where}{error.strerror or error}")
    except StatecastError as error:
        notes.append(str(error))
    return None


def _fans(
    files: ForecastFiles, series_id: str, own: ShardSeries | None, notes: list[str]
) -> list[dict[str, Any]]:
    """Return the newest forecasts of a series for its chart; an empty list if there are none."""
    if own is None:
        return []
    freq, place = own.freq, (own.shard.number, own.shard.of)
    fans = []
    for fan in _read_or_note(lambda: files.fans(series_id, place, freq, FANS), notes) or []:
        steps, first = fan["forecast"], freq.window_of(fan["issued_us"])
        fans.append(
            {
                "issued_at": fleet.text_of(fan["issued_us"]),
                "model_version": fan["model_version"],
                "time": [fleet.text_of(freq.start_us(first + step["horizon"] - 1)) for step in steps],
                "quantiles": {name: [step[name] for step in steps] for name in steps[0] if name != "horizon"},
            }
        )
    return fans


def _offset_text(path: Location) -> str:
    """Return the offset in the name of a file of late rows, as text with leading zeros, to sort the files."""
    return path.name.rpartition("-shard-")[0][-15:]


def _read_lateness(path: Location) -> pl.DataFrame:
    try:
        with store_of(path).open_parts() as file:
            return pl.read_parquet(file, columns=["late_s"])
    except FileNotFoundError:
        raise
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable file of late rows") from error
