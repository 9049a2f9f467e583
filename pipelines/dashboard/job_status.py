"""Find out from the files in an output folder whether a job is running there."""

from __future__ import annotations

import json
import time
from typing import Final, Literal, NamedTuple

from forecaster.process_start import is_running
from pipelines.sinks.files import PARTS
from pipelines.state import state_table
from pipelines.storage import Location, markers, store_of

# In an object store, a job counts as running if it has published numbers within this time.
_RECENT_S: Final = 60.0
_KNOWN: Final = (*PARTS, state_table.FOLDER, markers.NUMBERS, markers.BACKFILL)


class JobStatus(NamedTuple):
    """A word and a sentence: a job is running in an output folder, none is running, or there is no output."""

    status: Literal["running", "not running", "absent"]
    text: str


def is_output(output: Location) -> bool:
    """Return whether a folder looks like the output folder of a backfill or a stream."""
    if (folder := store_of(output).on_disk) is not None:
        return (folder / markers.LOCK).exists() or any((folder / part).is_dir() for part in _KNOWN)
    places = (*((output / part, "*") for part in _KNOWN), (output, markers.LEASES))
    return any(next(iter(place.glob(pattern)), None) is not None for place, pattern in places)


def job_status(output: Location) -> JobStatus:
    """Return a status: a job is running in an output folder, none is running, or there is no output.

    On a disk, the lock file names the process of the job. This function does not try to take the lock,
    because a job that starts at this moment would be refused. In an object store, a job is running if its
    shards have published numbers within the last minute.
    """
    if (folder := store_of(output).on_disk) is None:
        return _status_in_store(output)
    if not folder.is_dir():
        return JobStatus("absent", f"{output} does not exist; this page shows it when a job has created it")
    if not is_output(output):
        return JobStatus("absent", f"{output} holds no output yet; this page shows it when a job writes it")
    try:
        record = json.loads((folder / markers.LOCK).read_text())
        process, started = int(record["pid"]), float(record["started_after_boot_s"])
    except (OSError, ValueError, KeyError, TypeError):  # no job runs, or it has not written its process id
        return JobStatus("not running", _end_text(output))
    if not is_running(process, started):
        text = f"its process {process} has ended without a last snapshot; --resume continues a stream"
        return JobStatus("not running", text)
    what = "a backfill" if (folder / markers.BACKFILL).is_dir() else "a job"
    also = "; its output appears here when it ends" if what == "a backfill" else ""
    return JobStatus("running", f"{what} is writing here, process {process}{also}")


def _status_in_store(output: Location) -> JobStatus:
    if not is_output(output):
        return JobStatus("absent", f"{output} holds no output; this page shows it when a job writes it")
    published = [
        store_of(path).written_ns() for path in (output / markers.NUMBERS).glob(markers.SHARDS_WITH_NUMBERS)
    ]
    if published and time.time() - max(published) / 1e9 < _RECENT_S:
        return JobStatus("running", "a job has published numbers within the last minute")
    return JobStatus("not running", _end_text(output))


def _end_text(output: Location) -> str:
    return "the job has ended" if any(output.glob(markers.ENDED_SHARDS)) else "no job is running here"
